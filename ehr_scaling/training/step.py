"""The compiled programs of a run: many optimizer steps in one dispatch, and the held-out loss."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ehr_scaling.models.transformer import Transformer, token_losses
from ehr_scaling.training.schedule import learning_rate

Scalar = jax.Array | np.floating | float


class State(NamedTuple):
    params: Any
    optimizer: Any
    step: jax.Array  # int32, updates done


class Hyper(NamedTuple):
    """What may differ between runs of one compiled program; float32 scalars."""

    learning_rate: Scalar
    steps: Scalar
    warmup: Scalar
    cooldown: Scalar
    floor: Scalar
    weight_decay: Scalar


def _transform(clip: float, b1: float, b2: float) -> optax.GradientTransformation:
    # AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) without rate and decay: those two are traced, in `_update`.
    return optax.chain(optax.clip_by_global_norm(clip), optax.scale_by_adam(b1=b1, b2=b2, eps=1e-8))


def _update(params: Any, direction: Any, rate: jax.Array, weight_decay: Scalar) -> Any:
    # Decay matrices only: a decayed norm scale or embedding row of a rare token would fade between its updates.
    def leaf(path, p, u):
        decay = weight_decay if "kernel" in jax.tree_util.keystr(path) or "head" in jax.tree_util.keystr(path) else 0.0
        return p - rate * (u + decay * p)

    return jax.tree_util.tree_map_with_path(leaf, params, direction)


@partial(jax.jit, static_argnames=("model", "clip", "b1", "b2"))
def init(model: Transformer, seed: jax.Array, clip: float, b1: float, b2: float) -> State:
    """Fresh parameters and optimizer state from an integer seed."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = model.init(jax.random.key(seed), tokens, tokens)["params"]
    return State(params, _transform(clip, b1, b2).init(params), jnp.zeros((), jnp.int32))


def _losses(model: Transformer, params: Any, tokens: jax.Array, segments: jax.Array) -> jax.Array:
    logits, _ = model.apply({"params": params}, tokens[:, :-1], segments[:, :-1])
    return token_losses(logits, tokens[:, 1:])


@partial(jax.jit, static_argnames=("model", "schedule", "clip", "b1", "b2"), donate_argnames=("state",))
def train_chunk(
    model: Transformer,
    schedule: str,
    clip: float,
    b1: float,
    b2: float,
    state: State,
    batch: dict[str, jax.Array],
    hyper: Hyper,
    updates: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
    """Make `updates` optimizer steps, at most K, in one dispatch.

    A chunk is one dispatch because a step of a small model is shorter than the host's time to launch it; the last
    chunk of a run passes a smaller `updates` instead of compiling another program.

    Args:
      batch: tokens and segments int32 (K, B, T+1), mask bool (K, B, T) of the targets that count; B sequences make one
        update.
      updates: int32, how many of the K to make.
    Returns: the new state; over the chunk, sums of losses (nats) and of targets, float32, and the last gradient norm.
    """

    def loss_fn(params, tokens, segments, mask):
        losses = _losses(model, params, tokens, segments)
        total, count = jnp.sum(losses * mask), jnp.sum(mask)
        return total / jnp.maximum(count, 1), (total, count)

    def body(i, carry):
        state, total, count, _ = carry
        tokens, segments, mask = (
            jax.lax.dynamic_index_in_dim(batch[name], i, keepdims=False) for name in ("tokens", "segments", "mask")
        )
        (_, (t, c)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, tokens, segments, mask)
        direction, optimizer = _transform(clip, b1, b2).update(grads, state.optimizer, state.params)
        rate = learning_rate(
            schedule,
            state.step,
            peak=hyper.learning_rate,
            steps=hyper.steps,
            warmup=hyper.warmup,
            cooldown=hyper.cooldown,
            floor=hyper.floor,
        )
        params = _update(state.params, direction, rate, hyper.weight_decay)
        return State(params, optimizer, state.step + 1), total + t, count + c, optax.global_norm(grads)

    zero = jnp.zeros((), jnp.float32)
    state, total, count, norm = jax.lax.fori_loop(0, updates, body, (state, zero, zero, zero))
    return state, {"loss_sum": total, "targets": count, "gradient_norm": norm}


@partial(jax.jit, static_argnames=("model",))
def eval_losses(model: Transformer, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Loss in nats of every target, float32 (n, T), 0 where the mask is off."""
    return _losses(model, params, batch["tokens"], batch["segments"]) * batch["mask"]
