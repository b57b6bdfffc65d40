"""Codes that become several tokens: how each is cut. The rules of the presets cut by these tables, and `event_tokens`
puts tokens together again by them."""

import itertools
from typing import NamedTuple

from ehr_scaling.data.presets.rule import Rule, one


class Path(NamedTuple):
    """The tokens of the codes of a classification: each part of a code with its prefix."""

    code: str  # what sources write before such a code
    prefixes: tuple[str, ...]
    ends: tuple[int, ...]  # characters of the code up to the end of each part but the last, which has the rest
    wide: str = ""  # codes that begin with it have one character more in each part but the last

    @property
    def alike(self) -> bool:
        """Whether all parts have one prefix, so that a token does not tell which part it is."""
        return self.prefixes[0] == self.prefixes[-1]

    def limits(self, code: str) -> tuple[int, ...]:
        """`ends` of this code, which may be a part of one."""
        more = bool(self.wide) and code.startswith(self.wide)
        return tuple(end + more for end in self.ends)

    def cut(self, code: str, depth: int = 0) -> tuple[str, ...]:
        """The tokens of a code; empty parts make none. Args: depth, how many parts are kept; 0 is all."""
        bounds = (0, *self.limits(code), len(code))
        parts = zip(self.prefixes, itertools.pairwise(bounds), strict=True)
        return tuple(prefix + code[a:b] for prefix, (a, b) in parts if code[a:b])[: depth or None]


_CHARACTERS = 7  # of an ICD-10-PCS code, one a token: its position is not encoded
ICD10CM = Path("DIAGNOSIS//ICD//10//", ("ICD10CM//", "ICD10CM//3-6//", "ICD10CM//SFX//"), (3, 6))
# The external causes E800–E999 have categories of four characters.
ICD9CM = Path("DIAGNOSIS//ICD//9//", ("ICD9CM//", "ICD9CM//SFX//"), (3,), wide="E")
ICD10PCS = Path("PROCEDURE//ICD//10//", ("ICD10PCS//",) * _CHARACTERS, tuple(range(1, _CHARACTERS)))
ICD9PCS = Path("PROCEDURE//ICD//9//", ("ICD9PCS//", "ICD9PCS//SFX//"), (2,))
ATC = Path("ATC//", ("ATC//", "ATC//4//", "ATC//SFX//"), (3, 4))
# Of the ETHOS programs, where a title takes the place of the first part, or follows it (ATC)
ETHOS_CM = Path("DIAGNOSIS//ICD//10//", ("ICD//CM//", "ICD//CM//3-6//", "ICD//CM//SFX//"), (3, 6))
ETHOS_PCS = Path("PROCEDURE//ICD//10//", ("ICD//PCS//",) * _CHARACTERS, tuple(range(1, _CHARACTERS)))
PATHS = (ICD10CM, ICD9CM, ICD10PCS, ICD9PCS, ATC, ETHOS_CM, ETHOS_PCS)

# Events of two tokens: what happened, and the family of the token that tells how
DETAILS = {
    "HOSPITAL_ADMISSION": "ADMISSION_TYPE",
    "HOSPITAL_DISCHARGE": "DISCHARGE_LOCATION",
    "ICU_ADMISSION": "ICU_TYPE",
    "ED_REGISTRATION": "ED_TRANSPORT",
    "ED_OUT": "ED_DISPOSITION",
}

# One measurement whose values are two events: ETHOS-ARES names it with the first alone. Its values in their order, with
# the scales they are binned on.
PRESSURE = "VITAL//BLOOD_PRESSURE"
PRESSURES = {"SYSTOLIC": "VITAL//SBP", "DIASTOLIC": "VITAL//DBP"}


def detailed(name: str, how: str) -> Rule:
    """The rule of an event of two tokens, of which the first is a key of DETAILS."""
    return one(name, f"{DETAILS[name]}//{how}")
