"""What texts of MIMIC-IV's tables say: numbers that nurses wrote, and groups of races."""

import re
from collections.abc import Callable


def pressure(k: int) -> Callable[[str], float | None]:
    def parse(text: str) -> float | None:
        match = re.fullmatch(r"\s*(\d{1,3})\s*/\s*(\d{1,3})\s*", text)
        return float(match[k]) if match else None

    return parse


_BOUND = re.compile(
    r"\s*(?:[<>≤≥]=?|(?:LESS|GREATER|MORE) THAN)\s*(\d{1,3}(?:,\d{3}){1,3}|\d{1,12})(\.\d{1,12})?(?![\d/])",
    re.IGNORECASE,
)


def bound(text: str) -> float | None:
    """The number of a result that is a bound: 0.01 of "<0.01", 182 of "> 182*.", 21000 of "GREATER THAN 21,000"."""
    match = _BOUND.match(text)
    return float(match[1].replace(",", "") + (match[2] or "")) if match else None


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
