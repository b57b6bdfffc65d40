"""Facts about timelines for people to look at: counts over a whole split, from the artifacts of a work directory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_scaling import artifacts, storage
from ehr_scaling.data import disclosure
from ehr_scaling.data.packing import packing
from ehr_scaling.data.presets.rule import normalise
from ehr_scaling.data.timelines import static_context, timelines
from ehr_scaling.data.vocabulary import AGE_STYLES, END, Vocabulary, family
from ehr_scaling.errors import UserError
from ehr_scaling.layout import Layout
from ehr_scaling.progress import each

YEAR_PLACE = "YEAR"
LEFT_OUT = "Left out by the source"
CODE, INTERVAL, QUANTILE, END_KIND, UNKNOWN_KIND, CONTEXT = (
    "codes",
    "intervals",
    "quantiles",
    "end",
    "unknown",
    "context",
)
_AGES = {"5-year": ("AGE",), "two-quantiles": ("AGE, tens", "AGE, units"), "age-and-year": ("AGE", YEAR_PLACE)}
_AT_ONCE = 512  # patients; the table of patients by token is dense
Record = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What is known of one split of P patients, over a vocabulary of V tokens.

    events, timelines, packed: the records of the artifacts, packed by folder (t256); empty where there is none.
    labels: what a code means, by its token, where the source describes it.
    counts: int64 (V,), occurrences in the timelines. patients: int64 (V,), patients in whose timeline a token is.
    lengths: int64 (P,), tokens of each patient, ascending, so that their order tells nobody.
    context: for each place of the static prefix its name and int64 (V,), patients by the value last known of them
      (age: at their first event).
    """

    split: str
    vocabulary: Vocabulary
    events: Record
    timelines: Record
    packed: dict[str, Record]
    labels: dict[str, str]
    counts: np.ndarray
    patients: np.ndarray
    lengths: np.ndarray
    context: dict[str, np.ndarray]

    @property
    def fewest(self) -> int:
        """Numbers of patients from 1 up to this, itself not included, are to be shown as `< fewest`."""
        return 0 if is_generated(self.events) else disclosure.FEWEST

    def told(self, n: int) -> int | None:
        """A count of patients, rows or tokens as it may be told, see `disclosure.told`."""
        return disclosure.told(n, is_generated(self.events))


class Family(NamedTuple):
    name: str
    distinct: int  # tokens in the vocabulary
    used: int  # of them, those in this split's timelines
    occurrences: int
    unknown: int  # of the occurrences, those of FAMILY//UNK
    in_context: bool  # whether the prefix is where it is, and not the timeline


class Bin(NamedTuple):
    low: int  # inclusive
    high: int  # inclusive
    patients: int


def is_generated(events: Record) -> bool:
    """Whether the events' record says that nobody's records are in them; real ones where it says nothing."""
    return events.get("summary", {}).get("generated") is True


def gather(workdir: Path, split: str) -> Facts:
    """Read one split of the timelines in `workdir`. Memory: one file of timelines, and the vocabulary.

    Raises: UserError where there are no timelines, no such split, or a file is damaged.
    """
    workdir = Path(workdir)
    vocabulary = timelines.vocabulary(workdir)
    size = len(vocabulary.tokens)
    counts, patients = np.zeros(size, np.int64), np.zeros(size, np.int64)
    lengths: list[np.ndarray] = []
    context: dict[str, np.ndarray] = {}
    for part in each(timelines.batches(workdir, split), f"read {split}", "file"):
        sizes = np.diff(part.offsets)
        lengths.append(sizes)
        counts += np.bincount(part.tokens, minlength=size)
        for first in range(0, len(sizes), _AT_ONCE):
            last = min(first + _AT_ONCE, len(sizes))
            seen = np.zeros((last - first, size), bool)
            seen[
                np.repeat(np.arange(last - first), sizes[first:last]),
                part.tokens[part.offsets[first] : part.offsets[last]],
            ] = True
            patients += seen.sum(axis=0)
        for name, values in _context(vocabulary, part).items():
            context[name] = context.get(name, 0) + np.bincount(values, minlength=size)
    return Facts(
        split=split,
        vocabulary=vocabulary,
        events=events_record(workdir),
        timelines=record(Layout(workdir).timelines),
        packed={path.parent.name: record(path.parent) for path in sorted(workdir.glob(f"packed/t*/{packing.FILE}"))},
        labels=labels(Layout(workdir).events),
        counts=counts,
        patients=patients,
        lengths=np.sort(np.concatenate(lengths)) if lengths else np.zeros(0, np.int64),
        context=context,
    )


def events_record(workdir: Path) -> Record:
    """The record of events/, which says whose the timelines beside it are; empty where there is none, also in a bucket.

    Raises: UserError where it is not that of the events from which the timelines were made, and cannot speak for them.
    """
    there = Layout(workdir)
    storage.fetch(there.events, artifacts.RECORD)
    events, tokenized = record(there.events), record(there.timelines)
    if events and tokenized and tokenized["inputs"].get("events") != events["fingerprint"]:
        raise UserError(
            f"{there.events} is not what {there.timelines} was made from: put back the events that it "
            "was made from, or delete it and run launch.prepare again"
        )
    return events


def of_generated(workdir: Path) -> bool:
    """Whether the timelines of a folder are nobody's."""
    return is_generated(events_record(workdir))


def record(folder: Path) -> Record:
    """The record of the artifact in `folder`; empty where there is none."""
    return artifacts.record(folder) if (folder / artifacts.RECORD).is_file() else {}


def _context(vocabulary: Vocabulary, part: timelines.Timelines) -> dict[str, np.ndarray]:
    """Values (P,) at each place of the prefix: of the slots as last known, of the age at the first event."""
    everyone = np.arange(len(part.subject_ids))
    last = static_context.contexts(vocabulary, part, everyone, part.times[part.offsets[1:] - 1])
    first = static_context.contexts(vocabulary, part, everyone, part.times[part.offsets[:-1]])
    return {
        name: (last if name in vocabulary.context_slots else first)[:, i].astype(np.int64)
        for i, name in enumerate(context_names(vocabulary))
    }


def context_names(vocabulary: Vocabulary) -> list[str]:
    """Names of the places of the prefix: the slots, and among them the age."""
    slots, at = list(vocabulary.context_slots), vocabulary.age_at
    return [*slots[:at], *_AGES[vocabulary.age_style], *slots[at:]]


def labels(events: Path) -> dict[str, str]:
    """Descriptions in metadata/codes.parquet, by code as the tokenizer's rules spell it."""
    path = events / "metadata" / "codes.parquet"
    storage.fetch(path)
    if not path.is_file():
        return {}
    table = pq.read_table(path, columns=["code", "description"])
    table = table.filter(pc.is_valid(table["description"]))
    return {
        normalise(code): text
        for code, text in zip(table["code"].to_pylist(), table["description"].to_pylist(), strict=True)
    }


# Families into which the rules cut whole codes, and the code that was cut
_WHOLE = {
    "ICD10CM": "DIAGNOSIS//ICD//10//",
    "ICD9CM": "DIAGNOSIS//ICD//9//",
    "ICD10PCS": "PROCEDURE//ICD//10//",
    "ICD9PCS": "PROCEDURE//ICD//9//",
}


def meaning(labels: Mapping[str, str], event: Sequence[str]) -> str:
    """What the source calls the code of an event, given its tokens; empty where it says nothing."""
    if (head := family(event[0])) in _WHOLE:
        if head == "ICD10PCS" and len(event) != 7:  # cut short, it would be the code of something else
            return ""
        return labels.get(_WHOLE[head] + "".join(token.rpartition("//")[2] for token in event), "")
    return labels.get(event[0], "")


def kinds(vocabulary: Vocabulary) -> list[str]:
    """What each of the V tokens is: codes, intervals, quantiles, end, unknown, context (in the prefix alone)."""
    special = {
        **dict.fromkeys(vocabulary.reserved, CONTEXT),  # what is left of them: PAD and the ages
        **dict.fromkeys(vocabulary.intervals, INTERVAL),
        **dict.fromkeys(vocabulary.quantile_tokens, QUANTILE),
        END: END_KIND,
        **dict.fromkeys((vocabulary.tokens[i] for i in vocabulary.unknown_ids), UNKNOWN_KIND),
    }

    def kind(i: int, token: str) -> str:
        alone = not vocabulary.counts[i] and family(token) in vocabulary.context_slots
        return special.get(token) or (CONTEXT if alone else CODE)

    return [kind(i, token) for i, token in enumerate(vocabulary.tokens)]


def families(facts: Facts) -> list[Family]:
    """The vocabulary by family, the most frequent first; those of the prefix alone last."""
    kind = kinds(facts.vocabulary)
    ages = set(AGE_STYLES[facts.vocabulary.age_style][0])
    groups: dict[str, list[int]] = {}
    for i, token in enumerate(facts.vocabulary.tokens):
        name = kind[i] if kind[i] in (INTERVAL, QUANTILE) else "AGE" if token in ages else family(token)
        groups.setdefault(name, []).append(i)
    rows = []
    for name, ids in groups.items():
        counts = facts.counts[ids]
        unknown = sum(int(facts.counts[i]) for i in ids if kind[i] == UNKNOWN_KIND)
        of_context = all(kind[i] == CONTEXT for i in ids)
        rows.append(Family(name, len(ids), int((counts > 0).sum()), int(counts.sum()), unknown, of_context))
    return sorted(rows, key=lambda row: (row.in_context, -row.occurrences, row.name))


def mix(facts: Facts) -> dict[str, int]:
    """Tokens of the split by what they are: codes, quantiles, intervals, end, unknown."""
    kind = np.array(kinds(facts.vocabulary))
    return {name: int(facts.counts[kind == name].sum()) for name in (CODE, QUANTILE, INTERVAL, END_KIND, UNKNOWN_KIND)}


def coverage(facts: Facts, shares: tuple[float, ...] = (0.5, 0.9, 0.99)) -> list[int]:
    """How many of the most frequent tokens make up each share of the split's tokens."""
    running = np.cumsum(np.sort(facts.counts)[::-1])
    return [int(np.searchsorted(running, share * running[-1])) + 1 for share in shares]


def source_facts(about: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What the summary of the events says of their source, fact by fact: names and numbers."""
    first = {"name": "not stated", "version": None, "license": "not stated"}
    facts = {name: about.get(name, other) for name, other in first.items()}
    facts |= {name: value for name, value in about.items() if not isinstance(value, Mapping) and name != "generated"}
    spelt = {"name": "source", "version": "release", "license": "licence", "codes": "distinct codes"}
    return [(spelt.get(name, _words(name)), value) for name, value in facts.items() if value is not None]


def source_counts(about: Mapping[str, Any]) -> dict[str, list[tuple[str, Any]]]:
    """What the summary of the events counts by reason or by table, under the title of each list, the most first.

    What was dropped is under LEFT_OUT; a number of 0 says nothing and is not there.
    """
    spelt = {
        "dropped": LEFT_OUT,
        "mended": "Mended by the source",
        "tables": "Tables of the source",
        "sofa": "First-day SOFA",
    }
    lists = {}
    for name, counts in about.items():
        if isinstance(counts, Mapping) and name not in ("patients", "shards"):
            rows = [(_words(key), value) for key, value in counts.items() if value or value is False]
            rows.sort(key=lambda row: (-row[1] if isinstance(row[1], int) else 0, row[0]))
            lists[spelt.get(name, f"Source: {_words(name)}")] = rows
    return {title: rows for title, rows in lists.items() if rows}


def _words(name: str) -> str:
    return name if "/" in name else name.replace("_", " ")


def words(value: Any) -> str:
    """A value of a record as words. Paths of somebody's machine are nobody else's business."""
    if isinstance(value, str) and (value.startswith(("/", "~")) or ":\\" in value):
        return "given"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {words(v)}" for name, v in sorted(value.items())) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value)) or "none"
    return {None: "none", True: "yes", False: "no"}[value] if isinstance(value, bool | None) else str(value)


def options(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The tokenizer's options and their values; of code maps which there are (the data card has their checksums)."""
    settings = {**vocabulary.settings, "code_maps": sorted(vocabulary.settings.get("code_maps") or ())}
    return [(name, words(value)) for name, value in settings.items()]


def silent_events(facts: Facts) -> list[tuple[str, int]]:
    """Events of the split that make no token, by `FAMILY: reason`, the most frequent first."""
    silent = facts.timelines.get("summary", {}).get(facts.split, {}).get("silent_events", {})
    return sorted(((name, n) for name, n in silent.items() if n), key=lambda row: (-row[1], row[0]))


def frequent(facts: Facts, top: int, only: str | None = None) -> list[int]:
    """Ids of the `top` most frequent tokens that are codes, of one family where one is named.

    Raises: UserError for a family that is not in the vocabulary.
    """
    kind = kinds(facts.vocabulary)
    ids = [i for i in np.argsort(-facts.counts, kind="stable").tolist() if kind[i] in (CODE, UNKNOWN_KIND)]
    if only is not None:
        names = sorted({family(facts.vocabulary.tokens[i]) for i in ids})
        ids = [i for i in ids if family(facts.vocabulary.tokens[i]) == only]
        if not ids:
            raise UserError(f"--family={only} is no family of this vocabulary: take one of {', '.join(names)}")
    return [i for i in ids if facts.counts[i]][:top]


def edges(facts: Facts, top: int, only: str | None = None) -> list[tuple[str, int, tuple[float, ...]]]:
    """Code, occurrences and breaks of the `top` most frequent codes whose values are binned."""

    def occurrences(code: str) -> int:
        i = facts.vocabulary.index.get(code)
        return 0 if i is None else int(facts.counts[i])

    rows = [
        (code, occurrences(code), breaks)
        for code, breaks in facts.vocabulary.quantiles.items()
        if only is None or family(code) == only
    ]
    return sorted(rows, key=lambda row: (-row[1], row[0]))[:top]


def histogram(lengths: np.ndarray) -> list[Bin]:
    """Patients by number of tokens, in classes that double: 1, 2–3, 4–7, …, from the first that is not empty."""
    if not len(lengths):
        return []
    exponents = np.floor(np.log2(lengths)).astype(int)
    counts = np.bincount(exponents)
    return [Bin(2**e, 2 ** (e + 1) - 1, int(counts[e])) for e in range(exponents.min(), exponents.max() + 1)]
