"""A file of runs as columns, by the names that it gives them: text with separators, JSON, Parquet."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.errors import UserError, first_line, unreadable

SEPARATORS = ",\t;"


def short(name: str) -> str:
    """A name from a file, as a line tells it."""
    return repr(name if len(name) <= 60 else f"{name[:60]}...")


@dataclass(frozen=True)
class Columns:
    """n rows. values: the column of a name, [n], None and "" for unknown. place: how to name row i to the user.

    header: how to name to the user where the columns are named.
    """

    n: int
    names: list[str]
    values: Callable[[str], Sequence[Any] | NDArray[Any]]
    place: Callable[[int], str]
    header: str

    def take(self, keep: NDArray[np.bool_]) -> "Columns":
        """The rows of a mask [n]."""
        rows = np.flatnonzero(keep).tolist()

        def values(name: str) -> Sequence[Any] | NDArray[Any]:
            whole = self.values(name)
            return whole[keep] if isinstance(whole, np.ndarray) else [whole[i] for i in rows]

        return Columns(len(rows), self.names, values, lambda i: self.place(rows[i]), self.header)


def read(path: Path) -> Columns:
    """A .csv, .tsv, .jsonl, .ndjson, .json or .parquet file.

    Raises: UserError naming the file, and the row where it applies.
    """
    if (reader := READERS.get(path.suffix.lower())) is None:
        raise UserError(f"--runs={path}: expected a directory of runs, or a .csv, .tsv, .jsonl, .json or .parquet file")
    return reader(path)


def of_columns(columns: Mapping[str, Iterable[Any]], source: str) -> Columns:
    """A mapping of names to columns of one length: a dict, or a data frame of pandas or polars.

    Raises: UserError where the columns are of several lengths, or no columns at all.
    """
    arrays: dict[str, Sequence[Any] | NDArray[Any]] = {}
    for name in columns:
        column = columns[name]
        if isinstance(column, str | bytes | Mapping) or not isinstance(column, Iterable):
            raise UserError(f"{source}: {short(name)} is no column: give a list or an array of a value a run")
        array = np.asarray(column) if hasattr(column, "__array__") else list(column)
        if isinstance(array, np.ndarray) and array.dtype.kind not in "fiu":
            array = array.tolist()
        if isinstance(array, np.ndarray) and array.ndim != 1:
            raise UserError(f"{source}: {short(name)} is no column: give one value a run")
        arrays[str(name)] = array
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        (a, m), (b, n) = min(lengths.items(), key=lambda x: x[1]), max(lengths.items(), key=lambda x: x[1])
        raise UserError(f"{source}: {short(a)} has {m} values and {short(b)} {n}: give one a run")
    return Columns(
        next(iter(lengths.values()), 0), list(arrays), arrays.__getitem__, lambda i: f"{source} row {i + 1}", source
    )


def _separated(path: Path) -> Columns:
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            first = f.readline()
            separator = max(SEPARATORS, key=first.count)
            reader = csv.reader(_from(first, f), delimiter=separator)
            header = [name.strip() for name in next(reader, [])]
            values: list[list[str]] = [[] for _ in header]
            lines, width = [], len(header)
            for record in reader:
                if len(record) != width:
                    if not record:
                        continue
                    if len(record) > width:
                        raise UserError(f"{path} row {reader.line_num}: more cells than the header has columns")
                    record += [""] * (width - len(record))
                for cells, cell in zip(values, record, strict=True):
                    cells.append(cell.strip())
                lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path} is not a UTF-8 CSV table ({first_line(e)})") from None

    def column(name: str) -> list[str]:
        if header.count(name) > 1:
            raise UserError(f"{path}: the header has {short(name)} twice; rename one of them")
        return values[header.index(name)]

    return Columns(len(lines), list(dict.fromkeys(header)), column, lambda i: f"{path} row {lines[i]}", f"{path} row 2")


def _from(first: str, rest: io.TextIOWrapper) -> Iterator[str]:
    yield first
    yield from rest


def _json_lines(path: Path) -> Columns:
    records, lines = [], []
    try:
        with path.open(encoding="utf-8-sig") as f:
            for number, line in enumerate(f, 1):
                if line.strip():
                    records.append(_object(line, f"{path} line {number}"))
                    lines.append(number)
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text ({e.reason})") from None
    return _of_records(records, lambda i: f"{path} line {lines[i]}", f"{path} line 1")


def _object(text: str, place: str) -> dict[str, Any]:
    record = _parsed(text, place)
    if not isinstance(record, dict):
        raise UserError(f"{place} is not a JSON object with named columns")
    return record


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise UserError(f"{place} is not JSON ({e.msg})") from None
    except (ValueError, RecursionError) as e:  # numbers of thousands of digits, brackets in thousands of brackets
        raise UserError(f"{place} is not JSON that can be read ({first_line(e)})") from None


def _json(path: Path) -> Columns:
    """An array of objects, a row each, or an object of arrays, a column each."""
    try:
        value = _parsed(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text ({e.reason})") from None
    if isinstance(value, dict):
        return of_columns(value, str(path))
    if not isinstance(value, list) or not all(isinstance(record, dict) for record in value):
        raise UserError(f"{path} is neither an array of JSON objects, one a run, nor an object of arrays")
    return _of_records(value, lambda i: f"{path} row {i + 1}", str(path))


def _of_records(records: list[dict[str, Any]], place: Callable[[int], str], header: str) -> Columns:
    names = list(dict.fromkeys(name for record in records for name in record))  # a row need not have those of the first
    return Columns(len(records), names, lambda name: [record.get(name) for record in records], place, header)


def _parquet(path: Path) -> Columns:
    import pyarrow as pa  # here, because only this format needs it
    import pyarrow.parquet as pq

    damaged = f"{path} is not a Parquet table"
    errors = (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, NotImplementedError)
    try:
        file = pq.ParquetFile(path)
        n, names = file.metadata.num_rows, list(file.schema_arrow.names)
    except errors as e:
        raise unreadable(e, path, f"{damaged} ({first_line(e)})") from None

    def column(name: str) -> Sequence[Any] | NDArray[Any]:
        if names.count(name) > 1:
            raise UserError(f"{path} has {short(name)} twice; rename one of them")
        try:
            array = file.read(columns=[name])[name]
            plain = not array.null_count and (pa.types.is_floating(array.type) or pa.types.is_integer(array.type))
            values: Sequence[Any] | NDArray[Any] = array.to_numpy() if plain else array.to_pylist()
        except errors as e:
            raise unreadable(e, path, f"{damaged} (column {short(name)}: {first_line(e)})") from None
        if len(values) != n:
            raise UserError(f"{damaged} (column {short(name)} has {len(values)} of {n} rows)")
        return values

    return Columns(n, list(dict.fromkeys(names)), column, lambda i: f"{path} row {i + 1}", str(path))


READERS: dict[str, Callable[[Path], Columns]] = {
    ".csv": _separated,
    ".tsv": _separated,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}
