"""Work on the units of a grid on this machine: in this process, or in worker processes that claim units."""

import contextlib
import multiprocessing as mp
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator, MutableSequence, Sequence
from contextlib import AbstractContextManager
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, cast

from ehr_scaling import preemption, storage
from ehr_scaling.errors import Preempted, RunFailed, UserError, of_system
from ehr_scaling.grid.cell import Unit
from ehr_scaling.grid.executors import claims
from ehr_scaling.grid.executors.claims import NOBODY, Cost
from ehr_scaling.grid.executors.progress import Progress

_MOST_TOLD = 5  # units that failed, with their reasons
GRACE = 5.0  # seconds for workers to end by themselves once one has failed or Ctrl-C was pressed


class Report(Protocol):
    """How a job says what it does: `tokens` more, or (`before`) tokens that an earlier process had done."""

    def __call__(self, tokens: int, before: bool = False) -> None: ...


# A job trains or scores the cells of one unit and returns their metrics in order. It is a module-level function, so
# that another process can import it.
Job = Callable[[Unit, Path, Report], list[Any]]
# What is there of a unit's results already: one a cell, or None
Done = Callable[[Unit, Path], list[Any] | None]
Check = Callable[[list[Unit], Path], None]


def workers_for(setting: int) -> int:
    """Worker processes to use: `setting`, or for 0 one a core on a CPU and one (this process) on accelerators."""
    if setting > 0:
        return setting
    import jax

    return len(os.sched_getaffinity(0)) if jax.default_backend() == "cpu" else 1


def use_compile_cache() -> None:
    """Keep compiled programs across processes and runs (JAX's persistent cache), for programs of any size.

    In $JAX_COMPILATION_CACHE_DIR where that is set: programs that other flags compiled are not mixed with these.
    """
    import jax

    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ehr_scaling" / "xla"
    if not jax.config.values.get("jax_compilation_cache_dir"):
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def run(
    job: Job,
    units: list[Unit],
    workdir: Path,
    *,
    workers: int,
    title: str,
    costs: Sequence[Cost] | None = None,
    done: Done | None = None,
    saves: bool = True,
    patience: float | None = None,
    before: Check | None = None,
) -> list[list[Any] | None]:
    """Do `job(unit, workdir, report)` for every unit, with a progress bar; results in the order of `units`, None
    for those that failed (RunFailed) while others could go on: they are told at the end.

    One process a core beats one process with two threads by 15 to 75 % on models this small, so a CPU gets pinned
    worker processes. Every process claims what nobody holds, here or in another sweep on the same `workdir`; what
    others hold is waited for, and taken over when they let go of it.

    Under `jax.distributed` all processes call this with `workers=1`, and do the same units together.

    Args:
      costs: of the units, for their order and the time that is left; None: those of training them.
      done: gives the results of a unit that is finished; such units go to no worker. Without it the job is asked.
      saves: whether the job polls `preemption.requested` and saves; else SIGTERM breaks it off where it is.
      patience: seconds to wait for units that others hold; None: until they are finished.
      before: looks once, here, at what the jobs of the units that are left will read, and raises where it is damaged.
    Raises: UserError of the first unit in which something fails that others need too, after those have been stopped,
      where all units have failed, and when patience is over; Preempted after SIGTERM, when all have saved. Checkpoints
      remain.
    """
    _check_sharing(workdir)
    failures: dict[int, str] = {}  # by unit
    results: list[Any] = [None] * len(units)

    def look() -> None:
        """For results of units that have none yet."""
        for i, unit in enumerate(units):
            if results[i] is None and i not in failures and done:
                try:
                    results[i] = done(unit, workdir)
                except RunFailed as e:
                    failures[i] = str(e)

    look()
    costs = [claims.of_training(unit) for unit in units] if costs is None else costs
    bar = Progress(title, units, costs)
    try:
        for i, result in enumerate(results):
            if result is not None or i in failures:
                bar.finish(i)
        if before and (left := [unit for i, unit in enumerate(units) if results[i] is None and i not in failures]):
            before(left, workdir)
        work = _Work(job, units, workdir, costs, saves, patience)
        with work.on_sigterm():
            if workers == 1:
                use_compile_cache()
                _here(work, results, failures, bar)
            elif many := sum(result is None for result in results) - len(failures):
                _in_processes(work, results, failures, min(workers, many), bar)
            if preemption.requested_anywhere() if workers == 1 else preemption.requested():
                raise Preempted(preemption.SAVED)
        look()
        if missing := [unit[0].id for i, unit in enumerate(units) if results[i] is None and i not in failures]:
            raise UserError(
                f"another process holds cell {missing[0]}: see launch.sweep --status, and run again when it has ended"
            )
    finally:
        bar.close()
    if failures and len(failures) == len(units):
        raise UserError(next(iter(failures.values())))
    for reason in list(failures.values())[:_MOST_TOLD]:
        print(f"warning: left out: {reason}", file=sys.stderr, flush=True)
    if failures:
        print(f"warning: {len(failures)} of {len(units)} units failed and are left out", file=sys.stderr, flush=True)
    return results


def _check_sharing(workdir: Path) -> None:
    """Raises UserError for processes that train as one in a bucket; warns of locks that other machines may not see."""
    if storage.in_bucket(workdir):
        if _processes() > 1:
            raise UserError(
                "--distributed with a --workdir in a bucket: processes that train as one write their checkpoints "
                "together, and need a file system that they share"
            )
    elif kind := storage.doubtful_locks(workdir):
        print(
            f"warning: {workdir} is on a file system in user space ({kind}), whose locks other machines may not see: "
            "start one sweep there, or give the bucket itself, as --workdir=gs://…",
            file=sys.stderr,
            flush=True,
        )


class _Work:
    """What every process of a sweep has to know."""

    def __init__(
        self,
        job: Job,
        units: list[Unit],
        workdir: Path,
        costs: Sequence[Cost],
        saves: bool,
        patience: float | None,
    ):
        self.job, self.units, self.workdir, self.costs = job, units, workdir, costs
        self.saves, self.patience = saves, patience

    def on_sigterm(self) -> AbstractContextManager[None]:
        return preemption.deferred() if self.saves else preemption.at_once()

    def in_turn(self, me: int, owners: MutableSequence[int], finished: MutableSequence[int]) -> Generator[int | None]:
        return claims.in_turn(self.workdir, self.units, self.costs, me, owners, finished, self.patience)


def _held_elsewhere(owners: MutableSequence[int], finished: MutableSequence[int]) -> str:
    n = sum(who == NOBODY and not over for who, over in zip(owners, finished, strict=True))
    return f"waiting for {n} that another sweep holds" if n else ""


def _here(work: _Work, results: list[Any], failures: dict[int, str], bar: Progress) -> None:
    owners = [NOBODY] * len(results)
    finished = [int(result is not None or i in failures) for i, result in enumerate(results)]
    with contextlib.closing(work.in_turn(0, owners, finished)) as turns:  # lets go of what it holds where a job fails
        for i in _together(turns) if _processes() > 1 else turns:
            if i is None:
                bar.say(_held_elsewhere(owners, finished))
                continue
            try:
                results[i] = work.job(work.units[i], work.workdir, partial(bar.advance, i))
            except RunFailed as e:
                failures[i] = str(e)
            bar.finish(i)


def _processes() -> int:
    import jax

    return jax.process_count() if jax.distributed.is_initialized() else 1


def _together(turns: Iterator[int | None]) -> Iterator[int | None]:
    """The turns of process 0 in every process of `jax.distributed`: it alone claims."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    wait_, end = -1, -2
    while True:
        turn = next(turns, end) if jax.process_index() == 0 else end
        turn = int(multihost_utils.broadcast_one_to_all(np.int32(wait_ if turn is None else turn)))
        if turn == end:
            return
        yield None if turn == wait_ else turn


def _gpus() -> list[str]:
    """NVIDIA GPUs that JAX would use, found without JAX: it would take their memory for this process."""
    if os.environ.get("JAX_PLATFORMS", "cuda").split(",")[0] not in ("cuda", "gpu"):
        return []
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    if shutil.which("nvidia-smi") is None:
        return []
    found = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return found.stdout.split() if found.returncode == 0 else []


def _places(workers: int, cores: list[int], gpus: list[str]) -> list[tuple[set[int], dict[str, str]]]:
    """Cores and environment of each worker: a core each on a CPU, a GPU and its share of the cores on GPUs."""
    if not gpus:
        return [({cores[w % len(cores)]}, {}) for w in range(workers)]
    share = 0.9 / -(-workers // len(gpus))  # of a GPU's memory: JAX takes .75 at once, and two workers more than all
    return [
        (
            set(cores[w % len(cores) :: workers]),
            {"CUDA_VISIBLE_DEVICES": gpus[w % len(gpus)], "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{share:.2f}"},
        )
        for w in range(workers)
    ]


def _in_processes(work: _Work, results: list[Any], failures: dict[int, str], workers: int, bar: Progress) -> None:
    context = mp.get_context("spawn")
    owners = context.Array("i", [NOBODY] * len(results))
    finished = context.Array("i", [int(result is not None or i in failures) for i, result in enumerate(results)])
    environment_here = dict(os.environ)
    # glibc reads this before Python starts, so only a new process can have it: huge pages are 20 to 60 % on CPU.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    if not (gpus := _gpus()):
        # A quarter off the time to compile, which is a fifth of a small grid's; its programs are as fast.
        os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=1 {os.environ.get('XLA_FLAGS', '')}"
    processes: dict[Connection, Any] = {}
    doing: dict[Connection, int] = {}
    # Ctrl-C reaches every process of the terminal; only this one acts on it, then stops its workers. They inherit
    # the deafness, so that not even one that is just starting prints a trace. SIGTERM, which one that is starting
    # must not lose, waits until it has its handler.
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        for w, (cores, environment) in enumerate(_places(workers, sorted(os.sched_getaffinity(0)), gpus)):
            pipe, child = context.Pipe()
            process = context.Process(
                target=_work,
                args=(child, work, w, owners, finished, cores, environment),
                name=f"cell-worker-{w}",
                daemon=True,
            )
            process.start()
            child.close()
            processes[pipe] = process
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, heard)
        _restore(environment_here)
        passed_on = False
        while processes:
            if preemption.requested() and not passed_on:
                passed_on = True
                for process in processes.values():
                    process.terminate()
            for ready in wait(list(processes), timeout=0.5):
                pipe = cast(Connection, ready)
                try:
                    kind, value = pipe.recv()
                except EOFError:
                    process = processes.pop(pipe)
                    process.join()
                    # SIGTERM may find one that has saved and is on its way out, without its handler.
                    left = preemption.requested() or pipe not in doing
                    if process.exitcode not in (0, Preempted.status) and not (
                        left and process.exitcode == -signal.SIGTERM
                    ):
                        raise UserError(_death(process.exitcode, work.units, doing.get(pipe))) from None
                    continue
                if kind == "begin":
                    doing[pipe] = value
                elif kind == "advance":
                    bar.advance(doing[pipe], *value)
                elif kind == "wait":
                    bar.say(value)
                elif kind == "error":
                    raise UserError(value)
                else:
                    i = doing.pop(pipe)
                    if kind == "failed":
                        failures[i] = value
                    else:
                        results[i] = value
                    bar.finish(i)
    finally:
        _restore(environment_here)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, heard)
        for process in processes.values():
            process.terminate()
        until = time.monotonic() + GRACE
        for process in processes.values():
            process.join(max(0.0, until - time.monotonic()))
        for process in processes.values():
            process.kill()
            process.join()


def _restore(environment: dict[str, str]) -> None:
    """What was meant for workers is for nobody that this process starts later."""
    for name in ("GLIBC_TUNABLES", "XLA_FLAGS"):
        if name in environment:
            os.environ[name] = environment[name]
        else:
            os.environ.pop(name, None)


def _death(status: int, units: list[Unit], doing: int | None) -> str:
    on = "as it started" if doing is None else f"on cell {units[doing][0].id}"
    return (
        f"a worker died (status {status}) {on}, perhaps for lack of memory: run again to resume it, with a smaller "
        "--config.workers"
    )


def _work(
    pipe: Connection,
    work: _Work,
    me: int,
    owners: MutableSequence[int],
    finished: MutableSequence[int],
    cores: set[int],
    environment: dict[str, str],
) -> None:
    """A worker process: do what can be claimed until all is finished. Exits with 75 when SIGTERM has come."""
    os.sched_setaffinity(0, cores)
    os.environ.update(environment)
    from absl import logging

    logging.set_verbosity(logging.WARNING)  # Orbax reports about 40 lines a save
    use_compile_cache()

    def report(tokens: int, before: bool = False) -> None:
        pipe.send(("advance", (tokens, before)))

    signal.signal(signal.SIGTERM, lambda *_: None)  # after the block below: it has been heard
    try:
        with work.on_sigterm():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            with contextlib.closing(work.in_turn(me, owners, finished)) as turns:
                for i in turns:
                    if i is None:
                        if me == 0:
                            pipe.send(("wait", _held_elsewhere(owners, finished)))
                        continue
                    pipe.send(("begin", i))
                    if (error := _attempt(work, i, report, pipe)) is not None:
                        pipe.send(("error", error))
                        return
            if preemption.requested():
                sys.exit(Preempted.status)
    except Preempted:
        os._exit(Preempted.status)  # without waiting for what a device is in the middle of
    except (BrokenPipeError, ConnectionResetError):  # the sweep was killed: nobody listens
        os._exit(1)


def _attempt(work: _Work, i: int, report: Report, pipe: Connection) -> str | None:
    """Do unit i and send its results; returns the error to report where it fails."""
    unit = work.units[i]
    try:
        pipe.send(("done", work.job(unit, work.workdir, report)))
    except (Preempted, BrokenPipeError, ConnectionResetError):
        raise
    except RunFailed as e:
        pipe.send(("failed", str(e)))
    except UserError as e:
        return str(e)
    except Exception as e:
        if (told := of_system(e)) is not None:
            return str(told)
        traceback.print_exc()
        return f"cell {unit[0].id} ({unit[0].size}) failed with {type(e).__name__}; its trace is above"
    return None
