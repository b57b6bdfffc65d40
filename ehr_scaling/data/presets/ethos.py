"""The presets of the two published ETHOS programs, token for token where the same code maps are given.

ethos_ares: Renc et al. 2025 (ETHOS-ARES). ethos_paper: Renc et al. 2024, whose tables these are, with the names of
ETHOS-ARES for stays and death, so that the same outcomes can be asked of both. What those programs lose or repeat is
lost or repeated here: a drug has the tokens of all its ATC codes, a diagnosis without a title no first token.
Where they would stop with an error, an unseen admission type say, there is UNK here.
"""

from typing import Literal

from ehr_scaling.data.codes import drugs
from ehr_scaling.data.codes import maps as code_maps
from ehr_scaling.data.codes.maps import CodeMaps
from ehr_scaling.data.presets.clean import FACILITIES
from ehr_scaling.data.presets.rule import Rule, bare, cut, known, normalise, nothing, one

# SOFA: ten bins of equal width from 0 to 23, its range in the table those programs read; ACUITY: its five steps.
BREAKS = {"SOFA": tuple(2.3 * k for k in range(1, 10)), "ACUITY": (1.0, 2.0, 3.0, 4.0)}
_VITALS = ("TEMPERATURE", "HEART_RATE", "RESPIRATORY_RATE", "O2_SATURATION", "PAIN")
Program = Literal["ares", "paper"]
# Families the programs do not read, or drop by name
_NAMES = """CHART INFUSION_START INFUSION_END SUBJECT_FLUID_OUTPUT SUBJECT_WEIGHT_AT_INFUSION SERVICE LANGUAGE"""
_UNUSED = frozenset(_NAMES.split())


def ares(code: str, maps: CodeMaps, depth: int) -> Rule:
    """The tokens of a code in ETHOS-ARES."""
    name, *rest = code.split("//")
    first = rest[0] if rest else ""
    last = rest[-1] if rest else ""
    match name:
        case "DIAGNOSIS" if len(rest) == 3 and first == "ICD":
            return _diagnosis(rest[1], bare(last), maps, depth, "ares")
        case "PROCEDURE" if len(rest) == 3 and first == "ICD":
            return _procedure(rest[1], bare(last), maps, depth)
        case "HOSPITAL_ADMISSION" if rest:
            return one(name, f"ADMISSION_TYPE//{_admission(first)}")
        case "HOSPITAL_DISCHARGE":
            place = known(first)
            return one(name, f"DISCHARGE_LOCATION//{'HEALTHCARE_FACILITY' if place in FACILITIES else place}")
        case "INSURANCE" | "MARITAL_STATUS" | "MARITAL" if known(first) == "UNKNOWN":
            return nothing("not known")
        case "MARITAL_STATUS" | "MARITAL":
            return one(f"MARITAL//{normalise(first)}")
        case "ICU_ADMISSION" if rest:
            return one(name, f"ICU_TYPE//{known(first)}")
        case "ED_REGISTRATION" if rest:
            transport = known(first)
            return one(name, f"ED_TRANSPORT//{'OTHER' if transport == 'HELICOPTER' else transport}")
        case "ICU_DISCHARGE" | "MEDS_DEATH" | "MEDS_BIRTH" | "ED_OUT" | "ED_REGISTRATION":
            return one(name)
        case "ED_REGISTRATION":
            transport = known(first)
            return (
                one(name, f"ED_TRANSPORT//{'OTHER' if transport == 'HELICOPTER' else transport}") if rest else one(name)
            )
        case "TRANSFER_TO":
            if first.lower() not in ("admit", "transfer"):
                return nothing("repeats an admission or discharge")
            return one(f"TRANSFER//{known(rest[1] if len(rest) > 1 else '')}")._replace(unseen="drop")
        case "DRG" if rest == ["UNKNOWN"]:
            return one(code)._replace(unseen="drop")
        case "DRG":
            if first.upper() != "HCFA" or len(rest) < 2:
                return nothing("not of the system HCFA")
            return one(f"DRG//{int(rest[1]) if rest[1].isdecimal() else normalise(rest[1])}")._replace(unseen="drop")
        case "MEDICATION":
            return _medication(rest, maps, depth)
        case "HCPCS":
            return one(normalise(code))._replace(scale="", unseen="drop")
        case "LAB":
            lab = normalise(code)
            return Rule(((lab,),), scale=lab, needs_value=True, unseen="drop", is_lab=True)
        case "VITAL" if rest[:1] == ["BLOOD_PRESSURE"]:
            # The two values of one measurement are two events: the first one brings the name of both. That program
            # compares a missing value with no break, which makes it Q1.
            systolic = last == "SYSTOLIC"
            paths = (("VITAL//BLOOD_PRESSURE",),) if systolic else ()
            return Rule(paths, scale="VITAL//SBP" if systolic else "VITAL//DBP", missing_lowest=True)
        case "VITAL" if first in _VITALS:
            return Rule(((code,),), scale=code, needs_value=True)
        case "ACUITY" | "SOFA":
            return Rule(((name,),), scale=name, needs_value=True)
        case "PROCEDURE":
            return nothing("not in this preset")
    if name == "BMI" or name.upper().startswith(("BMI (", "BMI_(")):
        return Rule((("BMI",),), scale="BMI", needs_value=True, fused=True)
    if name in _UNUSED:
        return nothing("not in this preset")
    return one(normalise(code))


def paper(code: str, maps: CodeMaps, depth: int) -> Rule:
    """The tokens of a code in ethos-paper: its tables, a DRG by its description, no HCPCS and no vital sign but blood
    pressure, moves between services instead of wards, one ATC code a drug. Labs are named by item, not by label."""
    name, *rest = code.split("//")
    match name:
        case "DIAGNOSIS" if len(rest) == 3 and rest[0] == "ICD":
            return _diagnosis(rest[1], bare(rest[2]), maps, depth, "paper")
        case "HCPCS" | "TRANSFER_TO" | "ACUITY":
            return nothing("not in this preset")
        case "VITAL" if rest[:1] != ["BLOOD_PRESSURE"]:
            return nothing("not in this preset")
        case "SERVICE" if rest:
            return one(f"TRANSFER//{known(rest[0])}")._replace(unseen="drop")
        case "DRG" if len(rest) > 2 and rest[0].upper() == "HCFA":
            return one(f"DRG//{normalise('/'.join(rest[2:]))}")._replace(unseen="drop")
        case "ED_REGISTRATION":
            return one(name)
    made = ares(code, maps, depth)
    return made._replace(paths=made.paths[:1]) if name == "MEDICATION" else made


def _admission(text: str) -> str:
    kind = normalise(text)
    if kind.endswith("EMER") or kind in ("URGENT", "EMERGENCY"):
        return "EMERGENCY"
    return "SCHEDULED" if kind in ("ELECTIVE", "SURGICAL_SAME_DAY_ADMISSION", "SCHEDULED") else "OBSERVATION"


def _diagnosis(version: str, code: str, maps: CodeMaps, depth: int, program: Program) -> Rule:
    if not code:
        return nothing("an empty code")
    if version == "9":
        if not maps.icd9cm:
            category = 4 if code[:1] == "E" else 3
            path = cut(code, ("ICD9CM//", category), ("ICD9CM//SFX//", len(code)), depth=depth)
            return Rule((path,), unseen="prefix")
        if not (found := code_maps.icd10cm(maps, code, program)):
            return nothing("no ICD-10 code in the map")
        code = found
    path = cut(code, ("", 3), ("ICD//CM//3-6//", 6), ("ICD//CM//SFX//", len(code)), depth=depth)
    if maps.titles:
        title = code_maps.category_title(maps, code, program)
        path = ((f"ICD//CM//{normalise(title)}",) if title else ()) + path[1:]
    else:
        path = (f"ICD//CM//{code[:3]}", *path[1:])
    return Rule((path,), unseen="prefix") if path else nothing("no title in the map")


def _procedure(version: str, code: str, maps: CodeMaps, depth: int) -> Rule:
    if not code:
        return nothing("an empty code")
    if version == "9":
        if not maps.icd9pcs:
            path = cut(code, ("ICD9PCS//", 2), ("ICD9PCS//SFX//", len(code)), depth=depth)
            return Rule((path,), unseen="prefix")
        if not (found := code_maps.icd10pcs(maps, code, "ares")):
            return nothing("no ICD-10 code in the map")
        code = found
    return Rule((tuple(f"ICD//PCS//{c}" for c in code[:7])[: depth or None],), unseen="drop")


def _medication(rest: list[str], maps: CodeMaps, depth: int) -> Rule:
    if len(rest) < 2 or rest[1].upper() != "ADMINISTERED":
        return nothing("not given")
    name = rest[0].strip()
    if not maps.atc and not maps.gsn:
        found = drugs.ingredient(name)
        return one(f"MED//{normalise(found or name)}")._replace(scale="", unseen="drop")
    paths: list[tuple[str, ...]] = []
    for atc in _atc(rest, maps):
        path = cut(atc, ("", 3), ("ATC//4//", 4), ("ATC//SFX//", len(atc)), depth=depth)
        if maps.atc_titles:
            title = maps.atc_titles.get(atc[:3])
            head = (normalise(f"ATC//{atc[:3]}//{title}"),) if title else ()
        else:
            head = (f"ATC//{atc[:3]}",)
        paths.append(head + path[1:])
    return Rule(tuple(paths), unseen="prefix") if paths else nothing("no ATC code in the map")


def _atc(rest: list[str], maps: CodeMaps) -> tuple[str, ...]:
    """ATC codes of MEDICATION//name//event, or by the generic sequence numbers that ethos_paper has after them."""
    numbers = rest[2].split() if len(rest) > 2 else []
    found = tuple(dict.fromkeys(atc for number in numbers for atc in maps.gsn.get(number, ())))
    return found or code_maps.atc(maps, rest[0])
