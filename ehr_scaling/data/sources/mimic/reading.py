"""Tables of MIMIC-IV as batches of numpy columns, in the order of the file, from .csv.gz, .csv or .parquet.

Arrow streams a file once, a few MiB at a time, and keeps text as indices into the distinct words of a batch: nothing
here costs time or memory per string. It is strict first; where a file has a value that is not of its column's type,
the file is read again leniently, and such rows are set aside and counted.
"""

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from ehr_scaling.errors import UserError, first_line, unreadable

SUFFIXES = (".csv.gz", ".csv", ".parquet")
NULL = np.iinfo(np.int64).min  # of ids and times
_BLOCK = 4 << 20  # bytes of CSV at a time
_ROWS = 1 << 16  # rows of parquet at a time
_WHOLE = 4 << 20  # compressed bytes up to which a file is unpacked before any work, to see whether it is all there
BAD_SHARE = 0.01  # of rows that cannot be read: more, and it is another file than it should be
_DAMAGED = "is truncated or damaged: delete it and download it again"

# A note is text in which line breaks are in order.
TYPES = {
    "id": pa.int64(),
    "time": pa.timestamp("us"),
    "number": pa.float64(),
    "text": pa.string(),
    "note": pa.string(),
}
_WORDS = ("text", "note")


class Text(NamedTuple):
    """A column of text: `at`, intp (rows,), indices into `words`, of which the last is None (no text)."""

    at: np.ndarray
    words: list[str | None]


# Columns by name: ids int64, times int64 in seconds since 1970, both NULL where there is none; numbers float64, NaN
# where there is none; text as Text.
Batch = dict[str, Any]


@dataclass
class Log:
    """What happened to the rows of a file."""

    rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)  # rows that cannot be read, by reason
    first: int = 0  # row of the first of them; the header is row 1

    def refuse(self, path: Path) -> None:
        """Raise UserError when so much cannot be read that the file must be another than it should be."""
        if self.bad and self.bad.total() > BAD_SHARE * self.rows:
            reason, count = self.bad.most_common(1)[0]
            raise UserError(
                f"{path}, row {self.first}: {self.bad.total()} of {self.rows} rows cannot be read ({reason}, {count} "
                "times): mend the file or download it again"
            )


def find(folder: Path, table: str) -> Path | None:
    """The file of a table, such as "hosp/labevents", below `folder`."""
    return next((p for s in SUFFIXES if (p := folder / f"{table}{s}").is_file()), None)


def check(path: Path, table: str, columns: Collection[str]) -> None:
    """See in milliseconds whether a file can be what it should: its first bytes, its header, and its end if small.

    Raises: UserError.
    """
    try:
        header = pq.read_schema(path).names if path.suffix == ".parquet" else _header(path)
    except (OSError, EOFError, zlib.error, csv.Error, pa.ArrowInvalid, UnicodeDecodeError) as e:
        raise unreadable(e, path, f"{path} {_DAMAGED}") from None
    if twice := [name for name in columns if header.count(name) > 1]:
        raise UserError(f"{path} has more than one column {twice[0]}: keep one")
    if missing := [name for name in columns if name not in header]:
        other = next((d for d in (";", "\t", "|") if len(header) == 1 and d in header[0]), None)
        hint = f"it is separated by {other!r}, not by ','" if other else f"is it the table {table} of MIMIC-IV?"
        raise UserError(f"{path} has no column {missing[0]}: {hint}")


def _header(path: Path) -> list[str]:
    with path.open("rb") as f:
        packed = f.read(2) == b"\x1f\x8b"
    if packed != (path.suffix == ".gz"):
        raise UserError(f"{path} is {'' if packed else 'not '}packed with gzip, against its name: rename it")
    with gzip.open(path) if packed else path.open("rb") as f:
        start = f.read(1 << 20)
        if packed and path.stat().st_size <= _WHOLE:
            while f.read(1 << 20):
                pass
    if not start.strip():
        raise UserError(f"{path} is empty, without even a header: download it again")
    try:
        text = start[: start.rfind(b"\n") + 1 or None].decode("utf-8-sig")
    except UnicodeDecodeError as e:
        row = start[: e.start].count(b"\n") + 1
        raise UserError(f"{path}, row {row}: the text is not UTF-8: save the file in that encoding") from None
    return next(csv.reader(text.splitlines()[:1]), [])


def batches(path: Path, columns: Mapping[str, str], log: Log, *, lenient: bool = False) -> Iterator[Batch]:
    """Columns of the file, {name: kind in TYPES}, in batches. Rows that cannot be read are left out and counted.

    Raises: pa.ArrowInvalid when strict, for what a lenient second reading sets aside; UserError.
    """
    try:
        for table in _raw(path, columns, log, lenient):
            yield _columns(table, columns, log, lenient)
    except (OSError, EOFError) as e:
        if not path.is_file():
            raise UserError(f"{path} is gone: put it back and run again") from None
        raise unreadable(e, path, f"{path} {_DAMAGED}") from None
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, KeyError) as e:
        raise UserError(
            f"{path} has a column of a type that it cannot be read as ({first_line(e)}): take the release's own file"
        ) from None
    except pa.ArrowInvalid as e:
        if not lenient and "straddling" not in str(e):
            raise
        raise UserError(f"{path} cannot be read: a quote in it is not closed, or it is damaged") from None
    log.refuse(path)


def _raw(path: Path, columns: Mapping[str, str], log: Log, lenient: bool) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path, page_checksum_verification=True)  # of pages that have one
        for batch in file.iter_batches(_ROWS, columns=list(columns)):
            pairs = zip(batch.schema.names, batch.columns, strict=True)
            arrays = [_plain(column, columns[name]) for name, column in pairs]
            yield pa.record_batch(arrays, names=batch.schema.names)
        return

    def ragged(row: arrow_csv.InvalidRow) -> str:
        log.rows += 1
        _bad(log, "another number of columns than the header", row.number or 0)
        return "skip"

    types = {name: _csv_type(kind, lenient) for name, kind in columns.items()}
    if path.stat().st_size < 1 << 16 and not _rows(path):
        return  # Arrow takes a header without a line break for an empty file
    yield from arrow_csv.open_csv(
        path,
        arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK),  # else rows have no number
        arrow_csv.ParseOptions(
            newlines_in_values=True, invalid_row_handler=ragged
        ),  # comments of labevents have line breaks
        arrow_csv.ConvertOptions(
            column_types=types, include_columns=list(columns), null_values=[""], strings_can_be_null=True
        ),
    )


def _plain(values: pa.Array, kind: str) -> pa.Array:
    """Without what other programs put into parquet: NaN for nothing, and that or null as the type of a column in which
    nothing stands, whatever should; times finer than µs; indices into words."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    if values.null_count == len(values):
        return pa.nulls(len(values), TYPES[kind])
    if pa.types.is_timestamp(values.type):
        return values.cast(pa.timestamp("us", values.type.tz), safe=False).cast(pa.timestamp("us"))
    return values


def _rows(path: Path) -> bool:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as f:
        return len(f.read().strip().splitlines()) > 1


def _csv_type(kind: str, lenient: bool) -> pa.DataType:
    if lenient:
        return pa.binary()
    return pa.dictionary(pa.int32(), pa.string()) if kind in _WORDS else TYPES[kind]


def _bad(log: Log, reason: str, row: int, count: int = 1) -> None:
    log.first = log.first or row
    log.bad[reason] += count


def _columns(batch: pa.RecordBatch, columns: Mapping[str, str], log: Log, lenient: bool) -> Batch:
    before, n = log.rows, batch.num_rows
    log.rows += n
    read: Batch = {}
    good = np.ones(n, bool)
    for name, kind in columns.items():
        values = batch.column(name)
        if lenient:
            values, unreadable = _lenient(values, kind)
            if (fresh := unreadable & good).any():
                _bad(log, f"{name} is not {kind}", before + int(np.argmax(fresh)) + 2, int(fresh.sum()))
                good &= ~unreadable
        column = _numpy(values, kind)
        if isinstance(column, Text) and kind == "text":
            # No such column has line breaks: a quote that is not closed has swallowed rows.
            lines = np.array([w.count("\n") if w else 0 for w in column.words])
            if lines.any() and (swallowed := np.where(good, lines[column.at], 0)).any():
                count = int(swallowed.sum())
                log.rows += count
                row = before + int(np.argmax(swallowed > 0)) + 2
                _bad(log, f"{name} has a line break", row, count + int((swallowed > 0).sum()))
                good &= swallowed == 0
        read[name] = column
    if good.all():
        return read
    return {k: Text(c.at[good], c.words) if isinstance(c, Text) else c[good] for k, c in read.items()}


def _numpy(values: pa.Array, kind: str) -> np.ndarray | Text:
    if kind in _WORDS:
        if not pa.types.is_dictionary(values.type):
            values = values.cast(pa.string()).dictionary_encode()
        words = values.dictionary.cast(pa.string()).to_pylist()
        index = values.indices.fill_null(len(words)).to_numpy(zero_copy_only=False).astype(np.intp)
        return Text(index, [*words, None])
    values = values.cast(TYPES[kind])
    if kind == "number":
        numbers = values.fill_null(0.0).to_numpy(zero_copy_only=False)
        # A NaN that is written in the file is a defect, and told from no number: as an infinity.
        numbers = np.where(np.isnan(numbers), np.inf, numbers)
        return np.where(values.is_null().to_numpy(zero_copy_only=False), np.nan, numbers)
    integers = values.cast(pa.int64())
    numbers = integers.fill_null(0).to_numpy(zero_copy_only=False)
    if kind == "time":
        numbers = numbers // 1_000_000
    if not integers.null_count:
        return numbers
    return np.where(integers.is_null().to_numpy(zero_copy_only=False), NULL, numbers)


def _lenient(values: pa.Array, kind: str) -> tuple[pa.Array, np.ndarray]:
    """The values as TYPES[kind], null where that cannot be, and bool (rows,): where."""
    if values.type not in (pa.binary(), pa.string(), pa.large_string()):
        try:
            return values.cast(TYPES[kind]), np.zeros(len(values), bool)
        except pa.ArrowInvalid:
            values = values.cast(pa.string())
    distinct = values.dictionary_encode()
    words = [_scalar(word, kind) for word in distinct.dictionary.to_pylist()]
    index = distinct.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)
    wrong = np.array([word is None for word in words] + [False])[index]
    taken = pa.array([*words, None], TYPES[kind]) if kind != "time" else pa.array([*words, None]).cast(TYPES[kind])
    return taken.take(pa.array(index)), wrong


def _scalar(word: bytes | str, kind: str) -> object | None:
    try:
        text = word.decode() if isinstance(word, bytes) else word
        return text if kind in _WORDS else pa.scalar(text.strip()).cast(TYPES[kind]).as_py()
    except (UnicodeDecodeError, pa.ArrowInvalid, OverflowError, ValueError):
        return None
