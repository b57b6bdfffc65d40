"""Simulated futures of patients: many copies of each, drawn token by token, several outcomes judged along the way.

A prompt is read once. Its copies share what is to be attended to of it, in groups of slots; where a copy ends, its slot
takes the next copy of the same prompt, and a group without copies the next prompt, all inside one compiled loop. A copy
that fills the context leaves its slot, and goes on as a prompt of its own that starts later: the oldest tokens are
dropped and the rest is read anew, for positions are baked into keys.

Shapes: n samples, C copies of each, K outcomes, G most tokens of a future; on the device M prompts in store, R rows in
groups of S slots, P positions of a prompt, W of the room behind it, V vocabulary (padded).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ehr_scaling.data.vocabulary import HOUR, Vocabulary
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


def clock(vocabulary: Vocabulary) -> Clock:
    """The mean lengths of intervals are those of the train split."""
    index = [vocabulary.index[name] for name in vocabulary.intervals]
    hours, ends = np.zeros((2, len(vocabulary.tokens)), np.float32)
    hours[index] = np.array(vocabulary.interval_seconds) / 3600
    ends[index] = [*(bound / HOUR for bound in vocabulary.interval_bounds[1:]), np.inf]
    return Clock(hours, ends, vocabulary.interval_bounds[0] / HOUR)


class Futures(NamedTuple):
    """Simulated futures of n samples, C copies each, and what K outcomes came to in them."""

    tokens: np.ndarray  # int32 (n, C, G); PAD after the last
    lengths: np.ndarray  # int32 (n, C), tokens drawn
    ended: np.ndarray  # int8 (n, C, K); RUNNING: `new_tokens` were drawn and nothing had decided the outcome
    by_horizon: np.ndarray  # bool (n, C, K): decided by the horizon, not by a token
    hours: np.ndarray  # float32 (n, C, K), simulated time from the prediction to where the outcome was decided
    positive: np.ndarray  # float32 (n, C, K), Σ over draws until it was decided of the probability of a positive token
    negative: np.ndarray  # float32 (n, C, K), the same of a negative token
    survival: np.ndarray  # float32 (n, C, K), Σ over the same draws of log(1 - the probability of a positive token)

    def take(self, rows: Any) -> "Futures":
        """Of some samples."""
        return Futures(*(field[rows] for field in self))


def concatenate(parts: Sequence[Futures]) -> Futures:
    return Futures(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


class _State(NamedTuple):
    """Of rows or copies: what outlasts a slot. `outcomes` are the fields of Futures from `ended` on, (…, 6, K)."""

    outcomes: Any  # float32
    clock: Any  # float32, hours from the prediction; below 0 until the first event after it
    drawn: Any  # int32, tokens


def simulate(
    model: Transformer,
    params: Any,
    prompts: np.ndarray,
    ids: np.ndarray,
    stops: Stops,
    clock: Clock,
    *,
    copies: int,
    new_tokens: int,
    context: int,
    gaps: np.ndarray | None = None,
    horizons: np.ndarray | None = None,
    context_tokens: int = 0,
    suppress: bool = False,
    seed: int = 0,
    rows: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    report: Callable[[int], None] = lambda tokens: None,
) -> Futures:
    """Draw `copies` futures of each prompt, until every outcome is decided or for `new_tokens` tokens.

    A future depends on its prompt, the seed, the sample's id and the copy's number, and on nothing else: not on what
    else is simulated beside it, in what order, or on how many devices (but for rounding, which turns a draw in 1e6).

    Args:
      prompts: int (n, P), padded on the left with PAD; no other PAD in them. P below the context: the rest of it is
        the room for tokens of the future, and how many of the oldest are dropped when it is full.
      ids: uint64 (n,), one random stream for each and each copy.
      gaps: float32 (n,), hours from the prompt's last event to the prediction, in which nothing happened: the first
        token drawn is an interval that leads beyond them, as the model weighs those. None: 0.
      horizons: float32 (n, K), hours after the prediction until which an outcome is watched. None: for ever.
      context_tokens: the first so many tokens of a prompt stay when the oldest are dropped.
      suppress: never draw a positive token of any outcome, as REACH wants it.
      rows: copies under way at a time on each device; None: as many as suit it.
      devices: which to use; None: all of this process.
      report: called with tokens drawn or, of copies that ended, not needed any more: in all n·C·G.
    Raises: ValueError when prompts leave no room in the context.
    """
    samples, width = prompts.shape
    room = min(new_tokens, context - width)
    if room < 1:
        raise ValueError(f"prompts of {width} tokens leave no room in a context of {context}")
    outcomes = len(stops.at_horizon)
    gaps = np.zeros(samples, np.float32) if gaps is None else gaps.astype(np.float32)
    horizons = np.full((samples, outcomes), np.inf, np.float32) if horizons is None else horizons.astype(np.float32)
    mesh = Mesh(np.array(devices or jax.local_devices()), ("data",))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))  # a restored run is on one device
    if rows is None:
        # On a CPU rows past 64 gain a tenth at most, and leave slots idle at the end; an accelerator hides its latency.
        rows = 64 if jax.default_backend() == "cpu" else 1024
    setting = _Setting(model, room, new_tokens, suppress)
    more = model.padded - len(clock.hours)
    sets = {name: np.pad(getattr(stops, name), ((0, 0), (0, more))) for name in ("positive", "negative", "open")}
    stops = stops._replace(**sets)
    clock = clock._replace(hours=np.pad(clock.hours, (0, more)), ends=np.pad(clock.ends, (0, more)))

    tokens = np.full((samples, copies, new_tokens), PAD, np.int32)
    state = _State(
        np.zeros((samples, copies, 6, outcomes), np.float32),
        np.repeat(-gaps[:, None], copies, axis=1),
        np.zeros((samples, copies), np.int32),
    )
    sample, copy = np.arange(samples), np.arange(copies)[None].repeat(samples, 0)
    now = prompts.astype(np.int32)
    while len(sample):
        filled = (now != PAD).any(0)
        # A multiple of 16, so that few widths are compiled; a later start changes nothing but the work.
        now = now[:, max(0, width - 16 * math.ceil((width - filled.argmax()) / 16)) :] if filled.any() else now[:, -1:]
        most = max(1, rows // copy.shape[1])
        part = _prompts_at_once(model, now.shape[1], most, mesh, len(sample))
        for begin in range(0, len(sample), part):
            here = slice(begin, begin + part)
            own, which = sample[here, None], copy[here]
            before = state.drawn[own, which]
            new, after = _dispatch(
                setting, params, now[here], ids[sample[here]], gaps[sample[here]], horizons[sample[here]],
                which, _State(*(field[own, which] for field in state)), stops, clock, seed, rows, part, mesh,
            )  # fmt: skip
            for target, value in zip(state, after, strict=True):
                target[own, which] = value
            at = before[..., None] + np.arange(room)
            inside = at < np.minimum(after.drawn, new_tokens)[..., None]
            r, c, j = np.nonzero(inside)
            tokens[own[r, 0], which[r, c], at[r, c, j]] = new[r, c, j]
            done = _over(after, new_tokens)
            report(int(np.where(done, new_tokens - before, after.drawn - before).sum()))
        r, c = np.nonzero(~_over(_State(*(field[sample[:, None], copy] for field in state)), new_tokens))
        sample, copy = sample[r], copy[r, c][:, None]
        now = _slid(prompts[sample], tokens[sample, copy[:, 0]], state.drawn[sample, copy[:, 0]], context_tokens)
    found = state.outcomes
    return Futures(
        tokens, state.drawn, found[:, :, 0].astype(np.int8), found[:, :, 1] > 0, *(found[:, :, i] for i in range(2, 6))
    )


def next_token(model: Transformer, params: Any, prompts: np.ndarray, batch: int = 64) -> np.ndarray:
    """Probabilities of the token after each prompt, float32 (n, V). Args: prompts as those of `simulate`."""
    found = np.empty((len(prompts), model.vocab), np.float32)
    for begin in range(0, len(prompts), batch):
        some = prompts[begin : begin + batch].astype(np.int32)
        filled = np.pad(some, ((0, batch - len(some)), (0, 0)), constant_values=PAD)
        found[begin : begin + batch] = np.asarray(_next(model, params, filled))[: len(some), : model.vocab]
    return found


@partial(jax.jit, static_argnames="model")
def _next(model: Transformer, params: Any, prompts_BxP: jax.Array) -> jax.Array:
    return jax.nn.softmax(decode.read(model, params, prompts_BxP)[0], axis=-1)


def _over(state: _State, new_tokens: int) -> np.ndarray:
    return (state.outcomes[..., 0, :] != RUNNING).all(-1) | (np.asarray(state.drawn) >= new_tokens)


def _slid(prompts: np.ndarray, tokens: np.ndarray, drawn: np.ndarray, context_tokens: int) -> np.ndarray:
    """The prompts of futures that have filled the context: its first tokens, and the last of all after them."""
    width = prompts.shape[1]
    out = np.full((len(prompts), width), PAD, np.int32)
    for row, (prompt, future, length) in enumerate(zip(prompts, tokens, drawn, strict=True)):
        known = prompt[prompt != PAD]
        last = np.concatenate([known[context_tokens:], future[:length]])[-(width - context_tokens) :]
        whole = np.concatenate([known[:context_tokens], last])
        out[row, width - len(whole) :] = whole
    return out


def _prompts_at_once(model: Transformer, width: int, groups: int, mesh: Mesh, prompts: int) -> int:
    """Of one dispatch, on all devices: many, so that few slots wait for the last copies, and no more than fit.

    A power of two for each device, so that few sizes are compiled.
    """
    of_one = 2 * model.shape.layers * model.shape.width * width * jnp.dtype(model.dtype).itemsize
    fitting = max(1, (1 << 29 if jax.default_backend() == "cpu" else 1 << 33) // of_one)
    of_device = min(max(groups, min(16 * groups, fitting)), math.ceil(prompts / mesh.size))
    return mesh.size * 2 ** math.ceil(math.log2(of_device))


class _Setting(NamedTuple):
    """What is fixed when the loop is compiled."""

    model: Transformer
    room: int
    new_tokens: int
    suppress: bool


def _dispatch(
    setting: _Setting,
    params: Any,
    prompts: np.ndarray,
    ids: np.ndarray,
    gaps: np.ndarray,
    horizons: np.ndarray,
    copy: np.ndarray,
    start: _State,
    stops: Stops,
    clock: Clock,
    seed: int,
    rows: int,
    part: int,
    mesh: Mesh,
) -> tuple[np.ndarray, _State]:
    """Of m prompts, filled up to `part`: tokens drawn now (m, C, W), and the state of each copy then."""
    m, missing = len(prompts), part - len(prompts)
    over = _State(
        np.pad(start.outcomes, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=OPEN),
        *(np.pad(field, ((0, missing), (0, 0))) for field in start[1:]),
    )
    fill = lambda x: np.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1)))  # noqa: E731
    halves = np.stack([ids >> np.uint64(32), ids & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)
    slots = min(copy.shape[1], rows)
    groups = max(1, min(rows // slots, part // mesh.size))
    uniform_MxCxW = _uniform(setting.room, np.uint32(seed), fill(halves), fill(copy), over.drawn)
    args = (fill(prompts), uniform_MxCxW, fill(gaps), fill(horizons), over)
    tokens, state = _sharded(setting, mesh, groups, slots, params, args, stops, clock)
    return np.asarray(tokens)[:m], _State(*(np.asarray(field)[:m] for field in state))


@partial(jax.jit, static_argnames=("setting", "mesh", "groups", "slots"))
def _sharded(
    setting: _Setting, mesh: Mesh, groups: int, slots: int, params: Any, args: Any, *shared: Any
) -> tuple[jax.Array, _State]:
    """Each device simulates its share of the prompts, in a loop of its own."""
    over, everywhere = PartitionSpec("data"), PartitionSpec()
    return jax.shard_map(
        partial(_simulate, setting, groups, slots),
        mesh=mesh,
        in_specs=(everywhere, over, *(everywhere,) * len(shared)),
        out_specs=over,
        check_vma=False,  # loops of devices end after different numbers of turns
    )(params, args, *shared)


@partial(jax.jit, static_argnames="room")
def _uniform(room: int, seed: jax.Array, ids_Mx2: jax.Array, copy_MxC: jax.Array, drawn_MxC: jax.Array) -> jax.Array:
    """What decides the next draws of each copy, by the number of the draw among all of it: float32 (M, C, W)."""

    def of_copy(id_2, copy, drawn):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), id_2[0]), id_2[1])
        key = jax.random.fold_in(key, copy)
        return jax.vmap(lambda t: jax.random.uniform(jax.random.fold_in(key, t)))(drawn + jnp.arange(room))

    return jax.vmap(jax.vmap(of_copy, (None, 0, 0)))(ids_Mx2, copy_MxC, drawn_MxC)


class _Rows(NamedTuple):
    """What a slot holds. `fresh`: it draws from what the prompt says, its ring holds nothing."""

    copy: jax.Array  # int32 (R,), place among the copies of its prompt; C: idle
    age: jax.Array  # int32 (R,), tokens drawn here
    state: _State
    fresh: jax.Array  # bool (R,)


def _simulate(
    setting: _Setting, groups: int, slots: int, params: Any, args: Any, stops: Stops, clock: Clock
) -> tuple[jax.Array, _State]:
    """`_dispatch` on one device, of M prompts with C copies each."""
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

    def refill(row: _Rows, item_G, given_G):
        """Idle slots take the next copies of their group's prompt that are not over: (rows, copies given)."""
        idle_GxS = (row.copy == copies).reshape(groups, slots)
        rank_GxS = jnp.cumsum(idle_GxS, axis=1) - 1
        copy_GxS = given_G[:, None] + rank_GxS
        takes_GxS = idle_GxS & (copy_GxS < copies) & (item_G < prompts)[:, None]
        given_G = given_G + jnp.sum(takes_GxS, axis=1)
        takes_R, copy_R = takes_GxS.reshape(rows), jnp.minimum(copy_GxS, copies - 1).reshape(rows)
        at = jnp.minimum(jnp.repeat(item_G, slots), prompts - 1), copy_R
        state = jax.tree.map(lambda x: x[at], start)
        new = _Rows(copy_R, jnp.zeros(rows, jnp.int32), state, jnp.ones(rows, bool))
        pick = lambda a, b: jnp.where(takes_R.reshape(-1, *(1,) * (a.ndim - 1)), a, b)  # noqa: E731
        return jax.tree.map(pick, new, row._replace(fresh=jnp.zeros(rows, bool))), given_G

    def draw_all(row: _Rows, logits_RxV, horizons_RxK, live_R, uniform_R):
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
        state = _State(
            jnp.stack([ended, late, hours, positive, negative, survival], axis=1).astype(jnp.float32),
            jnp.where(live_R, hours_R, row.state.clock),
            row.state.drawn + live_R,
        )
        return token_R, row._replace(state=state, age=row.age + live_R)

    def turn(carry):
        """Groups without copies take the next prompts; then all draw until a group has none left again."""
        row, item_G, given_G, taken, *rest = carry
        free_G = _idle(row) & (given_G >= copies)
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
            live_R = (row.copy < copies) & ~_ended(row.state, setting.new_tokens)
            at_R = jnp.minimum(row.copy, copies - 1), jnp.minimum(row.age, room - 1)
            uniform_R = uniform_MxCxW[jnp.repeat(at_G, slots), *at_R]
            token_R, row = draw_all(row, logits_RxV, horizons_RxK, live_R, uniform_R)
            tokens_RxW = jax.lax.dynamic_update_slice_in_dim(tokens_RxW, token_R[:, None], at, axis=1)
            leaves_R = (row.copy < copies) & (_ended(row.state, setting.new_tokens) | (row.age == room))

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
            waiting_G = _idle(row) & (given_G >= copies) & (item_G < prompts)
            return jnp.any(row.copy < copies) & ~(jnp.any(waiting_G) & (taken < prompts))

        row, given_G, *rest = jax.lax.while_loop(going_on, step, (row, given_G, *rest))
        return row, item_G, given_G, taken, *rest

    def _idle(row: _Rows) -> jax.Array:
        return jnp.all((row.copy == copies).reshape(groups, slots), axis=1)

    nothing = _State(
        jnp.full((rows, 6, outcomes), float(OPEN)), jnp.zeros(rows, jnp.float32), jnp.zeros(rows, jnp.int32)
    )
    zeros_R = jnp.zeros(rows, jnp.int32)
    carry = (
        _Rows(zeros_R + copies, zeros_R, nothing, jnp.zeros(rows, bool)),
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


def _ended(state: _State, new_tokens: int) -> jax.Array:
    return jnp.all(state.outcomes[:, 0] != RUNNING, axis=-1) | (state.drawn >= new_tokens)


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
