"""The vocabulary: the number of every token, and all else that was fitted on the train split."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling.artifacts import fingerprint, read_json, write_json
from ehr_scaling.errors import UserError

FILE = "vocabulary.json"
FORMAT = 2  # of the file; a vocabulary of another format is refused
PAD, UNK, END = "PAD", "UNK", "TIMELINE_END"
UNKNOWN = "UNKNOWN"  # <SLOT>//UNKNOWN: the value of a context family is not known

MINUTE = 60_000_000  # µs, the unit of every time here
HOUR, DAY = 60 * MINUTE, 24 * 60 * MINUTE
YEAR = 365.25 * DAY

# The classes of time between events, each with its inclusive lower bound in minutes; the last one is repeated
# round(gap / its bound) times. 13: Renc et al. 2024 (ethos-paper). 19: Renc et al. 2025 (ethos-ares).
_13 = (
    "5m-15m 15m-1h 1h-2h 2h-6h 6h-12h 12h-1d 1d-3d 3d-1w 1w-2w 2w-1mt 1mt-3mt 3mt-6mt 6mt",
    (5, 15, 60, 120, 360, 720, 1440, 4320, 10080, 20160, 43200, 129600, 259200),
)
_19 = (
    "5m-15m 15m-45m 45m-1h15m 1h15m-2h 2h-3h 3h-5h 5h-8h 8h-12h 12h-18h 18h-1d 1d-2d 2d-4d 4d-7d 7d-12d 12d-20d "
    "20d-30d 30d-2mt 2mt-6mt 6mt",
    (5, 15, 45, 75, 120, 180, 300, 480, 720, 1080, 1440, 2880, 5760, 10080, 17280, 28800, 43200, 86400, 259200),
)


def _span(minutes: int) -> str:
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    return "".join(f"{n}{unit}" for n, unit in ((days, "d"), (hours, "h"), (rest, "m")) if n)


def intervals(classes: int | Sequence[int], bare: bool = False) -> dict[str, int]:
    """Interval tokens and their inclusive lower bounds in µs, ascending.

    Args: classes, 13 or 19 for the published ones, or lower bounds in minutes; bare, whether names are those of the
      ETHOS programs ("5m-15m" … "=6mt") instead of TIME//5m-15m … TIME//6mt.
    """
    if isinstance(classes, int):
        text, minutes = {13: _13, 19: _19}[classes]
        names = text.split()
    else:
        minutes = tuple(classes)
        spans = [_span(m) for m in minutes]
        names = [*(f"{a}-{b}" for a, b in itertools.pairwise(spans)), spans[-1]]
    tokens = [*names[:-1], f"={names[-1]}"] if bare else [f"TIME//{name}" for name in names]
    return {token: m * MINUTE for token, m in zip(tokens, minutes, strict=True)}


INTERVALS, INTERVAL_BOUNDS = zip(*intervals(13).items(), strict=True)  # the default ones
SIX_MONTHS = 180 * DAY

AGE_WIDTH, AGE_LAST = 5, 95  # years
AGES = ("AGE//UNKNOWN", *(f"AGE//{a}-{a + AGE_WIDTH}" for a in range(0, AGE_LAST, AGE_WIDTH)), f"AGE//{AGE_LAST}+")
# ethos-paper's 21 steps of 5 years, for the age and for the years since 1970
PAPER_AGES = ("_<5", *(f"_{a}-{a + 5}y" for a in range(5, 100, 5)), "_>100")
# How the age is told in the prefix: tokens it needs beside the quantiles, and how many it takes there
AGE_STYLES: dict[str, tuple[tuple[str, ...], int]] = {
    "5-year": (AGES, 1),  # AGE//…
    "two-quantiles": ((), 2),  # tens and units of years as Q tokens (ethos-ares)
    "age-and-year": (PAPER_AGES, 2),  # age, and years since 1970, in the same steps (ethos-paper)
}


def quantile_names(bins: int) -> tuple[str, ...]:
    return tuple(f"Q{k}" for k in range(1, bins + 1))


SPECIAL = (PAD, UNK, END, *INTERVALS, *quantile_names(10))  # the first tokens of a vocabulary, by default


def family(token: str) -> str:
    return token.partition("//")[0]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Token numbers and everything else that was fitted on the train split.

    tokens: name of each id. 0 is PAD; then UNK, TIMELINE_END, intervals, Q1–Q<bins>, context tokens, and codes by about
      descending train count.
    counts: occurrences of each id in the train timelines, context not counted. An id of count 0 is never a target.
    context_slots: families of the static context, in the order of the prefix.
    quantiles: breaks of each scale of values, ascending float32 values; a scale is named as its code's token, unless
      several codes share one.
    interval_seconds: mean length of each interval class in train, seconds a token.
    settings: the tokenizer's options.
    interval_bounds: µs, the inclusive lower bound of each interval token, ascending.
    """

    tokens: tuple[str, ...]
    counts: tuple[int, ...]
    context_slots: tuple[str, ...]
    quantiles: dict[str, tuple[float, ...]]
    interval_seconds: tuple[float, ...]
    settings: dict[str, Any]
    preset: str = "clean"
    intervals: tuple[str, ...] = INTERVALS
    interval_bounds: tuple[int, ...] = INTERVAL_BOUNDS
    bins: int = 10

    @functools.cached_property
    def index(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @property
    def special(self) -> tuple[str, ...]:
        return (PAD, UNK, END, *self.intervals, *self.quantile_tokens)

    @property
    def interval_share(self) -> float:
        """Of the tokens of the train timelines, those that are intervals."""
        low = self.index[self.intervals[0]]
        return sum(self.counts[low : low + len(self.intervals)]) / max(sum(self.counts), 1)

    @property
    def quantile_tokens(self) -> tuple[str, ...]:
        return quantile_names(self.bins)

    @functools.cached_property
    def fused(self) -> dict[int, tuple[str, int]]:
        """Of each id that is a code and its value in one: the code's token, and the number of the bin from 0."""
        number = {name: k for k, name in enumerate(self.quantile_tokens)}
        parts = ((i, *token.rpartition("//")) for i, token in enumerate(self.tokens))
        return {i: (head, number[last]) for i, head, _, last in parts if head in self.quantiles and last in number}

    @property
    def age_style(self) -> str:
        return self.settings.get("age", "5-year")

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint16 if len(self.tokens) <= 1 << 16 else np.uint32)

    @property
    def context_tokens(self) -> int:
        """S, the length of the prefix: one token a slot, and those of the age."""
        return len(self.context_slots) + AGE_STYLES[self.age_style][1]

    @property
    def age_at(self) -> int:
        """Where in the prefix the age stands: last, but in ethos-ares' order by the name MEDS_BIRTH."""
        if self.age_style != "two-quantiles":
            return len(self.context_slots)
        return sum(name < "MEDS_BIRTH" for name in self.context_slots)

    @functools.cached_property
    def reserved(self) -> frozenset[str]:
        """Tokens with a meaning of their own, which no code of a source may become."""
        return frozenset((*self.special, *AGE_STYLES[self.age_style][0]))

    @functools.cached_property
    def unknown_ids(self) -> np.ndarray:
        """Ids of UNK and of every FAMILY//UNK, int64."""
        return np.array([i for i, t in enumerate(self.tokens) if t in (UNK, f"{family(t)}//{UNK}")], np.int64)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits that tell whether token ids mean the same: of the tokens and all by which they are chosen.

        Counts and interval_seconds, which change no token, are left out, so a draft has it already.
        """
        return fingerprint(
            [
                *(self.tokens, self.context_slots, sorted(self.quantiles.items()), self.interval_bounds, self.bins),
                {k: v for k, v in self.settings.items() if not k.startswith("min_")},
            ]
        )

    def encode(
        self,
        paths: Sequence[tuple[str, ...]],
        unseen: str = "parent",
        ancestors: Sequence[Sequence[tuple[str, ...]]] = (),
    ) -> tuple[list[int], bool]:
        """Ids of the token paths of a code, and whether a part of them was not known.

        Args:
          unseen: what becomes of a token that is not known. "drop": the whole event is left out. "prefix": the known
            tokens before it in its path stay. "parent": an unknown token after known ones of its family is left out
            with what follows; any other becomes the first ancestor that is known, else its longest known prefix by
            `//` segments, else FAMILY//UNK, else UNK. Any other text is a token: as "parent", with that token, or what
            becomes of it, instead of a prefix.
          ancestors: paths of the codes above this one in an ontology, the nearest first.
        """
        index = self.index
        ids: list[int] = []
        fallback = False
        for path in paths:
            for k, token in enumerate(path):
                i = index.get(token)
                if i is not None:
                    ids.append(i)
                    continue
                fallback = True
                if unseen == "drop":
                    return [], True
                if unseen == "prefix" or (k and family(token) == family(path[0])):
                    break
                known = next((a for a in ancestors if all(t in index for p in a for t in p)), None) if not k else None
                if known:
                    ids += [index[t] for p in known for t in p]
                    break
                ids.append(self._prefix(token if unseen == "parent" else unseen))
                if len(path) > k + 1 and family(path[k + 1]) == family(token):
                    break
        return ids, fallback

    def _prefix(self, token: str) -> int:
        segments = token.split("//")
        for n in range(len(segments), 0, -1):
            prefix = "//".join(segments[:n])
            if prefix in self.index and prefix not in self.reserved:
                return self.index[prefix]
        return self.index.get(f"{segments[0]}//{UNK}", self.index[UNK])

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, {"format": FORMAT, "fingerprint": self.fingerprint, **dataclasses.asdict(self)})


def from_json(value: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a value as `Vocabulary.save` writes it. Raises KeyError, TypeError, ValueError."""
    if value["format"] != FORMAT:
        raise ValueError(f"format {value['format']!r} is not {FORMAT}")
    fields = {field.name: value[field.name] for field in dataclasses.fields(Vocabulary)}
    for name in ("tokens", "counts", "context_slots", "interval_seconds", "intervals", "interval_bounds"):
        fields[name] = tuple(fields[name])
    fields["quantiles"] = {code: tuple(breaks) for code, breaks in fields["quantiles"].items()}
    vocabulary = Vocabulary(**fields)
    special = vocabulary.special
    if len(vocabulary.index) != len(vocabulary.tokens) or vocabulary.tokens[: len(special)] != special:
        raise ValueError("tokens are missing or repeated")
    if vocabulary.fingerprint != value["fingerprint"]:
        raise ValueError("its fingerprint is not that of its tokens")
    return vocabulary


def load(folder: Path) -> Vocabulary:
    """Read `vocabulary.json` in the timelines folder.

    Raises: UserError where it is missing, damaged, changed since, or of another format.
    """
    value = read_json(folder / FILE)
    try:
        return from_json(value)
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise UserError(
            f"{folder / FILE} is damaged or of another version ({e}): delete {folder} and run again"
        ) from None
