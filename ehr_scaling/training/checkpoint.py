"""Orbax checkpoints of a run: the newest is where it goes on, the last one is its result."""

import json
import shutil
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp

from ehr_scaling.errors import DISK_FULL, UserError


def open_run(folder: Path) -> ocp.CheckpointManager:
    """The checkpoint manager of one run. Only the newest checkpoint is kept: a finished run's result is its newest.

    Metrics are an item of their own: `CheckpointManager.save(metrics=…)` writes nothing unless `best_fn` is set.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder.absolute(), options=options, item_names=("state", "data", "metrics"))


def save(manager: ocp.CheckpointManager, step: int, state: Any, data: Any, metrics: dict[str, Any]) -> None:
    """Save state, position in the data, and metrics (JSON) as one checkpoint; whole or not at all.

    Raises: UserError when the disk has no room for it. Asked beforehand, because a write that fails inside Orbax prints
      a page of traces from its threads.
    """
    need = 2 * sum(x.nbytes for x in jax.tree.leaves(state)) + (1 << 18)
    if shutil.disk_usage(manager.directory).free < need:
        raise UserError(DISK_FULL)
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=grain.checkpoint.CheckpointSave(data),
            metrics=ocp.args.JsonSave(metrics),
        ),
        force=True,
    )


def _abstract(state: Any) -> Any:
    """Shapes, dtypes and shardings, which is all that Orbax needs to know of what it fills."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def restore(manager: ocp.CheckpointManager, state: Any, data: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest checkpoint's state and metrics, or None when there is none; sets the position of `data`.

    Args: state, a State of the right shapes and shardings (its values are not used); data, the grain iterator.
    """
    step = manager.latest_step()
    if step is None:
        return None
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(_abstract(state)),
            data=grain.checkpoint.CheckpointRestore(data),
            metrics=ocp.args.JsonRestore(),
        ),
    )
    return restored.state, restored.metrics


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


def restore_params(folder: Path, state: Any) -> Any:
    """Parameters of a finished run, for evaluation. Args: state, as in `restore`."""
    manager = open_run(folder)
    step = manager.latest_step()
    if step is None:
        raise UserError(f"{folder} holds no checkpoint: train the cell first")
    restored = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(_abstract(state))))
    manager.close()
    return restored.state.params
