"""The default preset: what the published tokenizations say, without their defects.

One drug is one path, nothing is truncated to a guess, and what no map covers keeps a family of its own: ICD9CM//…,
ICD9PCS//…, MED//<ingredient>. Codes of dialects that are not known here are one token each, themselves.
"""

import re

from ehr_scaling.data.codes import doses, drugs, units
from ehr_scaling.data.codes.maps import CodeMaps, atc, atc_by_ingredient, atc_one, icd10cm, icd10pcs
from ehr_scaling.data.presets.paths import ATC, ICD9CM, ICD9PCS, ICD10CM, ICD10PCS, detailed
from ehr_scaling.data.presets.rule import REPEATS, Rule, bare, known, normalise, nothing, one
from ehr_scaling.data.vocabulary import UNK

BREAKS = {"ACUITY": (1.0, 2.0, 3.0, 4.0)}  # a scale of five steps as it is
FACILITIES = frozenset(
    ("HEALTHCARE_FACILITY", "SKILLED_NURSING_FACILITY", "REHAB", "CHRONIC/LONG_TERM_ACUTE_CARE", "OTHER_FACILITY")
)
SCHEDULED = frozenset(("ELECTIVE", "SURGICAL_SAME_DAY_ADMISSION", "SCHEDULED"))
_ICD = (["ICD", "9"], ["ICD", "10"])
_CATEGORY = 3  # characters of an ICD category: what codes share with less is not a disease any more
# Families whose names are spelt alike whatever the source did; the codes of others are kept as they are.
_NAMES = """GENDER RACE INSURANCE HCPCS LAB VITAL CHART SERVICE BMI SOFA ACUITY INFUSION_START INFUSION_END
SUBJECT_FLUID_OUTPUT PROCEDURE DRG"""
_SPELT = frozenset(_NAMES.split())


def rule(code: str, maps: CodeMaps, depth: int) -> Rule:
    """The tokens of a code.

    ICD codes are cut where the classification nests, so that a rare code shares its first token with its category:
    ICD-10-CM 3 + 3 + rest, ICD-9-CM category + rest, ICD-10-PCS one token a character (position is not encoded),
    ICD-9 procedures 2 + rest, ATC 3 + 1 + rest (ETHOS-ARES, Renc et al. 2025, for ICD-10 and ATC). Of the two DRG
    systems of MIMIC only HCFA's is kept, of transfers only `admit` and `transfer`, of medications what was given.
    """
    name, *rest = code.split("//")
    first = rest[0] if rest else ""
    match name:
        case "DIAGNOSIS" | "PROCEDURE" if (
            len(rest) == 3 and first == "ICD" and rest[1] in ("9", "10") and bare(rest[2])
        ):
            return Rule((_icd(name, rest[1], bare(rest[2]), maps, depth),))
        case "HOSPITAL_ADMISSION" if rest:
            return detailed(name, _admission(first))
        case "HOSPITAL_DISCHARGE" if rest:
            return detailed(name, discharge(first)) if first else one(name)
        case "ICU_ADMISSION" if rest:
            return detailed(name, known(first))
        case "ED_REGISTRATION" if first:
            return detailed(name, known(first))
        case "ED_OUT" if first:
            return detailed(name, known(first))
        case "ICU_DISCHARGE" | "MEDS_DEATH" | "MEDS_BIRTH":
            return one(name)
        case "MARITAL_STATUS" | "MARITAL" if first:
            return one(f"MARITAL//{known(first)}")
        case "TRANSFER_TO" if first.lower() in ("ed", "discharge"):
            return nothing(REPEATS)
        case "TRANSFER_TO" if first.lower() in ("admit", "transfer"):
            return one(f"TRANSFER//{known(rest[1] if len(rest) > 1 else '')}")
        case "DRG" if rest == ["UNKNOWN"]:
            return nothing("not known")
        case "DRG" if len(rest) > 1 and first.upper() == "APR":
            return nothing("not of the system HCFA")
        case "DRG" if len(rest) > 1 and first.upper() == "HCFA":
            return one(f"DRG//{int(rest[1])}") if rest[1].isdecimal() else one(normalise(code))
        case "MEDICATION" if first:
            return _medication(rest, maps, depth)
        case "INSURANCE" | "RACE" | "GENDER" | "SERVICE" | "LANGUAGE" if len(rest) == 1:
            return one(f"{name}//{known(first)}")
        case "LAB" | "CHART" if len(rest) > 1:
            unit = units.canonical("//".join(rest[1:]), first) or UNK
            return one(normalise(f"{name}//{first}//{unit}"))._replace(is_lab=name == "LAB")
        case "LAB":
            return one(normalise(code))._replace(is_lab=True)
    if name.upper().startswith(("BMI (", "BMI_(")):  # MIMIC's omr: BMI (kg/m2)
        return one("BMI")
    return one(normalise(code) if name in _SPELT else code)


def _admission(text: str) -> str:
    kind = known(text)
    if kind.endswith("EMER") or kind in ("URGENT", "EMERGENCY"):
        return "EMERGENCY"
    if kind in SCHEDULED:
        return "SCHEDULED"
    return "OBSERVATION" if "OBSERVATION" in kind else kind  # another hospital's types are its own


def discharge(text: str) -> str:
    place = known(text)
    return "HEALTHCARE_FACILITY" if place in FACILITIES else place


def _icd(kind: str, version: str, code: str, maps: CodeMaps, depth: int) -> tuple[str, ...]:
    if version == "9":
        mapped = (icd10pcs if kind == "PROCEDURE" else icd10cm)(maps, code, "clean")
        if mapped and len(mapped) >= _CATEGORY:
            version, code = "10", mapped
    if kind == "PROCEDURE":
        return (ICD10PCS if version == "10" else ICD9PCS).cut(code, depth)
    return (ICD10CM if version == "10" else ICD9CM).cut(code, depth)


def _medication(rest: list[str], maps: CodeMaps, depth: int) -> Rule:
    if rest[0].upper() in ("START", "STOP"):
        return nothing("an order, not a dose")
    name, event = rest[0].strip(), rest[1] if len(rest) > 1 else ""
    if event and doses.is_verb(name) and not doses.is_verb(event):  # another hospital's order of the parts
        name, event = event.strip(), name
    if event and (why := doses.why_no_dose(event)):
        return nothing(f"no dose: {why}")
    if name in ("", "UNK"):
        return nothing("no name")
    # A name with '_' for spaces was normalised by its source already, which chose what tells drugs apart.
    by_source = bool(re.fullmatch(r"[^\s]*_[^\s]*", name))
    ingredient = None if by_source else drugs.ingredient(name)
    # By the ingredient first: all spellings of a drug have the path of one.
    if group := atc_by_ingredient(maps).get(ingredient or "") or atc_one(atc(maps, name)):
        return Rule((ATC.cut(group, depth),))
    # Without strengths, or a name would be rarer than its drug.
    return one(f"MED//{normalise(ingredient or (name if by_source else drugs.normalised(name)))}")._replace(scale="")
