"""The files of the release as columns: records out of an archive, and outcomes.

Whatever cannot be is refused in one line that names the file, the record's number in the archive and the row.
"""

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ehr_scaling.data.sources.challenge_2012.parameters import DESCRIPTORS, LAST_MINUTE, MEASURED, MISSING, STAY, Range
from ehr_scaling.errors import UserError

_HEADER = b"Time,Parameter,Value"
_DAMAGED = "is truncated or damaged: delete it and download it again"
_TIME = re.compile(r"([0-9]{2}):([0-5][0-9])")


@dataclass(frozen=True)
class Rows:
    """The rows of all records of an archive, in its order. Arrays (rows,); values are finite, times within 48 hours."""

    archive: Path
    record: np.ndarray  # int64, number of the record in the archive, from 0
    minute: np.ndarray  # int64, since admission
    name: np.ndarray  # int32, index into names
    names: list[str]  # of DESCRIPTORS and MEASURED; "" where the row has no parameter's name
    value: np.ndarray  # float64
    records: int

    def of(self, parameter: str) -> np.ndarray:
        """bool (rows,): where the row is of this parameter; "": of none."""
        return self.name == (self.names.index(parameter) if parameter in self.names else -1)

    def refuse(self, bad: np.ndarray, reason: str) -> None:
        """Raise UserError where a row is bad: it names the first one."""
        if not bad.any():
            return
        at = int(np.argmax(bad))
        row = at - int(np.searchsorted(self.record, self.record[at])) + 2  # from 1, after the header
        raise UserError(f"{self.archive}: record {self.record[at] + 1} of the archive, row {row}: {reason}")

    def descriptor(self, parameter: str, *, needed: bool) -> np.ndarray:
        """float64 (records,): the value at 00:00, NaN where there is none or it is missing.

        Raises: UserError where it is told twice, later, beyond its range, or not at all though it is needed.
        """
        at, limits = self.of(parameter), DESCRIPTORS[parameter]
        self.refuse(at & (self.minute > 0), f"{parameter} belongs to 00:00")
        places = np.flatnonzero(at)
        again = np.zeros(len(at), bool)
        again[places[1:]] = self.record[places[1:]] == self.record[places[:-1]]
        self.refuse(again, f"{parameter} is told a second time")
        told = at if needed else at & (self.value != MISSING)
        self.refuse(told & outside(self.value, limits), not_in(parameter, limits))
        values = np.full(self.records, np.nan)
        values[self.record[told]] = self.value[told]
        if needed and (bare := np.isnan(values)).any():
            raise UserError(f"{self.archive}: record {np.argmax(bare) + 1} of the archive has no {parameter} at 00:00")
        return values


def outside(values: np.ndarray, limits: Range) -> np.ndarray:
    """bool, of the shape of values: which of them the range does not hold."""
    bad = ~((values >= limits.low) & (values <= limits.high))
    return bad | (values != np.round(values)) if limits.whole else bad


def not_in(what: str, limits: Range) -> str:
    number = "a whole number" if limits.whole else "a number"
    return f"{what} is not {number} from {limits.low:,.12g} to {limits.high:,.12g} {limits.unit}".rstrip()


def rows(archive: Path) -> Rows:
    """All rows of an archive. Raises UserError for an archive or a row that cannot be read."""
    texts = list(_members(archive))
    table = _parse(texts, archive)
    lengths = np.array([text.count(b"\n") for text in texts])  # every text ends in a newline
    times = np.array([_minutes(time) for time in table["time"].dictionary.to_pylist()])
    names = table["name"].dictionary.to_pylist()
    archive_rows = Rows(
        archive=archive,
        record=np.repeat(np.arange(len(texts)), lengths),
        minute=times[table["time"].indices.to_numpy()],
        name=table["name"].indices.to_numpy(),
        names=names,
        value=table["value"].to_numpy(),
        records=len(texts),
    )
    archive_rows.refuse(archive_rows.minute < 0, f"the time is not HH:MM, from 00:00 to {LAST_MINUTE // 60}:00")
    strange = np.array([bool(name) and name not in MEASURED and name not in DESCRIPTORS for name in names])
    archive_rows.refuse(
        strange[archive_rows.name], f"the parameter is none of the release's {len(MEASURED) + len(DESCRIPTORS)}"
    )
    return archive_rows


def _members(archive: Path) -> Iterator[bytes]:
    """The text of each record in the archive, without its header line, ending in a newline."""
    try:
        data = gzip.decompress(archive.read_bytes())  # 6 MB become 40
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                if not member.isfile() or not member.name.endswith(".txt"):
                    continue
                text = tar.extractfile(member).read()  # type: ignore[union-attr]
                header, _, lines = text.replace(b"\r", b"").partition(b"\n")
                if header.strip() != _HEADER:
                    raise UserError(f"{archive}: a record does not begin with the line {_HEADER.decode()}")
                yield lines if lines.endswith(b"\n") or not lines else lines + b"\n"
    # tarfile reads numbers of a damaged header as they come
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError, ValueError, OverflowError):
        raise UserError(f"{archive} {_DAMAGED}") from None


def _parse(texts: list[bytes], archive: Path) -> dict[str, pa.Array]:
    """Columns of all records together: time and name as dictionaries (a few values each), value as float64."""
    try:
        return _read(b"".join(texts))
    except pa.ArrowInvalid:
        pass
    for place, text in enumerate(texts, 1):  # only to say where
        if not text or _readable(text):
            continue
        for row, line in enumerate(text.split(b"\n")[:-1], 2):
            if not _readable(line + b"\n"):
                wanted = "three columns" if line.count(b",") != 2 else "a number in the column Value, or not UTF-8"
                raise UserError(f"{archive}: record {place} of the archive, row {row}: not {wanted}")
    raise UserError(f"{archive} holds no record: delete it and download it again")


def _readable(text: bytes) -> bool:
    try:
        _read(text)
    except pa.ArrowInvalid:
        return False
    return True


def _read(text: bytes) -> dict[str, pa.Array]:
    word = pa.dictionary(pa.int32(), pa.string())
    table = pyarrow.csv.read_csv(
        pa.BufferReader(text),
        read_options=pyarrow.csv.ReadOptions(column_names=["time", "name", "value"], block_size=1 << 26),
        parse_options=pyarrow.csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={"time": word, "name": word, "value": pa.float64()}, null_values=[]
        ),
    )
    columns = {n: pa.concat_arrays(table[n].unify_dictionaries().chunks) for n in ("time", "name", "value")}
    if not pc.all(pc.is_finite(columns["value"])).as_py():
        raise pa.ArrowInvalid("not finite")
    return columns


def _minutes(time: str) -> int:
    """Minutes since admission of 'HH:MM', -1 where it is none, or beyond the release's 48 hours."""
    if not (match := _TIME.fullmatch(time)):
        return -1
    minutes = int(match[1]) * 60 + int(match[2])
    return minutes if minutes <= LAST_MINUTE else -1


@dataclass(frozen=True)
class Outcomes:
    """An outcomes file, in its order; all arrays (records,)."""

    path: Path
    ids: np.ndarray  # int64
    days: np.ndarray  # int64, length of stay, or MISSING
    died: np.ndarray  # bool, in hospital

    def at(self, ids: np.ndarray, archive: Path) -> "Outcomes":
        """Those of the records `ids` of the archive, in that order. Raises UserError where they do not agree."""
        if len(lacking := np.setdiff1d(ids, self.ids)):
            raise UserError(f"{self.path}: no outcome for {len(lacking)} of the {len(ids)} records of {archive.name}")
        if len(lacking := np.setdiff1d(self.ids, ids)):
            raise UserError(f"{archive} lacks {len(lacking)} of the {len(self.ids)} records of {self.path.name}")
        if len(np.unique(ids)) < len(ids) or len(np.unique(self.ids)) < len(self.ids):
            raise UserError(f"{archive} or {self.path.name} holds a record twice: download them again")
        place = np.argsort(self.ids)[np.searchsorted(np.sort(self.ids), ids)]
        return Outcomes(self.path, ids, self.days[place], self.died[place])


def outcomes(path: Path) -> Outcomes:
    """What became of the records of a set. Raises UserError for a file or a row that cannot be."""
    needed = {
        "RecordID": DESCRIPTORS["RecordID"],
        "Length_of_stay": STAY,
        "In-hospital_death": Range(0, 1, whole=True),
    }
    try:
        table = pyarrow.csv.read_csv(
            path,
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(needed, pa.int64()), null_values=[]),
        )
        names = table.column_names
    except (pa.ArrowInvalid, UnicodeDecodeError):  # the second of a column's name
        raise UserError(_unreadable(path, needed)) from None
    for column, limits in needed.items():
        if names.count(column) != 1:
            number = "no" if column not in names else "more than one"
            raise UserError(f"{path} has {number} column {column}: is it the outcomes file of the release?")
        values = table[column].to_numpy()
        bad = outside(values, limits) & ((values != MISSING) | (limits is not STAY))
        if bad.any():
            raise UserError(f"{path}, row {np.argmax(bad) + 2}: {not_in(column, limits)}")
    ids, days, died = (table[column].to_numpy() for column in needed)
    if (odd := (died == 1) & (days == MISSING)).any():
        raise UserError(f"{path}, row {np.argmax(odd) + 2}: a death in hospital in a stay of unknown length")
    return Outcomes(path, ids, days, died.astype(bool))


def _unreadable(path: Path, needed: Collection[str]) -> str:
    """Why an outcomes file cannot be read, with the row where it can be told."""
    lines = path.read_bytes().replace(b"\r", b"").decode("utf-8", "replace").split("\n")
    header = [column.strip() for column in lines[0].split(",")]
    for row, line in enumerate(lines[1:], 2):
        if not line:
            continue
        cells = line.split(",")
        if len(cells) != len(header):
            return f"{path}, row {row}: {len(cells)} columns, not {len(header)}"
        for column, cell in zip(header, cells, strict=True):
            if column in needed and not re.fullmatch(r"-?[0-9]{1,18}", cell.strip()):
                return f"{path}, row {row}: {column} is not a whole number"
    return f"{path} cannot be read as CSV: delete it and download it again"
