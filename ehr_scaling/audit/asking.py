"""What a model says of windows: the loss and the rank of each token, and how it goes on from a prompt.

Shapes: n windows, T+1 tokens of the longest, P of a prompt, K of a continuation, B a batch, V vocabulary (padded).
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ehr_scaling.models.loss import PAD, token_losses
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes.following import StepOfModel
from ehr_scaling.outcomes.sampler import decode, placing
from ehr_scaling.processes import leading
from ehr_scaling.training import sharding

_LOGITS = {"cpu": 1 << 23}  # of a batch on a device: 32 MB
_ON_ACCELERATORS = 1 << 28
_WIDTHS = 4  # windows are read in batches of about their length: so many programs are compiled
_PROMPTS = 256  # read together on a device

Report = Callable[[int], None]  # is told tokens as they are done


class Answers(NamedTuple):
    """What a model says of n windows of T+1 tokens: [i, t] is of token t+1 of window i, given those before it."""

    losses: np.ndarray  # float32 (n, T), nats; 0 where there is no token
    ranks: np.ndarray  # int32 (n, T), how many tokens of the vocabulary are likelier; 0 where there is no token


def cost(lengths: np.ndarray) -> int:
    """Positions that `answers` reads, as it reports them."""
    return int(lengths.sum())


@partial(jax.jit, static_argnames=("model", "mesh"))
def _answers(model: Transformer, mesh: Mesh, params: Any, of_windows: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    def each(params: Any, of_windows: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
        (tokens_BxT1,) = of_windows
        segments = (tokens_BxT1 != PAD).astype(jnp.int32)
        logits, _ = model.apply({"params": params}, tokens_BxT1[:, :-1], segments[:, :-1])
        targets = tokens_BxT1[:, 1:]
        at_target = jnp.take_along_axis(logits, targets[..., None], axis=-1)
        return token_losses(logits, targets), jnp.sum(logits > at_target, axis=-1)

    return placing.split(mesh, each, params, of_windows)


def answers(model: Transformer, params: Any, tokens: np.ndarray, lengths: np.ndarray, report: Report) -> Answers:
    """Read windows in batches of about one length, and see how likely the model found each token. Devices share the
    windows out, as `simulate` does prompts.

    Args: params, as of `Transformer.apply`; tokens, int32 (n, T+1), PAD after the first `lengths`, int (n,), of each;
      report, called with the tokens of each batch when it is read.
    """
    if sharding.shared_by_processes(params) is not None:
        leading.call("answers", params, tokens=tokens, lengths=lengths)
    mesh, params = placing.placed(params)
    program = partial(_answers, placing.divisible(mesh, model), mesh)
    width, shares = tokens.shape[1] - 1, placing.shares(mesh)
    losses, ranks = np.zeros((len(tokens), width), np.float32), np.zeros((len(tokens), width), np.int32)
    step = -(-width // _WIDTHS)
    wide = np.minimum(-(-np.maximum(lengths - 1, 1) // step) * step, width)
    most = _LOGITS.get(jax.default_backend(), _ON_ACCELERATORS)
    for w in np.unique(wide).tolist():
        rows = np.flatnonzero(wide == w)
        size = min(max(1, most // (w * model.padded)), _least_power(len(tokens) / shares))
        for first in range(0, len(rows), size * shares):
            some = rows[first : first + size * shares]
            batch = np.zeros((size * shares, w + 1), np.int32)  # one shape, so that nothing is compiled anew
            batch[: len(some)] = tokens[some, : w + 1]
            loss, rank = placing.by_batches(mesh, size, program, params, (batch,))
            real = np.arange(1, w + 1) < lengths[some, None]
            losses[some, :w] = np.where(real, loss[: len(some)], 0)
            ranks[some, :w] = np.where(real, rank[: len(some)], 0)
            report(int(lengths[some].sum()))
    return Answers(losses, ranks)


def _least_power(number: float) -> int:
    """The least power of two that is no less."""
    return 1 << (math.ceil(number) - 1).bit_length()


@partial(jax.jit, static_argnames=("model", "mesh", "tokens"))
def _continue(model: Transformer, mesh: Mesh, tokens: int, params: Any, of_prompts: tuple[jax.Array]) -> jax.Array:
    return placing.split(mesh, partial(_continued, model, tokens), params, of_prompts)


def _continued(model: Transformer, tokens: int, params: Any, of_prompts: tuple[jax.Array]) -> jax.Array:
    """As `_continue`, on one device."""
    (prompts_BxP,) = of_prompts
    next_BxV, prefix = decode.read(model, params, prompts_BxP)
    weights, rows = decode.weights(model, params), len(prompts_BxP)

    def likeliest(logits_BxV: jax.Array) -> jax.Array:
        return jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)

    def one_more(state: tuple[jax.Array, decode.Ring], at: jax.Array) -> tuple[Any, jax.Array]:
        tokens_B, ring = state
        logits_BxV, ring = decode.step(model, weights, prefix, ring, tokens_B, jnp.full(rows, at), at)
        return (likeliest(logits_BxV), ring), tokens_B

    start = likeliest(next_BxV), decode.empty_ring(model, rows, tokens)
    return jax.lax.scan(one_more, start, jnp.arange(tokens))[1].T


def continuations(model: Transformer, params: Any, prompts: np.ndarray, tokens: int, report: Report) -> np.ndarray:
    """The likeliest next token, again and again: int32 (n, K). Devices share the prompts out.

    Args: prompts, int32 (n, P), all full; tokens, K; report, called with the positions of each batch.
    """
    if sharding.shared_by_processes(params) is not None:
        leading.call("continuations", params, prompts=prompts, tokens=tokens)
    mesh, params = placing.placed(params)
    program, parts = partial(_continue, model, mesh, tokens), []
    size = min(_PROMPTS, _least_power(len(prompts) / placing.shares(mesh)))
    batch = size * placing.shares(mesh)
    for first in range(0, len(prompts), batch):
        some = prompts[first : first + batch]
        filled = np.concatenate([some, np.repeat(some[:1], batch - len(some), axis=0)])
        parts.append(placing.by_batches(mesh, size, program, params, (filled,))[: len(some)])
        report(len(some) * (prompts.shape[1] + tokens))
    return np.concatenate(parts)


STEPS: Mapping[str, StepOfModel] = {
    "answers": lambda model, params, values: answers(model, params, report=lambda tokens: None, **values),
    "continuations": lambda model, params, values: continuations(model, params, report=lambda tokens: None, **values),
}  # for processes that ask with process 0, see `following.steps`


def edits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Levenshtein's distance of the rows of a and b, int (n, K) both: int64 (n,)."""
    n, k = a.shape
    above = np.tile(np.arange(k + 1), (n, 1))
    for i in range(1, k + 1):
        row = np.empty_like(above)
        row[:, 0] = i
        changed = above[:, :-1] + (a[:, i - 1, None] != b)
        best = np.minimum(changed, above[:, 1:] + 1)
        for j in range(1, k + 1):
            row[:, j] = np.minimum(best[:, j - 1], row[:, j - 1] + 1)
        above = row
    return above[:, -1]
