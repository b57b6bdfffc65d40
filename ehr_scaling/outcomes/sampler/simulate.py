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
from jax.sharding import Mesh

from ehr_scaling.data.vocabulary import HOUR, Vocabulary
from ehr_scaling.models.transformer import PAD, Transformer
from ehr_scaling.outcomes.sampler import decode, placing
from ehr_scaling.outcomes.sampler.slots import NEGATIVE as NEGATIVE
from ehr_scaling.outcomes.sampler.slots import OPEN as OPEN
from ehr_scaling.outcomes.sampler.slots import POSITIVE as POSITIVE
from ehr_scaling.outcomes.sampler.slots import RUNNING as RUNNING
from ehr_scaling.outcomes.sampler.slots import Clock, Setting, State, Stops, draw_futures, is_over, padded
from ehr_scaling.processes import leading
from ehr_scaling.training import sharding


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
    share: np.ndarray  # float32 (n, C, K), how much of it came to the outcome by its tokens: 1 by a positive one; less
    # by tokens that are positive with a probability (see `Stops`), after which only the rest of it went on

    def take(self, rows: Any) -> "Futures":
        """Of some samples."""
        return Futures(*(field[rows] for field in self))


def concatenate(parts: Sequence[Futures]) -> Futures:
    return Futures(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


class SimulationRequest(NamedTuple):
    """What futures are drawn of: n samples, K outcomes that are judged along the way.

    prompts: int (n, P), padded on the left with PAD; no other PAD in them. P below the context: the rest of it is the
      room for tokens of the future, and how many of the oldest are dropped when it is full.
    ids: uint64 (n,), one random stream for each and each copy.
    gaps: float32 (n,), hours from the prompt's last event to the prediction, in which nothing happened: the first token
      drawn is an interval that leads beyond them, as the model weighs those.
    horizons: float32 (n, K), hours after the prediction until which an outcome is watched; inf for ever.
    copies, new_tokens: futures of each prompt, and tokens of each at most.
    context_tokens: the first so many tokens of a prompt stay when the oldest are dropped.
    suppress: never draw a positive token of any outcome, as REACH wants it; one that is positive with a probability is
      drawn for what is left of it.
    """

    prompts: np.ndarray
    ids: np.ndarray
    gaps: np.ndarray
    horizons: np.ndarray
    stops: Stops
    clock: Clock
    context: int
    copies: int
    new_tokens: int
    context_tokens: int = 0
    suppress: bool = False
    seed: int = 0

    def take(self, rows: Any) -> "SimulationRequest":
        """Of some samples."""
        of_samples = ("prompts", "ids", "gaps", "horizons")
        return self._replace(**{name: getattr(self, name)[rows] for name in of_samples})

    def flat(self) -> dict[str, Any]:
        """Its fields, and those of `stops` and `clock`, as `leading.call` takes them."""
        inner = {f"{name}.{key}": x for name in _INNER for key, x in getattr(self, name)._asdict().items()}
        return {name: x for name, x in self._asdict().items() if name not in _INNER} | inner

    @classmethod
    def of_flat(cls, values: dict[str, Any]) -> "SimulationRequest":
        """Of what `flat` gives."""
        for name, kind in _INNER.items():
            inner = {key: values.pop(f"{name}.{key}") for key in kind._fields}  # type: ignore[attr-defined]
            values[name] = kind(**inner)
        return cls(**values)


_INNER: dict[str, type] = {"stops": Stops, "clock": Clock}


def simulate(
    model: Transformer,
    params: Any,
    request: SimulationRequest,
    rows: int | None = None,
    *,
    devices: Sequence[jax.Device] | None = None,
    report: Callable[[int], None] = lambda tokens: None,
) -> Futures:
    """Draw futures of each prompt, until every outcome is decided or for `new_tokens` tokens.

    A future depends on its prompt, the seed, the sample's id and the copy's number, and on nothing else: not on what
    else is simulated beside it, in what order, or on how many devices (but for rounding, which turns a draw in 1e6).
    Devices share the prompts out, or work at each together where they hold the model together (`sharding.devices_of`).
    Of a model on devices of several processes all of them draw, see `leading`.

    Args:
      rows: copies under way at a time on each device; None: as many as suit it.
      devices: which to use; None: all of this process, or those that several have the model on. Of those that hold it
        together, the first so many.
      report: called with tokens drawn or, of copies that ended, not needed any more: in all n·C·G.
    Raises: ValueError when prompts leave no room in the context; Preempted after SIGTERM, where that was put off.
    """
    prompts, ids, stops, clock = request.prompts, request.ids, request.stops, request.clock
    copies, new_tokens = request.copies, request.new_tokens
    samples, width = prompts.shape
    room = min(new_tokens, request.context - width)
    if room < 1:
        raise ValueError(f"prompts of {width} tokens leave no room in a context of {request.context}")
    if sharding.shared_by_processes(params) is not None:
        leading.call("simulate", params, rows=rows, **request.flat())
    outcomes = len(stops.at_horizon)
    gaps, horizons = request.gaps.astype(np.float32), request.horizons.astype(np.float32)
    mesh, params = placing.placed(params, devices)
    if rows is None:
        # On a CPU 256 rows of the quickstart's models were no faster than 64; an accelerator hides its latency.
        rows = 64 if jax.default_backend() == "cpu" else 1024
    setting = Setting(model, room, new_tokens, request.suppress)
    stops, clock = padded(model, stops, clock)

    tokens = np.full((samples, copies, new_tokens), PAD, np.int32)
    state = State(
        np.zeros((samples, copies, 7, outcomes), np.float32),
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
            owners, which = sample[here, None], copy[here]
            before = state.drawn[owners, which]
            new, after = _dispatch(
                setting, params, now[here], ids[sample[here]], gaps[sample[here]], horizons[sample[here]],
                which, State(*(field[owners, which] for field in state)), stops, clock, request.seed, rows, part, mesh,
            )  # fmt: skip
            for target, value in zip(state, after, strict=True):
                target[owners, which] = value
            at = before[..., None] + np.arange(room)
            inside = at < np.minimum(after.drawn, new_tokens)[..., None]
            r, c, j = np.nonzero(inside)
            tokens[owners[r, 0], which[r, c], at[r, c, j]] = new[r, c, j]
            done = is_over(after, new_tokens)
            report(int(np.where(done, new_tokens - before, after.drawn - before).sum()))
        r, c = np.nonzero(~is_over(State(*(field[sample[:, None], copy] for field in state)), new_tokens))
        sample, copy = sample[r], copy[r, c][:, None]
        now = _slid(
            prompts[sample], tokens[sample, copy[:, 0]], state.drawn[sample, copy[:, 0]], request.context_tokens
        )
    tally = state.outcomes
    return Futures(
        tokens, state.drawn, tally[:, :, 0].astype(np.int8), tally[:, :, 1] > 0, *(tally[:, :, i] for i in range(2, 7))
    )


def next_token(
    model: Transformer,
    params: Any,
    prompts: np.ndarray,
    tokens: np.ndarray,
    batch: int = 64,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> np.ndarray:
    """Probabilities that some tokens follow each prompt, float32 (n, K). Devices share the prompts out, as in
    `simulate`.

    Args: prompts as `SimulationRequest` has them; tokens, int (K,), those asked for; batch, prompts at a time on
      each device.
    Raises: Preempted after SIGTERM, where that was put off.
    """
    if sharding.shared_by_processes(params) is not None:
        leading.call("next_token", params, prompts=prompts, tokens=tokens, batch=batch)
    mesh, params = placing.placed(params, devices)
    next_tokens = partial(_next, model, mesh)
    return placing.by_batches(mesh, batch, next_tokens, params, (prompts.astype(np.int32),), tokens)


@partial(jax.jit, static_argnames=("model", "mesh"))
def _next(model: Transformer, mesh: Mesh, params: Any, of_prompts: tuple[jax.Array], tokens_K: jax.Array) -> jax.Array:
    def each(params: Any, of_prompts: tuple[jax.Array], tokens_K: jax.Array) -> jax.Array:
        (prompts_BxP,) = of_prompts
        return jax.nn.softmax(decode.read(model, params, prompts_BxP)[0], axis=-1)[:, tokens_K]

    return placing.split(mesh, each, params, of_prompts, tokens_K)


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
    shares = placing.shares(mesh)
    of_device = min(max(groups, min(16 * groups, fitting)), math.ceil(prompts / shares))
    return shares * 2 ** math.ceil(math.log2(of_device))


def _dispatch(
    setting: Setting,
    params: Any,
    prompts: np.ndarray,
    ids: np.ndarray,
    gaps: np.ndarray,
    horizons: np.ndarray,
    copy: np.ndarray,
    start: State,
    stops: Stops,
    clock: Clock,
    seed: int,
    rows: int,
    part: int,
    mesh: Mesh,
) -> tuple[np.ndarray, State]:
    """Of m prompts, filled up to `part`: tokens drawn now (m, C, W), and the state of each copy then."""
    m, missing = len(prompts), part - len(prompts)
    over = State(
        np.pad(start.outcomes, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=OPEN),
        *(np.pad(field, ((0, missing), (0, 0))) for field in start[1:]),
    )
    fill = lambda x: np.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1)))  # noqa: E731
    halves = np.stack([ids >> np.uint64(32), ids & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)
    slots = min(copy.shape[1], rows)
    groups = max(1, min(rows // slots, part // placing.shares(mesh)))
    leading.check()
    shared = mesh if sharding.shared_by_processes(params) is not None else None
    args = fill(prompts), fill(gaps), fill(horizons), over
    by_draw = np.uint32(seed), fill(halves), fill(copy), over.drawn
    args, by_draw, stops, clock = sharding.everywhere(shared, (args, by_draw, stops, clock))
    uniform_MxCxW = _uniform(setting.room, *by_draw)
    args = (args[0], uniform_MxCxW, *args[1:])
    drawn = _sharded(setting, mesh, groups, slots, params, args, stops, clock)
    leading.wait(drawn)
    tokens, state = sharding.on_host(shared, drawn)
    return tokens[:m], State(*(field[:m] for field in state))


@partial(jax.jit, static_argnames=("setting", "mesh", "groups", "slots"))
def _sharded(
    setting: Setting, mesh: Mesh, groups: int, slots: int, params: Any, args: Any, *shared: Any
) -> tuple[jax.Array, State]:
    """Each device simulates its share of the prompts, in a loop of its own."""
    return placing.split(mesh, partial(draw_futures, setting, groups, slots), params, args, *shared)


@partial(jax.jit, static_argnames="room")
def _uniform(room: int, seed: jax.Array, ids_Mx2: jax.Array, copy_MxC: jax.Array, drawn_MxC: jax.Array) -> jax.Array:
    """What decides the next draws of each copy, by the number of the draw among all of it: float32 (M, C, W)."""

    def of_copy(id_2, copy, drawn):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), id_2[0]), id_2[1])
        key = jax.random.fold_in(key, copy)
        return jax.vmap(lambda t: jax.random.uniform(jax.random.fold_in(key, t)))(drawn + jnp.arange(room))

    return jax.vmap(jax.vmap(of_copy, (None, 0, 0)))(ids_Mx2, copy_MxC, drawn_MxC)
