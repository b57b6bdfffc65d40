"""Simulated futures of patients: a plain sampler with a key-value cache.

Shapes: n samples, B samples of one batch, C copies of each, R = B·C rows, P prompt tokens, G tokens to generate,
V vocabulary (padded).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ehr_scaling.models.transformer import PAD, Transformer
from ehr_scaling.outcomes import decode

# How a copy ended: not at all, by a token of the outcome, of its opposite, or by one that leaves it open.
RUNNING, POSITIVE, NEGATIVE, OPEN = range(4)


Array = np.ndarray | jax.Array


class Stops(NamedTuple):
    """Which ids end a copy, bool (V,) each; they have no id in common."""

    positive: Array
    negative: Array
    open: Array


class Futures(NamedTuple):
    """Simulated futures of n samples, C copies each."""

    tokens: np.ndarray  # int32 (n, C, G); PAD after the token that ended the copy
    lengths: np.ndarray  # int32 (n, C), tokens drawn, the last one included
    ended: np.ndarray  # int8 (n, C): RUNNING, POSITIVE, NEGATIVE or OPEN
    positive: np.ndarray  # float32 (n, C), Σ over its draws of the probability that a positive token comes
    negative: np.ndarray  # float32 (n, C), the same of a negative token


def simulate(
    model: Transformer,
    params: Any,
    prompts: np.ndarray,
    stops: Stops,
    *,
    copies: int,
    new_tokens: int,
    context: int,
    seed: int,
    first: np.ndarray | None = None,
    batch: int | None = None,
    report: Callable[[int], None] = lambda tokens: None,
) -> Futures:
    """Draw `copies` futures of each prompt from the model, token by token, until a stop or for `new_tokens` tokens.

    A future depends on its prompt, the seed, the sample's place in `prompts` and the copy's number, and on nothing
    else: not on the batch size, nor on how many copies there are.

    Args:
      prompts: int (n, P), padded on the left with PAD; no other PAD in them.
      context: positions the model was trained on; rotary positions beyond are unknown to it.
      first: bool (V,), ids among which the first token is drawn, as the model weighs them; None: all.
      batch: samples at a time; None: as many as suit the device.
      report: called after each batch with the tokens its samples could have drawn (samples × copies × new_tokens).
    Raises: ValueError when P + new_tokens is beyond the context.
    """
    n, width = prompts.shape
    if width + new_tokens > context:
        raise ValueError(f"prompts of {width} tokens and {new_tokens} new ones do not fit a context of {context}")
    if batch is None:
        # Keys and values of 64 rows stay in a core's cache; an accelerator wants many rows to hide its latency.
        batch = max(1, (64 if jax.default_backend() == "cpu" else 1024) // copies)
    batch = min(batch, n)
    if first is None:
        first = np.ones(model.vocab, bool)
    stops = Stops(*(np.pad(ids, (0, model.padded - len(ids))) for ids in stops))
    first = np.pad(first, (0, model.padded - len(first)))
    parts = []
    for begin in range(0, n, batch):
        rows = np.arange(begin, min(begin + batch, n))
        # The last batch is filled up with empty prompts, so that one program serves all.
        filled = np.full((batch, width), PAD, np.int32)
        filled[: len(rows)] = prompts[rows]
        indices = begin + np.arange(batch)
        futures = _simulate(model, params, filled, indices, seed, stops, first, copies, new_tokens)
        parts.append(Futures(*(np.asarray(x)[: len(rows)] for x in futures)))
        report(len(rows) * copies * new_tokens)
    return Futures(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def draw(weights_RxV: jax.Array, uniform_R: jax.Array) -> jax.Array:
    """One id a row with probability proportional to its weight, by inversion of the distribution function.

    Two levels of about √V, first the group of ids and then the id, instead of a running sum over V. An id of weight
    0 is never drawn, whatever the rounding of the sums: it is left out of the search.

    Args: weights, float32 (R, V), ≥ 0 and not all 0; uniform, float32 in [0, 1). Returns: int32 (R,).
    """
    rows, ids = weights_RxV.shape
    size = math.isqrt(ids - 1) + 1
    padded = jnp.pad(weights_RxV, ((0, 0), (0, -ids % size))).reshape(rows, -1, size)
    sums = jnp.sum(padded, axis=-1)
    group, rest = _invert(sums, uniform_R * jnp.sum(sums, axis=-1))
    inside = jnp.take_along_axis(padded, group[:, None, None], axis=1)[:, 0]
    return group * size + _invert(inside, rest)[0]


def _invert(weights_RxM: jax.Array, at_R: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first place where the running sum of weights is beyond `at`, and how far into that weight `at` lies."""
    below = jnp.cumsum(weights_RxM, axis=-1)
    # Rounding may leave `at` at the end of all: then it belongs to the last weight that is not 0.
    end = jnp.max(jnp.where(weights_RxM > 0, below, 0.0), axis=-1)
    at_R = jnp.minimum(at_R, jnp.nextafter(end, 0.0))
    place = jnp.argmax((weights_RxM > 0) & (below > at_R[:, None]), axis=-1).astype(jnp.int32)
    before = jnp.take_along_axis(below - weights_RxM, place[:, None], axis=1)[:, 0]
    return place, jnp.maximum(at_R - before, 0.0)


@partial(jax.jit, static_argnames=("model", "copies", "new_tokens"))
def _simulate(
    model: Transformer,
    params: Any,
    prompts_BxP: jax.Array,
    indices_B: jax.Array,
    seed: jax.Array,
    stops: Stops,
    first_V: jax.Array,
    copies: int,
    new_tokens: int,
) -> tuple[jax.Array, ...]:
    """The fields of Futures, of one batch."""
    batch, width = prompts_BxP.shape
    rows = batch * copies
    logits_RxV, cache = decode.prefill(model, params, prompts_BxP, copies, new_tokens)
    logits_RxV = jnp.where(first_V, logits_RxV, -1e9)
    weights = decode.weights(model, params)

    keys_B = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(indices_B)
    keys_BxC = jax.vmap(lambda key: jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(copies)))(keys_B)
    uniform_RxG = jax.vmap(lambda key: jax.random.uniform(key, (new_tokens,)))(keys_BxC.reshape(rows))

    outcome_Vx2 = jnp.stack([stops.positive, stops.negative], axis=-1).astype(jnp.float32)
    ending_V = jnp.select(list(stops), [jnp.int8(POSITIVE), jnp.int8(NEGATIVE), jnp.int8(OPEN)], jnp.int8(RUNNING))

    def body(carry):
        t, logits_RxV, cache, tokens_RxG, ended_R, lengths_R, sums_Rx2 = carry
        alive_R = ended_R == RUNNING
        weights_RxV = jnp.exp(logits_RxV - jnp.max(logits_RxV, axis=-1, keepdims=True))
        hazards_Rx2 = (weights_RxV @ outcome_Vx2) / jnp.sum(weights_RxV, axis=-1, keepdims=True)
        sums_Rx2 += jnp.where(alive_R[:, None], hazards_Rx2, 0.0)
        drawn_R = draw(weights_RxV, jax.lax.dynamic_index_in_dim(uniform_RxG, t, axis=1, keepdims=False))
        drawn_R = jnp.where(alive_R, drawn_R, PAD)
        ended_R = jnp.where(alive_R, ending_V[drawn_R], ended_R)
        tokens_RxG = jax.lax.dynamic_update_index_in_dim(tokens_RxG, drawn_R, t, axis=1)
        logits_RxV, cache = decode.step(model, weights, cache, drawn_R, width + t)
        return t + 1, logits_RxV, cache, tokens_RxG, ended_R, lengths_R + alive_R, sums_Rx2

    def going_on(carry):
        t, ended_R = carry[0], carry[4]
        return (t < new_tokens) & jnp.any(ended_R == RUNNING)

    empty_B = jnp.all(prompts_BxP == PAD, axis=-1)
    start = (
        jnp.int32(0),
        logits_RxV,
        cache,
        jnp.full((rows, new_tokens), PAD, jnp.int32),
        jnp.repeat(jnp.where(empty_B, OPEN, RUNNING).astype(jnp.int8), copies),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros((rows, 2), jnp.float32),
    )
    _, _, _, tokens_RxG, ended_R, lengths_R, sums_Rx2 = jax.lax.while_loop(going_on, body, start)
    sums_BxCx2 = sums_Rx2.reshape(batch, copies, 2)
    return (
        tokens_RxG.reshape(batch, copies, new_tokens),
        lengths_R.reshape(batch, copies),
        ended_R.reshape(batch, copies),
        sums_BxCx2[..., 0],
        sums_BxCx2[..., 1],
    )
