"""Which records of an administration are a dose that reached the patient: one rule for every source and dialect.

The texts are those of MIMIC-IV's emar (`event_txt`); another hospital's own word (GIVEN, say) is taken for a dose,
since what is written down is as a rule what was done.
"""

import re

NOT_TOLD = "not told"
# By how a text begins, without DELAYED and PARTIAL before it and "in Other Location" after it.
_NO_DOSE = {
    "NOT ": "nothing was given",
    "HOLD": "nothing was given",
    "STOP": "an end",
    "ENDED": "an end",
    "REMOVED": "an end",  # but a patch that takes another's place is one
    "FLUSHED": "no drug",
    "ASSESSED": "no drug",
    "CONFIRMED": "no drug",
    "READ": "no drug",
    "INFUSION RECON": "no drug",
    "RATE CHANGE": "a change of rate",
    "RATE VERIFIED": "no drug",
}
# Of other hospitals
_NO_DOSE |= dict.fromkeys(("HELD", "REFUSED", "DECLINED", "MISSED", "OMITTED", "CANCEL"), "nothing was given")
_NO_DOSE |= {"ORDERED": "an order"}
# Anywhere in a text that is not one of MIMIC-IV's: "MAR Hold", "Patient refused", "No longer given"
_ANYWHERE = re.compile(
    r"\b(NOT|NO LONGER|HELD|HOLD|REFUSED|DECLINED|WITHHELD|MISSED|OMITTED|CANCEL\w*|DISCONTINUED|DUE|PENDING|ERROR|"
    r"VERIF\w+|RETURN(ED)?)\b"
)
_REPLACED = "REMOVED EXISTING"
_ELSEWHERE = "IN OTHER LOCATION"
# What MIMIC-IV writes: these, and no other text, may be named in a count.
WORDS = frozenset(
    (
        "Administered",
        "Administered Bolus from IV Drip",
        "Applied",
        "Assessed",
        "Confirmed",
        "Flushed",
        "Hold Dose",
        "Infusion Reconciliation",
        "Infusion Reconciliation Not Done",
        "Not Applied",
        "Not Assessed",
        "Not Confirmed",
        "Not Flushed",
        "Not Given",
        "Not Given per Sliding Scale",
        "Not Read",
        "Not Removed",
        "Not Started",
        "Not Stopped",
        "Partial Administered",
        "Rate Change",
        "Read",
        "Removed",
        "Removed Existing / Applied New",
        "Restarted",
        "Started",
        "Stopped",
        "Stopped - Unscheduled",
        "Stopped As Directed",
    )
)
_KNOWN = {word.upper(): word for word in WORDS}
# Verbs that some writers put before the drug's name: MEDICATION//STARTED//aspirin.
_NAMES = """ADMINISTERED APPLIED GIVEN STARTED RESTARTED STOPPED ENDED HELD REFUSED DECLINED MISSED OMITTED CANCELLED
REMOVED FLUSHED ASSESSED CONFIRMED PRESCRIBED ORDERED DISPENSED START STOP END"""
_VERBS = frozenset(_NAMES.split())


def why_no_dose(text: str | None) -> str:
    """Why a record with this text of what happened is no dose; "" where it is one.

    A start or a restart of an infusion, a patch, a bolus, a delayed or partial dose, and any of them in another
    location, are doses; a stop, a change of rate, a flush, a check, and what was not given are none, and neither is a
    text that leaves open what was done.
    """
    core = _core(text)
    if not core:  # where it was done, without what: said of what was done
        return "" if _ELSEWHERE in (text or "").upper() else NOT_TOLD
    if core.startswith(_REPLACED):
        return ""
    if why := next((why for head, why in _NO_DOSE.items() if core.startswith(head)), ""):
        return why
    return "nothing was given" if core not in _KNOWN and _ANYWHERE.search(core) else ""


def told(text: str | None) -> str:
    """The text as it may be named in a count: as MIMIC-IV spells it, or what it is where that is nobody's word."""
    core = _core(text)
    return _KNOWN.get(core, "another text") if core else NOT_TOLD


def is_verb(text: str) -> bool:
    """Whether a part of a medication's code tells what was done and not of which drug."""
    return text.strip().upper().replace("_", " ") in _VERBS or _core(text) in _KNOWN


def _core(text: str | None) -> str:
    words = (text or "").replace("_", " ").upper().strip()
    words = words.removesuffix(_ELSEWHERE).strip()
    return re.sub(r"^(DELAYED|PARTIAL)(\s+|$)", "", words) if words != "PARTIAL ADMINISTERED" else words
