"""The loop: cells trained together, from where they are to their results, without the host ever waiting."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ehr_scaling import artifacts, storage
from ehr_scaling.data.packing import loader
from ehr_scaling.data.packing import packed as packed_data
from ehr_scaling.errors import Diverged, Preempted, RunFailed, Unavailable
from ehr_scaling.grid.cell import Cell, Unit, ensembles, lost
from ehr_scaling.layout import FAILED, RESULTS, Layout
from ehr_scaling.processes import agreement, preemption
from ehr_scaling.training import checkpoint, sharding, tracking
from ehr_scaling.training.clock import Clock, Due
from ehr_scaling.training.evaluation import evaluate
from ehr_scaling.training.run import Run, begin
from ehr_scaling.training.setup import Setup, member, setup
from ehr_scaling.training.step import Hyper, train_chunk

Report = Callable[..., None]
_LONG = 10.0  # seconds of an evaluation after which what it is of is saved
LOOKS = (1 / 8, 1 / 4, 1 / 2, 3 / 4)  # of the steps, where the validation loss is looked at


def train(cells: list[Cell], workdir: Path, report: Report) -> list[dict[str, Any]]:
    """Train cells that are members of one ensemble, and return their metrics; at once when they are finished.

    Args:
      cells: of `grid.cell.ensembles`.
      workdir: of the study, with `packed/` and `runs/`.
      report: called now and then with the tokens processed since the last call, of all members together; with
        before=True for those of an earlier process.
    Raises: UserError for what cannot be trained, or when loss or gradient stay not finite: the broken state is not
      saved. Preempted after SIGTERM, with all saved.
    """
    folders = [Layout(workdir).run(cell.id) for cell in cells]
    for folder in folders:
        checkpoint.fetch(folder)
    results = agreement.together(
        lambda: [checkpoint.result(folder, cell.steps) for cell, folder in zip(cells, folders, strict=True)]
    )
    finished = {cell.id: result for cell, result in zip(cells, results, strict=True) if result is not None}
    all_are = len(finished) == len(cells)
    # Members that are over may be so without the others, which are tried again
    over = [
        cell.id in finished and (all_are or checkpoint.over(folder, cell.marks))
        for cell, folder in zip(cells, folders, strict=True)
    ]
    over = agreement.by_process_0(over)
    for cell, folder, is_over in zip(cells, folders, over, strict=True):
        if is_over and cell.id not in finished:
            raise Unavailable(f"{folder}: process 0 sees a finished run here and this process does not: run again")
    left = [(cell, folder) for cell, folder, is_over in zip(cells, folders, over, strict=True) if not is_over]
    if left:
        parts = setup([cell for cell, _ in left])
        with ExitStack() as stack:
            stack.enter_context(jax.set_mesh(parts.mesh))
            runs = [Run(cell, folder) for cell, folder in left]
            for run in runs:
                stack.callback(run.saver.close)
            finished |= {result["id"]: result for result in _train(parts, runs, workdir, report, stack)}
    return [finished[cell.id] for cell in cells]


def _train(parts: Setup, runs: list[Run], workdir: Path, report: Report, stack: ExitStack) -> list[dict[str, Any]]:
    """In this order: a look at the validation loss, where one is due; the next batches, a dispatch of updates, the log
    of the dispatch before it, and a checkpoint, where one is due; after the last update the evaluation and the result.

    Looks and the evaluation are broken off by SIGTERM. Before that, and once they take `_LONG`, the state that they are
    of is saved: who goes on from it makes them anew.
    """
    clock = Clock()
    cells = [run.cell for run in runs]
    cell, engine, members = cells[0], cells[0].engine, len(cells)
    packed = Layout(workdir).packed(cell.context, cell.fraction)
    with clock.part("start"):
        state, spent = begin(parts, runs, workdir)
        streams = _streams(parts, cells, packed, runs[0].step, stack)
    for run in runs:
        run.goes_on_at(parts.mesh)
    clock.add(spent)
    done, steps = runs[0].step, cell.steps
    report(members * (done - cell.start) * cell.batch_tokens, before=True)
    trackers = [
        stack.enter_context(tracking.open_run(run.folder, run.cell.to_json(), engine.tracking, done)) for run in runs
    ]
    trace = tracking.Profile(runs[0].folder, active=engine.tracking["profile"])
    stack.callback(trace.close)
    whole = sharding.replicated(parts.mesh)
    hyper = Hyper(*(np.array([getattr(c, name) for c in cells], np.float32) for name in Hyper._fields))
    seeds = np.array([c.seed for c in cells], np.int32)
    hyper, seeds, pieces = jax.device_put((hyper, seeds, np.int32(parts.pieces)), whole)
    stops, (looks, sequences) = sorted({*cell.marks, steps}), looks_of(cell)
    log, due, saved = _Log(runs, trackers, clock), Due(engine.checkpoint_seconds), done
    looked = max((step for step, *_ in runs[0].validation_curve), default=0)
    asked_to_end = _Anywhere(parts.mesh, preemption.requested)

    def save() -> None:
        """A recovery checkpoint of every run, unless there is one of this step."""
        nonlocal saved
        if saved == done:
            return
        log.write()
        with clock.part("checkpoint"):
            for m, run in enumerate(runs):
                run.saver.save(done, member(state, m), run.saved(clock.now()))
        saved = done
        due.saved()
        log.goes_on()

    def held_out(sequences: int) -> list[dict[str, float]]:
        """What each run has of the first so many of validation. Raises Preempted after SIGTERM, with all saved."""
        log.write()
        started = time.monotonic()
        takes_long = _Anywhere(parts.mesh, lambda: time.monotonic() - started > _LONG)

        def between_batches() -> None:
            stopping, long = asked_to_end(), takes_long()
            if stopping or long:
                save()
            if stopping:
                raise Preempted(preemption.SAVED)

        with clock.part("evaluate"):
            return evaluate(cell, state.params, packed, "validation", sequences, parts, between_batches)

    while done < steps:
        if any(looked < look <= done for look in looks):
            log.add([run.look(metrics) for run, metrics in zip(runs, held_out(sequences), strict=True)])
            log.goes_on()
            looked = done
        updates = min(parts.updates, next(stop for stop in stops if stop > done) - done)
        with clock.part("data"):
            batch = _next_batch(parts, cells, streams)
        many = jax.device_put(np.int32(updates), whole)
        with jax.transfer_guard("disallow"), clock.dispatch((parts, members)):
            state, sums = train_chunk(parts.program, state, batch, hyper, seeds, many, pieces)
        trace.after(sums)
        log.write()
        done += updates
        log.pending = done, sums
        with clock.part("checkpoint"):
            settled = [run.saver.settle() for run in runs]
        if any(settled):
            log.goes_on()
        report(members * updates * cell.batch_tokens)
        stopping, is_due = asked_to_end(), due(clock.dispatches)
        if done < steps and (stopping or done in stops or is_due):
            save()
            if stopping:
                raise Preempted(preemption.SAVED)
        if updates < parts.updates and done < steps:
            for stream in streams.values():
                stream.seek(done)
    metrics = held_out(cell.validation_sequences)
    log.add([{f"validation_{name}": of_run[name] for name in ("loss", "loss_se")} for of_run in metrics])
    skipped = jax.device_get(state.skipped)
    results = [run.result(metrics[m], clock.now(), int(skipped[m])) for m, run in enumerate(runs)]
    for m, run in enumerate(runs):
        run.saver.save(steps, member(state, m), results[m])
    for run in runs:
        run.saver.finish(steps)
    return results


def looks_of(cell: Cell) -> tuple[list[int], int]:
    """Steps at which the validation loss is looked at on the way, each when its dispatch ends, and on how many packed
    sequences: whole batches, and none where `validation_share` of the FLOPs is not enough for one."""
    steps = [step for share in LOOKS if cell.start < (step := int(share * cell.steps)) < cell.steps]
    # Reading a sequence is a third of training on it
    affordable = 3 * (cell.engine.validation_share or 0.0) * (cell.steps - cell.start) * cell.batch_sequences
    sequences = int(affordable / max(len(steps), 1)) // cell.eval_sequences * cell.eval_sequences
    return (steps, min(sequences, cell.validation_sequences)) if steps and sequences else ([], 0)


def _streams(parts: Setup, cells: list[Cell], packed: Path, step: int, stack: ExitStack) -> dict[int, loader.Batches]:
    """Batches of each seed from `step` on: members of one seed read the same rows."""
    engine, shares = cells[0].engine, sharding.shares(parts.mesh, len(cells))
    streams, seeds = {}, sorted({cell.seed for cell in cells})
    for seed in seeds:
        streams[seed] = loader.train_batches(
            packed,
            sequences=parts.updates * cells[0].batch_sequences * len(shares.numbers) // shares.of,
            seed=seed,
            steps=parts.updates,
            shares=shares.numbers,
            of=shares.of,
            skip_damaged=engine.skip_damaged,
            timeout=engine.read_timeout,
            streams=len(seeds),
        )
        stack.callback(streams[seed].close)
        streams[seed].seek(step)
    return streams


def _next_batch(parts: Setup, cells: list[Cell], streams: dict[int, loader.Batches]) -> dict[str, jax.Array]:
    """(M, P, b, …) of every member's next dispatch, in its place: a piece takes as many rows of each share."""
    read = {seed: next(stream) for seed, stream in streams.items()}
    shares = len(sharding.shares(parts.mesh, len(cells)).numbers)

    def pieces(x: np.ndarray) -> np.ndarray:
        steps = x.reshape(parts.updates, shares, parts.pieces, -1, x.shape[-1])
        return steps.swapaxes(1, 2).reshape(parts.updates * parts.pieces, -1, x.shape[-1])

    host = {name: np.stack([pieces(read[cell.seed][name]) for cell in cells]) for name in read[cells[0].seed]}
    placed = sharding.place(parts.mesh, host, axis=2, members=len(cells))
    assert all(x.shape[2] == parts.microbatch for x in placed.values()), "all processes together hold the whole batch"
    return placed


class _Log:
    """The lines of the runs. What a dispatch came to is read when the next one is under way: no device waits."""

    def __init__(self, runs: list[Run], trackers: list[tracking.Tracker], clock: Clock) -> None:
        self._runs, self._trackers, self._clock = runs, trackers, clock
        self.pending: tuple[int, dict[str, jax.Array]] | None = None  # step and sums of the dispatch under way
        self.goes_on()

    def goes_on(self) -> None:
        """Count the time of the next dispatch from here."""
        self._read_at = time.monotonic()

    def _read(self) -> list[dict[str, Any]]:
        """A line of each run about the pending dispatch, none where there is none; waits until it is done."""
        if self.pending is None:
            return []
        (step, sums), self.pending = self.pending, None
        host, before = jax.device_get(sums), self._read_at
        self.goes_on()
        seconds = self._read_at - before
        return [
            {**run.account(step, {k: float(x[m]) for k, x in host.items()}, seconds), "time": self._clock.wall()}
            for m, run in enumerate(self._runs)
        ]

    def write(self) -> None:
        """Write the lines of the pending dispatch, none where there is none."""
        lines = self._read()
        for tracker, line in zip(self._trackers, lines, strict=bool(lines)):
            tracker.log(line)

    def add(self, more: list[dict[str, float]]) -> None:
        """Add to the lines that were written last, which may be those of the process before this one."""
        for run, tracker, of_run in zip(self._runs, self._trackers, more, strict=True):
            tracker.add(run.step, of_run)


class _Anywhere:
    """Whether any process says so: all of them learn it at the same call, of several one call late."""

    def __init__(self, mesh: jax.sharding.Mesh, says: Callable[[], bool]) -> None:
        self._mesh, self._says = mesh, says
        self._heard: bool | jax.Array = False

    def __call__(self) -> bool:
        self._heard, before = sharding.anywhere(self._mesh, self._says()), self._heard
        return self._heard if isinstance(self._heard, bool) else bool(jax.device_get(before))


def job(unit: Unit, workdir: Path, report: Report) -> list[dict[str, Any]]:
    """Train the cells of a unit, part by part; for `grid.executors.run`. Returns their metrics in its order.

    Raises: as `train`. RunFailed where some of them diverged, now or before, once the others are trained: why is kept
      in `runs/<cell>/failed.json`.
    """
    reasons = agreement.together(lambda: failed(unit, workdir))
    diverged = agreement.by_process_0([cell.id in reasons for cell in unit])
    left_out = {
        cell.id: reasons.get(cell.id, f"cell {cell.id} diverged")
        for cell, did in zip(unit, diverged, strict=True)
        if did
    }
    metrics_by_cell: dict[str, dict[str, Any]] = {}
    for cells in ensembles(unit):
        while members := [cell for cell in cells if cell.id not in left_out]:
            try:
                metrics_by_cell |= {metrics["id"]: metrics for metrics in train(members, workdir, report)}
                break
            except Diverged as e:  # the others go on without it, from the last checkpoint
                if jax.process_index() == 0:
                    path = Layout(workdir).run(e.cell) / FAILED
                    artifacts.write_sealed(path, {"reason": str(e), "time": time.time()})
                    storage.store(path)
                left_out |= lost(unit, {e.cell: str(e)})
    if left_out:
        raise _told(left_out)
    return [metrics_by_cell[cell.id] for cell in unit]


def failed(unit: Unit, workdir: Path) -> dict[str, str]:
    """Why cells of a unit cannot be trained, by their ids: what was kept when they, or their trunk, diverged."""
    reasons = {}
    for cell in unit:
        folder = Layout(workdir).run(cell.id)
        storage.fetch(folder / FAILED)
        if (path := folder / FAILED).is_file() and checkpoint.result(folder, cell.steps) is None:
            reasons[cell.id] = str(artifacts.read_json(path, f"delete {path} to try the cell again")["reason"])
    return lost(unit, reasons)


def _told(left_out: dict[str, str]) -> RunFailed:
    return RunFailed("; ".join(dict.fromkeys(left_out.values())))


def retry(cells: list[Cell], workdir: Path) -> None:
    """Forget that cells diverged: they are trained again, from the checkpoints there are."""
    with storage.listed(Layout(workdir).runs):
        for cell in cells:
            path = Layout(workdir).run(cell.id) / FAILED
            if storage.handed_over(path):
                storage.forget(path)
            path.unlink(missing_ok=True)


def verify(units: list[Unit], workdir: Path) -> None:
    """See that what some cells train on, and start from, is what was made: once, before any process reads it.

    Raises: UserError that names what is not. Of cells that are to skip rows that cannot be read, the rows may be.
    """
    wanted: dict[Path, bool] = {}
    for cell in (cell for unit in units for cell in unit):
        folder = Layout(workdir).packed(cell.context, cell.fraction)
        wanted[folder] = wanted.get(folder, True) and cell.engine.skip_damaged
        if cell.init:
            wanted[Layout(workdir).initial(cell.size)] = False
    for folder, skip in wanted.items():
        artifacts.verify(folder, [packed_data.FILE] if skip else None)


def finished(unit: Unit, workdir: Path) -> list[dict[str, Any]] | None:
    """The metrics of a unit that is finished, else None; costs no JAX.

    Raises: RunFailed where nothing of it is left but what diverged.
    """
    folders = [Layout(workdir).run(cell.id) for cell in unit]
    for folder in folders:
        storage.fetch(folder, RESULTS)
    results = [checkpoint.result(folder, cell.steps) for cell, folder in zip(unit, folders, strict=True)]
    there = [result for result in results if result is not None]
    if len(there) == len(unit):
        for folder in folders:
            checkpoint.hand_over_result(folder)
        return there
    left_out = failed(unit, workdir)
    if all(cell.id in left_out for cell, result in zip(unit, results, strict=True) if result is None):
        raise _told(left_out)
    return None
