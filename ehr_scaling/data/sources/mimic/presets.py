"""In what order the events of one time stand: the three presets.

Facts about the published programs (ETHOS, Renc et al. 2024; ETHOS-ARES, Renc et al. 2025) are in the docstring of
`release`. A preset is a list of places: events of one patient at one time are in the order of their places, those of
one place in the order of the file.
"""

from dataclasses import replace

from ehr_scaling.data.sources.mimic.tables import (
    ACUITY,
    ADMISSION,
    BIRTH,
    BMI,
    CHARTED,
    DEATH,
    DIAGNOSES,
    DISCHARGE,
    DRG,
    ED_DIAGNOSES,
    ED_IN,
    ED_OUT,
    EMAR,
    ENDS,
    ETHOS_EMAR,
    ETHOS_LAB,
    ETHOS_LABS,
    GENDER,
    HCPCS,
    HOSP_ED_IN,
    HOSP_ED_OUT,
    ICU_IN,
    ICU_OUT,
    LABS,
    OMR_KEY,
    OUTPUT,
    PRESSURES,
    PROCEDURES,
    PYXIS,
    RACE,
    RACE_TOLD,
    SERVICES,
    STARTS,
    TRANSFERS,
    Entry,
    Place,
    is_text,
    triage,
    vital_signs,
)

PRESETS = ("clean", "ethos_ares", "ethos_paper")
SOFA = "SOFA"  # the table of a place that is filled when the shards are put in order
_AT_SOFA = Place(SOFA, ())
_SEQ = ("hadm_id", "seq_num")


def _clean(known: bool) -> list[Place]:
    """A stay opens before what happens in it; death comes before the ends that it causes; what is coded at discharge
    follows it. Rows are the same only when the table's own key says so.

    Args: known, whether events stand where they were known: then billing codes follow the discharge, the race is told
      by admissions, and a start comes before an end that was filed at the same time.
    """
    procedures = [replace(PROCEDURES, order="seq_num", key=_SEQ), replace(HCPCS, key=_SEQ)]
    return [
        GENDER,
        *([] if known else [RACE]),
        BIRTH,
        *([RACE_TOLD] if known else []),
        ED_IN,
        HOSP_ED_IN,
        ACUITY,
        *triage(True),
        ADMISSION,
        Place("hosp/omr", PRESSURES, ("seq_num", *OMR_KEY)),
        Place("hosp/omr", (BMI,), ("seq_num", *OMR_KEY)),
        *([] if known else procedures),
        LABS,
        *vital_signs(True),
        CHARTED,
        OUTPUT,
        _AT_SOFA,
        *(STARTS + ENDS if known else ENDS + STARTS),
        replace(EMAR, key=("emar_seq",)),
        replace(PYXIS, key=("stay_id", "med_rn")),  # a drug is repeated for each of its GSNs
        DEATH,
        ICU_OUT,
        ED_OUT,
        HOSP_ED_OUT,
        replace(ED_DIAGNOSES, order="seq_num"),
        replace(TRANSFERS, key=("transfer_id",)),
        SERVICES,
        ICU_IN,
        DISCHARGE,
        replace(DIAGNOSES, order="seq_num", key=_SEQ),
        *(procedures if known else []),
        DRG,
    ]


def _ares(ed: bool) -> list[Place]:
    """The order of tables in ETHOS-ARES' event config; a death is put before a discharge of the same time."""
    at_discharge, elsewhere = (
        Place("hosp/patients", (Entry(("MEDS_DEATH",), death, death, may_miss=True),), ())
        for death in ("death_in_hospital", "death_elsewhere")
    )
    head = [GENDER, RACE]
    if ed:
        head += [ED_IN, ED_OUT, *triage(False), ACUITY, ED_DIAGNOSES]
    else:
        head += [HOSP_ED_IN, HOSP_ED_OUT]
    return [
        *head,
        ADMISSION,
        at_discharge,
        DISCHARGE,
        DIAGNOSES,
        DRG,
        ETHOS_EMAR,
        *([PYXIS] if ed else []),
        HCPCS,
        ETHOS_LABS,
        *(vital_signs(False) if ed else []),
        Place("hosp/omr", (*PRESSURES, BMI), OMR_KEY),
        BIRTH,
        elsewhere,
        PROCEDURES,
        TRANSFERS,
        ICU_IN,
        _AT_SOFA,
        ICU_OUT,
    ]


def _paper() -> list[Place]:
    """ETHOS (2024): ends of stays before what begins at the same time, then its tables in their order; diagnoses at
    admission; services as transfers; labs by label; rows are never taken for the same."""
    named = (("label", is_text, "no label"),)
    labs = replace(ETHOS_LAB, code=("LAB", "{label}", "{valueuom}", "{itemid}"), only=named)
    died = Place("hosp/admissions", (Entry(("MEDS_DEATH",), "death_in_hospital", "death_in_hospital", may_miss=True),))
    places = [
        GENDER,
        RACE,
        BIRTH,
        HOSP_ED_OUT,
        died,
        DISCHARGE,
        DRG,
        ICU_OUT,
        DEATH,
        HOSP_ED_IN,
        ADMISSION,
        SERVICES,
        ICU_IN,
        _AT_SOFA,
        replace(DIAGNOSES, entries=(replace(DIAGNOSES.entries[0], happened="admit"),)),
        PROCEDURES,
        Place("hosp/omr", PRESSURES),
        Place("hosp/omr", (BMI,)),
        ETHOS_EMAR,
        Place("hosp/labevents", (labs,)),
    ]
    return [replace(p, key=None) for p in places]


def places(preset: str, ed: bool, times: str) -> list[Place]:
    """The places of a preset, without those of the ED module if there is none; the last one is HIDDEN.

    Args: times, of TIMES, by which `clean` is ordered.
    """
    known = times == "known"
    listed = {"clean": lambda: _clean(known), "ethos_ares": lambda: _ares(ed), "ethos_paper": _paper}[preset]()
    return [p for p in listed if ed or not p.table.startswith("ed/")]


def needed(place: Place, times: str) -> set[str]:
    """Columns of the file, and derived ones, that a place reads."""
    names = {*(place.key or ()), *([place.order] if place.order else [])}
    for entry in place.entries:
        names |= {part[1:-1] for part in entry.code if part.startswith("{")} | {column for column, *_ in entry.only}
        names |= {name for name in (entry.time(times), entry.value) if name}
    return names
