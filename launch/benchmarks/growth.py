"""How the time a unit takes grows with how many there are: what grows faster than they do decides at a hundred million
patients. Measured on small files of the same numbers."""

import contextlib
import io
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ehr_scaling import artifacts
from ehr_scaling.data.events import events
from ehr_scaling.data.packing import loader, packing
from ehr_scaling.data.packing.packed import FILE
from ehr_scaling.data.sources.meds import assignment
from ehr_scaling.data.sources.meds import dataset as meds

from .flags import REPEATS
from .rows import Row, row

SHARDS = tuple(32 << i for i in range(5))
FILES = tuple(256 << i for i in range(5))
_PATIENTS, _EVENTS, _OF_PIECE = 64, 20, 8  # of a shard; of a patient; shards whose events a piece of work holds
_WAYS = {  # of gathering shards: from how many on they are not gathered from all pieces
    "every piece opened for every shard": 1 << 40,
    "as of over 1,024 shards": 0,
}
_WIDTH, _ROWS, _BLOCK, _BATCH = 1025, 32, 16, 64


def rows(folder: Path) -> Iterator[Row]:
    yield from _shuffle(folder / "shuffle")
    yield from _reading(folder / "files")


def _shuffle(folder: Path) -> Iterator[Row]:
    """MEDS files to shards of patients, who are each in one file or in all of them; the ways in turns."""
    for words, apart in (("each in one file", True), ("each in every file", False)):
        for shards in SHARDS:
            _data_set(folder / "raw", shards, apart)
            times: dict[str, list[float]] = {way: [] for way in _WAYS}
            for _ in range(REPEATS.value):
                for way, many in _WAYS.items():
                    out = folder / "events"
                    out.mkdir()
                    start = time.perf_counter()
                    with (
                        mock.patch.object(events, "SHARD", _PATIENTS),
                        mock.patch.object(meds, "_UNIT", _OF_PIECE * _PATIENTS * _EVENTS),
                        mock.patch.object(assignment, "_MANY", many),
                        contextlib.redirect_stdout(io.StringIO()),
                        contextlib.redirect_stderr(io.StringIO()),
                    ):
                        meds.extract(folder / "raw", out, seed=0)
                    times[way].append(time.perf_counter() - start)
                    shutil.rmtree(out)
            shutil.rmtree(folder / "raw")
            for way, taken in times.items():
                name = f"MEDS, patients {words}, {shards} shards: {way}"
                yield row(name, statistics.median(taken) / shards * 1e3, "ms/shard")


def _data_set(raw: Path, shards: int, apart: bool) -> None:
    """A file a piece; its patients are its own, or drawn from all."""
    rng = np.random.default_rng(0)
    codes = np.array([f"LAB//{i}//u" for i in range(300)])
    n = _OF_PIECE * _PATIENTS * _EVENTS
    (raw / "data").mkdir(parents=True)
    for k in range(shards // _OF_PIECE):
        of_piece = _OF_PIECE * _PATIENTS
        ids = np.sort(k * of_piece + np.arange(n) // _EVENTS if apart else rng.integers(0, _PATIENTS * shards, n))
        times = rng.integers(0, 10**15, n)
        columns = {
            "subject_id": ids,
            "time": pa.array(times[np.lexsort((times, ids))], pa.timestamp("us")),
            "code": codes[rng.integers(0, len(codes), n)],
            "numeric_value": rng.normal(size=n).astype(np.float32),
        }
        pq.write_table(pa.table(columns), raw / "data" / f"{k:05d}.parquet")


def _reading(folder: Path) -> Iterator[Row]:
    """Shuffled training batches from more and more files of the same size: the numbers of files in many short turns,
    so that what else the machine does falls on all of them."""
    batches, turns = 30, 20
    streams = {}
    for files in FILES:
        _packed(folder / str(files), files)
        for words, kept in (("", loader._OPEN), (", 256 of them kept open", 256)):
            with mock.patch.object(loader, "_OPEN", kept):
                stream = iter(loader.train_batches(folder / str(files), sequences=_BATCH, seed=0))
            for _ in range(files * _ROWS // _BATCH):  # a pass, in which every file is opened
                next(stream)
            streams[f"loader, {files:,} files{words}"] = stream
    rates: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(turns * REPEATS.value):
        for name, stream in streams.items():
            start = time.perf_counter()
            for _ in range(batches):
                next(stream)
            rates[name].append(batches * _BATCH * (_WIDTH - 1) / (time.perf_counter() - start) / 1e6)
    for name, many in rates.items():
        yield row(f"  compare: {name}" if "kept" in name else name, statistics.median(many), "Mtok/s")


def _packed(folder: Path, files: int) -> None:
    """A training split of so many files, copies of a few; two patients a row."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lengths = np.tile([600, _WIDTH - 600], _ROWS)
    some = []
    for k in range(min(files, 64)):
        tokens = np.minimum(rng.zipf(1.3, (_ROWS, _WIDTH)), 4_095).astype(np.uint16)
        some.append(folder / f"train-0-{k:05d}.array_record")
        packing.write_rows(some[-1], packing.Rows(tokens, np.arange(2 * _ROWS), lengths), 2 * _ROWS * k, _BLOCK)
    names = {f"train-0-{k:05d}.array_record": _ROWS for k in range(files)}
    for k, name in enumerate(names):
        if k >= len(some):
            shutil.copyfile(some[k % len(some)], folder / name)
    facts = {"context": _WIDTH - 1, "context_tokens": 4, "token_dtype": "uint16", "block": _BLOCK, "phases": 1}
    artifacts.write_json(folder / FILE, {**facts, "splits": {"train": {"phases": [{"files": names}]}}})
