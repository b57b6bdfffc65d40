"""MIMIC-IV as four programs write it in MEDS: which of them wrote a data set, and its codes in our spelling.

- ETHOS, the MEDS configuration of ETHOS-ARES: labs as `LAB//item//unit`; vital signs of the emergency department.
- MIMIC_IV_MEDS_0_1, the package MIMIC-IV-MEDS up to 0.1.x: orders of the pharmacy; ICU charts as `LAB//item//unit`;
  its later versions part a lab into `LAB//SPECIMEN_COLLECTED` and, when it was filed, `LAB//RESULT`.
- MIMIC_IV_MEDS_0_2, its version 0.2: insurance, marital status and race are events, not columns; drugs have an NDC as
  a fourth part; a DRG's description is in text_value.
- MEDS_ETL, the program meds_etl_mimic: `MIMIC_IV_ITEM/…`, `ICD9CM/…`; the table and the unit are columns.
- OWN, this program: nothing to translate.
- OTHER, any other: codes are kept, see `spelling`.

Of the first four, the tables that the mimic-iv source reads come out with its codes, and what it leaves out is left
out: records of a drug that are no dose (codes.doses), transfers of other kinds than admit and transfer, DRGs of other
kinds than HCFA, measurements without a number; orders of the pharmacy (no proof of a dose), specimens (no result),
language, weight, height and eGFR. Codes that are none of these programs' (a hospital's own additions) are kept as in
OTHER.
"""

import functools
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ehr_scaling.data.codes import doses
from ehr_scaling.data.sources.meds import hallmarks
from ehr_scaling.data.sources.meds.spelling import join, own_spelling, prefixed
from ehr_scaling.data.sources.mimic.parsing import race
from ehr_scaling.errors import UserError

OWN, OTHER = "ehr_scaling", "other"
ETHOS, MIMIC_IV_MEDS_0_1, MIMIC_IV_MEDS_0_2 = "ethos", "mimic_iv_meds_0.1", "mimic_iv_meds_0.2"
MEDS_ETL = "meds_etl_mimic"
MIMIC = (ETHOS, MIMIC_IV_MEDS_0_1, MIMIC_IV_MEDS_0_2, MEDS_ETL)
NAMES = (*MIMIC, OWN, OTHER)

# Columns beside MEDS' own from which a dialect's codes are made. No text of them is kept but in such a code.
COLUMNS = {
    ETHOS: ("text_value", "insurance", "marital_status", "race"),
    MIMIC_IV_MEDS_0_1: ("text_value", "insurance", "marital_status", "race"),
    MIMIC_IV_MEDS_0_2: ("text_value",),
    MEDS_ETL: ("text_value", "table", "unit"),
}
SYSTOLIC, DIASTOLIC = "VITAL//BLOOD_PRESSURE//SYSTOLIC", "VITAL//BLOOD_PRESSURE//DIASTOLIC"
BMI, PAIN, TEMPERATURE = "BMI", "VITAL//PAIN", "VITAL//TEMPERATURE"
ADMISSION, LOCATION = "HOSPITAL_ADMISSION//", "ADMISSION_LOCATION//"  # the second is merged into the first
RACE, GENDER = "RACE//", "GENDER//"
NUMBERED = ("LAB//", "CHART//", "SUBJECT_FLUID_OUTPUT//", "VITAL//", "BMI", "ACUITY")  # nothing without a number
UNK = "UNK"  # a part that is not known
LONGEST = 256  # characters of a code; more is not a name but somebody's text

_VITALS = {
    "TEMPERATURE": TEMPERATURE,
    "HEART_RATE": "VITAL//HEART_RATE",
    "RESPIRATORY_RATE": "VITAL//RESPIRATORY_RATE",
    "O2_SATURATION": "VITAL//O2_SATURATION",
    "PAIN": PAIN,
    "ACUITY": "ACUITY",
}
# What the mimic-iv source has no place for, by how the code begins.
_LEFT_OUT = {
    "LAB//SPECIMEN_COLLECTED": "specimens: no result",
    "MEDICATION//START//": "orders of the pharmacy: not administered",
    "MEDICATION//STOP//": "orders of the pharmacy: not administered",
    "SUBJECT_WEIGHT_AT_INFUSION": "weight: not among the events of mimic-iv",
    "LANGUAGE//": "language: not among the events of mimic-iv",
    "MIMIC_IV_Language/": "language: not among the events of mimic-iv",
}
_KINDS = {
    "TRANSFER_TO": ("transfers: neither admit nor transfer", ("admit", "transfer")),
    "DRG": ("DRGs: another kind than HCFA", ("HCFA",)),
}
_OMR = "MIMIC_IV_OMR/"
_OMR_LEFT_OUT = re.compile(r"(WEIGHT|HEIGHT|EGFR)( \(.*)?")
_ICU_ITEMS = 200_000  # item ids of d_items are above it, those of d_labitems below
# The order of events at one time, of which MEDS says nothing, by how a code begins: a stay opens before what happens
# in it, death comes before the ends that it causes, and what is coded at discharge follows it.
_ENDS = ("MEDS_DEATH", "ICU_DISCHARGE//", "ED_OUT", "TRANSFER_TO//", "SERVICE//", "ICU_ADMISSION//")
_ORDER = (
    *("GENDER//", "RACE//", "MEDS_BIRTH", "ED_REGISTRATION", "ACUITY", "VITAL//"),
    *("HOSPITAL_ADMISSION//", "ADMISSION_LOCATION//", "INSURANCE//", "MARITAL_STATUS//", "BMI"),
    *("PROCEDURE//ICD//", "HCPCS//", "LAB//", "CHART//", "SUBJECT_FLUID_OUTPUT//"),
    "",  # all others
    *("INFUSION_END//", "PROCEDURE//END//", "INFUSION_START//", "PROCEDURE//START//", "MEDICATION//"),
    *(*_ENDS, "HOSPITAL_DISCHARGE//", "DIAGNOSIS//", "DRG//"),
)
# The same where events stand where they were known: all codes of the bill follow the discharge.
_KNOWN_ORDER = (
    *("GENDER//", "MEDS_BIRTH", "RACE//", "ED_REGISTRATION", "ACUITY", "VITAL//"),
    *("HOSPITAL_ADMISSION//", "INSURANCE//", "MARITAL_STATUS//", "BMI", "LAB//", "CHART//", "SUBJECT_FLUID_OUTPUT//"),
    "",
    *("INFUSION_START//", "PROCEDURE//START//", "INFUSION_END//", "PROCEDURE//END//", "MEDICATION//"),
    *(*_ENDS, "HOSPITAL_DISCHARGE//", "DIAGNOSIS//", "PROCEDURE//ICD//", "HCPCS//", "DRG//"),
)


def check(name: str | None) -> None:
    """Raises UserError for a name of the user's that is no dialect's."""
    if name is not None and name not in NAMES:
        raise UserError(f"--config.data.dialect={name}: there is no such dialect, take one of {', '.join(NAMES)}")


def recognise(codes: Collection[str], about: Mapping[str, Any]) -> tuple[str, str]:
    """The dialect of a data set, and why, in words that fit one line.

    Args: codes, all of them or many; about, its metadata/dataset.json.
    """
    if about.get("etl_name") == "ehr_scaling":
        return OWN, "its dataset.json says that this program wrote it"
    if about.get("etl_name") == "meds_etl.mimic":
        return MEDS_ETL, "its dataset.json says so"
    heads = {head for code in codes for head in _heads(code)}
    if told := sorted(heads & {"MIMIC_IV_LABITEM/", "MIMIC_IV_ITEM/", "MIMIC_IV_OMR/"}):
        return MEDS_ETL, f"it has codes that begin with {told[0]}"
    yes, why = hallmarks.of_mimic(codes)
    if not yes:
        return OTHER, why
    if heads & {"INSURANCE//", "MARITAL_STATUS//", "LANGUAGE//", "RACE//"}:
        return MIMIC_IV_MEDS_0_2, f"{why}, and insurance or race are events"
    if heads & {"LAB//RESULT", "LAB//SPECIMEN_COLLECTED", "MEDICATION//START", "INFUSION_START//", "PROCEDURE//START"}:
        return MIMIC_IV_MEDS_0_1, f"{why}, and it tells specimens, orders or infusions"
    return ETHOS, why


def detect(codes: Collection[str], about: Mapping[str, Any]) -> str:
    """The dialect alone: see `recognise`."""
    return recognise(codes, about)[0]


def _heads(code: str) -> tuple[str, ...]:
    """The beginnings of a code that `detect` looks for."""
    first, separator, rest = code.partition("//")
    if not separator:
        return (f"{code.partition('/')[0]}/",)
    return f"{first}//", f"{first}//{rest.partition('//')[0]}"


def detailed(dialect: str, code: str) -> bool:
    """Whether `canonical` needs more of the row than its code: its text_value, or with MEDS_ETL its table and unit."""
    if dialect == MEDS_ETL:
        return code.startswith(("MIMIC_IV_LABITEM/", "MIMIC_IV_ITEM/"))
    return code in ("ED_REGISTRATION", "ED_OUT") or (dialect == MIMIC_IV_MEDS_0_2 and code.startswith("DRG//"))


def canonical(dialect: str, code: str, detail: str = "", unit: str = "") -> tuple[str, ...] | None:
    """The codes of the events that one event becomes; None where it is left out, `reason` says why.

    A blood pressure becomes (SYSTOLIC, DIASTOLIC), of which the values are in one text. The race is the group of the
    mimic-iv source (WHITE, BLACK, ASIAN, HISPANIC, OTHER, UNKNOWN).
    Args: detail, of codes that are `detailed`: the row's text_value, or its table with MEDS_ETL; unit, likewise.
    """
    return verdict(dialect, code, detail, unit).codes


class Verdict(NamedTuple):
    """What becomes of an event: the codes of the events it becomes, or None, and then why.

    family: that of the codes it becomes, or would; "" where such events are left out by design.
    """

    codes: tuple[str, ...] | None
    why: str
    family: str


def _kept(*codes: str) -> Verdict:
    return Verdict(codes, "", codes[0].partition("//")[0])


@functools.lru_cache(maxsize=1 << 18)
def verdict(dialect: str, code: str, detail: str = "", unit: str = "") -> Verdict:
    """What becomes of an event, see `canonical`; why it is left out tells no more of the code than the kind."""
    if dialect == OWN:
        return _kept(code)
    if dialect == OTHER:
        return _kept(own_spelling(prefixed(code)))
    if unread := next((why for head, why in _LEFT_OUT.items() if code.startswith(head)), None):
        return Verdict(None, unread, "")
    upper = code.upper().removeprefix(_OMR)
    if upper.startswith("BLOOD PRESSURE"):
        return _kept(SYSTOLIC, DIASTOLIC)
    if upper == "BMI" or upper.startswith("BMI ("):
        return _kept(BMI)
    if match := _OMR_LEFT_OUT.fullmatch(upper):
        return Verdict(None, f"{match[1].lower()}: not among the events of mimic-iv", "")
    ours = _of_meds_etl(code, detail, unit) if dialect == MEDS_ETL else _of_mimic(dialect, code, detail)
    if ours is None:
        return Verdict(None, "dates and ingredients of the ICU: not among the events of mimic-iv", "")
    name, *parts = ours.split("//")
    why, kept = _KINDS.get(name, ("", ()))
    if kept and parts and parts[0] not in kept:
        return Verdict(None, why, name)
    if name == "MEDICATION" and parts:
        if parts[0] in (UNK, ""):
            return Verdict(None, "doses: no name", name)
        event = "" if len(parts) < 2 or parts[-1] == UNK else parts[-1]
        if no_dose := doses.why_no_dose(event):
            return Verdict(None, f"doses: {no_dose} ({doses.told(event)})", name)
    return _kept(ours)


def _of_mimic(dialect: str, code: str, text: str) -> str:
    if code in _VITALS:
        return _VITALS[code]
    if code in ("ED_REGISTRATION", "ED_OUT"):
        return join(code, text) if text else code
    name, *parts = code.split("//")
    last = dialect == MIMIC_IV_MEDS_0_2 and len(parts) > 2  # the drug's NDC, of which parent_codes tells
    match name, parts:
        case "RACE", [told]:
            return RACE + race("" if told == UNK else told)
        case "LAB", ["RESULT", item, *rest]:
            return join("LAB", item, "/".join(rest))
        case "LAB", [item, *rest]:
            icu = item.isdecimal() and int(item) > _ICU_ITEMS
            return join("CHART" if icu else "LAB", item, "/".join(rest))
        case "MEDICATION", [*drug, event, _] if last:
            return join(name, "/".join(drug), event)
        case "MEDICATION", [*drug, event] if drug:
            return join(name, "/".join(drug), event)
        case "DRG", [kind, number, *rest]:
            return join(name, kind, number, "/".join(rest) or text)
        case "HCPCS" | "INSURANCE" | "MARITAL_STATUS" | "HOSPITAL_DISCHARGE" | "ICU_ADMISSION" | "ICU_DISCHARGE", _:
            return join(name, "/".join(parts))
        case "HOSPITAL_ADMISSION" | "TRANSFER_TO", [kind, *rest]:
            return join(name, kind, "/".join(rest))
    return prefixed(code)


def _of_meds_etl(code: str, table: str, unit: str) -> str | None:
    name, _, rest = code.partition("/")
    match name:
        case "MIMIC_IV_LABITEM":
            return join("LAB", rest, unit)
        case "MIMIC_IV_ITEM":
            item, _, infused = rest.partition("/")
            match table.rpartition("/")[2] or ("inputevents" if infused else "chartevents"):
                case "inputevents":
                    return f"INFUSION_START//{item}"
                case "procedureevents":
                    return f"PROCEDURE//START//{item}"
                case "outputevents":
                    return join("SUBJECT_FLUID_OUTPUT", item, unit)
                case "datetimeevents" | "ingredientevents":
                    return None
            return join("CHART", item, unit)
        case "MIMIC_IV_Admission":
            return join("HOSPITAL_ADMISSION", rest, UNK)
        case "MIMIC_IV_Transfer":  # the kind is not told; the emergency department's own are no transfer
            return join("TRANSFER_TO", "ED" if rest == "Emergency Department" else "transfer", rest)
        case "MIMIC_IV_Race":
            return RACE + race(rest)
        case "MIMIC_IV_Drug":
            return join("MEDICATION", rest, "Prescribed")
        case "ICD9CM" | "ICD10CM":
            return join("DIAGNOSIS", "ICD", name[3:-2], rest.replace(".", ""))
        case "ICD9Proc" | "ICD10PCS":
            return join("PROCEDURE", "ICD", "9" if name == "ICD9Proc" else "10", rest.replace(".", ""))
        case "HCFA" | "APR":
            return join("DRG", name, rest, UNK)
    if family := _MEDS_ETL_FAMILIES.get(name):
        return join(family, rest)
    return prefixed(code)


_MEDS_ETL_FAMILIES = {
    "MIMIC_IV_Admission_Location": LOCATION[:-2],
    "MIMIC_IV_Discharge_Location": "HOSPITAL_DISCHARGE",
    "MIMIC_IV_Insurance": "INSURANCE",
    "MIMIC_IV_Marital_Status": "MARITAL_STATUS",
    "MIMIC_IV_Gender": "GENDER",
    "MIMIC_IV_Service": "SERVICE",
    "HCPCS": "HCPCS",
}


@functools.lru_cache(maxsize=1 << 18)
def place(dialect: str, code: str, *, known: bool = False) -> int:
    """Where an event stands among those of its time, 0 to 255; the same for all where the file's order is kept.

    Args: known, whether events stand where they were known.
    """
    if dialect not in MIMIC:
        return 0
    order = _KNOWN_ORDER if known else _ORDER
    return next((i for i, head in enumerate(order) if head and code.startswith(head)), order.index(""))
