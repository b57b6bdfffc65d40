"""A patient whose future is a small Markov chain: the probability of an outcome is known exactly.

It stands in for a model where an estimate must be held to the truth: same futures, same fields, no network.
Shapes: V tokens, n samples, C copies, G draws.
"""

from typing import NamedTuple

import numpy as np

from ehr_scaling.outcomes.judging import estimators
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE, RUNNING, Futures


class Judged(NamedTuple):
    """What a method says of a chain."""

    probability: float  # of the outcome, from all copies
    error: float  # its standard error
    variance_at_equal_tokens: float  # see `estimators.variance_at_equal_tokens`


class Chain(NamedTuple):
    """Tokens drawn one after another, each given the one before."""

    start: np.ndarray  # float64 (V,), probabilities of the first draw
    transition: np.ndarray  # float64 (V, V), row: the token before; rows of tokens that end the chain are not used
    kinds: np.ndarray  # int8 (V,): RUNNING for a token that goes on, else what it decides
    hours: np.ndarray  # int64 (V,), how far a token leads on, 0 for one that decides
    draws: int  # G, after which a copy is RUNNING
    horizon: int | None  # hours; a draw that leads beyond decides as at_horizon
    at_horizon: int  # POSITIVE, NEGATIVE or OPEN
    shares: np.ndarray | None = None  # float64 (V,), probability that a token that goes on is the outcome; None: 0

    @property
    def positive(self) -> np.ndarray:
        """As `Stops.positive`, float64 (V,)."""
        certain = (self.kinds == POSITIVE).astype(np.float64)
        return certain if self.shares is None else np.maximum(certain, self.shares)


def random_chain(
    seed: int,
    *,
    draws: int = 12,
    horizon: int | None = None,
    at_horizon: int = OPEN,
    going_on: int = 4,
    concentration: float = 0.3,
    ending: float = 0.1,
    rare: float = 1.0,
) -> Chain:
    """One positive, one negative and one open token (1, 2, 3), and `going_on` others of 1, 2 … hours.

    Token 0, padding, never comes.

    Args:
      concentration: of the Dirichlet distribution of each row; the smaller, the more an outcome depends on the token
        before, and the less a sum of probabilities knows more than counting.
      ending: weight of the tokens that end a future, that of the others being 1; the smaller, the longer the futures.
      rare: weight of the positive token among those.
    """
    rng = np.random.default_rng(seed)
    size = 4 + going_on
    table = rng.dirichlet(np.full(size, concentration), size + 1)
    table[:, 0] = 0
    table[:, 1:4] *= ending
    table[:, 1] *= rare
    table /= table.sum(axis=1, keepdims=True)
    kinds = np.array([RUNNING, POSITIVE, NEGATIVE, OPEN] + [RUNNING] * going_on, np.int8)
    hours = np.array([0] * 4 + list(range(1, going_on + 1)))
    return Chain(table[-1], table[:-1], kinds, hours, draws, horizon, at_horizon)


def exact(chain: Chain) -> np.ndarray:
    """Probability that a future ends RUNNING, POSITIVE, NEGATIVE and OPEN: float64 (4,), by dynamic programming.

    The state is the last token and the hours gone by; the sum over all futures of G draws at most is exact.
    """
    last = chain.draws * int(chain.hours.max()) if chain.horizon is None else chain.horizon
    ended = np.zeros(4)
    alive = np.zeros((len(chain.start), last + 1))  # probability of being at a token, after so many hours
    for t in range(chain.draws):
        drawn = chain.transition.T @ alive if t else chain.start[:, None] * (np.arange(last + 1) == 0)
        alive = np.zeros_like(alive)
        for token, at in enumerate(drawn):
            if chain.kinds[token] != RUNNING:
                ended[chain.kinds[token]] += at.sum()
                continue
            ended[POSITIVE] += chain.positive[token] * at.sum()
            at, step = (1 - chain.positive[token]) * at, chain.hours[token]
            alive[token, step:] = at[: last + 1 - step]
            ended[chain.at_horizon] += at[last + 1 - step :].sum()
    ended[RUNNING] = alive.sum()
    return ended


def simulate(chain: Chain, n: int, copies: int, seed: int, suppress: bool = False) -> Futures:
    """Futures of n patients alike and one outcome (K = 1).

    suppress: draw no positive token, as REACH asks.
    """
    rng = np.random.default_rng(seed)
    rows = n * copies
    tokens = np.zeros((rows, chain.draws), np.int32)
    ended, by_horizon = np.zeros(rows, np.int8), np.zeros(rows, bool)
    lengths, hours = np.zeros(rows, np.int32), np.zeros(rows, np.float32)
    positive, negative, survival, share = np.zeros((4, rows))
    p = np.broadcast_to(chain.start, (rows, len(chain.start)))
    for t in range(chain.draws):
        alive = ended == RUNNING
        outcome = p @ chain.positive
        positive += alive * (1 - share) * outcome
        negative += alive * (1 - share) * p[:, chain.kinds == NEGATIVE].sum(axis=1)
        survival += alive * np.log1p(-outcome)
        weights = p * (1 - chain.positive) if suppress else p
        below = np.cumsum(weights, axis=1)
        drawn = (rng.random((rows, 1)) * below[:, -1:] >= below).sum(axis=1)
        tokens[alive, t] = drawn[alive]
        share += 0 if suppress else alive * (1 - share) * chain.positive[drawn]
        lengths += alive
        hours += np.where(alive, chain.hours[drawn], 0)
        if chain.horizon is not None:
            crossed = alive & (hours > chain.horizon)
            by_horizon |= crossed
            hours = np.minimum(hours, np.float32(chain.horizon))
            ended[crossed] = chain.at_horizon
        stopped = alive & (chain.kinds[drawn] != RUNNING)
        ended[stopped] = chain.kinds[drawn[stopped]]
        p = chain.transition[drawn]
    one = (n, copies, 1)
    sums = {"positive": positive, "negative": negative, "survival": survival, "share": share}
    return Futures(
        tokens=tokens.reshape(n, copies, chain.draws),
        lengths=lengths.reshape(n, copies),
        ended=ended.reshape(one),
        by_horizon=by_horizon.reshape(one),
        hours=hours.reshape(one),
        **{name: values.astype(np.float32).reshape(one) for name, values in sums.items()},
    )


def judge(chain: Chain, copies: int, seed: int) -> dict[str, Judged]:
    """What each method makes of `copies` futures, to be held against `exact(chain)[POSITIVE]`."""
    drawn = {suppress: simulate(chain, 1, copies, seed, suppress) for suppress in (False, True)}
    judged = {}
    for estimate in (estimators.monte_carlo, estimators.scope, estimators.reach):
        futures = drawn[estimate is estimators.reach]
        (probability,), (error,) = estimate(futures, 0, of_determined=False)
        (variance,) = estimators.variance_at_equal_tokens(estimate.__name__, futures, 0)
        judged[estimate.__name__] = Judged(float(probability), float(error), float(variance))
    return judged
