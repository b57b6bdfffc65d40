"""Names of the `clean` preset's tokens: how a code splits into them, and the vocabulary that numbers them."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling.artifacts import read_json, write_json
from ehr_scaling.errors import UserError

FILE = "vocabulary.json"
PAD, UNK, END = "PAD", "UNK", "TIMELINE_END"
UNKNOWN = "UNKNOWN"  # <SLOT>//UNKNOWN: the value of a context family is not known
BINS = 10
QUANTILES = tuple(f"Q{k}" for k in range(1, BINS + 1))

MINUTE = 60_000_000  # µs, the unit of every time here
HOUR, DAY = 60 * MINUTE, 24 * 60 * MINUTE
YEAR = 365.25 * DAY
# The 13 classes of ethos-paper (Renc et al. 2024), each with its inclusive lower bound.
_INTERVALS = {
    "5m-15m": 5 * MINUTE,
    "15m-1h": 15 * MINUTE,
    "1h-2h": HOUR,
    "2h-6h": 2 * HOUR,
    "6h-12h": 6 * HOUR,
    "12h-1d": 12 * HOUR,
    "1d-3d": DAY,
    "3d-1w": 3 * DAY,
    "1w-2w": 7 * DAY,
    "2w-1mt": 14 * DAY,
    "1mt-3mt": 30 * DAY,
    "3mt-6mt": 90 * DAY,
    "6mt": 180 * DAY,
}
INTERVALS = tuple(f"TIME//{name}" for name in _INTERVALS)
INTERVAL_BOUNDS = np.array(list(_INTERVALS.values()), np.int64)  # (13,) µs
SIX_MONTHS = 180 * DAY  # the last class is repeated round(gap / SIX_MONTHS) times

AGE_WIDTH, AGE_LAST = 5, 95  # years
AGES = ("AGE//UNKNOWN", *(f"AGE//{a}-{a + AGE_WIDTH}" for a in range(0, AGE_LAST, AGE_WIDTH)), f"AGE//{AGE_LAST}+")
SPECIAL = (PAD, UNK, END, *INTERVALS, *QUANTILES)
_RESERVED = frozenset((*SPECIAL, *AGES))

# emar says with these that nothing reached the patient; the rest (Administered, Started, Applied, …) is a dose.
_NOT_GIVEN = (
    "NOT ",
    "HOLD",
    "STOPPED",
    "REMOVED",
    "FLUSHED",
    "ASSESSED",
    "CONFIRMED",
    "INFUSION RECON",
    "DELAYED NOT",
)


def family(token: str) -> str:
    return token.partition("//")[0]


@functools.lru_cache(maxsize=1 << 20)
def split_code(code: str) -> tuple[str, ...]:
    """The token path of a code: the names of its tokens in order; empty when the code makes no token.

    ICD codes are cut where the classification nests, so that a rare code shares its first token with its
    category: ICD-10-CM 3 + 3 + rest, ICD-9-CM category + rest, ICD-10-PCS one token a character (position is not
    encoded), ICD-9 procedures 2 + rest (ETHOS-ARES, Renc et al. 2025, for ICD-10; ICD-9 is a family of its own
    here, since mapping it forward loses detail). Of the two DRG systems of MIMIC only HCFA's is kept, of transfers
    only `admit` and `transfer`, of medications only what was given. Any other code is one token, itself.
    """
    name, *rest = code.split("//")
    detail = rest[-1] if rest else ""
    match name:
        case "DIAGNOSIS" | "PROCEDURE" if len(rest) == 3 and rest[0] == "ICD" and rest[1] in ("9", "10") and detail:
            return _split_icd(name, rest[1], detail.replace(".", "").replace(" ", "").upper())
        case "HOSPITAL_ADMISSION" if rest:
            return name, f"ADMISSION_TYPE//{rest[0] or UNKNOWN}"
        case "HOSPITAL_DISCHARGE" if rest:
            return (name, f"DISCHARGE_LOCATION//{rest[0]}") if rest[0] else (name,)
        case "ICU_ADMISSION" if rest:
            return name, f"ICU_TYPE//{rest[0] or UNKNOWN}"
        case "ICU_DISCHARGE" | "MEDS_DEATH" | "MEDS_BIRTH":
            return (name,)
        case "TRANSFER_TO":
            if not rest or rest[0].lower() not in ("admit", "transfer"):
                return ()
            return (f"TRANSFER//{(rest[1] if len(rest) > 1 else '') or UNKNOWN}",)
        case "DRG" if len(rest) > 1:
            if rest[0].upper() != "HCFA":
                return ()
            return (f"DRG//{int(rest[1])}",) if rest[1].isdecimal() else (code,)
        case "MEDICATION" if rest:
            event = rest[1].upper().replace("_", " ") if len(rest) > 1 else ""
            if rest[0].upper() in ("START", "STOP") or event.startswith(_NOT_GIVEN):
                return ()
            return (f"MED//{rest[0]}",)
    if name.upper().startswith(("BMI (", "BMI_(")):  # MIMIC's omr: BMI (kg/m2)
        return ("BMI",)
    return (UNK,) if code in _RESERVED else (code,)


def _split_icd(kind: str, version: str, code: str) -> tuple[str, ...]:
    if kind == "PROCEDURE" and version == "10":
        return tuple(f"ICD10PCS//{c}" for c in code)
    parts: tuple[str, ...]
    if kind == "PROCEDURE":
        parts = (f"ICD9PCS//{code[:2]}", f"ICD9PCS//SFX//{code[2:]}" if code[2:] else "")
    elif version == "10":
        parts = (
            f"ICD10CM//{code[:3]}",
            f"ICD10CM//3-6//{code[3:6]}" if code[3:6] else "",
            f"ICD10CM//SFX//{code[6:]}" if code[6:] else "",
        )
    else:
        cut = 4 if code[0] == "E" else 3  # the external causes E800–E999 have categories of four characters
        parts = (f"ICD9CM//{code[:cut]}", f"ICD9CM//SFX//{code[cut:]}" if code[cut:] else "")
    return tuple(part for part in parts if part)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Token numbers and everything else that was fitted on the train split.

    tokens: name of each id. 0 is PAD; then UNK, TIMELINE_END, intervals, Q1–Q10, context tokens, and codes by
      descending train count.
    counts: occurrences of each id in the train timelines, context not counted. An id of count 0 is never a target.
    context_slots: families of the static context, in the order of the prefix; the age token follows them.
    quantiles: breaks of each code with binned values, ascending float32 values.
    interval_seconds: mean length of each of the 13 intervals in train, seconds a token.
    settings: the tokenizer's options.
    """

    tokens: tuple[str, ...]
    counts: tuple[int, ...]
    context_slots: tuple[str, ...]
    quantiles: dict[str, tuple[float, ...]]
    interval_seconds: tuple[float, ...]
    settings: dict[str, Any]
    preset: str = "clean"

    @functools.cached_property
    def index(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint16 if len(self.tokens) <= 1 << 16 else np.uint32)

    @property
    def context_tokens(self) -> int:
        """S, the length of the prefix: one token a slot, and the age."""
        return len(self.context_slots) + 1

    @functools.cached_property
    def unknown_ids(self) -> np.ndarray:
        """Ids of UNK and of every FAMILY//UNK, int64."""
        return np.array([i for i, t in enumerate(self.tokens) if t in (UNK, f"{family(t)}//{UNK}")], np.int64)

    def encode(self, path: tuple[str, ...]) -> tuple[list[int], bool]:
        """Ids of a token path, and whether a part of it was not known.

        An unknown token after known ones of its family is left out with what follows (the known prefix of the
        path stays). Any other unknown token becomes its longest known prefix by `//` segments, else FAMILY//UNK,
        else UNK.
        """
        ids: list[int] = []
        fallback = False
        for k, token in enumerate(path):
            i = self.index.get(token)
            if i is None:
                fallback = True
                if k and family(token) == family(path[0]):
                    break
                i = self._prefix(token)
                ids.append(i)
                if len(path) > k + 1 and family(path[k + 1]) == family(token):
                    break
            else:
                ids.append(i)
        return ids, fallback

    def _prefix(self, token: str) -> int:
        segments = token.split("//")
        for n in range(len(segments) - 1, 0, -1):
            prefix = "//".join(segments[:n])
            if prefix in self.index and prefix not in _RESERVED:
                return self.index[prefix]
        return self.index.get(f"{segments[0]}//{UNK}", self.index[UNK])

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, dataclasses.asdict(self))


def load(folder: Path) -> Vocabulary:
    """Read `vocabulary.json` in the timelines folder. Raises UserError where it is missing or damaged."""
    value = read_json(folder / FILE)
    try:
        vocabulary = Vocabulary(
            tokens=tuple(value["tokens"]),
            counts=tuple(value["counts"]),
            context_slots=tuple(value["context_slots"]),
            quantiles={code: tuple(breaks) for code, breaks in value["quantiles"].items()},
            interval_seconds=tuple(value["interval_seconds"]),
            settings=value["settings"],
            preset=value["preset"],
        )
    except (KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{folder / FILE} lacks {e}: delete {folder} and run again") from None
    if len(vocabulary.index) != len(vocabulary.tokens) or vocabulary.tokens[: len(SPECIAL)] != SPECIAL:
        raise UserError(f"{folder / FILE} is not a vocabulary of this preset: delete {folder} and run again")
    return vocabulary
