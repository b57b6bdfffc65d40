"""Orbax checkpoints of runs: the newest is where a run goes on, a finished run's last one is its result.

A member's checkpoint is its own (no member axis), so that whoever reads a run need not know with whom it was trained.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from ehr_scaling import artifacts
from ehr_scaling.errors import NO_SPACE, UserError, first_line, of_system
from ehr_scaling.grid.cells import HOW

# Two, since the members of an ensemble are saved one after another: a kill in between leaves them one save apart.
_KEPT = 2


class Saver:
    """The checkpoints of one run, in `folder`.

    Metrics are an item of their own: `CheckpointManager.save(metrics=…)` writes nothing unless `best_fn` is set. The
    position in the data is the step, so that it needs no item.
    """

    def __init__(self, folder: Path, marks: Iterable[int] = ()) -> None:
        """Args: marks, steps whose checkpoints are kept for ever: of a trunk, where its branches begin."""
        self._marks = set(marks)
        policies = ocp.checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            create=True,
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(_KEPT), policies.CustomSteps(sorted(self._marks))]
            ),
            # Saving in the background pays where a state is large; a small one is written in the time that takes.
            enable_async_checkpointing=jax.default_backend() != "cpu",
        )
        self.folder = folder
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_names=("state", "metrics"))

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, metrics: dict[str, Any]) -> None:
        """Save state and metrics (JSON) as one checkpoint; whole or not at all.

        Raises: UserError when the disk has no room for it. Asked beforehand, because a write that fails inside Orbax
          prints a page of traces from its threads.
        """
        need = 2 * sum(x.nbytes for x in jax.tree.leaves(state)) + (1 << 18)
        if shutil.disk_usage(self.folder).free < need:
            raise UserError(NO_SPACE)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), metrics=ocp.args.JsonSave(metrics))
        try:
            self._manager.save(step, args=items, force=True)
        except Exception as e:
            if (told := of_system(e, self.folder)) is not None:
                raise told from None
            raise

    def restore(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
        """State and metrics saved at `step`. Args: abstract, shapes, dtypes and shardings of the state, on any mesh."""
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), metrics=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=items)
        return restored.state, restored.metrics

    def finish(self, step: int) -> None:
        """Delete the recovery checkpoints: the run is finished, and that of `step` its result."""
        self._manager.wait_until_finished()
        for old in self.steps():
            if old != step and old not in self._marks:
                self._manager.delete(old)

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.close()


def newest_common(savers: list[Saver]) -> list[int]:
    """Steps at which every one of the runs has a checkpoint, newest first."""
    return sorted(set.intersection(*(set(saver.steps()) for saver in savers)), reverse=True)


def check_config(saved: dict[str, Any], cell: dict[str, Any], folder: Path) -> None:
    """Raises UserError, which names the fields that differ, when a checkpoint's metrics are of another cell."""
    learnt = {name: value for name, value in cell.items() if name not in HOW}
    if changed := artifacts.differences({name: saved.get(name) for name in learnt}, learnt):
        raise UserError(
            f"{folder} holds a checkpoint of another config ({'; '.join(changed[:4])}): take another --workdir, or "
            f"delete that folder to train the cell anew"
        )


def passed_over(folder: Path, step: int, error: BaseException) -> None:
    """Say that a checkpoint cannot be read, and is passed over."""
    logging.warning("%s/%d is damaged (%s): passed over", folder, step, first_line(error))


def result(folder: Path) -> dict[str, Any] | None:
    """Metrics of a finished run, or None. Reads the JSON item alone, so it costs no JAX."""
    steps = [int(p.name) for p in folder.glob("*") if p.name.isdigit()] if folder.exists() else []
    if not steps:
        return None
    path = folder / str(max(steps)) / "metrics" / "metrics"
    try:
        metrics = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as e:
        raise UserError(
            f"{path} cannot be read ({type(e).__name__}): delete {folder} to train the cell again"
        ) from None
    return metrics if metrics["finished"] else None


def restore_last(folder: Path, abstract: Any) -> Any:
    """The state of a run's newest checkpoint. Args: abstract, as of `Saver.restore`."""
    saver = Saver(folder)
    try:
        return saver.restore(saver.steps()[-1], abstract)[0]
    finally:
        saver.close()
