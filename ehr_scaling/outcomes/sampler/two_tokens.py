"""What two more tokens decide, summed up instead of drawn: an interval, and what comes after it.

Where a prompt ends at a time, the next token is an interval, and where its event is the outcome the one after decides.
There are few intervals: each is read as if it had been drawn, and what follows is weighed by its probability. Nothing
is left to chance, and a prompt costs as many tokens as there are intervals, less than one simulated future as a rule.
What takes more tokens is not seen, and told.

Shapes: n samples, of which B are read at a time; K outcomes, I intervals, V vocabulary (padded).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes.sampler import decode, placing
from ehr_scaling.outcomes.sampler.simulate import SimulationRequest
from ehr_scaling.outcomes.sampler.slots import NEGATIVE, OPEN, POSITIVE, RUNNING, Clock, Stops, padded
from ehr_scaling.processes import leading
from ehr_scaling.training import sharding

_ROWS = 512  # prompts × intervals at a time on each device


class Decided(NamedTuple):
    """Probabilities that the first two tokens after the prompt of each of n samples decide each of K outcomes as
    positive, negative or open: float64 (n, K) each. What is left of 1 takes more tokens, see `undecided`."""

    positive: np.ndarray
    negative: np.ndarray
    open: np.ndarray

    def take(self, rows: Any) -> "Decided":
        """Of some samples."""
        return Decided(*(field[rows] for field in self))

    @property
    def undecided(self) -> np.ndarray:
        """float64 (n, K), of outcomes that take more tokens, or that follow a first token that is no interval."""
        return np.maximum(1 - self.positive - self.negative - self.open, 0)


def decide(
    model: Transformer, params: Any, request: SimulationRequest, *, devices: Sequence[jax.Device] | None = None
) -> Decided:
    """The probabilities that `Futures` of two tokens estimate, in the same terms: gaps, clock, horizons and stops are
    used as `simulate` uses them, and devices share the prompts out likewise. Copies, their number and the seed mean
    nothing here.

    Exact for the model, but for what follows a first token that is neither an interval nor decides: see `undecided`.
    Raises: Preempted after SIGTERM, where that was put off.
    """
    if sharding.shared_by_processes(params) is not None:
        leading.call("decide", params, **request.flat())
    mesh, params = placing.placed(params, devices)
    stops, clock = padded(model, request.stops, request.clock)
    intervals = np.flatnonzero(clock.hours)
    prompts, gaps = request.prompts.astype(np.int32), request.gaps.astype(np.float32)
    decided = placing.by_batches(
        mesh,
        max(1, _ROWS // len(intervals)),
        partial(_decide, model, mesh),
        params,
        (prompts, gaps, request.horizons.astype(np.float32)),
        *(stops, clock, intervals),
    )
    return Decided(*(field.astype(np.float64) for field in decided))


@partial(jax.jit, static_argnames=("model", "mesh"))
def _decide(model: Transformer, mesh: Mesh, params: Any, of_prompts: Any, *rest: Any) -> tuple[jax.Array, ...]:
    """float32 (B, K): positive, negative, open."""
    return placing.split(mesh, partial(_decided, model), params, of_prompts, *rest)


def _decided(
    model: Transformer,
    params: Any,
    of_prompts: tuple[jax.Array, jax.Array, jax.Array],
    stops: Stops,
    clock: Clock,
    intervals_I: jax.Array,
) -> tuple[jax.Array, ...]:
    """As `_decide`, on one device."""
    prompts_BxP, gaps_B, horizons_BxK = of_prompts
    logits_BxV, prefix = decode.read(model, params, prompts_BxP)
    told_B = gaps_B >= clock.shortest
    logits_BxV = jnp.where(told_B[:, None] & (clock.ends <= gaps_B[:, None]), decode.MASKED, logits_BxV)
    (prompts, _), count = logits_BxV.shape, len(intervals_I)
    positive_KxV = jnp.asarray(stops.positive, jnp.float32)
    kinds_VxK = jnp.select(
        [positive_KxV == 1, *stops[1:3]], [jnp.int8(kind) for kind in (POSITIVE, NEGATIVE, OPEN)], jnp.int8(RUNNING)
    ).T
    # No interval is positive with a probability between 0 and 1
    decides_VxK = {POSITIVE: positive_KxV.T, **{kind: kinds_VxK == kind for kind in (NEGATIVE, OPEN)}}

    def decided(p_RxV: jax.Array, before_R: jax.Array, horizons_RxK: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What one more token decides, (3, R, K), and which intervals decide something as that token, (R, I, K)."""
        at_RxI = jnp.maximum(before_R[:, None] + clock.hours[intervals_I], 0.0)
        late_RxIxK = at_RxI[..., None] > horizons_RxK[:, None]
        kinds_RxIxK = jnp.where(late_RxIxK, stops.at_horizon, kinds_VxK[intervals_I])
        rest_RxV = p_RxV.at[:, intervals_I].set(0.0)  # no other token takes time
        p_RxI = p_RxV[:, intervals_I]
        each = [
            rest_RxV @ decides_VxK[kind] + jnp.einsum("ri,rik->rk", p_RxI, kinds_RxIxK == kind)
            for kind in (POSITIVE, NEGATIVE, OPEN)
        ]
        return jnp.stack(each), kinds_RxIxK != RUNNING

    first_BxV = jax.nn.softmax(logits_BxV, axis=-1)
    by_first, over_BxIxK = decided(first_BxV, -gaps_B, horizons_BxK)
    # Every interval of a prompt is a row of its group
    tokens_R, ages_R = jnp.tile(intervals_I, prompts), jnp.zeros(prompts * count, jnp.int32)
    ring = decode.empty_ring(model, prompts * count, 1)
    next_RxV, _ = decode.step(model, decode.weights(model, params), prefix, ring, tokens_R, ages_R, jnp.int32(0))
    hours_R = jnp.maximum(jnp.repeat(-gaps_B, count) + clock.hours[tokens_R], 0.0)
    by_second, _ = decided(jax.nn.softmax(next_RxV, axis=-1), hours_R, jnp.repeat(horizons_BxK, count, axis=0))
    by_second = by_second.reshape(3, prompts, count, -1)
    weights_BxIxK = jnp.where(over_BxIxK, 0.0, first_BxV[:, intervals_I, None])
    return tuple(by_first + jnp.einsum("bik,sbik->sbk", weights_BxIxK, by_second))
