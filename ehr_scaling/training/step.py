"""The compiled programs of a run: many optimizer steps of one or several models in one dispatch, and the held-out loss.

Shapes: M members (models trained together), P pieces of a dispatch, b sequences of a piece, T context.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ehr_scaling.models.transformer import Transformer
from ehr_scaling.training import optimizer, sharding
from ehr_scaling.training.schedule import learning_rate

Scalar = Any  # float32 array, of NumPy or of JAX


@dataclass(frozen=True)
class Program:
    """What a compiled program is made for; everything else is traced, so that cells of one shape share it."""

    model: Transformer
    optimizer: str = "adamw"
    schedule: str = "cosine"
    clip: float = 1.0
    b1: float = 0.9
    b2: float = 0.95

    def transform(self) -> optax.GradientTransformation:
        return optimizer.transform(self.optimizer, clip=self.clip, b1=self.b1, b2=self.b2)


class State(NamedTuple):
    """Everything a run needs to go on; every leaf has the members in front, (M, …)."""

    params: Any
    optimizer: Any
    step: jax.Array  # int32, updates done, the skipped ones among them
    skipped: jax.Array  # int32, updates left out because their gradient was not finite
    in_a_row: jax.Array  # int32, how many of them were the last ones


class Hyper(NamedTuple):
    """What may differ between runs of one compiled program, and between members; float32 (M,)."""

    learning_rate: Scalar
    steps: Scalar
    warmup: Scalar
    cooldown: Scalar
    floor: Scalar
    weight_decay: Scalar


def _members(function: Callable[..., Any], args: tuple[Any, ...], shared: tuple[Any, ...] = ()) -> Any:
    """`function(*args, *shared)` for each member of `args`, whose leaves are (M, …); devices share the members out.

    Accelerators do all of them at once, in batched kernels. A CPU has none that are fast, and does one after another.
    """

    def each(args: tuple[Any, ...], shared: tuple[Any, ...]) -> Any:
        if len(jax.tree.leaves(args)[0]) == 1:
            alone = function(*jax.tree.map(lambda x: jnp.asarray(x)[0], args), *shared)
            return jax.tree.map(lambda x: x[None], alone)
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda member: function(*member, *shared), args)
        return jax.vmap(lambda member: function(*member, *shared))(args)

    return sharding.members_apart(each)(args, shared)


@partial(jax.jit, static_argnames=("program",))
def init(program: Program, seeds: jax.Array) -> State:
    """Fresh parameters and optimizer state from integer seeds (M,)."""
    tokens = jnp.zeros((1, 2), jnp.int32)

    def one(seed: jax.Array) -> State:
        # Parameters do not depend on the kernel, and some kernels take no row as short as this
        params = program.model.clone(attention="xla").init(jax.random.key(seed), tokens, tokens)["params"]
        zero = jnp.zeros((), jnp.int32)
        return State(params, program.transform().init(params), zero, zero, zero)

    return _members(one, (seeds,))


# XLA says so wherever no result has the shape of a donated array; a batch is donated to be freed early.
warnings.filterwarnings("ignore", "Some donated buffers were not usable")


@partial(jax.jit, static_argnames=("program",), donate_argnames=("state", "batch"))
def train_chunk(
    program: Program,
    state: State,
    batch: dict[str, jax.Array],
    hyper: Hyper,
    seeds: jax.Array,
    updates: jax.Array,
    pieces: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
    """Make `updates` optimizer steps in one dispatch, each from the gradients of `pieces` pieces of the batch.

    A chunk is one dispatch because a step of a small model is shorter than the host's time to launch it. A step adds
    up its pieces, weighted by their tokens, so that its gradient is that of the whole batch; both counts are traced, so
    that one program serves every batch size and the shorter last chunk of a run.

    An update whose gradient is not finite is skipped and counted, member by member; its losses are left out.

    Args:
      batch: tokens and segments int32 (M, P, b, T+1), mask bool (M, P, b, T) of the targets that count; donated.
      seeds: int32 (M,), of dropout.
      updates, pieces: int32, with updates·pieces ≤ P.
    Returns: the new state; over the chunk, (M,) each: sums of losses (nats) and of targets, float32, gradient norm and
      rate of the last update, and the counts `skipped` and `in_a_row` of the state.
    """
    model, transform = program.model, program.transform()

    def piece_loss(params: Any, piece: dict[str, jax.Array], key: jax.Array) -> jax.Array:
        rngs = {"dropout": key} if model.dropout else None
        rows = (piece["tokens"], piece["segments"], piece["mask"])
        loss: Any = model.apply(
            {"params": params}, *rows, deterministic=not model.dropout, rngs=rngs, method="loss_sum"
        )
        return loss

    def sums_of(params: Any, batch: dict[str, jax.Array], key: jax.Array, first: jax.Array, pieces: jax.Array) -> Any:
        """Gradient, loss and targets of some pieces, added up."""

        def add(j: jax.Array, sums: Any) -> Any:
            piece = {name: jax.lax.dynamic_index_in_dim(x, first + j, keepdims=False) for name, x in batch.items()}
            loss, grads = jax.value_and_grad(piece_loss)(params, piece, jax.random.fold_in(key, j))
            return jax.tree.map(jnp.add, sums, (grads, loss, jnp.sum(piece["mask"], dtype=jnp.float32)))

        zero = jnp.zeros((), jnp.float32)
        return jax.lax.fori_loop(0, pieces, add, (jax.tree.map(jnp.zeros_like, params), zero, zero))

    def one(
        state: State,
        batch: dict[str, jax.Array],
        hyper: Hyper,
        seed: jax.Array,
        updates: jax.Array,
        pieces: jax.Array,
    ) -> Any:
        def update(i: jax.Array, carry: Any) -> Any:
            state, loss_sum, targets, _, _ = carry
            key = jax.random.fold_in(jax.random.key(seed), state.step)
            grads, loss, count = sharding.summed_over_data(sums_of)(state.params, batch, key, i * pieces, pieces)
            grads = jax.tree.map(lambda g: g / jnp.maximum(count, 1.0), grads)
            norm = optax.global_norm(grads)
            direction, moments = transform.update(grads, state.optimizer, state.params)
            rate = learning_rate(
                program.schedule,
                state.step,
                peak=hyper.learning_rate,
                steps=hyper.steps,
                warmup=hyper.warmup,
                cooldown=hyper.cooldown,
                floor=hyper.floor,
            )
            scales = optimizer.scales(program.optimizer, model, state.params)
            params = optimizer.apply(state.params, direction, rate, hyper.weight_decay, scales)
            finite = jnp.isfinite(norm) & jnp.isfinite(loss)
            kept = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)  # noqa: E731
            skipped = (~finite).astype(jnp.int32)
            state = State(
                kept(params, state.params),
                kept(moments, state.optimizer),
                state.step + 1,
                state.skipped + skipped,
                skipped * (state.in_a_row + 1),
            )
            return (
                state,
                loss_sum + jnp.where(finite, loss, 0.0),
                targets + jnp.where(finite, count, 0.0),
                jnp.where(finite, norm, jnp.inf),
                rate,
            )

        zero = jnp.zeros((), jnp.float32)
        state, loss_sum, targets, norm, rate = jax.lax.fori_loop(0, updates, update, (state, zero, zero, zero, zero))
        return state, {
            "loss_sum": loss_sum,
            "targets": targets,
            "gradient_norm": norm,
            "learning_rate": rate,
            "skipped": state.skipped,
            "in_a_row": state.in_a_row,
        }

    state, sums = _members(one, (state, batch, hyper, seeds), (updates, pieces))
    # Where it came from: else the next dispatch would find it elsewhere, and be compiled anew.
    return sharding.held(state), sums


@partial(jax.jit, static_argnames=("model",))
def eval_losses(model: Transformer, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Loss in nats of every target of every member, float32 (M, n, T), 0 where the mask is off.

    Args: params, leaves (M, …); batch, as of `loader.eval_batches`, the same for all members.
    """

    def one(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        losses: Any = model.apply({"params": params}, batch["tokens"], batch["segments"], method="losses")
        return losses * batch["mask"]

    return _members(one, (params,), (batch,))
