"""What MIMIC-IV's codes have that other hospitals' do not, whoever wrote them in MEDS.

Families of codes are no evidence: HOSPITAL_ADMISSION//…, LAB//… and MEDICATION//… are what anyone would write. What
stands in them is.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ehr_scaling.data.codes import doses

ITEMS, ADMISSIONS = "item ids", "types of admission"
_ENOUGH, _AGAINST = 0.9, 0.5  # shares of the distinct codes in which a hallmark can be: it fits; it speaks against
_LEAST = 2  # hallmarks that must fit
_LABORATORY, _INTENSIVE = range(50_801, 53_500), range(220_001, 230_300)  # ids of d_labitems and of d_items
# Types that no other hospital would spell so, and those that any might.
_TYPES = frozenset(
    (
        "AMBULATORY OBSERVATION",
        "DIRECT EMER.",
        "DIRECT OBSERVATION",
        "EU OBSERVATION",
        "EW EMER.",
        "OBSERVATION ADMIT",
        "SURGICAL SAME DAY ADMISSION",
    )
)
_COMMON_TYPES = frozenset(("ELECTIVE", "URGENT"))
_UNITS = frozenset(
    (
        "Cardiac Vascular Intensive Care Unit (CVICU)",
        "Coronary Care Unit (CCU)",
        "Intensive Care Unit (ICU)",
        "Medical Intensive Care Unit (MICU)",
        "Medical/Surgical Intensive Care Unit (MICU/SICU)",
        "Neuro Intermediate",
        "Neuro Stepdown",
        "Neuro Surgical Intensive Care Unit (Neuro SICU)",
        "Surgical Intensive Care Unit (SICU)",
        "Surgery/Vascular/Intermediate",
        "Trauma SICU (TSICU)",
    )
)
_PLACES = frozenset(
    (
        "ACUTE HOSPITAL",
        "AGAINST ADVICE",
        "ASSISTED LIVING",
        "CHRONIC/LONG TERM ACUTE CARE",
        "DIED",
        "HEALTHCARE FACILITY",
        "HOME",
        "HOME HEALTH CARE",
        "HOSPICE",
        "OTHER FACILITY",
        "PSYCH FACILITY",
        "REHAB",
        "SKILLED NURSING FACILITY",
        "UNK",
    )
)
_ITEM_FAMILIES = frozenset(("LAB", "CHART", "INFUSION_START", "INFUSION_END", "PROCEDURE", "SUBJECT_FLUID_OUTPUT"))
_BEFORE_ITEM = frozenset(("RESULT", "SPECIMEN_COLLECTED", "START", "END"))


def _item(name: str, parts: list[str]) -> str | None:
    if name not in _ITEM_FAMILIES or (name == "PROCEDURE" and parts[0] not in _BEFORE_ITEM):
        return None
    return parts[1] if parts[0] in _BEFORE_ITEM and len(parts) > 1 else parts[0]


def _first_of(family: str) -> Callable[[str, list[str]], str | None]:
    return lambda name, parts: parts[0] if name == family else None


def _event(name: str, parts: list[str]) -> str | None:
    if name != "MEDICATION" or len(parts) < 2 or parts[0] in ("START", "STOP"):
        return None
    return next((part for part in parts[1:] if part in doses.WORDS), parts[1])


def _drg(name: str, parts: list[str]) -> str | None:
    return "//".join(parts[:2]) if name == "DRG" and len(parts) > 1 else None


class _Hallmark(NamedTuple):
    name: str
    part: Callable[[str, list[str]], str | None]  # of a code, by its family and its parts: where it would be seen
    is_mimic: Callable[[str], bool]
    distinct: int = 1  # so many different ones of MIMIC-IV's must be there
    telling: frozenset[str] = frozenset()  # of which one must be there, if any are named


_HALLMARKS = (
    _Hallmark(ITEMS, _item, lambda part: part.isdecimal() and (int(part) in _LABORATORY or int(part) in _INTENSIVE)),
    _Hallmark(ADMISSIONS, _first_of("HOSPITAL_ADMISSION"), lambda part: part in _TYPES | _COMMON_TYPES, telling=_TYPES),
    _Hallmark("intensive care units", _first_of("ICU_ADMISSION"), lambda part: part in _UNITS),
    _Hallmark("places of discharge", _first_of("HOSPITAL_DISCHARGE"), lambda part: part in _PLACES, distinct=3),
    _Hallmark("words of its medication record", _event, lambda part: part in doses.WORDS, distinct=3),
    _Hallmark("kinds of DRG", _drg, lambda part: part.startswith(("HCFA//", "APR//"))),
)


def of_mimic(codes: Iterable[str]) -> tuple[bool, str]:
    """Whether codes (all or many of a data set's) are MIMIC-IV's, and by what: for one line of a log.

    At least two hallmarks must fit, each in nine tenths of the distinct codes that could show it, one of them item ids
    or types of admission; and neither of these two may be another hospital's in half of its codes.
    """
    parts_of_mark: dict[str, set[str]] = {mark.name: set() for mark in _HALLMARKS}
    for code in codes:
        name, *parts = code.split("//")
        for mark in _HALLMARKS if parts else ():
            if part := mark.part(name, parts):
                parts_of_mark[mark.name].add(part)
    fits, against = [], []
    for mark in _HALLMARKS:
        seen = parts_of_mark[mark.name]
        matching = {part for part in seen if mark.is_mimic(part)}
        if len(matching) >= max(mark.distinct, _ENOUGH * len(seen)) and (not mark.telling or matching & mark.telling):
            fits.append(mark.name)
        elif seen and len(matching) < _AGAINST * len(seen):
            against.append(mark.name)
    decisive = {ITEMS, ADMISSIONS}
    yes = len(fits) >= _LEAST and bool(decisive & {*fits}) and not decisive & {*against}
    if yes:
        return True, f"its {_listed(fits)} are MIMIC-IV's"
    if against:
        return False, f"its {_listed(against)} are not MIMIC-IV's"
    if fits:
        return False, f"only its {_listed(fits)} could be MIMIC-IV's"
    return False, "nothing in its codes is MIMIC-IV's alone"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
