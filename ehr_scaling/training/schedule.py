"""Learning rate over the steps of a run; every number is traced, so that runs of any length share one program."""

import jax
import jax.numpy as jnp

from ehr_scaling.grid.cell import SCHEDULES


def learning_rate(kind: str, step: jax.Array, *, peak, steps, warmup, cooldown, floor) -> jax.Array:
    """The learning rate of update number `step` (from 0).

    Args:
      kind: "cosine", matched to the run's length (Hoffmann et al. 2022, arXiv 2203.15556), or "wsd": constant, then a
        1 - sqrt cooldown (Hägele et al. 2024, arXiv 2405.18392).
      peak: highest rate; steps: length of the run; warmup, cooldown: steps; floor: last rate as a share of the peak.
    """
    warm = jnp.minimum(1.0, (step + 1) / jnp.maximum(warmup, 1))
    if kind == "cosine":
        done = jnp.clip((step - warmup) / jnp.maximum(steps - warmup, 1), 0.0, 1.0)
        shape = 0.5 * (1 + jnp.cos(jnp.pi * done))
    elif kind == "wsd":
        done = jnp.clip((step - (steps - cooldown)) / jnp.maximum(cooldown, 1), 0.0, 1.0)
        shape = 1 - jnp.sqrt(done)
    else:
        raise ValueError(f"unknown schedule {kind!r}: one of {SCHEDULES}")
    return peak * warm * (floor + (1 - floor) * shape)
