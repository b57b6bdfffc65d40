"""Optimizers: the direction of an update, the rate of each parameter in it, and weight decay.

Rate and decay come in after the direction, so that they can be traced and differ between members of one program.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ehr_scaling import flops
from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import OPTIMIZERS
from ehr_scaling.models.transformer import Transformer

MOMENTUM = 0.95  # of Muon, as its authors' (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon)
# Root mean square of Muon's updates, which is Adam's usual one: what was found about rates holds for both
# (Liu et al. 2025, arXiv 2502.16982)
RMS = 0.2
# Axes of the body's matrices that a matrix product sums over, and that it puts out; those left are of separate
# matrices: layers, and queries, keys and values, gates and values, which do not share singular vectors.
_AXES = {
    "qkv": optax.contrib.MuonDimensionNumbers(1, (3, 4)),  # (L, D, 3, H, K)
    "out": optax.contrib.MuonDimensionNumbers(1, 2),  # (L, H·K, D)
    "gate_up": optax.contrib.MuonDimensionNumbers(1, 3),  # (L, D, 2, F)
    "down": optax.contrib.MuonDimensionNumbers(1, 2),  # (L, F, D)
}


def transform(name: str, *, clip: float, b1: float, b2: float) -> optax.GradientTransformation:
    """The direction of an update, to go against; gradients are first clipped to a global norm of `clip`.

    "adamw" is Adam's; "muon" orthogonalizes the momentum of each matrix of the body (Jordan et al. 2024) and is Adam's
    for the rest: embedding, head and scales of norms.
    Raises: UserError for an unknown name.
    """
    adam = optax.scale_by_adam(b1, b2)
    if name == "adamw":
        return optax.chain(optax.clip_by_global_norm(clip), adam)
    if name != "muon":
        raise UserError(f"--config.training.optimizer={name}: take one of {', '.join(OPTIMIZERS)}")
    muon = optax.chain(
        optax.contrib.scale_by_muon(ns_steps=flops.ITERATIONS, beta=MOMENTUM, weight_dimension_numbers=_dimensions),
        optax.stateless(lambda updates, params: jax.tree.map(_at_rms, updates, _dimensions(updates))),
    )
    return optax.chain(optax.clip_by_global_norm(clip), optax.partition({"adam": adam, "muon": muon}, labels))


def _name(path: Any) -> str:
    """Of a parameter: what stands before "kernel" or "scale" in its path, or the path's end."""
    names = [key.key for key in path]
    return str(names[-2] if names[-1] in ("kernel", "scale") else names[-1])


def labels(params: Any) -> Any:
    """Which of Muon's two rules moves each parameter, "muon" or "adam", by name: shapes do not tell.

    Matrices of the layers are stacked, and so are the scales of their norms: those have three or more axes, these two,
    as the embedding and the head.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: "muon" if _name(path) in _AXES else "adam", params)


def _dimensions(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: _AXES[_name(path)], params)


def _at_rms(x: jax.Array, axes: optax.contrib.MuonDimensionNumbers) -> jax.Array:
    """An orthogonal n × m matrix has entries of root mean square 1/√max(n, m)."""
    sides = (math.prod(x.shape[i] for i in np.atleast_1d(side)) for side in axes)
    return x * (RMS * max(sides) ** 0.5)


def scales(name: str, model: Transformer, params: Any) -> Any:
    """Multiples of the rate for each parameter: numbers, or small arrays that broadcast to it. 1 where not "mup".

    m is the width relative to the base's. A step of Adam changes a matrix of the body along few singular vectors, by m
    at entries of equal size, a step of Muon along all of them, by √m at equal root mean square; both shall change its
    product by as much at every width. Embedding and norms see no sum over the width, nor does the head, for the scale
    of the last norm carries 1/m (`Transformer.multipliers`).
    """
    if model.parametrization == "standard":
        return jax.tree.map(lambda _: 1.0, params)
    multipliers = model.multipliers
    width = (model.shape.width / model.base[0]) ** (-0.5 if name == "muon" else -1.0)
    query_3x1x1 = jnp.array((multipliers.query, 1.0, 1.0))[:, None, None]
    factors = {
        "qkv": width * query_3x1x1,
        "gate_up": width,
        "out": width * multipliers.residual,
        "down": width * multipliers.residual,
        "final_norm": multipliers.output,
    }
    return jax.tree_util.tree_map_with_path(lambda path, _: factors.get(_name(path), 1.0), params)


def apply(params: Any, direction: Any, rate: jax.Array, weight_decay: jax.Array, scales: Any) -> Any:
    """The parameters after an update: p - rate·(scale·direction + weight_decay·p).

    Decay is of the matrices alone, the embedding not among them, and does not know the scale: its pace, rate·decay, is
    then the same at every width (Dey et al. 2025, arXiv 2505.01618).
    """

    def updated(path: Any, p: jax.Array, d: jax.Array, scale: Any) -> jax.Array:
        decay = weight_decay if path[-1].key in ("kernel", "head") else 0.0
        return p - rate * (scale * d + decay * p)

    return jax.tree_util.tree_map_with_path(updated, params, direction, scales)
