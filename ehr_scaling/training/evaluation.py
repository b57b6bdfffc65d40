"""The held-out loss of models, with its standard error over patients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ehr_scaling.data.packing import loader
from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import Cell
from ehr_scaling.training import sharding
from ehr_scaling.training.setup import Setup
from ehr_scaling.training.step import eval_losses


def evaluate(
    cell: Cell,
    params: Any,
    packed: Path,
    split: str,
    limit: int,
    setup: Setup,
    between_batches: Callable[[], None] = lambda: None,
) -> list[dict[str, float]]:
    """Loss of every member on the first `limit` packed sequences of `split`, nats a token.

    The standard error is that of a ratio of sums over patients, Σ loss / Σ tokens (Cochran 1977, eq. 6.4): tokens of
    one patient are not independent.

    Args: params, leaves (M, …); between_batches, called there, by all processes alike.
    Returns: of each member: loss, loss_se, tokens, patients.
    """
    model, members = setup.program.model, len(jax.tree.leaves(params)[0])
    shares = sharding.shares(setup.mesh)
    rows = -(-cell.eval_sequences // shares.of) * shares.of
    losses, tokens = np.zeros((members, 0)), np.zeros(0)
    for number, batch in enumerate(loader.eval_batches(packed, split, sequences=rows, limit_sequences=limit)):
        if number:
            between_batches()
        segments = batch["segments"][:, 1:].ravel()
        here = {name: np.concatenate([np.split(x, shares.of)[k] for k in shares.numbers]) for name, x in batch.items()}
        placed = sharding.place(setup.mesh, here, axis=0)
        assert all(len(x) == rows for x in placed.values()), "all processes together hold the whole batch"
        values = eval_losses(model, params, placed)
        if jax.process_count() > 1:
            values = multihost_utils.process_allgather(values, tiled=True)
        weights = np.asarray(jax.device_get(values), np.float64).reshape(members, -1)
        size = max(len(tokens), int(segments.max()) + 1)
        more = [(0, size - len(tokens))]
        losses = np.pad(losses, [(0, 0), *more]) + [np.bincount(segments, member, size) for member in weights]
        tokens = np.pad(tokens, more) + np.bincount(segments, batch["mask"].ravel(), size)
    seen = tokens > 0
    losses, tokens, patients = losses[:, seen], tokens[seen], int(seen.sum())
    if patients < 2:
        raise UserError(f"{packed} has {patients} patients in its {split} split: a loss needs at least 2")
    metrics = []
    for member_losses in losses:
        loss = member_losses.sum() / tokens.sum()
        residuals = member_losses - loss * tokens
        se = np.sqrt(patients / (patients - 1) * np.sum(residuals**2)) / tokens.sum()
        metrics.append({"loss": float(loss), "loss_se": float(se), "tokens": int(tokens.sum()), "patients": patients})
    return metrics
