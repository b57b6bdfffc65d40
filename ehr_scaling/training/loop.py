"""One run: a cell of the grid trained from its seed, or from where it was interrupted, to its result."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ehr_scaling.data import loader
from ehr_scaling.errors import UserError
from ehr_scaling.models import sizes
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.training import checkpoint, sharding
from ehr_scaling.training.step import Hyper, State, eval_losses, init, train_chunk

Cell = dict[str, Any]


def model_of(cell: Cell) -> Transformer:
    """The decoder a cell trains."""
    dtype = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[cell["dtype"]]
    return Transformer(sizes.get(cell["size"]), cell["vocab"], cell["padded_vocab"], cell["tied"], dtype)


def initial_state(cell: Cell) -> State:
    """Parameters and optimizer state of a cell at step 0, replicated over the mesh."""
    state = init(model_of(cell), cell["seed"], cell["clip"], cell["b1"], cell["b2"])
    return jax.device_put(state, sharding.replicated())


def evaluate(cell: Cell, params: Any, packed: Path, split: str, limit: int) -> dict[str, float]:
    """Loss on the first `limit` packed sequences of `split`, nats a token.

    The standard error is that of a ratio of sums over patients, Σ loss / Σ tokens (Cochran 1977, eq. 6.4): tokens of
    one patient are not independent.

    Returns: loss, loss_se, tokens, patients.
    """
    model = model_of(cell)
    losses, tokens = np.zeros(0), np.zeros(0)
    for batch in loader.eval_batches(packed, split, sequences=cell["eval_sequences"], limit_sequences=limit):
        segments = batch["segments"][:, 1:].ravel()
        values = eval_losses(model, params, sharding.shard(batch))
        size = max(len(losses), int(segments.max()) + 1)
        weights = np.asarray(values, np.float64).ravel()
        losses = np.pad(losses, (0, size - len(losses))) + np.bincount(segments, weights, size)
        tokens = np.pad(tokens, (0, size - len(tokens))) + np.bincount(segments, batch["mask"].ravel(), size)
    seen = tokens > 0
    losses, tokens, patients = losses[seen], tokens[seen], int(seen.sum())
    if patients < 2:
        raise UserError(f"{packed} has {patients} patients in its {split} split: a loss needs at least 2")
    loss = losses.sum() / tokens.sum()
    residuals = losses - loss * tokens
    se = np.sqrt(patients / (patients - 1) * np.sum(residuals**2)) / tokens.sum()
    return {"loss": float(loss), "loss_se": float(se), "tokens": int(tokens.sum()), "patients": patients}


def train(
    cell: Cell, packed: Path, folder: Path, report: Callable[[int], None] = lambda tokens: None
) -> dict[str, Any]:
    """Train one cell and return its metrics; at once when it is already finished.

    Args:
      cell: from `grid.cells.solve`.
      packed: folder of the packed data.
      folder: of this run's checkpoints, `runs/<cell>`.
      report: called now and then with the tokens processed since the last call.
    Raises: UserError when the loss is not finite; the broken state is not saved.
    """
    if (metrics := checkpoint.result(folder)) is not None:
        report(cell["tokens"])
        return metrics
    started = time.monotonic()
    model, hyper = model_of(cell), Hyper(*(np.float32(cell[name]) for name in Hyper._fields))
    fixed = (cell["schedule"], cell["clip"], cell["b1"], cell["b2"])
    chunk, steps = cell["steps_per_dispatch"], cell["steps"]
    data = iter(loader.train_batches(packed, sequences=chunk * cell["batch_sequences"], seed=cell["seed"]))
    manager = checkpoint.open_run(folder)
    state = initial_state(cell)
    done, seconds, real, curve = 0, 0.0, 0.0, []
    if (restored := checkpoint.restore(manager, state, data)) is not None:
        state, saved = restored
        done, seconds, real, curve = saved["step"], saved["wall_seconds"], saved["real_tokens"], saved["curve"]
        report(done * cell["batch_tokens"])

    def progress() -> dict[str, Any]:
        # `curve` holds (step, mean loss of the chunk that ended there); it goes on exactly after a restart.
        elapsed = seconds + time.monotonic() - started
        return {"step": done, "wall_seconds": elapsed, "real_tokens": real, "curve": curve}

    def account(step: int, sums: dict[str, jax.Array]) -> None:
        nonlocal real
        targets, loss_sum = float(sums["targets"]), float(sums["loss_sum"])
        if not np.isfinite(loss_sum) or not np.isfinite(float(sums["gradient_norm"])):
            raise UserError(
                f"cell {cell['id']} ({cell['size']}, seed {cell['seed']}): the loss is not finite by step {step} of "
                f"{steps}: lower --config.training.rate.peak (here {cell['learning_rate']:.3g})"
            )
        real += targets
        curve.append([step, loss_sum / max(targets, 1.0)])

    pending: tuple[int, dict[str, jax.Array]] | None = None
    saved_at = time.monotonic()
    while done < steps:
        updates = min(chunk, steps - done)
        batch = {name: x.reshape(chunk, -1, x.shape[-1]) for name, x in next(data).items()}
        state, sums = train_chunk(model, *fixed, state, sharding.shard(batch, axis=1), hyper, np.int32(updates))
        # Read the previous chunk's sums only now: the device already has the next one to work on.
        if pending is not None:
            account(*pending)
        done += updates
        pending = (done, sums)
        report(updates * cell["batch_tokens"])
        if time.monotonic() - saved_at > cell["checkpoint_seconds"] and done < steps:
            account(*pending)
            pending = None
            checkpoint.save(manager, done, state, data, {"finished": False, **cell, **progress()})
            saved_at = time.monotonic()
    if pending is not None:
        account(*pending)
    held_out = evaluate(cell, state.params, packed, "validation", cell["validation_sequences"])
    facts = progress()
    tail = [loss for step, loss in curve if step > 0.9 * steps]
    metrics = {
        "finished": True,
        **cell,
        **facts,
        "tokens_seen": cell["tokens"],
        "passes": real / cell["unique_tokens"],
        "train_loss": float(np.mean(tail)),
        **{f"validation_{name}": value for name, value in held_out.items()},
        "tokens_per_second": cell["tokens"] / facts["wall_seconds"],
        "phase": "cooled",
    }
    if not np.isfinite(metrics["validation_loss"]):
        raise UserError(f"cell {cell['id']}: the validation loss is not finite: lower --config.training.rate.peak")
    checkpoint.save(manager, steps, state, data, metrics)
    manager.close()
    return metrics


def job(cell: Cell, workdir: Path, report: Callable[[int], None]) -> dict[str, Any]:
    """Train one cell of the study in `workdir`; for `grid.executors.run`."""
    return train(cell, workdir / "packed" / f"t{cell['context']}", workdir / "runs" / cell["id"], report)
