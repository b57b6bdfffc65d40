"""The compiled loop of the sampler, on one device: slots that draw, leave, and are filled again.

The life of a sample: its prompt is read with all others of the store. A group of slots without copies takes it
(`_take_prompts`), and each of its slots one of the sample's copies (`_refill`). A copy draws its first token from what
the prompt says, and each later one from what its own tokens say (`decode.step`); each draw is judged (`_draw`). When
all outcomes are decided, or it has drawn as many tokens as it may or as there is room for, it leaves: what it drew and
what came of it is written to its place (`_write`), and its slot takes the next copy of the same prompt before the next
draw. When none is left to give, and all have left, the group takes the next prompt.

Shapes: M prompts in store with C copies each, K outcomes, R rows in groups of S slots, P positions of a prompt, W of
the room behind it, V vocabulary (padded).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ehr_scaling.models.transformer import PAD, Transformer
from ehr_scaling.outcomes.sampler import decode

# How an outcome of a copy was decided: not at all, by one of its tokens, by one of its opposite, by one that leaves it
# open; and by the horizon, which means what the outcome says it means
RUNNING, POSITIVE, NEGATIVE, OPEN = range(4)

Array = np.ndarray | jax.Array


class Stops(NamedTuple):
    """What decides K outcomes: the first token of any of an outcome's three sets, which have no id in common.

    A token may be a positive one with a probability alone, as one that names a bin of values which a threshold cuts:
    where `positive` is between 0 and 1, a future goes on after it, and what comes later counts for as much of it as
    has not come to the outcome yet.

    at_horizon: int8 (K,), POSITIVE, NEGATIVE or OPEN: what it means that none came within the horizon.
    """

    positive: Array  # bool (K, V), or float32 from 0 to 1
    negative: Array  # bool (K, V)
    open: Array  # bool (K, V)
    at_horizon: Array


class Clock(NamedTuple):
    """The time that tokens take."""

    hours: Array  # float32 (V,), mean length of an interval token; 0 for all others
    ends: Array  # float32 (V,), hours by which an interval is over at the latest; 0 for what is no interval
    shortest: float  # hours, of which there is an interval


def padded(model: Transformer, stops: Stops, clock: Clock) -> tuple[Stops, Clock]:
    """Both over the model's padded vocabulary, whose tokens beyond the vocabulary mean nothing. numpy."""
    more = model.padded - len(clock.hours)
    sets = {name: np.pad(getattr(stops, name), ((0, 0), (0, more))) for name in ("positive", "negative", "open")}
    clock = clock._replace(hours=np.pad(clock.hours, (0, more)), ends=np.pad(clock.ends, (0, more)))
    return stops._replace(**sets), clock


class State(NamedTuple):
    """What is known of copies (of the rows R that draw, or of M prompts with C copies) when they enter or leave a slot.

    outcomes, (…, 7, K): of each of K outcomes the seven fields of `simulate.Futures` from `ended` on, in their order:
      ended, by_horizon, hours, positive, negative, survival, share.
    """

    outcomes: Any  # float32 (…, 7, K)
    clock: Any  # float32, hours from the prediction; below 0 until the first event after it
    drawn: Any  # int32, tokens


class Setting(NamedTuple):
    """What is fixed when the loop is compiled."""

    model: Transformer
    room: int
    new_tokens: int
    suppress: bool


class Rows(NamedTuple):
    """What R slots hold, one copy each. Keys and values of the tokens that a copy drew lie in its ring
    (`decode.Ring`): W places, written round and round, where a copy that enters finds what the one before it left."""

    copy: jax.Array  # int32 (R,), place among the copies of its prompt; C: idle
    age: jax.Array  # int32 (R,), tokens drawn here
    state: State
    fresh: jax.Array  # bool (R,), it has drawn nothing here: its next token follows from the prompt alone


class _Work(NamedTuple):
    """What stays the same in the loop: M prompts with C copies each, and by what draws are judged."""

    setting: Setting
    slots: int  # S
    weights: decode.Weights
    store: decode.Prefix  # of M
    logits: jax.Array  # float32 (M, V), of the first token
    uniform: jax.Array  # float32 (M, C, W)
    horizons: jax.Array  # float32 (M, K)
    start: State  # (M, C)
    sets: jax.Array  # float32 (V, 2K), how far each token is a positive one of each outcome, then a negative one
    deciding: jax.Array  # int8 (V, K), as what a token decides an outcome; RUNNING: it does not
    kept: jax.Array  # float32 (V,), what is left of a token's probability: 0 is never drawn
    at_horizon: Array
    hours: jax.Array  # float32 (V,), of Clock

    @property
    def prompts(self) -> int:
        return self.uniform.shape[0]

    @property
    def copies(self) -> int:
        return self.uniform.shape[1]


class _Loop(NamedTuple):
    """What goes from draw to draw."""

    rows: Rows
    item: jax.Array  # int32 (G,), the prompt of each group; M: none
    given: jax.Array  # int32 (G,), copies of it that were given to slots
    taken: jax.Array  # int32, prompts that groups have taken
    at: jax.Array  # int32, where all rows write in their rings
    logits: jax.Array  # float32 (R, V), of the next token
    ring: decode.Ring
    tokens: jax.Array  # int32 (R, W), drawn, as they lie in the rings
    out: tuple[jax.Array, State]  # (M·C, W) and (M·C,), of the copies that have left


def draw_futures(
    setting: Setting, groups: int, slots: int, params: Any, args: Any, stops: Stops, clock: Clock
) -> tuple[jax.Array, State]:
    """Draw futures of M prompts with C copies each, on one device.

    Args:
      groups, slots: G and S, the copies under way at a time.
      args: prompts, int32 (M, P), padded on the left; what decides each draw, uniform float32 (M, C, W); gaps, float32
        (M,), and horizons, float32 (M, K), as `simulate.SimulationRequest` has them; the State (M, C) to go on
        from, in which copies that are over draw nothing.
    Returns: tokens drawn, int32 (M, C, W), those behind a copy's own meaningless; the State (M, C) then.
    """
    model = setting.model
    prompts_MxP, uniform_MxCxW, gaps_M, horizons_MxK, start = args
    logits_MxV, store = decode.read(model, params, prompts_MxP)
    # Nothing happened in the gap: where it is as long as an interval, the first token is one that leads beyond it.
    told_M = (gaps_M >= clock.shortest) & (start.drawn[:, 0] == 0)
    logits_MxV = jnp.where(told_M[:, None] & (clock.ends <= gaps_M[:, None]), decode.MASKED, logits_MxV)
    kinds = [jnp.int8(kind) for kind in (POSITIVE, NEGATIVE, OPEN)]
    positive_KxV = jnp.asarray(stops.positive, jnp.float32)
    work = _Work(
        setting=setting,
        slots=slots,
        weights=decode.weights(model, params),
        store=store,
        logits=logits_MxV,
        uniform=uniform_MxCxW,
        horizons=horizons_MxK,
        start=start,
        sets=jnp.concatenate([positive_KxV, stops.negative]).T,
        deciding=jnp.select([positive_KxV == 1, *stops[1:3]], kinds, jnp.int8(RUNNING)).T,
        kept=jnp.prod(1 - positive_KxV, axis=0) if setting.suppress else jnp.ones_like(positive_KxV[0]),
        at_horizon=stops.at_horizon,
        hours=jnp.asarray(clock.hours),
    )
    loop = _begin(work, groups)
    loop = jax.lax.while_loop(
        lambda loop: (loop.taken < work.prompts) | jnp.any(loop.rows.copy < work.copies),
        lambda loop: _turn(work, loop),
        loop,
    )
    return jax.tree.map(lambda x: x.reshape(work.prompts, work.copies, *x.shape[1:]), loop.out)


def _begin(work: _Work, groups: int) -> _Loop:
    """All slots idle, no prompt taken."""
    model, room, rows = work.setting.model, work.setting.room, groups * work.slots
    outcomes = work.horizons.shape[1]
    zeros_R = jnp.zeros(rows, jnp.int32)
    nothing = State(jnp.full((rows, 7, outcomes), float(OPEN)), jnp.zeros(rows, jnp.float32), zeros_R)
    return _Loop(
        rows=Rows(zeros_R + work.copies, zeros_R, nothing, jnp.zeros(rows, bool)),
        item=jnp.full(groups, work.prompts, jnp.int32),
        given=jnp.full(groups, work.copies, jnp.int32),
        taken=jnp.int32(0),
        at=jnp.int32(0),
        logits=jnp.zeros((rows, model.padded), jnp.float32),
        ring=decode.empty_ring(model, rows, room),
        tokens=jnp.full((rows, room), PAD, jnp.int32),
        out=(
            jnp.full((work.prompts * work.copies, room), PAD, jnp.int32),
            jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), work.start),
        ),
    )


def _turn(work: _Work, loop: _Loop) -> _Loop:
    """Groups without copies take the next prompts; then all draw until a group has none left again."""
    loop = _take_prompts(work, loop)
    at_G = jnp.minimum(loop.item, work.prompts - 1)
    # What is read at every draw, gathered once
    prefix, first_GxV = work.store.take(at_G), work.logits[at_G]
    horizons_RxK = jnp.repeat(work.horizons[at_G], work.slots, axis=0)

    def step(loop: _Loop) -> _Loop:
        rows, room = loop.rows, work.setting.room
        first_RxV = jnp.repeat(first_GxV, work.slots, axis=0)
        logits_RxV = jnp.where(rows.fresh[:, None], first_RxV, loop.logits)
        at_R = jnp.minimum(rows.copy, work.copies - 1), jnp.minimum(rows.age, room - 1)
        uniform_R = work.uniform[jnp.repeat(at_G, work.slots), *at_R]
        token_R, rows = _draw(work, rows, logits_RxV, horizons_RxK, uniform_R)
        tokens_RxW = jax.lax.dynamic_update_slice_in_dim(loop.tokens, token_R[:, None], loop.at, axis=1)
        loop = _write(work, loop._replace(rows=rows, tokens=tokens_RxW))
        age_R = rows.age - 1  # of what the ring held before this token
        rows, given_G = _refill(work, loop.rows, loop.item, loop.given)
        logits_RxV, ring = decode.step(
            work.setting.model, work.weights, prefix, loop.ring, token_R, jnp.maximum(age_R, 0), loop.at
        )
        return loop._replace(rows=rows, given=given_G, at=(loop.at + 1) % room, logits=logits_RxV, ring=ring)

    def going_on(loop: _Loop) -> jax.Array:
        waiting_G = _idle(work, loop.rows) & (loop.given >= work.copies) & (loop.item < work.prompts)
        return jnp.any(loop.rows.copy < work.copies) & ~(jnp.any(waiting_G) & (loop.taken < work.prompts))

    return jax.lax.while_loop(going_on, step, loop)


def _idle(work: _Work, rows: Rows) -> jax.Array:
    """Groups of which no slot holds a copy, bool (G,)."""
    return jnp.all((rows.copy == work.copies).reshape(-1, work.slots), axis=1)


def _take_prompts(work: _Work, loop: _Loop) -> _Loop:
    """Groups that have nothing left to do take the next prompts of the store, and their slots the first copies."""
    free_G = _idle(work, loop.rows) & (loop.given >= work.copies)
    rank_G = loop.taken + jnp.cumsum(free_G) - 1
    item_G = jnp.where(free_G, jnp.minimum(rank_G, work.prompts), loop.item)
    taken = jnp.minimum(loop.taken + jnp.sum(free_G), work.prompts)
    rows, given_G = _refill(work, loop.rows, item_G, jnp.where(free_G, 0, loop.given))
    return loop._replace(rows=rows, item=item_G, given=given_G, taken=taken)


def _refill(work: _Work, rows: Rows, item_G: jax.Array, given_G: jax.Array) -> tuple[Rows, jax.Array]:
    """Idle slots take the next copies of their group's prompt: rows, and how many were given then.

    One that is over already draws nothing, and leaves at once.
    """
    idle_GxS = (rows.copy == work.copies).reshape(-1, work.slots)
    copy_GxS = given_G[:, None] + jnp.cumsum(idle_GxS, axis=1) - 1
    takes_GxS = idle_GxS & (copy_GxS < work.copies) & (item_G < work.prompts)[:, None]
    takes_R, copy_R = takes_GxS.reshape(-1), jnp.minimum(copy_GxS, work.copies - 1).reshape(-1)
    at = jnp.minimum(jnp.repeat(item_G, work.slots), work.prompts - 1), copy_R
    state = jax.tree.map(lambda x: x[at], work.start)
    new = Rows(copy_R, jnp.zeros_like(rows.age), state, jnp.ones_like(rows.fresh))
    pick = lambda a, b: jnp.where(takes_R.reshape(-1, *(1,) * (a.ndim - 1)), a, b)  # noqa: E731
    rows = jax.tree.map(pick, new, rows._replace(fresh=jnp.zeros_like(rows.fresh)))
    return rows, given_G + jnp.sum(takes_GxS, axis=1)


def _draw(
    work: _Work, rows: Rows, logits_RxV: jax.Array, horizons_RxK: jax.Array, uniform_R: jax.Array
) -> tuple[jax.Array, Rows]:
    """One token of each row that is under way, and what it decides: tokens, and the rows then."""
    live_R = (rows.copy < work.copies) & ~is_over(rows.state, work.setting.new_tokens)
    weights_RxV = jnp.exp(logits_RxV - jnp.max(logits_RxV, axis=-1, keepdims=True))
    sums_Rx2K = (weights_RxV @ work.sets) / jnp.sum(weights_RxV, axis=-1, keepdims=True)
    positive_RxK, negative_RxK = jnp.split(sums_Rx2K, 2, axis=-1)
    if work.setting.suppress:
        weights_RxV = weights_RxV * work.kept
    token_R = jnp.where(live_R, draw(weights_RxV, uniform_R), PAD)
    # What was drawn first comes after the prediction, however short the interval before it.
    hours_R = jnp.maximum(rows.state.clock + work.hours[token_R], 0.0)
    ended, late, hours, positive, negative, survival, share = (rows.state.outcomes[:, i] for i in range(7))
    on = (ended == RUNNING) & live_R[:, None]
    positive += jnp.where(on, (1 - share) * positive_RxK, 0.0)
    negative += jnp.where(on, (1 - share) * negative_RxK, 0.0)
    survival += jnp.where(on, jnp.log1p(-jnp.minimum(positive_RxK, 1 - 1e-7)), 0.0)
    past = on & (hours_R[:, None] > horizons_RxK)
    if not work.setting.suppress:  # where no token drawn is a positive one; and what leads beyond the horizon is none
        share += jnp.where(on & ~past, (1 - share) * work.sets[token_R, : share.shape[1]], 0.0)
    ended = jnp.where(on, work.deciding[token_R], ended)
    ended = jnp.where(past, work.at_horizon, ended)
    late = jnp.where(past, 1.0, late)
    hours = jnp.where(past, horizons_RxK, jnp.where(on, hours_R[:, None], hours))
    state = State(
        jnp.stack([ended, late, hours, positive, negative, survival, share], axis=1).astype(jnp.float32),
        jnp.where(live_R, hours_R, rows.state.clock),
        rows.state.drawn + live_R,
    )
    return token_R, rows._replace(state=state, age=rows.age + live_R)


def _write(work: _Work, loop: _Loop) -> _Loop:
    """Copies that are over, or have filled their room, leave: what they drew and came to goes to its place."""
    rows, room = loop.rows, work.setting.room
    over_R = is_over(rows.state, work.setting.new_tokens) | (rows.age == room)
    leaves_R = (rows.copy < work.copies) & over_R

    def write(out: tuple[jax.Array, State]) -> tuple[jax.Array, State]:
        place_R = jnp.repeat(loop.item, work.slots) * work.copies + rows.copy
        place_R = jnp.where(leaves_R, place_R, work.prompts * work.copies)
        column_RxW = (loop.at + 1 - rows.age[:, None] + jnp.arange(room)) % room
        drawn_RxW = jnp.take_along_axis(loop.tokens, column_RxW, axis=1)
        return jax.tree.map(lambda o, v: o.at[place_R].set(v, mode="drop"), out, (drawn_RxW, rows.state))

    out = jax.lax.cond(jnp.any(leaves_R), write, lambda out: out, loop.out)
    return loop._replace(rows=rows._replace(copy=jnp.where(leaves_R, work.copies, rows.copy)), out=out)


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
