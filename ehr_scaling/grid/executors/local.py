"""Work on the units of a grid on this machine: in this process, or in worker processes that claim units."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ehr_scaling import hardware, storage
from ehr_scaling.errors import Preempted, RunFailed, TakenOver, UserError
from ehr_scaling.grid.cell import Unit
from ehr_scaling.grid.executors import claims, processes, tpus
from ehr_scaling.grid.executors.claims import NOBODY, Cost
from ehr_scaling.grid.executors.job import Check, Done, Help, Job, Work, held_elsewhere, leave
from ehr_scaling.grid.executors.processes import use_compile_cache
from ehr_scaling.grid.executors.progress import Progress
from ehr_scaling.layout import Layout
from ehr_scaling.processes import leading, preemption

_MOST_TOLD = 5  # units that failed, with their reasons


def workers_for(setting: int) -> int:
    """Worker processes to use: `setting`, or for 0 one a core on a CPU and one (this process) on accelerators.

    Raises: UserError where there are fewer TPU chips, of which each serves one process.
    """
    if setting > 1 and not processes.gpus() and (chips := tpus.here()[1]):
        if setting > len(chips):
            raise UserError(
                f"--config.workers={setting}: a TPU chip serves one process, and this host has {len(chips)}; for more "
                "on a chip train several cells as one program, --config.training.together"
            )
        return 1 if tpus.taken() else setting
    if setting > 0:
        return setting
    import jax

    return len(hardware.cores()) if jax.default_backend() == "cpu" else 1


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
    help: Help | None = None,
) -> list[list[Any] | None]:
    """Do `job(unit, workdir, report)` for every unit, with a progress bar; results in the order of `units`, None
    for those that failed (RunFailed) while others could go on: they are told at the end.

    One process a core beats one process with two threads by 15 to 75 % on models this small, so a CPU gets pinned
    worker processes. Every process claims what nobody holds, here or in another sweep on the same `workdir`; what
    others hold is waited for, and taken over when they let go of it.

    Under `jax.distributed` all processes call this with `workers=1`, and do the same units together. Where one leads
    the others (`leading`) it alone calls this, and its job calls them.

    Args:
      costs: of the units, for their order and the time that is left; None: those of training them.
      done: gives the results of a unit that is finished; such units go to no worker. Without it the job is asked.
      saves: whether the job polls `preemption.requested` and saves; else SIGTERM breaks it off where it is.
      patience: seconds to wait for units that others hold; None: until they are finished.
      help: does parts of units that others hold, when nothing is left to claim; not of units done together.
      before: looks once, here, at what the jobs of the units that are left will read, and raises where it is damaged.
    Raises: UserError of the first unit in which something fails that others need too, after those have been stopped,
      and when patience is over; RunFailed where all units have failed; Preempted after SIGTERM, when all have saved.
      Checkpoints remain.
    """
    workers = 1 if leading.leads() else workers
    _check_sharing(workdir)
    failures: dict[int, str] = {}  # by unit
    results: list[Any] = [None] * len(units)

    def look() -> None:
        """For results of units that have none yet."""
        with storage.listed(Layout(workdir).runs):
            for i, unit in enumerate(units):
                if results[i] is None and i not in failures and done:
                    try:
                        results[i] = done(unit, workdir)
                    except RunFailed as e:
                        failures[i] = str(e)

    look()
    costs = [claims.of_training(unit) for unit in units] if costs is None else costs
    bar = Progress(title, units, costs, workers)
    try:
        for i, result in enumerate(results):
            if result is not None or i in failures:
                bar.finish(i)
        if before and (left := [unit for i, unit in enumerate(units) if results[i] is None and i not in failures]):
            before(left, workdir)
        work = Work(job, units, workdir, costs, saves, patience, help if _processes() == 1 else None)
        with work.on_sigterm():
            if workers == 1:
                use_compile_cache()
                _here(work, results, failures, bar)
            elif many := sum(result is None for result in results) - len(failures):
                processes.run(work, results, failures, workers if help else min(workers, many), bar)
            if preemption.requested_anywhere() if _processes() > 1 else preemption.requested():
                raise Preempted(preemption.SAVED)
        look()
        missing = [unit[0].id for i, unit in enumerate(units) if results[i] is None and i not in failures]
        if missing and _leads():  # another process may not see what process 0 found done, or failed, before it began
            raise UserError(
                f"another process holds cell {missing[0]}: see launch.sweep --status, and run again when it has ended"
            )
    finally:
        bar.close()
    if failures and len(failures) == len(units):
        raise RunFailed(next(iter(failures.values())))
    for reason in list(failures.values())[:_MOST_TOLD]:
        print(f"warning: left out: {reason}", file=sys.stderr, flush=True)
    if failures:
        print(f"warning: {len(failures)} of {len(units)} units failed and are left out", file=sys.stderr, flush=True)
    return results


def _check_sharing(workdir: Path) -> None:
    """Warns of locks that other machines may not see."""
    if not storage.in_bucket(workdir) and (kind := storage.doubtful_locks(workdir)):
        print(
            f"warning: {workdir} is on a file system in user space ({kind}), whose locks other machines may not see: "
            "start one sweep there, or give the bucket itself, as --workdir=gs://…",
            file=sys.stderr,
            flush=True,
        )


def _here(work: Work, results: list[Any], failures: dict[int, str], bar: Progress) -> None:
    owners = [NOBODY] * len(results)
    finished = [int(result is not None or i in failures) for i, result in enumerate(results)]
    report = lambda i: partial(bar.advance, i)  # noqa: E731
    with contextlib.closing(
        work.in_turn(0, owners, finished, report)
    ) as turns:  # lets go of what it holds where a job fails
        for i in _together(turns) if _processes() > 1 else turns:
            if i is None:
                bar.say(held_elsewhere(owners, finished))
                continue
            try:
                results[i] = work.job(work.units[i], work.workdir, report(i))
            except RunFailed as e:
                failures[i] = str(e)
            except TakenOver:
                if leading.leads() or _processes() > 1:  # the others are in the middle of it
                    raise
                leave(work.units[i], i, owners)
                continue
            bar.finish(i)


def _processes() -> int:
    """That do the same units together."""
    import jax

    return 1 if leading.leads() else jax.process_count() if jax.distributed.is_initialized() else 1


def _leads() -> bool:
    """Whether it is this process that claims."""
    import jax

    return _processes() == 1 or jax.process_index() == 0


def _together(turns: Iterator[int | None]) -> Iterator[int | None]:
    """The turns of process 0 in every process of `jax.distributed`: it alone claims."""
    import numpy as np
    from jax.experimental import multihost_utils

    wait_, end = -1, -2
    while True:
        turn = next(turns, end) if _leads() else end
        turn = int(multihost_utils.broadcast_one_to_all(np.int32(wait_ if turn is None else turn)))
        if turn == end:
            return
        yield None if turn == wait_ else turn
