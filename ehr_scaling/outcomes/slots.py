"""The compiled loop of the sampler, on one device: slots that draw, leave, and are filled again.

Rows are slots, in groups that share a prompt. A slot whose copy leaves takes the next copy of the group's prompt in the
same turn; a group without copies takes the next prompt of the store, for which the inner loop ends and begins again.

Shapes: M prompts in store with C copies each, K outcomes, R rows in groups of S slots, P positions of a prompt, W of
the room behind it, V vocabulary (padded).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ehr_scaling.models.transformer import PAD, Transformer
from ehr_scaling.outcomes import decode

# How an outcome of a copy was decided: not at all, by one of its tokens, by one of its opposite, by one that leaves it
# open; and by the horizon, which means what the outcome says it means
RUNNING, POSITIVE, NEGATIVE, OPEN = range(4)

Array = np.ndarray | jax.Array


class Stops(NamedTuple):
    """What decides K outcomes: the first token of any of an outcome's three sets, which have no id in common.

    at_horizon: int8 (K,), POSITIVE, NEGATIVE or OPEN: what it means that none came within the horizon.
    """

    positive: Array  # bool (K, V)
    negative: Array  # bool (K, V)
    open: Array  # bool (K, V)
    at_horizon: Array


class Clock(NamedTuple):
    """The time that tokens take."""

    hours: Array  # float32 (V,), mean length of an interval token; 0 for all others
    ends: Array  # float32 (V,), hours by which an interval is over at the latest; 0 for what is no interval
    shortest: float  # hours, of which there is an interval


class State(NamedTuple):
    """Of rows or copies: what outlasts a slot. `outcomes` are the fields of Futures from `ended` on, (…, 6, K)."""

    outcomes: Any  # float32
    clock: Any  # float32, hours from the prediction; below 0 until the first event after it
    drawn: Any  # int32, tokens


class Setting(NamedTuple):
    """What is fixed when the loop is compiled."""

    model: Transformer
    room: int
    new_tokens: int
    suppress: bool


class Rows(NamedTuple):
    """What a slot holds. `fresh`: it draws from what the prompt says, its ring holds nothing."""

    copy: jax.Array  # int32 (R,), place among the copies of its prompt; C: idle
    age: jax.Array  # int32 (R,), tokens drawn here
    state: State
    fresh: jax.Array  # bool (R,)


def draw_futures(
    setting: Setting, groups: int, slots: int, params: Any, args: Any, stops: Stops, clock: Clock
) -> tuple[jax.Array, State]:
    """Draw futures of M prompts with C copies each, on one device.

    Args:
      groups, slots: G and S, the copies under way at a time.
      args: prompts, int32 (M, P), padded on the left; what decides each draw, uniform float32 (M, C, W); gaps, float32
        (M,), and horizons, float32 (M, K), as `simulate.simulate` takes them; the State (M, C) to go on from, in which
        copies that are over draw nothing.
    Returns: tokens drawn, int32 (M, C, W), those behind a copy's own meaningless; the State (M, C) then.
    """
    model, room = setting.model, setting.room
    prompts_MxP, uniform_MxCxW, gaps_M, horizons_MxK, start = args
    prompts, copies = start.drawn.shape
    rows, outcomes = groups * slots, horizons_MxK.shape[1]
    logits_MxV, store = decode.read(model, params, prompts_MxP)
    weights = decode.weights(model, params)
    # Nothing happened in the gap: where it is as long as an interval, the first token is one that leads beyond it.
    told_M = (gaps_M >= clock.shortest) & (start.drawn[:, 0] == 0)
    logits_MxV = jnp.where(told_M[:, None] & (clock.ends <= gaps_M[:, None]), decode.MASKED, logits_MxV)

    sets_Vx2K = jnp.concatenate([stops.positive, stops.negative]).T.astype(jnp.float32)
    kinds = [jnp.int8(kind) for kind in (POSITIVE, NEGATIVE, OPEN)]
    deciding_VxK = jnp.select(list(stops[:3]), kinds, jnp.int8(RUNNING)).T
    suppressed_V = jnp.any(stops.positive, axis=0)

    def idle(row: Rows) -> jax.Array:
        return jnp.all((row.copy == copies).reshape(groups, slots), axis=1)

    def refill(row: Rows, item_G, given_G):
        """Idle slots take the next copies of their group's prompt that are not over: (rows, copies given)."""
        idle_GxS = (row.copy == copies).reshape(groups, slots)
        rank_GxS = jnp.cumsum(idle_GxS, axis=1) - 1
        copy_GxS = given_G[:, None] + rank_GxS
        takes_GxS = idle_GxS & (copy_GxS < copies) & (item_G < prompts)[:, None]
        given_G = given_G + jnp.sum(takes_GxS, axis=1)
        takes_R, copy_R = takes_GxS.reshape(rows), jnp.minimum(copy_GxS, copies - 1).reshape(rows)
        at = jnp.minimum(jnp.repeat(item_G, slots), prompts - 1), copy_R
        state = jax.tree.map(lambda x: x[at], start)
        new = Rows(copy_R, jnp.zeros(rows, jnp.int32), state, jnp.ones(rows, bool))
        pick = lambda a, b: jnp.where(takes_R.reshape(-1, *(1,) * (a.ndim - 1)), a, b)  # noqa: E731
        return jax.tree.map(pick, new, row._replace(fresh=jnp.zeros(rows, bool))), given_G

    def draw_all(row: Rows, logits_RxV, horizons_RxK, live_R, uniform_R):
        """One token of each live row, and what it decides: (tokens, rows)."""
        weights_RxV = jnp.exp(logits_RxV - jnp.max(logits_RxV, axis=-1, keepdims=True))
        sums_Rx2K = (weights_RxV @ sets_Vx2K) / jnp.sum(weights_RxV, axis=-1, keepdims=True)
        positive_RxK, negative_RxK = jnp.split(sums_Rx2K, 2, axis=-1)
        if setting.suppress:
            weights_RxV = jnp.where(suppressed_V, 0.0, weights_RxV)
        token_R = jnp.where(live_R, draw(weights_RxV, uniform_R), PAD)
        # What was drawn first comes after the prediction, however short the interval before it.
        hours_R = jnp.maximum(row.state.clock + jnp.asarray(clock.hours)[token_R], 0.0)
        ended, late, hours, positive, negative, survival = (row.state.outcomes[:, i] for i in range(6))
        on = (ended == RUNNING) & live_R[:, None]
        positive += jnp.where(on, positive_RxK, 0.0)
        negative += jnp.where(on, negative_RxK, 0.0)
        survival += jnp.where(on, jnp.log1p(-jnp.minimum(positive_RxK, 1 - 1e-7)), 0.0)
        past = on & (hours_R[:, None] > horizons_RxK)
        ended = jnp.where(on, deciding_VxK[token_R], ended)
        ended = jnp.where(past, stops.at_horizon, ended)
        late = jnp.where(past, 1.0, late)
        hours = jnp.where(past, horizons_RxK, jnp.where(on, hours_R[:, None], hours))
        state = State(
            jnp.stack([ended, late, hours, positive, negative, survival], axis=1).astype(jnp.float32),
            jnp.where(live_R, hours_R, row.state.clock),
            row.state.drawn + live_R,
        )
        return token_R, row._replace(state=state, age=row.age + live_R)

    def turn(carry):
        """Groups without copies take the next prompts; then all draw until a group has none left again."""
        row, item_G, given_G, taken, *rest = carry
        free_G = idle(row) & (given_G >= copies)
        rank_G = taken + jnp.cumsum(free_G) - 1
        item_G = jnp.where(free_G, jnp.minimum(rank_G, prompts), item_G)
        given_G = jnp.where(free_G, 0, given_G)
        taken = jnp.minimum(taken + jnp.sum(free_G), prompts)
        row, given_G = refill(row, item_G, given_G)
        at_G = jnp.minimum(item_G, prompts - 1)
        prefix, first_GxV = store.take(at_G), logits_MxV[at_G]
        horizons_RxK = jnp.repeat(horizons_MxK[at_G], slots, axis=0)

        def step(carry):
            row, given_G, at, logits_RxV, ring, tokens_RxW, out = carry
            first_RxV = jnp.repeat(first_GxV, slots, axis=0)
            logits_RxV = jnp.where(row.fresh[:, None], first_RxV, logits_RxV)
            # A copy that was over before it came here, and one that is none, draw nothing.
            live_R = (row.copy < copies) & ~is_over(row.state, setting.new_tokens)
            at_R = jnp.minimum(row.copy, copies - 1), jnp.minimum(row.age, room - 1)
            uniform_R = uniform_MxCxW[jnp.repeat(at_G, slots), *at_R]
            token_R, row = draw_all(row, logits_RxV, horizons_RxK, live_R, uniform_R)
            tokens_RxW = jax.lax.dynamic_update_slice_in_dim(tokens_RxW, token_R[:, None], at, axis=1)
            leaves_R = (row.copy < copies) & (is_over(row.state, setting.new_tokens) | (row.age == room))

            def write(out):
                place_R = jnp.where(leaves_R, jnp.repeat(item_G, slots) * copies + row.copy, prompts * copies)
                column_RxW = (at + 1 - row.age[:, None] + jnp.arange(room)) % room
                own_RxW = jnp.take_along_axis(tokens_RxW, column_RxW, axis=1)
                value = (own_RxW, row.state)
                return jax.tree.map(lambda o, v: o.at[place_R].set(v, mode="drop"), out, value)

            out = jax.lax.cond(jnp.any(leaves_R), write, lambda out: out, out)
            row = row._replace(copy=jnp.where(leaves_R, copies, row.copy))
            age_R = row.age - 1  # of what the ring held before this token
            row, given_G = refill(row, item_G, given_G)
            logits_RxV, ring = decode.step(model, weights, prefix, ring, token_R, jnp.maximum(age_R, 0), at)
            return row, given_G, (at + 1) % room, logits_RxV, ring, tokens_RxW, out

        def going_on(carry):
            row, given_G = carry[0], carry[1]
            waiting_G = idle(row) & (given_G >= copies) & (item_G < prompts)
            return jnp.any(row.copy < copies) & ~(jnp.any(waiting_G) & (taken < prompts))

        row, given_G, *rest = jax.lax.while_loop(going_on, step, (row, given_G, *rest))
        return row, item_G, given_G, taken, *rest

    nothing = State(
        jnp.full((rows, 6, outcomes), float(OPEN)), jnp.zeros(rows, jnp.float32), jnp.zeros(rows, jnp.int32)
    )
    zeros_R = jnp.zeros(rows, jnp.int32)
    carry = (
        Rows(zeros_R + copies, zeros_R, nothing, jnp.zeros(rows, bool)),
        jnp.full(groups, prompts, jnp.int32),
        jnp.full(groups, copies, jnp.int32),
        jnp.int32(0),
        jnp.int32(0),
        jnp.zeros((rows, model.padded), jnp.float32),
        decode.empty_ring(model, rows, room),
        jnp.full((rows, room), PAD, jnp.int32),
        (
            jnp.full((prompts * copies, room), PAD, jnp.int32),
            jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), start),
        ),
    )
    carry = jax.lax.while_loop(lambda c: (c[3] < prompts) | jnp.any(c[0].copy < copies), turn, carry)
    return jax.tree.map(lambda x: x.reshape(prompts, copies, *x.shape[1:]), carry[-1])


def is_over(state: State, new_tokens: int) -> Any:
    """Which copies have come to their end: bool, on the host or the device, as the state is."""
    return (state.outcomes[..., 0, :] != RUNNING).all(-1) | (state.drawn >= new_tokens)


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
