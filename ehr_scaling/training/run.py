"""One run: what is known of its way so far, where it is kept, and from where it goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from ehr_scaling import hardware
from ehr_scaling.errors import Diverged, RunFailed, Unavailable, UserError, not_of_file
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import Layout
from ehr_scaling.processes import agreement
from ehr_scaling.training import checkpoint, initial
from ehr_scaling.training.setup import Setup, States, states
from ehr_scaling.training.step import State

T = TypeVar("T")
PARTS = ("start", "compile", "data", "checkpoint", "evaluate")  # of the wall time; the rest is the steps


class Run:
    """One member's way so far: what is saved beside its state, and goes on exactly after a restart."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        self.cell, self.folder = cell, folder
        self.saver = checkpoint.Saver(folder, cell.marks)
        self.step = 0
        self.real_tokens = 0.0
        self.curve: list[list[float]] = []  # step, mean loss of the dispatch that ended there
        self.validation_curve: list[list[float]] = []  # step, validation loss on a part of the sequences, its error
        # Where it was trained, one after the other: the first step there, processes, and devices along each axis
        self.places: list[dict[str, int]] = []

    def take_over(self, saved: dict[str, Any]) -> None:
        self.step, self.real_tokens, self.curve = saved["step"], saved["real_tokens"], saved["curve"]
        self.validation_curve, self.places = list(saved.get("validation_curve", ())), list(saved.get("places", ()))

    def goes_on_at(self, mesh: Mesh) -> None:
        """Take down where the steps that follow are trained."""
        place = {"processes": jax.process_count(), **mesh.shape}
        if not self.places or {**self.places[-1], "step": 0} != {**place, "step": 0}:
            self.places.append({"step": self.step, **place})

    def account(self, step: int, sums: dict[str, float], seconds: float) -> dict[str, Any]:
        """Take in the sums of a dispatch that ended at `step`; returns a line for the log.

        Raises: UserError when the last updates had no finite gradient; the broken state is not saved.
        """
        cell = self.cell
        if sums["in_a_row"] >= cell.engine.max_skipped:
            raise Diverged(
                f"cell {cell.id} ({cell.size}, seed {cell.seed}): the loss or its gradient was not finite in "
                f"the last {int(sums['in_a_row'])} updates by step {step} of {cell.steps}: lower "
                f"--config.training.rate.peak (here {cell.learning_rate:.3g})",
                cell.id,
            )
        self.real_tokens += sums["targets"]
        loss = sums["loss_sum"] / sums["targets"] if sums["targets"] else None
        if loss is not None:
            self.curve.append([step, loss])
        rate = (step - self.step) * cell.batch_tokens / max(seconds, 1e-9)
        speed = rate * cell.flops / cell.tokens
        self.step = step
        return {
            "step": step,
            "tokens": step * cell.batch_tokens,
            "loss": loss,
            "gradient_norm": sums["gradient_norm"],
            "learning_rate": sums["learning_rate"],
            "skipped": int(sums["skipped"]),
            "tokens_per_second": rate,
            "mfu": hardware.mfu(speed, jax.device_count(), jax.devices()[0].device_kind, cell.dtype),
        }

    def look(self, held_out: dict[str, float]) -> dict[str, float]:
        """Take in a validation loss on the way; returns what the line of its step has of it."""
        self.validation_curve.append([self.step, held_out["loss"], held_out["loss_se"]])
        return {f"validation_{name}": held_out[name] for name in ("loss", "loss_se", "tokens")}

    def result(self, held_out: dict[str, float], seconds: dict[str, float], skipped: int) -> dict[str, Any]:
        """The metrics of the finished run."""
        cell = self.cell
        if not np.isfinite(held_out["loss"]):
            message = f"cell {cell.id}: the validation loss is not finite: lower --config.training.rate.peak"
            raise Diverged(message, cell.id)
        tail = [loss for step, loss in self.curve if step > 0.9 * cell.steps]
        return {
            **self.saved(seconds),
            "finished": True,
            "tokens_seen": cell.tokens,
            "passes": self.real_tokens / cell.unique_tokens,
            "skipped": skipped,
            "train_loss": float(np.mean(tail)) if tail else None,
            **{f"validation_{name}": value for name, value in held_out.items()},
            "tokens_per_second": cell.tokens / seconds["wall"],
        }

    def saved(self, seconds: dict[str, float]) -> dict[str, Any]:
        """What stands beside the state in a checkpoint."""
        return {
            **self.cell.to_json(),
            "finished": False,
            "step": self.step,
            "real_tokens": self.real_tokens,
            "curve": self.curve,
            "validation_curve": self.validation_curve,
            "places": self.places,
            "seconds": dict(seconds),
            "wall_seconds": seconds["wall"],
        }


def begin(setup: Setup, runs: list[Run], workdir: Path) -> tuple[State, dict[str, float]]:
    """The state to go on from, and the seconds spent so far: by own checkpoints, else the trunk's, or fresh parameters,
    over which the weights are laid that the cells may start from.

    A checkpoint that cannot be read is named and passed over; one of another config is refused.
    """
    factory = states(setup.program, setup.mesh, len(runs))
    savers = [run.saver for run in runs]
    for step in checkpoint.newest_common(savers):
        if restored := _restored(savers, step, factory, runs, own_checkpoints=True):
            return restored
    if start := runs[0].cell.start:
        return _from_trunk(start, factory, runs, workdir)
    seeds = jax.device_put(np.array([run.cell.seed for run in runs], np.int32))
    state, spent = factory.fresh(seeds), dict.fromkeys(("wall", *PARTS), 0.0)
    return initial.lay_over(state, runs[0].cell, workdir) if runs[0].cell.init else state, spent


def _from_trunk(start: int, factory: States, runs: list[Run], workdir: Path) -> tuple[State, dict[str, float]]:
    for run in runs:
        checkpoint.fetch(Layout(workdir).run(run.cell.trunk))
    trunks = [checkpoint.Saver(Layout(workdir).run(run.cell.trunk)) for run in runs]

    def see() -> None:
        if not all(start in saver.steps() for saver in trunks):
            raise RunFailed(
                f"{trunks[0].folder} has no checkpoint at step {start}, where cell {runs[0].cell.id} branches off: "
                "delete that folder and run launch.sweep again"
            )

    try:
        agreement.together(see)
        if restored := _restored(trunks, start, factory, runs, own_checkpoints=False):
            return restored
        raise RunFailed(
            f"the trunk's checkpoint at step {start} is damaged: delete {trunks[0].folder} and run launch.sweep again"
        )
    finally:
        for saver in trunks:
            saver.close()


def _restored(
    sources: list[checkpoint.Saver], step: int, factory: States, runs: list[Run], *, own_checkpoints: bool
) -> tuple[State, dict[str, float]] | None:
    """The state and the seconds of a checkpoint, which the runs take over; None, and a warning, where it is damaged.

    own_checkpoints: of the runs themselves, whose config it has to be.
    """
    told = _unless_damaged(sources, step, lambda source: source.saved(step))
    if told is None:
        return None
    if own_checkpoints:  # before the state is read, which may have other parameters
        for run, saved in zip(runs, told, strict=True):
            checkpoint.check_config(saved, run.cell, run.folder)
    parts = _unless_damaged(sources, step, lambda source: source.restore(step, factory.member))
    if parts is None:
        return None
    for run, (_, saved) in zip(runs, parts, strict=True):
        run.take_over(saved)
    return factory.stack([state for state, _ in parts]), parts[0][1]["seconds"]


def _unless_damaged(
    sources: list[checkpoint.Saver], step: int, read: Callable[[checkpoint.Saver], T]
) -> list[T] | None:
    """What is read of each checkpoint of a step; None, and a warning, in all processes where one of them cannot.

    Raises: UserError in all of them where it is the system of one that does not give it (rights, memory, a drive that
      fails): the checkpoint may be whole.
    """
    parts: list[T] = []
    for source in sources:
        error: Exception | None = None
        try:
            parts.append(read(source))
        except Exception as e:  # Orbax', tensorstore's and JAX' errors share no base class
            error = e
        told = None if error is None else not_of_file(error, source.folder)
        if agreement.any_process(told is not None):
            raise told or Unavailable(f"{source.folder}: another process cannot read it now: see what it says")
        if agreement.any_process(error is not None):
            checkpoint.passed_over(source.folder, step, error or UserError("another process cannot read it"))
            return None
    return parts
