"""Rows of one MEDS file as arrays: types made ours, what is no event left out and counted, codes spelt our way."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehr_scaling.data.codes import units
from ehr_scaling.data.events import events
from ehr_scaling.data.events.columns import STATIC
from ehr_scaling.data.presets import FAMILIES
from ehr_scaling.data.sources.meds import dialects
from ehr_scaling.data.sources.meds.rows import (
    NO_STAY,
    Dropped,
    Rows,
    by_family,
    combined,
    distinct,
    first_of_run,
    parsed,
    with_parts,
    without,
)
from ehr_scaling.data.sources.meds.translate import translated
from ehr_scaling.data.sources.mimic.parsing import bound
from ehr_scaling.data.vocabulary import family
from ehr_scaling.errors import UserError

VALUE = "numeric_value"
VALUES = (VALUE, "value", "value_as_number", "valuenum", "numeric")  # what others call it; the first that is there
UNITS = ("unit", "units", "unit_of_measure", "uom", "valueuom")  # a unit of the value; the first that is there
STAYS = ("hadm_id", "visit_id")  # which stay in hospital an event of MIMIC-IV belongs to
_BATCH = 1 << 18  # rows read at once
_BYTES = 1 << 27  # of a batch, where long texts would make it larger
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_FAHRENHEIT, _CELSIUS = "DEG F", "DEG C"
_FROM, _UNTIL = (int(np.datetime64(day, "s").astype(np.int64)) for day in ("1800-01-01", "2262-01-01"))
_NO_TIME = "no time"


class Reading(NamedTuple):
    """How the rows of a data set are to be read."""

    dialect: str
    modifiers: tuple[str, ...] = ()  # columns that its dataset.json calls modifiers of the code
    known: bool = True  # of MIMIC-IV's dialects: whether events stand where they were known, see `knowing`


def read(path: Path, groups: range, how: Reading, dropped: Dropped) -> Iterator[Rows]:
    """Events of some row groups of a parquet file, a batch at a time. Raises UserError where it is damaged."""
    columns: tuple[str, ...] = ("subject_id", "time", "code", *VALUES, "text_value")
    if how.dialect in dialects.MIMIC:
        columns = (*columns, *STAYS, *dialects.COLUMNS[how.dialect])
    else:
        columns = (*columns, *how.modifiers, *UNITS)
    for batch in _batches(path, groups, _BATCH, *dict.fromkeys(columns)):
        with reading(path):
            rows, batch = _rows(batch, dropped)
            rows = (
                translated(rows, batch, how.dialect, dropped)
                if how.dialect in dialects.MIMIC
                else _as_spelt(rows, batch, how, dropped)
            )
        yield rows


def subjects(path: Path, groups: range) -> Iterator[np.ndarray]:
    """The distinct patients of each batch, int64; null ones are left out."""
    for batch in _batches(path, groups, 1 << 20, "subject_id"):
        with reading(path):
            ids = batch.column(0).drop_null().cast(pa.int64()).to_numpy(zero_copy_only=False)
        yield distinct(ids[first_of_run(ids)])  # of runs there are fewer to sort


def codes(path: Path) -> set[str]:
    """The codes of the first rows of a file."""
    distinct_codes: set[str] = set()
    for batch in islice(_batches(path, None, 1 << 16, "code"), 4):
        with reading(path):
            at, names = _codes(batch.column(0), Dropped.empty())
        distinct_codes |= {names[i] for i in distinct(at).tolist() if i >= 0}
    return distinct_codes


def value_column(schema: pa.Schema) -> str | None:
    """Which column of a file holds the numbers."""
    return next((name for name in VALUES if name in schema.names), None)


def _batches(path: Path, groups: range | None, rows: int, *columns: str) -> Iterator[pa.RecordBatch]:
    with reading(path):
        file = pq.ParquetFile(path, read_dictionary=["code"])
        names = file.schema_arrow.names
        value = value_column(file.schema_arrow)
        present = [name for name in columns if name in names and (name not in VALUES or name == value)]
        rows = min(rows, _fitting(file.metadata)) if "text_value" in present else rows
        batches = file.iter_batches(rows, row_groups=None if groups is None else list(groups), columns=present)
    while True:
        with reading(path):
            batch = next(batches, None)
        if batch is None:
            return
        if batch.num_rows:
            yield batch


def _fitting(metadata: pq.FileMetaData) -> int:
    """How many rows fit into _BYTES."""
    # Of groups, not of their columns: to ask a damaged file for those ends the process, in Arrow
    size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    return max(1_000, _BYTES * metadata.num_rows // max(size, 1))


def whole(path: Path) -> pa.Table:
    """All of a small file. Raises UserError where it is damaged, or has two columns of one name."""
    with reading(path):
        table = pq.ParquetFile(path).read()
        table.validate(full=True)
        check_once(path, table.schema)
    return table


def check_once(path: Path, schema: pa.Schema) -> None:
    """Raises UserError where two columns have one name."""
    if twice := [name for name, n in Counter(schema.names).items() if n > 1]:
        raise UserError(f"{path} has more than one column {twice[0][:80]!r}: keep one")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what Arrow says of a damaged file into one line."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as e:
        if isinstance(e, OSError) and e.errno:  # the file system's own complaint names the file
            raise
        raise UserError(f"{path} is truncated, damaged or no parquet file: write or copy it again") from None


def _rows(batch: pa.RecordBatch, dropped: Dropped) -> tuple[Rows, pa.RecordBatch]:
    """The rows of a batch that have a patient, a code and a possible time; and the batch of these rows alone."""
    known = pc.is_valid(batch["subject_id"]).to_numpy(zero_copy_only=False)
    ids = pc.fill_null(batch["subject_id"].cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    codes, names = _codes(batch["code"], dropped)
    times, dated = _times(batch["time"])
    values = _values(batch, dropped)
    stays = np.full(len(ids), NO_STAY)
    name = next((name for name in STAYS if name in batch.schema.names), None)
    if name and (pa.types.is_integer(batch[name].type) or pa.types.is_floating(batch[name].type)):
        stays = pc.fill_null(batch[name].cast(pa.int64(), safe=False), NO_STAY).to_numpy(zero_copy_only=False)
    keep = np.ones(len(ids), bool)
    for reason, fine in (
        ("no subject_id", known),
        ("no code", codes >= 0),
        ("time before 1800 or after 2261", dated),
    ):
        dropped.rows[reason] += int((keep & ~fine).sum())
        keep &= fine
    rows = Rows(ids, times, codes, values, stays, names)
    if keep.all():
        return rows, batch
    at = np.flatnonzero(keep)
    return rows.at(at), batch.take(pa.array(at))


def _as_spelt(rows: Rows, batch: pa.RecordBatch, how: Reading, dropped: Dropped) -> Rows:
    """Events of a data set whose codes are kept: with the modifiers and the unit of the value as parts of the code."""
    modifiers = [name for name in how.modifiers if name in batch.schema.names]
    unit = next((name for name in UNITS if name in batch.schema.names and name not in modifiers), "")
    rows = rows._replace(values=_with_bounds(rows, batch, dropped))
    valued = ~np.isnan(rows.values)
    key, made_of = combined(rows, batch, modifiers, np.arange(len(rows.codes)) if modifiers else np.zeros(0, np.int64))
    if unit:
        inner = rows._replace(codes=key, names=[str(i) for i in range(len(made_of))])
        key, outer = combined(inner, batch, [unit], np.flatnonzero(valued))
        made_of = [(*made_of[int(i)], *more) for i, *more in outer]
    code_numbers: dict[str, int] = {}
    table, fahrenheit = np.zeros(len(made_of), np.int64), np.zeros(len(made_of), bool)
    for i in np.flatnonzero(np.bincount(key, minlength=len(made_of))).tolist():
        name, *parts = made_of[i]
        (code,) = dialects.canonical(how.dialect, name) or (name,)
        told = parts[: len(modifiers)]
        if len(parts) > len(modifiers):
            told, fahrenheit[i] = _with_unit(told, parts[-1])
        code = with_parts(code, told)
        dropped.spelt.add((name, code))
        table[i] = code_numbers.setdefault(code, len(code_numbers))
    values, celsius = rows.values.copy(), fahrenheit[key]
    with np.errstate(over="ignore"):
        values[celsius] = (values[celsius].astype(np.float64) * 1.8 + 32).astype(np.float32)
    dropped.values["a temperature too large for float32: no value"] += int(np.isinf(values).sum())
    values[np.isinf(values)] = np.nan
    rows = rows._replace(codes=table[key], values=values, names=list(code_numbers))
    dropped.seen.update(by_family(rows, np.ones(len(rows.codes), bool)))
    if "text_value" in batch.schema.names and not pa.types.is_null(batch["text_value"].type):
        texts = np.flatnonzero(pc.is_valid(batch["text_value"]).to_numpy(zero_copy_only=False) & ~valued)
        for name, count in by_family(rows, texts).items():
            told_family = name if name in FAMILIES else "other families"
            dropped.values[f"{told_family}: a text and no number, the text is not kept"] += count
    # A birth or a death without a time tells nothing.
    bare = np.array([family(name) in (events.BIRTH, events.DEATH) for name in rows.names], bool)
    return without(rows, (rows.times == STATIC) & bare[rows.codes], _NO_TIME, dropped)


def _with_bounds(rows: Rows, batch: pa.RecordBatch, dropped: Dropped) -> np.ndarray:
    """The values, float32 (n,): where there is none and the text is a bound ("<0.01"), the number of the bound."""
    if "text_value" not in batch.schema.names or pa.types.is_null(batch["text_value"].type):
        return rows.values
    values = rows.values.copy()
    at = np.flatnonzero(np.isnan(values) & pc.is_valid(batch["text_value"]).to_numpy(zero_copy_only=False))
    values[at] = parsed(batch["text_value"].cast(pa.large_string()).take(pa.array(at)), values[at], bound)
    dropped.values["result given as a bound read as its number"] += int((~np.isnan(values[at])).sum())
    return values


def _with_unit(parts: list[str], unit: str) -> tuple[list[str], bool]:
    """Parts with the unit, and whether values are to be brought from °C to °F, the one unit of temperatures here."""
    if not unit.strip():
        return parts, False
    name = units.canonical(unit)
    return [*parts, _FAHRENHEIT if name == _CELSIUS else name], name == _CELSIUS


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
    name = value_column(batch.schema)
    if name is None or pa.types.is_null(batch[name].type):
        return np.full(batch.num_rows, np.nan, np.float32)
    column = batch[name]
    raw = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        values = raw.astype(np.float32)
    given = pc.is_valid(column).to_numpy(zero_copy_only=False)
    dropped.values[f"{name} is NaN: no value"] += int((np.isnan(raw) & given).sum())
    dropped.values[f"{name} is infinite, or too large for float32: no value"] += int(np.isinf(values).sum())
    return np.where(np.isinf(values), np.float32(np.nan), values)
