"""Raw files to packed shards, as a user runs it: wall time, peak memory of all its processes, rates, bytes a token."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from ehr_scaling import artifacts
from ehr_scaling.errors import UserError

from . import COMMANDS, growth
from .flags import DEMO, FRACTION, KEEP
from .rows import Row, row, seconds

# Seconds and MB from generated raw files to packed shards, by fraction of MIMIC-IV 3.1
TARGETS = {0.1: (100.0, 3_000.0), 1.0: (900.0, 8_000.0)}


def measured(*flags_given: str) -> tuple[float, float]:
    """Wall seconds, and peak MB of resident memory of the process and all its children, of one launch.prepare."""
    start = time.perf_counter()
    command = [sys.executable, "-m", f"{COMMANDS}.prepare", *flags_given]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(0.02)
        if process.returncode:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
            last = said.rpartition("\n")[2]
            if last.startswith("error: "):  # a mistake in what was given to --mimic_demo or --keep, in one line
                raise UserError(last.removeprefix("error: "))
            raise RuntimeError(f"{' '.join(command)}: {said[-2000:]}")
    return time.perf_counter() - start, peak / 1e6


def _resident(pid: int) -> int:
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:  # it ended between the two calls
        pass
    return total


def rows(repeats: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        if DEMO.value:
            yield from _demo(Path(DEMO.value), Path(folder) / "demo", repeats)
        yield from _generated(Path(folder))
        yield from _reading(Path(folder) / "generated")
        yield from growth.rows(Path(folder) / "growth")


def _demo(raw: Path, work: Path, repeats: int) -> Iterator[Row]:
    runs = []
    for _ in range(repeats):
        shutil.rmtree(work, ignore_errors=True)
        runs.append(measured("--source=mimic-iv-demo", f"--raw={raw}", f"--workdir={work}"))
    wall, memory = sorted(runs)[len(runs) // 2]
    yield row("MIMIC-IV demo, csv.gz to packed", wall, "s", 10.0, False)
    yield row("  peak memory of all processes", memory, "MB", 500.0, False)


def _generated(folder: Path) -> Iterator[Row]:
    """Each stage by itself, so that its memory and rate are seen; the sum counts the start of Python three times."""
    fraction = FRACTION.value
    settings = ("--config.data.context=1024", "--config.data.seed=0")
    source = ("--source=synthetic", "--layout=mimic-iv", f"--fraction={fraction}", *settings)
    raw = Path(KEEP.value or folder) / f"mimic-{fraction:g}"
    kept = (raw / "raw").exists()
    wall, memory = measured(*source, f"--workdir={raw}", "--until=raw")
    about = artifacts.read_json(raw / "raw" / artifacts.RECORD)["summary"]
    count = sum(about["rows"].values())
    if not kept:
        yield row(f"generate MIMIC-IV's files at {fraction:g}", count / wall / 1e6, "M rows/s")
        yield row("  peak memory of all processes", memory, "MB")
    work = folder / "generated"
    work.mkdir()
    (work / "raw").symlink_to((raw / "raw").absolute())
    total, most, tokens = 0.0, 0.0, 0
    for stage in ("events", "timelines", "packed"):
        wall, memory = measured(*source, f"--workdir={work}", f"--until={stage}")
        total, most = total + wall, max(most, memory)
        output = work / stage if stage != "packed" else work / "packed" / "t1024"
        summary = artifacts.read_json(output / artifacts.RECORD)["summary"]
        size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
        if stage == "timelines":
            tokens = sum(summary[split]["tokens"] for split in ("train", "validation", "test"))
        rate = row("  rate", count / wall / 1e6, "M rows/s") if stage == "events" else None
        yield row(f"{stage}", wall, "s")
        yield rate or row("  rate", tokens / wall / 1e6, "Mtok/s")
        yield row("  peak memory of all processes", memory, "MB")
        if stage != "events":
            yield row("  on disk", size / tokens, "bytes/token", 12.0 if stage == "timelines" else 2.5, False)
        if stage == "packed":
            fill = min(phase["fill"] for phase in summary["splits"]["train"]["phases"])
            yield row("  positions in use", fill, "share", 0.98)
    seconds_wanted, memory_wanted = TARGETS.get(fraction, (None, None))
    yield row(f"MIMIC-IV's {count / 1e6:.1f} M rows, csv.gz to packed", total, "s", seconds_wanted, False)
    yield row("  peak memory of all processes", most, "MB", memory_wanted, False)
    yield _duckdb(work)


def _duckdb(work: Path) -> Row:
    try:
        import duckdb
    except ImportError:
        return row("  compare: left out, for duckdb is not installed: see the extra bench", float("nan"), "")
    start = time.perf_counter()
    with duckdb.connect(config={"memory_limit": "2GB", "temp_directory": str(work / "spill")}) as con:
        con.execute(
            f"COPY (SELECT subject_id, charttime, itemid, valuenum FROM '{work}/raw/hosp/labevents.csv.gz' "
            f"ORDER BY subject_id, charttime) TO '{work}/labs.parquet'"
        )
    taken = time.perf_counter() - start
    return row("  compare: DuckDB, labevents.csv.gz to one sorted parquet file", taken, "s")


def _reading(work: Path) -> Iterator[Row]:
    """Batches from the packed shards, endless and shuffled, beside slices of one array in memory."""
    import numpy as np

    from ehr_scaling.data.packing import loader

    width, sequences, batches = 1025, 64, 300
    stream = iter(loader.train_batches(work / "packed" / "t1024", sequences=sequences, seed=0))

    def read() -> None:
        for _ in range(batches):
            next(stream)

    tokens = batches * sequences * (width - 1)
    yield row("loader, batches of 64 × 1024", tokens / seconds(read) / 1e6, "Mtok/s", 80.0)
    np.save(work / "flat.npy", np.zeros((batches * sequences, width), np.uint16))
    flat = np.load(work / "flat.npy", mmap_mode="r")
    s = seconds(lambda: [flat[i : i + sequences].astype(np.int32) for i in range(0, len(flat), sequences)])
    yield row("  compare: slices of a numpy memmap, tokens alone", tokens / s / 1e6, "Mtok/s")
