"""Which column of which table of MIMIC-IV becomes which event, when it happened and when it was known.

An event stands where its fact was *known*, for a prompt must not hold what was recorded later: `known` names the
column, and DERIVED in `deriving` says how those are made that no table has. `happened` names the time at which the fact
came about; the published programs go by it, and `clean` can, to compare.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ehr_scaling.data.codes import doses
from ehr_scaling.data.sources.mimic import sofa as mimic_sofa
from ehr_scaling.data.sources.mimic.parsing import body_mass_index, pain, pressure

TIMES = ("known", "happened")
REQUIRED = ("hosp/patients", "hosp/admissions")
OPTIONS = ("icu/chartevents", "icu/inputevents", "icu/outputevents", "icu/procedureevents", "hosp/services")
SEQUENCE = 1_023  # seq_num and the like order the rows of a place up to this number

_IDS = (
    "subject_id hadm_id stay_id anchor_age anchor_year seq_num labevent_id emar_seq transfer_id med_rn "
    "hospital_expire_flag"
)
_TIMES = (
    "dod admittime dischtime deathtime edregtime edouttime intime outtime chartdate charttime transfertime "
    "starttime endtime storetime"
)
_NUMBERS = "valuenum temperature heartrate resprate o2sat sbp dbp acuity rate amount"
KINDS = {
    **dict.fromkeys(_IDS.split(), "id"),
    **dict.fromkeys(_TIMES.split(), "time"),
    **dict.fromkeys(_NUMBERS.split(), "number"),
    "comments": "note",
}  # the rest is text
OUTPUT_VALUE = "value"  # a number in outputevents, where it is text elsewhere

Test = Callable[[str | None], bool]


@dataclass(frozen=True)
class Entry:
    """One event of a row.

    code: parts, of which "{column}" is the column's text; happened, known: columns, or some that `deriving` adds, or
    None for events without a time; value: a column; parse: makes a number of its text; only: (column, test of its
    text, what the others are, or what says it of a text) rows that have this event; needs: whether an event without a
    value is none; may_miss: whether it is in order that the time is missing, as that of a death.
    """

    code: tuple[str, ...]
    happened: str | None
    known: str | None
    value: str | None = None
    parse: Callable[[str], float | None] | None = None
    only: tuple[tuple[str, Test, str | Callable[[str | None], str]], ...] = ()
    needs: bool = False
    may_miss: bool = False

    def time(self, times: str) -> str | None:
        """The column of its time. Args: times, of TIMES."""
        return self.known if times == "known" else self.happened


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


# What more than one preset uses: code, when it happened, when it was known, … ---------------------------------------

GENDER = Place(
    "hosp/patients", (Entry(("GENDER", "{gender}"), None, None, only=(("gender", is_text, "no gender"),)),), ()
)
BIRTH = Place("hosp/patients", (Entry(("MEDS_BIRTH",), "birth", "birth"),), ())
DEATH = Place("hosp/patients", (Entry(("MEDS_DEATH",), "death", "death", may_miss=True),), ())
# Of all admissions the first that tells most, as a fact of the whole life; or where it is told, as far as it is news.
RACE = Place("hosp/patients", (Entry(("RACE", "{race}"), None, None, only=(("race", is_text, "no admission"),)),), ())
RACE_TOLD = Place(
    "hosp/admissions",
    (Entry(("RACE", "{told_race}"), "admittime", "registered", only=(("told_race", is_text, "no news"),)),),
    ("hadm_id",),
)
ADMISSION = Place(
    "hosp/admissions",
    (
        Entry(("HOSPITAL_ADMISSION", "{admission_type}", "{admission_location}"), "admittime", "admittime"),
        Entry(("INSURANCE", "{insurance}"), "admittime", "admittime"),
        Entry(("MARITAL_STATUS", "{marital_status}"), "admittime", "admittime"),
    ),
    ("hadm_id",),
)
DISCHARGE = Place(
    "hosp/admissions", (Entry(("HOSPITAL_DISCHARGE", "{discharge_location}"), "end", "end"),), ("hadm_id",)
)
HOSP_ED_IN = Place("hosp/admissions", (Entry(("ED_REGISTRATION",), "edreg", "edreg", may_miss=True),), ())
HOSP_ED_OUT = Place("hosp/admissions", (Entry(("ED_OUT",), "edout", "edout", may_miss=True),), ())
_DIAGNOSIS = ("DIAGNOSIS", "ICD", "{icd_version}", "{icd_code}")
DIAGNOSES = Place("hosp/diagnoses_icd", (Entry(_DIAGNOSIS, "end", "end"),), ("hadm_id",))
_HCFA = (("drg_type", one_of("HCFA"), "another kind than HCFA"),)
DRG = Place(
    "hosp/drgcodes",
    (Entry(("DRG", "{drg_type}", "{drg_code}", "{description}"), "end", "end", only=_HCFA),),
    ("hadm_id", "drg_severity", "drg_mortality"),
)
_NAMED = ("medication", is_text, "no name")
_DRUG = ("MEDICATION", "{medication}", "{event_txt}")
EMAR = Place(
    "hosp/emar",
    (
        Entry(
            _DRUG,
            "charttime",
            "filed",
            only=(
                ("event_txt", lambda text: not doses.why_no_dose(text), lambda text: f"no dose: {doses.told(text)}"),
                _NAMED,
            ),
        ),
    ),
    ("hadm_id", "emar_seq"),
)
# As published: "Administered" and no other word.
_ADMINISTERED = (("event_txt", one_of("Administered"), "not administered"), _NAMED)
ETHOS_EMAR = replace(EMAR, entries=(replace(EMAR.entries[0], only=_ADMINISTERED),))
HCPCS = Place("hosp/hcpcsevents", (Entry(("HCPCS", "{short_description}"), "day", "billed"),), ("hadm_id",))
_LAB = Entry(("LAB", "{itemid}", "{valueuom}"), "charttime", "filed", "measured", needs=True)
LABS = Place("hosp/labevents", (_LAB,), ("labevent_id",))
ETHOS_LAB = replace(_LAB, value="valuenum")
ETHOS_LABS = Place("hosp/labevents", (ETHOS_LAB,), ("hadm_id", "valuenum", "value", "priority"))
PRESSURES = tuple(
    Entry(
        ("VITAL", "BLOOD_PRESSURE", name),
        "day",
        "day_end",
        "result_value",
        pressure(k),
        (("result_name", begins("Blood Pressure"), "another kind of measurement"),),
        needs=True,
    )
    for k, name in ((1, "SYSTOLIC"), (2, "DIASTOLIC"))
)
BMI = Entry(
    ("BMI",),
    "day",
    "day_end",
    "result_value",
    body_mass_index,
    (("result_name", begins("BMI"), "another kind of measurement"),),
    needs=True,
)
OMR_KEY = ("result_name", "result_value")
_PROCEDURE = ("PROCEDURE", "ICD", "{icd_version}", "{icd_code}")
PROCEDURES = Place("hosp/procedures_icd", (Entry(_PROCEDURE, "day", "billed"),), ("hadm_id",))
_MOVES = (("eventtype", one_of("admit", "transfer"), "neither admit nor transfer"),)
TRANSFERS = Place(
    "hosp/transfers",
    (Entry(("TRANSFER_TO", "{eventtype}", "{careunit}"), "intime", "intime", only=_MOVES),),
    ("hadm_id",),
)
SERVICES = Place("hosp/services", (Entry(("SERVICE", "{curr_service}"), "transfertime", "transfertime"),), ("hadm_id",))
_STAY = ("hadm_id", "stay_id")
ICU_IN = Place("icu/icustays", (Entry(("ICU_ADMISSION", "{first_careunit}"), "entered", "entered"),), _STAY)
ICU_OUT = Place("icu/icustays", (Entry(("ICU_DISCHARGE", "{last_careunit}"), "left", "left"),), _STAY)
ED_IN = Place("ed/edstays", (Entry(("ED_REGISTRATION", "{arrival_transport}"), "intime", "intime"),), _STAY)
ED_OUT = Place("ed/edstays", (Entry(("ED_OUT", "{disposition}"), "left", "left"),), _STAY)
ED_DIAGNOSES = Place("ed/diagnosis", (Entry(_DIAGNOSIS, "outtime", "outtime"),), ("stay_id",))
PYXIS = Place(
    "ed/pyxis",
    (Entry(("MEDICATION", "{name}", "Administered"), "charttime", "charttime", only=(("name", is_text, "no name"),)),),
    ("stay_id",),
)
ACUITY = Place("ed/triage", (Entry(("ACUITY",), "intime", "triaged", "acuity", needs=True),), ("stay_id", "acuity"))
CHARTED = Place(
    "icu/chartevents",
    (Entry(("CHART", "{itemid}", "{valueuom}"), "charttime", "filed", "measured", needs=True),),
    ("stay_id", "measured"),
)
OUTPUT = Place(
    "icu/outputevents",
    (Entry(("SUBJECT_FLUID_OUTPUT", "{itemid}", "{valueuom}"), "charttime", "filed", OUTPUT_VALUE, needs=True),),
    ("stay_id", OUTPUT_VALUE),
)
_INFUSION = ("stay_id", "amount", "rate")
STARTS = [
    Place("icu/inputevents", (Entry(("INFUSION_START", "{itemid}"), "starttime", "begun", "rate"),), _INFUSION),
    Place("icu/procedureevents", (Entry(("PROCEDURE", "START", "{itemid}"), "starttime", "begun"),), ("stay_id",)),
]
ENDS = [
    Place("icu/inputevents", (Entry(("INFUSION_END", "{itemid}"), "ended", "ended_filed", "amount"),), _INFUSION),
    Place("icu/procedureevents", (Entry(("PROCEDURE", "END", "{itemid}"), "ended", "ended_filed"),), ("stay_id",)),
]
_VITALS = {
    "temperature": "TEMPERATURE",
    "heartrate": "HEART_RATE",
    "resprate": "RESPIRATORY_RATE",
    "o2sat": "O2_SATURATION",
}


def _vitals(table: str, happened: str, known: str, needs: bool) -> list[Place]:
    """Temperature, heart rate, respiratory rate, saturation, blood pressure (which may lack a value), pain."""
    places = [
        Place(table, (Entry(("VITAL", name), happened, known, column, needs=True),), ("stay_id", column))
        for column, name in _VITALS.items()
    ]
    both = tuple(
        Entry(("VITAL", "BLOOD_PRESSURE", name), happened, known, column, needs=needs)
        for name, column in (("SYSTOLIC", "sbp"), ("DIASTOLIC", "dbp"))
    )
    places.append(Place(table, both, ("stay_id", "sbp", "dbp")))
    pain_ = Entry(("VITAL", "PAIN"), happened, known, "pain", pain, needs=True)
    return [*places, Place(table, (pain_,), ("stay_id", "pain"))]


def triage(needs: bool) -> list[Place]:
    return _vitals("ed/triage", "intime", "triaged", needs)


def vital_signs(needs: bool) -> list[Place]:
    return _vitals("ed/vitalsign", "charttime", "charttime", needs)


def _hidden(
    table: str, items: Iterable[int], happened: str, known: str, value: str, *more: tuple[str, Test, str]
) -> Place:
    only = (("itemid", one_of(*map(str, items)), "no event is made of it"), *more)
    return Place(table, (Entry(("SOFA_INPUT", "{itemid}"), happened, known, value, only=only, needs=True),), None)


SOFA_INPUTS = (
    _hidden("hosp/labevents", mimic_sofa.LABS, "charttime", "filed", "valuenum"),
    _hidden("icu/chartevents", mimic_sofa.CHART, "charttime", "filed", "valuenum"),
    _hidden(
        "icu/inputevents",
        mimic_sofa.PRESSORS,
        "starttime",
        "begun",
        "rate",
        ("rateuom", one_of("mcg/kg/min"), "a rate in another unit"),
    ),
    _hidden("icu/outputevents", (*mimic_sofa.URINE, mimic_sofa.IRRIGANT), "charttime", "filed", OUTPUT_VALUE),
)
