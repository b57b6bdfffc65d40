"""Rows of one MEDS file as arrays: types made ours, what is no event left out and counted, dialects translated."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_scaling.data import events
from ehr_scaling.data.columns import STATIC
from ehr_scaling.data.sources.meds import dialects
from ehr_scaling.data.sources.mimic.parsing import body_mass_index, pain, race
from ehr_scaling.errors import UserError

_BATCH = 1 << 18  # rows read at once
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_FROM, _UNTIL = (int(np.datetime64(day, "s").astype(np.int64)) for day in ("1800-01-01", "2262-01-01"))
_COLUMNS = ("subject_id", "time", "code", "numeric_value")
_NO_TIME = "no time"
Counts = Counter[str]


class Rows(NamedTuple):
    """n events in the order of the file."""

    subjects: np.ndarray  # int64 (n,)
    times: np.ndarray  # int64 (n,) µs; STATIC where null
    codes: np.ndarray  # int64 (n,), index into names
    values: np.ndarray  # float32 (n,); NaN where there is none
    names: list[str]

    def at(self, rows: np.ndarray) -> "Rows":
        return Rows(self.subjects[rows], self.times[rows], self.codes[rows], self.values[rows], self.names)


class Dropped(NamedTuple):
    """What happened to rows and values, by reason; and which code was made of which, for the metadata."""

    rows: Counts
    values: Counts
    spelt: set[tuple[str, str]]  # (code of the file, code of ours)


def read(path: Path, groups: range, dialect: str, dropped: Dropped) -> Iterator[Rows]:
    """Events of some row groups of a parquet file, a batch at a time. Raises UserError where it is damaged."""
    for batch in _batches(path, groups, _BATCH, *_COLUMNS, *dialects.COLUMNS.get(dialect, ())):
        with reading(path):
            rows = _rows(batch, dialect, dropped)
        yield rows


def subjects(path: Path, groups: range) -> Iterator[np.ndarray]:
    """The distinct patients of each batch, int64; null ones are left out."""
    for batch in _batches(path, groups, 1 << 20, "subject_id"):
        with reading(path):
            ids = batch.column(0).drop_null().cast(pa.int64()).to_numpy(zero_copy_only=False)
        yield distinct(ids[first_of_run(ids)])  # of runs there are fewer to sort


def first_of_run(x: np.ndarray) -> np.ndarray:
    """bool (n,): where the value is another than the one before."""
    return np.append(True, x[1:] != x[:-1])[: len(x)]


def distinct(x: np.ndarray) -> np.ndarray:
    """What np.unique gives, several times faster for integers."""
    x = np.sort(x)
    return x[first_of_run(x)]


def codes(path: Path) -> set[str]:
    """The codes of the first rows of a file."""
    found: set[str] = set()
    for batch in islice(_batches(path, None, 1 << 16, "code"), 4):
        with reading(path):
            at, names = _codes(batch.column(0), Dropped(Counter(), Counter(), set()))
        found |= {names[i] for i in distinct(at).tolist() if i >= 0}
    return found


def _batches(path: Path, groups: range | None, rows: int, *columns: str) -> Iterator[pa.RecordBatch]:
    with reading(path):
        file = pq.ParquetFile(path, read_dictionary=["code"])
        present = [name for name in columns if name in file.schema_arrow.names]
        batches = file.iter_batches(rows, row_groups=None if groups is None else list(groups), columns=present)
    while True:
        with reading(path):
            batch = next(batches, None)
        if batch is None:
            return
        if batch.num_rows:
            yield batch


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what Arrow says of a damaged file into one line."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as e:
        if isinstance(e, OSError) and e.errno:  # the file system's own complaint names the file
            raise
        raise UserError(f"{path} is truncated, damaged or no parquet file: write or copy it again") from None


def _rows(batch: pa.RecordBatch, dialect: str, dropped: Dropped) -> Rows:
    known = pc.is_valid(batch["subject_id"]).to_numpy(zero_copy_only=False)
    ids = pc.fill_null(batch["subject_id"].cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    codes, names = _codes(batch["code"], dropped)
    times, dated = _times(batch["time"])
    values = _values(batch, dropped)
    keep = np.ones(len(ids), bool)
    for reason, fine in (
        ("no subject_id", known),
        ("no code", codes >= 0),
        ("time before 1800 or after 2261", dated),
    ):
        dropped.rows[reason] += int((keep & ~fine).sum())
        keep &= fine
    at = np.flatnonzero(keep)
    rows = Rows(ids, times, codes, values, names).at(at)
    if dialect in dialects.MIMIC:
        return _translate(rows, batch.take(pa.array(at)), dialect, dropped)
    used = np.flatnonzero(np.bincount(rows.codes, minlength=len(names)))
    table = np.zeros(len(names), np.int64)
    made: dict[str, int] = {}
    for i in used.tolist():
        (code,) = dialects.canonical(dialect, names[i]) or (names[i],)
        dropped.spelt.add((names[i], code))
        table[i] = made.setdefault(code, len(made))
    rows = rows._replace(codes=table[rows.codes], names=list(made))
    # A birth or a death without a time tells nothing.
    bare = np.array([name.partition("//")[0] in (events.BIRTH, events.DEATH) for name in rows.names], bool)
    return _without(rows, (rows.times == STATIC) & bare[rows.codes], _NO_TIME, dropped)


def _without(rows: Rows, bad: np.ndarray, reason: str, dropped: Dropped) -> Rows:
    if not (count := int(bad.sum())):
        return rows
    dropped.rows[reason] += count
    return rows.at(~bad)


def _codes(column: pa.Array, dropped: Dropped) -> tuple[np.ndarray, list[str]]:
    """Index into the names, int64 (n,), -1 for no code; and the names, stripped, and cut where they are too long."""
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.large_string()).dictionary_encode()
    raw = column.dictionary
    try:
        spelt = raw.to_pylist()
    except UnicodeDecodeError:
        spelt = [None if b is None else b.decode("utf-8", "replace") for b in raw.cast(pa.large_binary()).to_pylist()]
    names = [(name or "").strip() for name in spelt]
    at = pc.fill_null(column.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    if at.max(initial=-1) >= len(names):
        raise pa.ArrowIndexError("a code out of its dictionary")
    empty = np.array([not name for name in names] + [True], bool)  # the last is for -1
    long = np.array([len(name) > dialects.LONGEST for name in names] + [False], bool)
    if long.any():
        dropped.values[f"code longer than {dialects.LONGEST} characters: cut"] += int(long[at].sum())
        names = [name[: dialects.LONGEST] for name in names]
    return np.where(empty[at], -1, at), names


def _times(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """int64 (n,) µs, STATIC where null, of the UTC where there is a zone; and which are null or in our years."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s" if pa.types.is_date32(column.type) else "ms"))
    if pa.types.is_null(column.type):
        return np.full(len(column), STATIC), np.ones(len(column), bool)
    per_second = _PER_SECOND[column.type.unit]
    null = pc.is_null(column).to_numpy(zero_copy_only=False)
    raw = pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    fine = (raw >= _FROM * per_second) & (raw < _UNTIL * per_second)  # before any product that might overflow
    raw = np.where(fine, raw, 0)
    us = raw // (per_second // 10**6) if per_second >= 10**6 else raw * (10**6 // per_second)
    return np.where(null, STATIC, us), fine | null


def _values(batch: pa.RecordBatch, dropped: Dropped) -> np.ndarray:
    if "numeric_value" not in batch.schema.names or pa.types.is_null(batch["numeric_value"].type):
        return np.full(batch.num_rows, np.nan, np.float32)
    column = batch["numeric_value"]
    raw = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        values = raw.astype(np.float32)
    given = pc.is_valid(column).to_numpy(zero_copy_only=False)
    dropped.values["numeric_value is NaN: no value"] += int((np.isnan(raw) & given).sum())
    dropped.values["numeric_value is infinite, or too large for float32: no value"] += int(np.isinf(values).sum())
    return np.where(np.isinf(values), np.float32(np.nan), values)


def _translate(rows: Rows, batch: pa.RecordBatch, dialect: str, dropped: Dropped) -> Rows:
    """Events of a MIMIC-IV dialect in our codes. `batch` has the same rows, and the columns that codes depend on."""
    key, described = _described(rows, batch, dialect)
    made: dict[str, int] = {}
    first = np.full(len(described), -1)
    second = np.full(len(described), -1)
    for i, (name, detail, unit) in enumerate(described):
        if found := dialects.canonical(dialect, name, detail, unit):
            numbers = [made.setdefault(code, len(made)) for code in found]
            first[i], second[i] = numbers[0], numbers[-1] if len(numbers) > 1 else -1
            dropped.spelt.update((name, code) for code in found)
    code, values = first[key], rows.values.copy()
    lost = np.bincount(key[code < 0], minlength=len(described))
    for i in np.flatnonzero(lost).tolist():
        dropped.rows[dialects.reason(dialect, *described[i])] += int(lost[i])

    text = batch["text_value"].cast(pa.large_string()) if "text_value" in batch.schema.names else None
    pair = np.flatnonzero(second[key] >= 0)
    low = np.full(len(code), np.nan, np.float32)
    values[pair], low[pair] = _pressures(None if text is None else text.take(pa.array(pair)), values[pair])
    for scored, parse in ((dialects.BMI, body_mass_index), (dialects.PAIN, pain)):
        at = np.flatnonzero(code == made.get(scored, -2))
        values[at] = _parsed(None if text is None else text.take(pa.array(at)), values[at], parse)

    origin, place = [np.flatnonzero(code >= 0), pair], [0, 1]
    codes, numbers_of = [code[origin[0]], second[key[pair]]], [values[origin[0]], low[pair]]
    admitted = np.array([name.startswith(dialects.ADMISSION) for name in made] + [False], bool)[code]
    for column in ("insurance", "marital_status", "race"):
        if column in batch.schema.names and (at := np.flatnonzero(admitted)).size:
            words = batch[column].cast(pa.large_string()).take(pa.array(at)).dictionary_encode()
            word_of = pc.fill_null(words.indices.cast(pa.int64()), len(words.dictionary)).to_numpy(zero_copy_only=False)
            spelt = [
                dialects.RACE + race(word) if column == "race" else dialects.join(column.upper(), word)
                for word in [*words.dictionary.to_pylist(), ""]
            ]
            origin.append(at)
            place.append(len(place))
            codes.append(np.array([made.setdefault(code, len(made)) for code in spelt], np.int64)[word_of])
            numbers_of.append(np.full(len(at), np.nan, np.float32))
    at = np.concatenate(origin)
    order = np.argsort(at * len(place) + np.repeat(place, [len(rows) for rows in origin]), kind="stable")
    at, names = at[order], list(made)
    out = Rows(
        rows.subjects[at], rows.times[at], np.concatenate(codes)[order], np.concatenate(numbers_of)[order], names
    )

    static = np.array([name.startswith(dialects.GENDER) for name in names], bool)[out.codes]
    out = out._replace(times=np.where(static, STATIC, out.times))
    out = _without(out, (out.times == STATIC) & ~static, _NO_TIME, dropped)
    kind = np.array([next((i for i, h in enumerate(dialects.NUMBERED) if n.startswith(h)), -1) for n in names], int)
    bare = (kind[out.codes] >= 0) & np.isnan(out.values)
    for i, count in enumerate(np.bincount(kind[out.codes[bare]]).tolist()):
        dropped.rows[f"{dialects.NUMBERED[i].rstrip('/')}: no number"] += count
    return out.at(~bare)


def _described(rows: Rows, batch: pa.RecordBatch, dialect: str) -> tuple[np.ndarray, list[tuple[str, str, str]]]:
    """What a row's code is made from, as an index (n,) into the distinct (name, detail, unit)."""
    described = [(name, "", "") for name in rows.names]
    wanted = np.array([dialects.detailed(dialect, name) for name in rows.names], bool)
    used = ("table", "unit") if dialect == dialects.MEDS_ETL else ("text_value",)
    columns = [name for name in used if name in batch.schema.names]
    at = np.flatnonzero(wanted[rows.codes]) if wanted.any() and columns else np.zeros(0, np.int64)
    if not len(at):
        return rows.codes, described
    combined, words = rows.codes[at], []
    for name in columns:
        column = batch[name].cast(pa.large_string()).take(pa.array(at)).dictionary_encode()
        words.append((name, [*column.dictionary.to_pylist(), ""]))
        indices = pc.fill_null(column.indices.cast(pa.int64()), len(column.dictionary))
        combined = combined * len(words[-1][1]) + indices.to_numpy(zero_copy_only=False)
    distinct, number = np.unique(combined, return_inverse=True)
    key = rows.codes.copy()
    key[at] = len(described) + number
    for entry in distinct.tolist():
        told = {}
        for name, texts in reversed(words):
            entry, i = divmod(entry, len(texts))
            told[name] = texts[i]
        described.append((rows.names[entry], told.get("text_value", told.get("table", "")), told.get("unit", "")))
    return key, described


def _pressures(text: pa.Array | None, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Systolic and diastolic, float32: of a text "120/80", or of a number and a text "80"; both NaN if one is."""
    high = _parsed(text, np.full_like(values, np.nan), lambda t: _number(t.partition("/")[0]) if "/" in t else None)
    low = _parsed(text, np.full_like(values, np.nan), lambda t: _number(t.partition("/")[2] if "/" in t else t))
    high = np.where(np.isnan(high), values, high)
    neither = np.isnan(high) | np.isnan(low)
    return np.where(neither, np.float32(np.nan), high), np.where(neither, np.float32(np.nan), low)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\s*\d{1,3}(\.\d{1,6})?\s*", text) else None


def _parsed(text: pa.Array | None, values: np.ndarray, parse: Callable[[str], float | None]) -> np.ndarray:
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
