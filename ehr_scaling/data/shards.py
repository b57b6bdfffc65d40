"""Work cut into units: each leaves a record when it is done, so that any number of processes or machines can share it.

A unit is a top-level function and its arguments, plain data. It writes its output under temporary names, renames, and
ends in `once`, so that it may be killed, repeated, or run twice at once: the result is the same. Units hear of each
other only through files below the folder of their artifact, which many machines must share; so do those who work on
them: what units there are stands in a file, a line of JSON each, and a worker is told where its line begins.
"""

import contextlib
import json
import multiprocessing
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ehr_scaling.artifacts import read_json, write_json, write_text, writing
from ehr_scaling.errors import Preempted, UserError, first_line, needs
from ehr_scaling.progress import Bar

T = TypeVar("T")
Record = dict[str, Any]
# What runners need beside their short names: Beam knows Dask's by its full name alone, and puts 128 units on one worker
_MORE = {
    "--runner=DaskRunner": ("--runner=apache_beam.runners.dask.dask_runner.DaskRunner", "--dask_partition_size=1"),
}
_LOOKS = 32  # files that are looked at at once
_WORTH_A_PROCESS = 48 << 20  # bytes of input; starting a process takes about a second


@dataclass(frozen=True)
class Runner:
    """Where units run: `workers` processes of this machine (1: in this one), or an Apache Beam pipeline.

    beam: flags of the pipeline, such as ("--runner=DirectRunner",); empty for none.
    """

    workers: int = 1
    beam: tuple[str, ...] = ()

    def for_bytes(self, size: int) -> "Runner":
        """This runner, without more processes than `size` bytes of input are worth."""
        return self if self.beam else Runner(max(1, min(self.workers, size // _WORTH_A_PROCESS)))


def once(record: Path, make: Callable[[], Record]) -> Record:
    """The summary in `record`, a JSON file that exists only when the work behind it is complete; else make() it."""
    if record.is_file():
        return read_json(record)
    record.parent.mkdir(parents=True, exist_ok=True)
    summary = json.loads(json.dumps(make()))
    write_json(record, summary)
    return summary


def run(
    function: Callable[..., Any], items: Sequence[tuple], records: Sequence[Path], runner: Runner, title: str
) -> list[Record]:
    """Call function(*item) for every item whose record is missing. Returns the records, in the order of the items.

    Args: items, of plain data: whoever runs them, the function gets tuples as lists and paths as text, as JSON keeps
      them; records, a JSON file an item, all in one folder, where the list of the units lies while they run.
    Raises: the first UserError of a unit; the others' results are kept, and found by the next run.
    """
    there = looked_at(Path.is_file, records)
    todo = [(item, record) for item, record, done in zip(items, records, there, strict=True) if not done]
    with _listed(todo) as (units, places):
        if runner.beam and todo:
            _beam(function, units, places, todo, runner.beam)
        else:
            with Bar(title, len(items), "part", done=len(items) - len(todo)) as bar:
                workers = min(runner.workers, len(todo))
                if workers <= 1:
                    for place in places:
                        _call(function, units, place)
                        bar.update()
                else:
                    _pool(function, units, places, workers, bar)
    return list(looked_at(read_json, records))


@contextlib.contextmanager
def _listed(todo: Sequence[tuple[tuple, Path]]) -> Iterator[tuple[Path, list[int]]]:
    """A file of the units that are to be done, and where in it the line of each begins, in bytes.

    No other run has the same, and it goes when this one ends: an attempt that a runner repeats later has nothing to do.
    """
    if not todo:
        yield Path(), []
        return
    folders = {record.parent for _, record in todo}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    path = min(folders) / f".units-{uuid.uuid4().hex[:12]}.jsonl"
    places = []
    with writing(path) as partial, partial.open("wb") as f:
        for item, record in todo:
            places.append(f.tell())
            f.write(json.dumps([item, record], default=os.fspath).encode() + b"\n")
    try:
        yield path, places
    finally:
        path.unlink(missing_ok=True)


def _unit(units: Path, place: int) -> tuple[list[Any], Path]:
    """The arguments of the unit whose line begins there, and its record."""
    with units.open("rb") as f:
        f.seek(place)
        item, record = json.loads(f.readline())
    return item, Path(record)


def _call(function: Callable[..., Any], units: Path, place: int) -> None:
    function(*_unit(units, place)[0])


def looked_at(look: Callable[[Path], T], paths: Sequence[Path]) -> Iterator[T]:
    """What a look at each of many small files gives, in their order, some at once: on a disk behind a network ten
    thousands of them, one after another, take minutes."""
    with ThreadPoolExecutor(_LOOKS) as pool:
        for i in range(0, len(paths), 8 * _LOOKS):  # so that no more is held
            yield from pool.map(look, paths[i : i + 8 * _LOOKS])


def _pool(function: Callable[..., Any], units: Path, places: Sequence[int], workers: int, bar: Bar) -> None:
    # Spawned, not forked: the threads of Arrow and JAX do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_one_core) as pool:
        futures = [pool.submit(_call, function, units, place) for place in places]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
        except BrokenProcessPool:
            raise UserError(
                "a process that prepared data was killed or could not start: call it in a script under "
                'if __name__ == "__main__": (a notebook need not); or it lacked memory: run again to go on, with '
                "--config.workers=1"
            ) from None
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _one_core() -> None:
    import pyarrow as pa

    pa.set_cpu_count(1)


def _beam(
    function: Callable[..., Any],
    units: Path,
    places: Sequence[int],
    todo: Sequence[tuple[tuple, Path]],
    flags: tuple[str, ...],
) -> None:
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise needs("--runner needs Apache Beam", "beam") from None
    try:
        pipeline = beam.Pipeline(options=PipelineOptions([more for flag in flags for more in _MORE.get(flag, (flag,))]))
    except (ValueError, ImportError, AttributeError) as e:
        raise UserError(f"--runner: {first_line(e)}: see --beam, and the runner's own package") from None
    for folder in {record.parent for _, record in todo}:
        for left in (*folder.glob("*.error"), *folder.glob("*.broken")):  # of an earlier command
            left.unlink(missing_ok=True)
    try:
        with pipeline:
            # Numbers alone: a runner may have a meaning of its own for other elements (Dask calls what begins a tuple).
            # Reshuffle: without it a runner may fuse all units into one worker.
            numbers = pipeline | beam.Create(list(places)) | beam.Reshuffle()
            numbers | beam.Map(partial(_attempt, function, str(units)))
    except Preempted:
        raise
    except Exception as e:  # runners share no base class
        of_units = [broken for _, record in todo if (broken := _broken(record)).is_file()]
        for broken in of_units:
            broken.unlink()
        if of_units:
            raise
        raise UserError(f"--runner: {first_line(e)}: see --beam, whether the runner answers, and its log") from None
    for _, record in todo:
        _broken(record).unlink(missing_ok=True)  # of an attempt after which the runner made another
        if (error := _error(record)).is_file():
            text = error.read_text(encoding="utf-8")
            error.unlink()
            raise UserError(text)
    there = looked_at(Path.is_file, [record for _, record in todo])
    if lost := sum(not done for done in there):
        raise UserError(
            f"--runner: {lost} of {len(todo)} units left nothing in {units.parent}: all workers must share that folder"
        )


def _error(record: Path) -> Path:
    return record.with_name(f"{record.name}.error")


def _broken(record: Path) -> Path:
    """Where a unit leaves that an error is of its own and not of the runner, which may wrap both alike."""
    return record.with_name(f"{record.name}.broken")


def _attempt(function: Callable[..., Any], units: str, place: int) -> None:
    """A runner would retry a user's mistake, and wrap it in pages of traces: it travels as a file instead.

    An attempt that a runner repeats for nothing, when the stage has ended, finds no list, and makes nothing anew.
    """
    try:
        item, record = _unit(Path(units), place)
    except FileNotFoundError:
        return
    try:
        function(*item)
    except UserError as e:
        if record.parent.is_dir():
            write_text(_error(record), str(e))
    except Exception:
        if record.parent.is_dir():
            _broken(record).touch()
        raise
