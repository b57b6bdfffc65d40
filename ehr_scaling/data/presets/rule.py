"""What a preset says of one code, and the splits of classifications that presets share."""

from typing import NamedTuple

from ehr_scaling.data.vocabulary import UNK, UNKNOWN

REPEATS = "repeats an admission or discharge"  # why it makes no token, where another event says the same


class Rule(NamedTuple):
    """The tokens of a code: those of each of its paths in order, then one for its value."""

    paths: tuple[tuple[str, ...], ...] = ()
    scale: str = ""  # whose breaks bin its value; "": a value makes no token
    needs_value: bool = False  # without a value the event makes no token
    missing_lowest: bool = False  # a value that is missing counts as one in the first bin
    fused: bool = False  # last token and bin are one token, NAME//Qk, instead of NAME Qk
    elsewhere: tuple[tuple[str, ...], ...] | None = None  # its paths outside the train split, where those are others
    unseen: str = "parent"  # what becomes of a token that is not in the vocabulary: see Vocabulary.encode
    is_lab: bool = False  # counts among those of which the top_labs most frequent are kept
    why_not: str = ""  # why it makes no token


def one(*path: str) -> Rule:
    """A code whose value, if there is one, is binned on a scale of its own."""
    return Rule((path,), scale=path[0] if len(path) == 1 else "")


def nothing(why: str) -> Rule:
    return Rule(why_not=why)


def spelt(text: str) -> str:
    """A name as ETHOS spells it: upper case, without ',' and '.', '_' for each space, be it at an end."""
    return text.upper().replace(",", "").replace(".", "").replace(" ", "_")


def normalise(text: str) -> str:
    """A name as token names are spelt: as in ETHOS, without spaces at the ends."""
    return spelt(text.strip())


def known(text: str) -> str:
    """A part of a code, normalised; UNKNOWN where the source has none."""
    name = normalise(text)
    return UNKNOWN if name in ("", UNK) else name


def bare(icd: str) -> str:
    """An ICD code as the maps spell it: upper case, no dot, no spaces."""
    return icd.replace(".", "").replace(" ", "").upper()
