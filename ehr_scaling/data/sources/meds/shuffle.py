"""Events of MEDS files brought to the shards of their patients, whatever files they come from, in bounded memory.

`spread` reads a piece of the data set and writes what it finds sorted by shard, a record batch for each, some millions
of events a file; `gather` reads the batches of one shard from all those files. So neither holds more than its piece or
its shard, and there are few files whatever the number of pieces and shards. Where both are many, to open every file for
every shard is what takes longest: then `spread` sorts by bands, some shards next to each other, as many bands as shards
in one, `narrow` sorts what all files have of one band by shard, and `gather` reads the files of the shard's band alone.
The files are Arrow's own: to open one and take a batch costs the same whatever the number of batches, which of
parquet's row groups it does not. Records tell how many files a unit left, since to look for them in a folder of all
units' is to go through all of them.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from ehr_scaling.artifacts import read_json, writing
from ehr_scaling.data import parquet
from ehr_scaling.data.events import events
from ehr_scaling.data.events.columns import STATIC
from ehr_scaling.data.shards import once
from ehr_scaling.data.sources.meds import dialects, knowing, settling
from ehr_scaling.data.sources.meds import reading as meds_reading
from ehr_scaling.data.sources.meds.reading import Reading
from ehr_scaling.data.sources.meds.rows import Dropped, Rows
from ehr_scaling.data.sources.meds.splits import Places

_HELD = 2_000_000  # events of a piece in memory: 60 MB, and some times that while they are sorted and packed
_SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("time", pa.int64()),  # µs; STATIC for null
        ("code", pa.dictionary(pa.int32(), pa.string())),
        ("value", pa.float32()),
        ("file", pa.int32()),  # which of the data set's files it is from
        ("stay", pa.int64()),  # see Rows
    ]
)
Part = tuple[str, int, int, int]  # a file, its number, and the range of its row groups


class Folder(NamedTuple):
    """Where the units of work leave what they found, below the events folder."""

    path: Path

    def patients(self, unit: int, what: str) -> Path:
        """Who is in a piece: "ids", int64 (P,), by ranges of their hash, of each the "split", int8 (P,), or -1, and
        where each range "begins", see `assignment.patients`."""
        return self.path / f"patients-{unit}-{what}.npy"

    @property
    def groups(self) -> Path:
        """Of each piece the number of the group that it is of, int64: those with parts of one file are in one."""
        return self.path / "groups.npy"

    def counted(self, number: int) -> Path:
        """Of a range of the hash the patients of each group and split, int64 (groups, splits)."""
        return self.path / f"counted-{number}.npy"

    def record(self, stage: str, unit: int | str) -> Path:
        return self.path / f"{stage}-{unit}.json"

    def spelt(self, unit: int) -> Path:
        return self.path / f"spelt-{unit}.parquet"

    def spread(self, unit: int, number: int) -> Path:
        return self.path / "spread" / f"{unit:06d}-{number:04d}.arrow"

    def narrowed(self, band: int, number: int) -> Path:
        return self.path / "narrowed" / f"{band:06d}-{number:04d}.arrow"


def spread(path: str, unit: int, parts: list[Part], how: Reading, places: Places, width: int) -> None:
    """Write the events of some parts of the data set, sorted by shard, or by bands of `width` shards. See the module's
    text. Args: path, of the `Folder`, here and in what follows."""
    folder = Folder(Path(path))
    once(folder.record(spread_stage(width), unit), lambda: _spread(folder, unit, parts, Reading(*how), places, width))


def spread_stage(width: int) -> str:
    """The name of the stage in records: what was sorted by shard is none that is sorted by bands. Not
    "spread": records of that name, of an earlier version, do not tell how many files there are."""
    return "sorted" if width == 1 else "sorted-by-band"


def _spread(folder: Folder, unit: int, parts: list[Part], how: Reading, places: Places, width: int) -> dict[str, Any]:
    dropped, mended = Dropped.empty(), Counter[str]()

    def tables() -> Iterator[pa.Table]:
        for path, file, first, last in parts:
            for rows in _watched(meds_reading.read(Path(path), range(first, last), how, dropped), mended):
                if len(rows.subjects):
                    yield _table(rows, file)

    files = _write_sorted(partial(folder.spread, unit), tables(), places, width)
    pairs = sorted(dropped.spelt)
    table = pa.table({"theirs": pa.array([a for a, _ in pairs], pa.string()), "ours": [b for _, b in pairs]})
    parquet.write(folder.spelt(unit), table)
    families = {
        name: [rows, sum(n for (f, _), n in dropped.lost.items() if f == name), _reason(dropped, name)]
        for name, rows in dropped.seen.items()
    }
    return {"files": files, "dropped": dropped.rows, "mended": dropped.values + mended, "families": families}


def _reason(dropped: Dropped, family: str) -> str:
    """Why most events of a family were left out; "" where none was."""
    reasons = {reason: n for (name, reason), n in dropped.lost.items() if name == family}
    return max(reasons, key=lambda reason: reasons[reason], default="")


def _watched(batches: Iterator[Rows], mended: Counter[str]) -> Iterator[Rows]:
    """Count what breaks the order that MEDS prescribes; `gather` sorts it."""
    runs: list[np.ndarray] = []
    before: tuple[int, int] | None = None
    for rows in batches:
        if len(rows.subjects):
            ids, times = rows.subjects, rows.times
            if before:
                ids, times = np.append(before[0], ids), np.append(before[1], times)
            same = ids[1:] == ids[:-1]
            mended["rows out of the order of time"] += int((same & (times[1:] < times[:-1])).sum())
            runs += [] if before else [ids[:1]]
            runs.append(ids[1:][~same])
            before = int(ids[-1]), int(times[-1])
        yield rows
    if runs:
        many = np.unique(np.concatenate(runs), return_counts=True)[1]
        mended["patients whose rows are not together"] += int((many > 1).sum())


def narrow(path: str, band: int, places: Places, width: int) -> None:
    """Write the events of one band of `width` shards, from all files of `spread`, sorted by shard."""
    folder = Folder(Path(path))

    def make() -> dict[str, Any]:
        tables = (pa.Table.from_batches([batch]) for batch in _batches(_all_spread(folder), band))
        return {"files": _write_sorted(partial(folder.narrowed, band), tables, places, 1)}

    once(folder.record("narrow", band), make)


def _table(rows: Rows, file: int) -> pa.Table:
    columns = {
        "subject_id": rows.subjects,
        "time": rows.times,
        "code": _dictionary(rows.codes, rows.names),
        "value": rows.values,
        "file": np.full(len(rows.subjects), file, np.int32),
        "stay": rows.stays,
    }
    return pa.table(columns, schema=_SCHEMA)


def _write_sorted(path_of: Callable[[int], Path], tables: Iterable[pa.Table], places: Places, width: int) -> int:
    """Write tables of _SCHEMA to the files path_of(0), path_of(1), …, each sorted by bands of `width` shards; gives how
    many. Rows of patients without a shard, whom a split file leaves out, are left out."""
    places = Places(*places)
    path_of(0).parent.mkdir(exist_ok=True)
    held: list[tuple[pa.Table, np.ndarray]] = []  # with the band of each row
    files = count = 0

    def write() -> None:
        nonlocal held, files, count
        table = pa.concat_tables([some for some, _ in held]).unify_dictionaries().combine_chunks()
        _write(path_of(files), table, np.concatenate([band for _, band in held]))
        held, files, count = [], files + 1, 0

    for table in tables:
        shard = places.of(table["subject_id"].to_numpy(), table["file"].to_numpy())
        if len(kept := np.flatnonzero(shard >= 0)):  # a split file may leave out nearly everybody
            held.append((table if len(kept) == len(table) else table.take(kept), shard[kept] // width))
            count += len(kept)
        if count >= _HELD:
            write()
    if held:
        write()
    return files


def _write(path: Path, table: pa.Table, place: np.ndarray) -> None:
    """Write the rows of each place, int (n,), as one batch, in their order. n is 1 or more."""
    order = np.argsort(place, kind="stable")
    places, starts = np.unique(place[order], return_index=True)
    table = table.take(order).combine_chunks()
    # Which place a batch is of must be found without reading it.
    schema = _SCHEMA.with_metadata({"places": places.astype("<i8").tobytes().hex()})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with writing(path) as unfinished, pa.ipc.new_file(unfinished, schema, options=options) as writer:
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            for batch in table.slice(start, end - start).to_batches():
                writer.write_batch(batch)


def _batches(paths: Iterable[Path], place: int) -> Iterator[pa.RecordBatch]:
    """The rows of one place, in the order of the files."""
    for path in paths:
        with pa.memory_map(str(path)) as source:
            file = pa.ipc.open_file(source)
            held = np.frombuffer(bytes.fromhex(file.schema.metadata[b"places"].decode()), "<i8")
            at = int(np.searchsorted(held, place))
            if at < len(held) and held[at] == place:
                yield file.get_batch(at).replace_schema_metadata(None)


def _all_spread(folder: Folder) -> list[Path]:
    """The files of all pieces, in their order."""
    return sorted((folder.path / "spread").glob("[!.]*.arrow"))


def _left(record: Path, path_of: Callable[[int], Path]) -> list[Path]:
    """The files that a unit left, as its record tells; no folder is listed."""
    return [path_of(number) for number in range(read_json(record)["files"])]


def _dictionary(codes: np.ndarray, names: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names, pa.string()))


def gather(
    path: str, out: str, how: Reading, width: int, shard: int, split: str, k: int, pieces: list[int] | None
) -> None:
    """Write shard `k` of `split`, which has the number `shard` among all, and is of some pieces, or of all (None).

    width: of a band in shards, if `narrow` has been there; else 1.
    """
    folder = Folder(Path(path))

    def make() -> dict[str, Any]:
        if width > 1:
            band = shard // width
            paths = _left(folder.record("narrow", band), partial(folder.narrowed, band))
        elif pieces is None:
            paths = _all_spread(folder)
        else:
            stage = spread_stage(width)
            left = (_left(folder.record(stage, piece), partial(folder.spread, piece)) for piece in pieces)
            paths = list(itertools.chain.from_iterable(left))
        return _gather(paths, Path(out), Reading(*how), shard, split, k)

    once(folder.record("gather", f"{split}-{k}"), make)


def _gather(paths: list[Path], out: Path, how: Reading, shard: int, split: str, k: int) -> dict[str, Any]:
    batches = list(_batches(paths, shard))
    if not batches:
        return {"events": 0, "patients": 0, "dropped": {}, "mended": {}}
    table = pa.Table.from_batches(batches).unify_dictionaries()
    code = table["code"].combine_chunks()
    code = code.chunk(0) if isinstance(code, pa.ChunkedArray) else code
    names = code.dictionary.to_pylist()
    columns = ("subject_id", "time", "value", "file", "stay")
    subjects, times, values, files, stays = (table[name].to_numpy() for name in columns)
    place = np.array([dialects.place(how.dialect, name) for name in names], np.uint8)
    codes = code.indices.to_numpy().astype(np.int64)
    order = np.lexsort((place[codes], times, subjects))  # stable: else the order of the files
    rows = Rows(subjects, times, codes, values, stays, names).at(order)
    is_mimic = how.dialect in dialects.MIMIC
    if not is_mimic:
        first = settling.death_first(rows)
        rows, order = rows.at(first), order[first]
    dropped, mended = Counter[str](), Counter[str]()
    if how.dialect == dialects.OTHER:
        rows, first = settling.facts_of_birth(rows, mended)
        order = order[first]
    settling.count_disorder(rows, files[order], mended)
    if is_mimic:
        rows = settling.settled(rows, dropped, how.known)
    if is_mimic and how.known:
        rows, lost, moved = knowing.known(rows)
        dropped, mended = dropped + lost, mended + moved
    else:
        settling.count_deaths(rows, mended)
    summary = events.write_shard(
        out,
        split,
        k,
        pa.table(
            {
                "subject_id": rows.subjects,
                "time": pa.array(rows.times, pa.int64(), mask=rows.times == STATIC).cast(pa.timestamp("us")),
                "code": _dictionary(rows.codes, rows.names),
                "numeric_value": pa.array(rows.values, pa.float32(), mask=np.isnan(rows.values)),
                "text_value": pa.nulls(len(rows.subjects), pa.large_string()),
            }
        ),
    )
    return {**summary, "dropped": dropped, "mended": mended}
