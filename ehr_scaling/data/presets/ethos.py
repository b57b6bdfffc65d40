"""The presets of the two published ETHOS programs, token for token where the same code maps are given.

ethos_ares: Renc et al. 2025 (ETHOS-ARES). ethos_paper: Renc et al. 2024, whose tables these are, with the names of
ETHOS-ARES for stays and death, so that the same outcomes can be asked of both. What those programs lose or repeat is
lost or repeated here: in ETHOS-ARES a drug has the tokens of all its ATC codes, and a diagnosis without a title no
first token in the train split, and none at all outside it. Where they would stop with an error, an unseen admission
type say, there is UNK here.
"""

from typing import Literal

from ehr_scaling.data.codes import drugs
from ehr_scaling.data.codes import maps as code_maps
from ehr_scaling.data.codes.maps import CodeMaps
from ehr_scaling.data.presets.clean import FACILITIES
from ehr_scaling.data.presets.paths import ATC, ETHOS_CM, ETHOS_PCS, ICD9CM, ICD9PCS, PRESSURE, PRESSURES, detailed
from ehr_scaling.data.presets.rule import REPEATS, Rule, bare, known, normalise, nothing, one, spelt
from ehr_scaling.data.vocabulary import UNK, UNKNOWN

# SOFA: ten bins of equal width from 0 to 23, its range in the table those programs read; ACUITY: its five steps.
BREAKS = {"SOFA": tuple(2.3 * k for k in range(1, 10)), "ACUITY": (1.0, 2.0, 3.0, 4.0)}
_VITALS = ("TEMPERATURE", "HEART_RATE", "RESPIRATORY_RATE", "O2_SATURATION", "PAIN")
Program = Literal["ares", "paper"]
# Families the programs do not read, or drop by name
_NAMES = """CHART INFUSION_START INFUSION_END SUBJECT_FLUID_OUTPUT SUBJECT_WEIGHT_AT_INFUSION SERVICE LANGUAGE"""
_UNUSED = frozenset(_NAMES.split())


def ares(code: str, maps: CodeMaps, depth: int) -> Rule:
    """The tokens of a code in ETHOS-ARES."""
    return _rule(code, maps, depth, "ares")


def paper(code: str, maps: CodeMaps, depth: int) -> Rule:
    """The tokens of a code in ethos-paper: its tables, a DRG by its description, no HCPCS and no vital sign but blood
    pressure, moves between services instead of wards, one ATC code a drug. Labs are LAB//label//unit//item.
    """
    name, *rest = code.split("//")
    match name:
        case "HCPCS" | "TRANSFER_TO" | "ACUITY":
            return nothing("not in this preset")
        case "VITAL" if rest[:1] != ["BLOOD_PRESSURE"]:
            return nothing("not in this preset")
        case "SERVICE" if rest:
            return one(f"TRANSFER//{known(rest[0])}")._replace(unseen="drop")
        case "DRG" if len(rest) > 2 and rest[0].upper() == "HCFA":
            return one(f"DRG//{spelt('/'.join(rest[2:]))}")._replace(unseen=f"DRG//{UNKNOWN}")
        case "ED_REGISTRATION":
            return one(name)
    return _rule(code, maps, depth, "paper")


def _rule(code: str, maps: CodeMaps, depth: int, program: Program) -> Rule:
    name, *rest = code.split("//")
    first = rest[0] if rest else ""
    last = rest[-1] if rest else ""
    match name:
        case "DIAGNOSIS" if len(rest) == 3 and first == "ICD":
            return _diagnosis(rest[1], bare(last), maps, depth, program)
        case "PROCEDURE" if len(rest) == 3 and first == "ICD":
            return _procedure(rest[1], bare(last), maps, depth)
        case "HOSPITAL_ADMISSION" if rest:
            return detailed(name, _admission(first, program))
        case "HOSPITAL_DISCHARGE":
            place = _place(first, program)
            place = "HEALTHCARE_FACILITY" if place in FACILITIES else place
            return detailed(name, place)._replace(unseen=UNK)
        case "INSURANCE" | "MARITAL_STATUS" | "MARITAL" if known(first) == "UNKNOWN":
            return nothing("not known")
        case "MARITAL_STATUS" | "MARITAL":
            return one(f"MARITAL//{spelt(first)}")
        case "ICU_ADMISSION" if rest:
            return detailed(name, _place(first, program))._replace(unseen=UNK)
        case "ED_REGISTRATION" if first not in ("", UNK):
            transport = spelt(first)
            return detailed(name, "OTHER" if transport == "HELICOPTER" else transport)
        case "ICU_DISCHARGE" | "MEDS_DEATH" | "MEDS_BIRTH" | "ED_OUT" | "ED_REGISTRATION":
            return one(name)
        case "TRANSFER_TO":
            if first.lower() not in ("admit", "transfer"):
                return nothing(REPEATS)
            return one(f"TRANSFER//{_place(rest[1] if len(rest) > 1 else '', program)}")._replace(unseen="drop")
        case "DRG" if rest == ["UNKNOWN"]:
            return one(code)
        case "DRG":
            if first.upper() != "HCFA" or len(rest) < 2:
                return nothing("not of the system HCFA")
            # ETHOS-ARES drops an unseen one, and then finds a stay that has none.
            number = int(rest[1]) if rest[1].isdecimal() else spelt(rest[1])
            return one(f"DRG//{number}")._replace(unseen=f"DRG//{UNKNOWN}")
        case "MEDICATION":
            return _medication(rest, maps, depth, program)
        case "HCPCS":
            return one(spelt(code))._replace(scale="", unseen="drop")
        case "LAB":
            lab = spelt(code)  # a unit of one space is "_"
            return Rule(((lab,),), scale=lab, needs_value=True, unseen="drop", is_lab=True)
        case "VITAL" if rest[:1] == ["BLOOD_PRESSURE"]:
            # The two values of one measurement are two events: the first one brings the name of both. That program
            # compares a missing value with no break, which makes it Q1.
            which = "SYSTOLIC" if last == "SYSTOLIC" else "DIASTOLIC"
            paths = ((PRESSURE,),) if which == "SYSTOLIC" else ()
            return Rule(paths, scale=PRESSURES[which], missing_lowest=True)
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
    return one(spelt(code) or UNK)


def _admission(text: str, program: Program) -> str:
    """The type of an admission, from the spelling of MIMIC or of a source that has the three types itself.

    ETHOS-ARES normalises the code before it compares it with "EMER." and "SURGICAL SAME DAY ADMISSION": neither is
    found any more, and those admissions are OBSERVATION. `paper` follows what it means.
    """
    kind = spelt(text)
    if kind in ("URGENT", "EMERGENCY") or (program == "paper" and kind.endswith("EMER")):
        return "EMERGENCY"
    if kind in ("ELECTIVE", "SCHEDULED") or (program == "paper" and kind == "SURGICAL_SAME_DAY_ADMISSION"):
        return "SCHEDULED"
    return "OBSERVATION"


def _place(text: str, program: Program) -> str:
    """A unit or a location; what is missing is called UNK in ETHOS-ARES, so that …//UNK there is no unseen one."""
    return known(text) if program == "paper" else spelt(text) or UNK


def _diagnosis(version: str, code: str, maps: CodeMaps, depth: int, program: Program) -> Rule:
    if not code:
        return nothing("an empty code")
    if version == "9":
        if not maps.icd9cm:
            return Rule((ICD9CM.cut(code, depth),), unseen="prefix")
        if not (mapped := code_maps.icd10cm(maps, code, program)):
            return nothing("no ICD-10 code in the map")
        code = mapped
    title = code_maps.category_title(maps, code, program) if maps.titles else code[:3]
    head = f"{ETHOS_CM.prefixes[0]}{spelt(title)}" if title else ""
    return _titled([(head, *ETHOS_CM.cut(code, depth)[1:])], program)


def _procedure(version: str, code: str, maps: CodeMaps, depth: int) -> Rule:
    if not code:
        return nothing("an empty code")
    if version == "9":
        if not maps.icd9pcs:
            return Rule((ICD9PCS.cut(code, depth),), unseen="prefix")
        if not (mapped := code_maps.icd10pcs(maps, code, "ares")):
            return nothing("no ICD-10 code in the map")
        code = mapped
    return Rule((ETHOS_PCS.cut(code[:7], depth),), unseen="drop")


def _medication(rest: list[str], maps: CodeMaps, depth: int, program: Program) -> Rule:
    if len(rest) < 2 or rest[1].upper() != "ADMINISTERED":
        return nothing("not given")
    name = rest[0].strip()
    if not maps.atc and not maps.gsn:
        ingredient = drugs.ingredient(name)
        return one(f"MED//{normalise(ingredient or name)}")._replace(scale="", unseen="drop")
    paths = []
    for atc in _atc(rest, maps)[: 1 if program == "paper" else None]:
        title = maps.atc_titles.get(atc[:3])
        head = f"ATC//{atc[:3]}//{title}" if title else "" if maps.atc_titles else f"ATC//{atc[:3]}"
        paths.append((spelt(head), *ATC.cut(atc, depth)[1:]))
    return _titled(paths, program) if paths else nothing("no ATC code in the map")


def _titled(paths: list[tuple[str, ...]], program: Program) -> Rule:
    """Paths of which the first token is "" where the maps have no title for it.

    The other parts stay. But outside the train split, ETHOS-ARES cuts a path at the first token that the vocabulary
    lacks, and a title that is missing is one.
    """
    kept = tuple(path if path[0] else path[1:] for path in paths if any(path))
    whole = tuple(path for path in paths if path[0])
    if not kept:
        return nothing("no title in the map")
    return Rule(kept, elsewhere=whole if program == "ares" else None, unseen="prefix")


def _atc(rest: list[str], maps: CodeMaps) -> tuple[str, ...]:
    """ATC codes of MEDICATION//name//event, or by the generic sequence numbers that ethos_paper has after them."""
    numbers = rest[2].split() if len(rest) > 2 else []
    codes = tuple(dict.fromkeys(atc for number in numbers for atc in maps.gsn.get(number, ())))
    return codes or code_maps.atc(maps, rest[0])
