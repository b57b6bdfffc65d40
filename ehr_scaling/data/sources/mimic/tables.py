"""Which column of which table of MIMIC-IV becomes which event, and in what order: the three presets.

Facts about the published programs (ETHOS, Renc et al. 2024; ETHOS-ARES, Renc et al. 2025) are in the docstring of
`mimic_iv`. A preset is a list of places: events of one patient at one time are in the order of their places, those
of one place in the order of the file.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ehr_scaling.data.sources.mimic import sofa as mimic_sofa

PRESETS = ("clean", "ethos_ares", "ethos_paper")
REQUIRED = ("hosp/patients", "hosp/admissions")
OPTIONS = ("icu/chartevents", "icu/inputevents", "icu/outputevents", "icu/procedureevents", "hosp/services")
SEQUENCE = 1_023  # seq_num and the like order the rows of a place up to this number
SOFA, HIDDEN = "SOFA", "hidden"  # places that are filled, or emptied, when the shards are put in order

_IDS = "subject_id hadm_id stay_id anchor_age anchor_year seq_num labevent_id emar_seq transfer_id med_rn"
_TIMES = (
    "dod admittime dischtime deathtime edregtime edouttime intime outtime chartdate charttime transfertime "
    "starttime endtime"
)
_NUMBERS = "valuenum temperature heartrate resprate o2sat sbp dbp acuity rate amount"
KINDS = {
    **dict.fromkeys(_IDS.split(), "id"),
    **dict.fromkeys(_TIMES.split(), "time"),
    **dict.fromkeys(_NUMBERS.split(), "number"),
}  # the rest is text
OUTPUT_VALUE = "value"  # a number in outputevents, where it is text elsewhere

Test = Callable[[str | None], bool]


@dataclass(frozen=True)
class Entry:
    """One event of a row.

    code: parts, of which "{column}" is the column's text; time: a column, or one that `mimic_spread.derive` adds, or
    None for events without a time; value: a column; parse: makes a number of its text; only: (column, test of its
    text, what the others are) rows that have this event; needs: whether an event without a value is none; may_miss:
    whether it is in order that the time is missing, as that of a death.
    """

    code: tuple[str, ...]
    time: str | None
    value: str | None = None
    parse: Callable[[str], float | None] | None = None
    only: tuple[tuple[str, Test, str], ...] = ()
    needs: bool = False
    may_miss: bool = False


@dataclass(frozen=True)
class Place:
    """Entries of one table whose events keep the order of the rows.

    key: columns that, besides patient, time and code, make two events different; None where all are. order: a column
    that orders the rows instead of the file.
    """

    table: str
    entries: tuple[Entry, ...]
    key: tuple[str, ...] | None = None
    order: str | None = None


def kind(table: str, column: str) -> str:
    return "number" if (table, column) == ("icu/outputevents", OUTPUT_VALUE) else KINDS.get(column, "text")


def is_text(text: str | None) -> bool:
    return bool(text and text.strip())


def one_of(*words: str) -> Test:
    return lambda text: text in words


def begins(word: str) -> Test:
    return lambda text: text is not None and text.upper().startswith(word.upper())


def _pressure(k: int) -> Callable[[str], float | None]:
    def parse(text: str) -> float | None:
        match = re.fullmatch(r"\s*(\d{1,3})\s*/\s*(\d{1,3})\s*", text)
        return float(match[k]) if match else None

    return parse


def body_mass_index(text: str) -> float | None:
    """kg/m², from 10 to 100."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 10 <= value <= 100 else None


def pain(text: str) -> float | None:
    """Pain from 0 to 10 of what nurses wrote: the rules of ETHOS-ARES. None for what says no number, or another."""
    text = text.lower().strip(' +"').removesuffix("/10")
    digits = re.sub(r"\D", "", text)
    rules = (
        ("-" in text, text.split("-")[0].strip() + ".5"),
        (re.search("crit|moaning", text), "10"),
        (re.search("lot|all over|hurts|much", text), "8"),
        (text in ("yes", "mild", "moderate", "y", "pain", "uncomfortable"), "5"),
        (re.search("little|not bad|some|discomfort", text), "2"),
        (re.search("s[lep]{3,4}|sedat|n/a|resting", text), "0"),
        (text in ("no", "no pain", "ok", "none", "comfortable"), "0"),
    )
    written = next((number for holds, number in rules if holds), digits)
    try:
        value = float(written)
    except ValueError:
        return None
    return value if 0 <= value <= 10 else None


RACES = ("WHITE", "BLACK", "ASIAN", "HISPANIC", "OTHER", "UNKNOWN")


def race(text: str | None) -> str:
    """One of RACES."""
    upper = (text or "UNKNOWN").upper()
    if upper in ("UNKNOWN", "UNABLE TO OBTAIN", "PATIENT DECLINED TO ANSWER"):
        return "UNKNOWN"
    upper = {"PORTUGUESE": "WHITE", "SOUTH AMERICAN": "HISPANIC"}.get(upper, upper)
    first = re.split("[/ ]", upper)[0]
    return first if first in RACES[:4] else "OTHER"


# What more than one preset uses --------------------------------------------------------------------------------------

GENDER = Place("hosp/patients", (Entry(("GENDER", "{gender}"), None, only=(("gender", is_text, "no gender"),)),), ())
RACE = Place("hosp/patients", (Entry(("RACE", "{race}"), None, only=(("race", is_text, "no admission"),)),), ())
BIRTH = Place("hosp/patients", (Entry(("MEDS_BIRTH",), "birth"),), ())
DEATH = Place("hosp/patients", (Entry(("MEDS_DEATH",), "death", may_miss=True),), ())
ADMISSION = Place(
    "hosp/admissions",
    (
        Entry(("HOSPITAL_ADMISSION", "{admission_type}", "{admission_location}"), "admittime"),
        Entry(("INSURANCE", "{insurance}"), "admittime"),
        Entry(("MARITAL_STATUS", "{marital_status}"), "admittime"),
    ),
    ("hadm_id",),
)
DISCHARGE = Place("hosp/admissions", (Entry(("HOSPITAL_DISCHARGE", "{discharge_location}"), "end"),), ("hadm_id",))
HOSP_ED_IN = Place("hosp/admissions", (Entry(("ED_REGISTRATION",), "edreg", may_miss=True),), ())
HOSP_ED_OUT = Place("hosp/admissions", (Entry(("ED_OUT",), "edout", may_miss=True),), ())
DIAGNOSES = Place(
    "hosp/diagnoses_icd", (Entry(("DIAGNOSIS", "ICD", "{icd_version}", "{icd_code}"), "end"),), ("hadm_id",)
)
_HCFA = (("drg_type", one_of("HCFA"), "another kind than HCFA"),)
DRG = Place(
    "hosp/drgcodes",
    (Entry(("DRG", "{drg_type}", "{drg_code}", "{description}"), "end", only=_HCFA),),
    ("hadm_id", "drg_severity", "drg_mortality"),
)
_GIVEN = (("event_txt", one_of("Administered"), "not administered"), ("medication", is_text, "no name"))
EMAR = Place(
    "hosp/emar",
    (Entry(("MEDICATION", "{medication}", "{event_txt}"), "charttime", only=_GIVEN),),
    ("hadm_id", "emar_seq"),
)
HCPCS = Place("hosp/hcpcsevents", (Entry(("HCPCS", "{short_description}"), "day"),), ("hadm_id",))
_LAB = Entry(("LAB", "{itemid}", "{valueuom}"), "charttime", "valuenum", needs=True)
LABS = Place("hosp/labevents", (_LAB,), ("hadm_id", "valuenum", "value", "priority"))
PRESSURES = tuple(
    Entry(
        ("VITAL", "BLOOD_PRESSURE", name),
        "day",
        "result_value",
        _pressure(k),
        (("result_name", begins("Blood Pressure"), "another kind of measurement"),),
        needs=True,
    )
    for k, name in ((1, "SYSTOLIC"), (2, "DIASTOLIC"))
)
BMI = Entry(
    ("BMI",),
    "day",
    "result_value",
    body_mass_index,
    (("result_name", begins("BMI"), "another kind of measurement"),),
    needs=True,
)
_OMR_KEY = ("result_name", "result_value")
PROCEDURES = Place(
    "hosp/procedures_icd", (Entry(("PROCEDURE", "ICD", "{icd_version}", "{icd_code}"), "day"),), ("hadm_id",)
)
_MOVES = (("eventtype", one_of("admit", "transfer"), "neither admit nor transfer"),)
TRANSFERS = Place(
    "hosp/transfers", (Entry(("TRANSFER_TO", "{eventtype}", "{careunit}"), "intime", only=_MOVES),), ("hadm_id",)
)
SERVICES = Place("hosp/services", (Entry(("SERVICE", "{curr_service}"), "transfertime"),), ("hadm_id",))
_STAY = ("hadm_id", "stay_id")
ICU_IN = Place("icu/icustays", (Entry(("ICU_ADMISSION", "{first_careunit}"), "intime"),), _STAY)
ICU_OUT = Place("icu/icustays", (Entry(("ICU_DISCHARGE", "{last_careunit}"), "outtime"),), _STAY)
ED_IN = Place("ed/edstays", (Entry(("ED_REGISTRATION", "{arrival_transport}"), "intime"),), _STAY)
ED_OUT = Place("ed/edstays", (Entry(("ED_OUT", "{disposition}"), "outtime"),), _STAY)
ED_DIAGNOSES = Place(
    "ed/diagnosis", (Entry(("DIAGNOSIS", "ICD", "{icd_version}", "{icd_code}"), "outtime"),), ("stay_id",)
)
PYXIS = Place(
    "ed/pyxis",
    (Entry(("MEDICATION", "{name}", "Administered"), "charttime", only=(("name", is_text, "no name"),)),),
    ("stay_id",),
)
ACUITY = Place("ed/triage", (Entry(("ACUITY",), "intime", "acuity", needs=True),), ("stay_id", "acuity"))
_VITALS = {
    "temperature": "TEMPERATURE",
    "heartrate": "HEART_RATE",
    "resprate": "RESPIRATORY_RATE",
    "o2sat": "O2_SATURATION",
}


def _vitals(table: str, time: str, needs: bool) -> list[Place]:
    """Temperature, heart rate, respiratory rate, saturation, blood pressure (which may lack a value), pain."""
    places = [
        Place(table, (Entry(("VITAL", name), time, column, needs=True),), ("stay_id", column))
        for column, name in _VITALS.items()
    ]
    both = tuple(
        Entry(("VITAL", "BLOOD_PRESSURE", name), time, column, needs=needs)
        for name, column in (("SYSTOLIC", "sbp"), ("DIASTOLIC", "dbp"))
    )
    places.append(Place(table, both, ("stay_id", "sbp", "dbp")))
    return [*places, Place(table, (Entry(("VITAL", "PAIN"), time, "pain", pain, needs=True),), ("stay_id", "pain"))]


def _hidden(table: str, items: Iterable[int], time: str, value: str, *more: tuple[str, Test, str]) -> Place:
    only = (("itemid", one_of(*map(str, items)), "no event is made of it"), *more)
    return Place(table, (Entry(("SOFA_INPUT", "{itemid}"), time, value, only=only, needs=True),), None)


SOFA_INPUTS = (
    _hidden("hosp/labevents", mimic_sofa.LABS, "charttime", "valuenum"),
    _hidden("icu/chartevents", mimic_sofa.CHART, "charttime", "valuenum"),
    _hidden(
        "icu/inputevents",
        mimic_sofa.PRESSORS,
        "starttime",
        "rate",
        ("rateuom", one_of("mcg/kg/min"), "a rate in another unit"),
    ),
    _hidden("icu/outputevents", (*mimic_sofa.URINE, mimic_sofa.IRRIGANT), "charttime", OUTPUT_VALUE),
)
_AT_SOFA = Place(SOFA, ())
DAY_KEYS = {"hosp/diagnoses_icd": ("hadm_id", "seq_num"), "hosp/procedures_icd": ("hadm_id", "seq_num")}


def _clean() -> list[Place]:
    """Today's order: a stay opens before what happens in it; death comes before the ends that it causes; what is
    coded at discharge follows it. Rows are the same only when the table's own key says so."""
    keyed = {
        "hosp/labevents": ("labevent_id",),
        "hosp/emar": ("emar_seq",),
        "hosp/hcpcsevents": ("hadm_id", "seq_num"),
        "hosp/transfers": ("transfer_id",),
        "ed/pyxis": ("stay_id", "med_rn"),  # a drug is repeated for each of its GSNs
        **DAY_KEYS,
    }
    chart = ("stay_id", "valuenum")
    places = [
        GENDER,
        RACE,
        BIRTH,
        ED_IN,
        HOSP_ED_IN,
        ACUITY,
        *_vitals("ed/triage", "intime", True),
        ADMISSION,
        Place("hosp/omr", PRESSURES, ("seq_num", *_OMR_KEY)),
        Place("hosp/omr", (BMI,), ("seq_num", *_OMR_KEY)),
        replace(PROCEDURES, order="seq_num"),
        HCPCS,
        LABS,
        *_vitals("ed/vitalsign", "charttime", True),
        Place(
            "icu/chartevents",
            (Entry(("CHART", "{itemid}", "{valueuom}"), "charttime", "valuenum", needs=True),),
            chart,
        ),
        Place(
            "icu/outputevents",
            (Entry(("SUBJECT_FLUID_OUTPUT", "{itemid}", "{valueuom}"), "charttime", OUTPUT_VALUE, needs=True),),
            ("stay_id", OUTPUT_VALUE),
        ),
        _AT_SOFA,
        Place(
            "icu/inputevents",
            (Entry(("INFUSION_END", "{itemid}"), "endtime", "amount"),),
            ("stay_id", "amount", "rate"),
        ),
        Place("icu/procedureevents", (Entry(("PROCEDURE", "END", "{itemid}"), "endtime"),), ("stay_id",)),
        Place(
            "icu/inputevents",
            (Entry(("INFUSION_START", "{itemid}"), "starttime", "rate"),),
            ("stay_id", "amount", "rate"),
        ),
        Place("icu/procedureevents", (Entry(("PROCEDURE", "START", "{itemid}"), "starttime"),), ("stay_id",)),
        EMAR,
        PYXIS,
        DEATH,
        ICU_OUT,
        ED_OUT,
        HOSP_ED_OUT,
        replace(ED_DIAGNOSES, order="seq_num"),
        TRANSFERS,
        SERVICES,
        ICU_IN,
        DISCHARGE,
        replace(DIAGNOSES, order="seq_num"),
        DRG,
    ]
    return [replace(p, key=keyed[p.table]) if p.table in keyed else p for p in places]


def _ares(ed: bool) -> list[Place]:
    """The order of tables in ETHOS-ARES' event config; a death is put before a discharge of the same time."""
    at_discharge, elsewhere = (
        Place("hosp/patients", (Entry(("MEDS_DEATH",), f"death_{where}", may_miss=True),), ())
        for where in ("in_hospital", "elsewhere")
    )
    head = [GENDER, RACE]
    if ed:
        triage = [*_vitals("ed/triage", "intime", False), ACUITY]
        head += [ED_IN, ED_OUT, *triage, ED_DIAGNOSES]
    else:
        head += [HOSP_ED_IN, HOSP_ED_OUT]
    return [
        *head,
        ADMISSION,
        at_discharge,
        DISCHARGE,
        DIAGNOSES,
        DRG,
        EMAR,
        *([PYXIS] if ed else []),
        HCPCS,
        LABS,
        *(_vitals("ed/vitalsign", "charttime", False) if ed else []),
        Place("hosp/omr", (*PRESSURES, BMI), _OMR_KEY),
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
    labs = replace(_LAB, code=("LAB", "{label}", "{valueuom}", "{itemid}"), only=(("label", is_text, "no label"),))
    died = Place("hosp/admissions", (Entry(("MEDS_DEATH",), "death_in_hospital", may_miss=True),))
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
        replace(DIAGNOSES, entries=(replace(DIAGNOSES.entries[0], time="admit"),)),
        PROCEDURES,
        Place("hosp/omr", PRESSURES),
        Place("hosp/omr", (BMI,)),
        EMAR,
        Place("hosp/labevents", (labs,)),
    ]
    return [replace(p, key=None) for p in places]


def places(preset: str, ed: bool) -> list[Place]:
    """The places of a preset, without those of the ED module if there is none; the last one is HIDDEN."""
    listed = {"clean": _clean, "ethos_ares": lambda: _ares(ed), "ethos_paper": _paper}[preset]()
    return [p for p in listed if ed or not p.table.startswith("ed/")]


def needed(place: Place) -> set[str]:
    """Columns of the file, and derived ones, that a place reads."""
    names = {*(place.key or ()), *([place.order] if place.order else [])}
    for entry in place.entries:
        names |= {part[1:-1] for part in entry.code if part.startswith("{")} | {column for column, *_ in entry.only}
        names |= {name for name in (entry.time, entry.value) if name}
    return names
