"""What a model has made of a prompt: states of a frozen model, the features of a linear head.

Shapes: B batch, P positions of a prompt, L layers, D width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ehr_scaling.models.transformer import PAD, Block, Transformer
from ehr_scaling.outcomes.sampler import placing
from ehr_scaling.outcomes.supervised import batches
from ehr_scaling.processes import leading
from ehr_scaling.training import sharding

# Of the stream after the last norm, and of the stream between the layers in the middle
LAST, MEAN, MIDDLE_LAST, MIDDLE_MEAN = "last", "mean", "middle last", "middle mean"
NAMES = (LAST, MEAN, MIDDLE_LAST, MIDDLE_MEAN)
AT_ONCE = 32  # stays of a batch on a device


def middle(model: Transformer) -> int:
    """The layer whose output counts as the middle's, from 0: of an even number of layers that at half the depth."""
    return (model.shape.layers - 1) // 2


def of_batch(
    model: Transformer,
    params: Any,
    prompts_BxP: jax.Array,
    context_tokens: int,
    names: Sequence[str],
    key: jax.Array | None = None,
) -> list[jax.Array]:
    """States of a batch, float32 (B, D) each: of the last position, or the mean over those of the timeline.

    Args: prompts, int32, padded on the left with PAD; context_tokens, of static context in front of each, over which no
      mean is taken; names, of NAMES; key, of dropout, for a model that has some.
    """
    if model.attention == "cudnn":  # it takes multiples of 128 positions alone, and prompts are cut to others
        model = model.clone(attention="blocked")
    filled_BxP = prompts_BxP != PAD
    segments_BxP = filled_BxP.astype(jnp.int32)
    about: dict[str, Any] = {"deterministic": key is None, "rngs": None if key is None else {"dropout": key}}
    kept: Any = {}
    if any(name.startswith("middle") for name in names):
        about |= {"capture_intermediates": lambda module, method: isinstance(module, Block) and method == "__call__"}
        out, kept = model.apply(
            {"params": params}, prompts_BxP, segments_BxP, method="hidden", mutable=["intermediates"], **about
        )
    else:
        out = model.apply({"params": params}, prompts_BxP, segments_BxP, method="hidden", **about)
    streams: dict[bool, Any] = {False: out[0]}
    if kept:
        layers_LxBxPxD = kept["intermediates"]["blocks"]["__call__"][0][0]
        streams[True] = layers_LxBxPxD[middle(model)]
    of_timeline_BxP = filled_BxP & (jnp.cumsum(segments_BxP, axis=1) > context_tokens)
    share_BxP = of_timeline_BxP / jnp.maximum(of_timeline_BxP.sum(axis=1, keepdims=True), 1)

    def state(name: str) -> jax.Array:
        x_BxPxD = streams[name.startswith("middle")].astype(jnp.float32)
        return x_BxPxD[:, -1] if name.endswith(LAST) else jnp.einsum("bp,bpd->bd", share_BxP, x_BxPxD)

    return [state(name) for name in names]


@partial(jax.jit, static_argnames=("model", "mesh", "context_tokens", "names"))
def _of_batch(
    model: Transformer,
    mesh: Mesh,
    context_tokens: int,
    names: tuple[str, ...],
    params: Any,
    of_prompts: tuple[jax.Array],
) -> list[jax.Array]:
    def each(params: Any, of_prompts: tuple[jax.Array]) -> list[jax.Array]:
        return of_batch(model, params, *of_prompts, context_tokens, names)

    return list(placing.split(mesh, each, params, of_prompts))


def of_prompts(
    model: Transformer,
    params: Any,
    prompts: np.ndarray,
    context_tokens: int,
    names: Sequence[str] = NAMES,
    report: Callable[[int], None] = lambda tokens: None,
) -> dict[str, np.ndarray]:
    """States of n prompts by name, float32 (n, D); which prompts are read beside one changes nothing but rounding.
    Devices share them out, as in `simulate`.

    Args: prompts, int (n, P); report, called with the positions read; else as of `of_batch`.
    """
    if sharding.shared_by_processes(params) is not None:
        leading.call("states", params, prompts=prompts, context_tokens=context_tokens, names=list(names))
    mesh, params = placing.placed(params)
    program = partial(_of_batch, placing.divisible(mesh, model), mesh, context_tokens, tuple(names))
    states = {name: np.empty((len(prompts), model.shape.width), np.float32) for name in names}
    for batch in batches.in_order(prompts, AT_ONCE * placing.shares(mesh)):
        rows = batch.rows[batch.filled]
        read = placing.by_batches(mesh, AT_ONCE, program, params, (batch.prompts,))
        for name, state in zip(names, read, strict=True):
            states[name][rows] = state[: len(rows)]
        report(len(rows) * batch.prompts.shape[1])
    return states
