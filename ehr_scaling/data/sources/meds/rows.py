"""Events of MEDS files as arrays, what is counted of those that are left out, and codes made of several columns."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ehr_scaling.data.codes import units
from ehr_scaling.data.sources.meds import dialects
from ehr_scaling.data.vocabulary import family

NO_STAY = -1
Counts = Counter[str]


class Rows(NamedTuple):
    """n events in the order of the file."""

    subjects: np.ndarray  # int64 (n,)
    times: np.ndarray  # int64 (n,) µs; STATIC where null
    codes: np.ndarray  # int64 (n,), index into names
    values: np.ndarray  # float32 (n,); NaN where there is none
    stays: np.ndarray  # int64 (n,), the stay in hospital that it belongs to, NO_STAY where that is not told
    names: list[str]

    def at(self, rows: np.ndarray) -> "Rows":
        return Rows(
            self.subjects[rows], self.times[rows], self.codes[rows], self.values[rows], self.stays[rows], self.names
        )


class Dropped(NamedTuple):
    """What happened to rows and values, by reason; and which code was made of which, for the metadata."""

    rows: Counts
    values: Counts
    spelt: set[tuple[str, str]]  # (code of the file, code of ours)
    seen: Counts  # rows of each family of ours, as far as it is one that might be kept
    lost: Counter[tuple[str, str]]  # of them, those that were left out, by (family, reason)

    @classmethod
    def empty(cls) -> "Dropped":
        return cls(Counter(), Counter(), set(), Counter(), Counter())

    def leave_out(self, families: Counts, reason: str) -> None:
        """Count rows that are left out, by family."""
        if rows := families.total():
            self.rows[reason] += rows
            self.lost.update({(name, reason): n for name, n in families.items()})


def first_of_run(x: np.ndarray) -> np.ndarray:
    """bool (n,): where the value is another than the one before."""
    return np.append(True, x[1:] != x[:-1])[: len(x)]


def distinct(x: np.ndarray) -> np.ndarray:
    """What np.unique gives, several times faster for integers."""
    x = np.sort(x)
    return x[first_of_run(x)]


def parsed(text: pa.Array | None, values: np.ndarray, parse: Callable[[str], float | None]) -> np.ndarray:
    """What `parse` makes of the values, and of the texts where there is none; NaN where it makes nothing."""
    if not len(values):
        return values

    def number(word: str | None) -> float:
        parsed = parse(word) if word else None
        return np.nan if parsed is None else parsed

    known, at = np.unique(values, return_inverse=True)
    out = np.array([number(None if np.isnan(value) else f"{value:.6g}") for value in known.tolist()], np.float32)[at]
    if text is None:
        return out
    words = text.dictionary_encode()
    told = np.array([number(word) for word in [*words.dictionary.to_pylist(), None]], np.float32)
    at = pc.fill_null(words.indices.cast(pa.int64()), len(told) - 1).to_numpy(zero_copy_only=False)
    return np.where(np.isnan(values), told[at], out)


def with_parts(code: str, parts: Sequence[str]) -> str:
    """The code with more parts, but for those that are empty, or that it ends in already."""
    last = code.rpartition("//")[2]
    kept = [part for part in parts if part.strip() and units.canonical(part) != units.canonical(last)]
    return dialects.join(code, *kept) if kept else code


def combined(
    rows: Rows, batch: pa.RecordBatch, columns: Sequence[str], at: np.ndarray
) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """What the code of a row is made of: int64 (n,) into the distinct (name, text of each column).

    Args: at, rows for which the columns count; those of the others, and nulls, are told as "".
    """
    entries: list[tuple[str, ...]] = [(name, *("" for _ in columns)) for name in rows.names]
    key = rows.codes.copy()
    if not len(at) or not columns:
        return key, entries
    used, number = np.unique(rows.codes[at], return_inverse=True)
    combinations: list[tuple[str, ...]] = [(rows.names[i],) for i in used.tolist()]
    for column in columns:
        words = batch[column].cast(pa.large_string()).take(pa.array(at)).dictionary_encode()
        texts = [*words.dictionary.to_pylist(), ""]
        index = pc.fill_null(words.indices.cast(pa.int64()), len(texts) - 1).to_numpy(zero_copy_only=False)
        pairs, number = np.unique(number * len(texts) + index, return_inverse=True)
        combinations = [(*combinations[pair // len(texts)], texts[pair % len(texts)]) for pair in pairs.tolist()]
    key[at] = len(entries) + number
    return key, entries + combinations


def by_family(rows: Rows, which: np.ndarray) -> Counts:
    """How many of some rows are of each family."""
    counts: Counts = Counter()
    for i, n in enumerate(np.bincount(rows.codes[which], minlength=len(rows.names)).tolist()):
        if n:
            counts[family(rows.names[i])] += n
    return counts


def without(rows: Rows, bad: np.ndarray, reason: str, dropped: Dropped) -> Rows:
    """The rows that are not `bad`, bool (n,); the others are counted."""
    if not bad.any():
        return rows
    dropped.leave_out(by_family(rows, bad), reason)
    return rows.at(~bad)
