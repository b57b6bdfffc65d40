"""From simulated futures to the probability of an outcome, or its value, with a standard error. numpy in, numpy out.

Shapes: n samples, C copies each; k is the outcome that is asked for, of the K judged along the same futures.

Every method gives each copy two numbers, p and q, whose means over copies are unbiased for P(outcome) and for
P(its opposite) within the simulated tokens. What the horizon decides is told by `Futures.by_horizon`, and counts the
same way in all:

- An outcome comes by a token or by the horizon, never by both, so P(outcome) = P(by a token) + P(by the horizon). The
  second is the mean, over copies, of whether the horizon decided that way: such a copy adds 1 (Monte Carlo, SCOPE) or,
  of futures without positive tokens, the probability that no positive token came first (REACH).
- Where a token is positive with a probability (`Stops.positive`), a copy stands for futures of which `Futures.share`
  came to the outcome by such tokens. Counting takes that share, and gives the rest to what ended the copy; sums along
  a copy weigh each draw with what had not come to the outcome before. Both are expectations over what a token leaves
  open, so nothing is drawn for it, and they stay unbiased.
- Σ p(positive token) runs over the draws up to the one that decides, that one included. A draw of an interval that
  leads beyond the horizon is such a draw: its p counts, and no later one does.
"""

from typing import NamedTuple

import numpy as np

from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE, RUNNING, Futures
from ehr_scaling.outcomes.sampler.two_tokens import Decided

_TINY = float(np.finfo(np.float32).tiny)


class Estimate(NamedTuple):
    """Of each sample: float64 (n,) both.

    error: the standard error over copies; NaN where fewer than two copies say something. 0 says that all copies gave
    the same, not that the value is known: m counted copies that agree leave a probability of about 3/m possible.
    """

    probability: np.ndarray
    error: np.ndarray


class Value(NamedTuple):
    """A number estimated of each sample, and its standard error as in Estimate: float64 (n,) both."""

    value: np.ndarray
    error: np.ndarray


class Undetermined(NamedTuple):
    """Shares of copies, and of samples, that say nothing of whether the outcome comes; 0 to 1."""

    open: float  # copies that came to a token, or to a horizon, that leaves the outcome open
    bounded: float  # copies that ran out of tokens
    samples: float  # samples none of whose copies came to the outcome or its opposite


def monte_carlo(futures: Futures, k: int, *, of_determined: bool = True) -> Estimate:
    """Share of copies that ended POSITIVE among those that ended POSITIVE or NEGATIVE.

    Copies that are open or ran out of tokens are ambiguous and left out. NaN where no copy is left.

    Args: futures, ordinary ones; of_determined, False: the share of all copies, unbiased for P(outcome within the
      simulated tokens).
    """
    p, q = _counted(futures, k)
    return _ratio(p, q, least=2) if of_determined else _mean(p)


def scope(futures: Futures, k: int, *, of_determined: bool = True) -> Estimate:
    """SCOPE, the sum of the outcome's conditional probabilities along ordinary futures (arXiv 2602.03730).

    P(outcome by a token) = E[Σ_t p(outcome | what was drawn before t)], so the mean over copies is unbiased, and so
    is that of the opposite; see the module for the horizon. Returned is positive / (positive + negative), the
    probability given that one of them comes, as the Monte Carlo share estimates it; a ratio of two unbiased means, so
    consistent. A copy that reaches neither still says how likely each was, hence less noise than counting, which for
    few copies has few different values. Where both underflow nothing is known: NaN, as `filled` fills it.

    Args: futures, ordinary ones; of_determined, False: the mean of p alone, unbiased for P(outcome within the
      simulated tokens). It may exceed 1.
    """
    p, q = _summed(futures, k)
    if not of_determined:
        return _mean(p)
    ratio, error = _ratio(p, q)
    positive, negative = p.mean(axis=1), q.mean(axis=1)
    probability = (positive + _TINY) / (positive + negative + 2 * _TINY)
    unknown = np.isnan(ratio)
    return Estimate(np.where(unknown, np.nan, probability), np.where(unknown, np.nan, error))


def filled(probability: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """Probabilities (n,) with the (weighted) mean of the known ones where nothing is known (NaN), and that mean.

    To rank such a stay by one half would rank it above nearly all others where outcomes are rare. One half where none
    is known.
    """
    known = ~np.isnan(probability)
    weights = np.ones(len(probability)) if weights is None else weights
    base = float(np.average(probability[known], weights=weights[known])) if known.any() else 0.5
    return np.where(known, probability, base), base


def reach(futures: Futures, k: int, *, of_determined: bool = False) -> Estimate:
    """REACH, 1 − Π_t (1 − p(outcome)) along futures whose positive tokens are suppressed (arXiv 2602.03730).

    Unbiased for P(outcome before a copy ends otherwise): the product weighs a suppressed future as an ordinary one.

    Args: futures, drawn with suppress=True, and of no other outcome: without the positive tokens of another, they are
      not what the product weighs; of_determined, True: positive / (positive + negative), to compare with the others.
    """
    p, q = _survived(futures, k)
    return _ratio(p, q) if of_determined else _mean(p)


def exact(decided: Decided, k: int) -> Estimate:
    """positive / (positive + negative) of what two tokens decide, as the other methods estimate it: error 0.

    NaN where they decide nothing, as when both probabilities underflow.
    """
    positive, negative = decided.positive[:, k], decided.negative[:, k]
    known = positive + negative > 0
    probability = np.divide(positive, positive + negative, out=np.full(len(known), np.nan), where=known)
    return Estimate(probability, np.where(known, 0.0, np.nan))


def days(futures: Futures, k: int) -> Value:
    """Mean simulated time from the prediction to what decided the outcome, in days.

    Over the copies that ended POSITIVE or NEGATIVE; NaN where none did. Copies that did not are as a rule the long
    ones, so with many of them (see `undetermined`) the mean is too short.
    """
    known = _ended(futures, k, POSITIVE, NEGATIVE)
    count = known.sum(axis=1)
    hours = np.where(known, futures.hours[..., k], 0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = hours.sum(axis=1) / count
        spread = np.where(known, (hours - mean[:, None]) ** 2, 0).sum(axis=1) / (count - 1)
        error = np.where(count > 1, np.sqrt(spread / count), np.nan)
    return Value(mean / 24, error / 24)


def class_probabilities(next_token: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each class, given that the next token names one.

    Args: next_token, float (n, K), probabilities that each of K tokens comes next; classes, int (K,), the class that a
      token names, numbered from 0, or -1. A class may have several tokens.
    Returns: float64 (n, classes), rows sum to 1 (NaN where no token of a class has a probability); and float64 (n,),
      the probability that the next token names a class at all. Exact for the model: nothing is drawn.
    """
    named = np.flatnonzero(classes >= 0)
    order = named[np.argsort(classes[named], kind="stable")]
    present, starts = np.unique(classes[order], return_index=True)
    every = np.zeros((len(next_token), int(classes.max()) + 1))
    every[:, present] = np.add.reduceat(next_token[:, order].astype(np.float64), starts, axis=1)
    total = every.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return every / total[:, None], total


def expectation(probabilities: np.ndarray, values: np.ndarray) -> Value:
    """Mean of an ordinal scale, Σ p·v, as of SOFA quantiles: probabilities (n, K), values (K,). Exact: error 0."""
    mean = probabilities.astype(np.float64) @ np.asarray(values, np.float64)
    return Value(mean, np.where(np.isnan(mean), np.nan, 0.0))


def undetermined(futures: Futures, k: int) -> Undetermined:
    """How much of the simulation says nothing of outcome k. A study states it beside every probability."""
    rest = 1 - futures.share[..., k].astype(np.float64)
    known = _ended(futures, k, POSITIVE, NEGATIVE) | (rest < 1)
    return Undetermined(
        float((rest * _ended(futures, k, OPEN)).mean()),
        float((rest * _ended(futures, k, RUNNING)).mean()),
        float((~known.any(axis=1)).mean()),
    )


def variance_at_equal_tokens(method: str, futures: Futures, k: int) -> np.ndarray:
    """Variance, times the tokens spent, of the unbiased estimate of P(outcome): float64 (n,), of each sample.

    What a method makes of one token: divided by a budget of tokens it is the variance of the estimate that the budget
    buys, so the ratio of two methods says how many times the tokens the worse one needs. A copy is charged for all of
    its tokens, those it spent on other outcomes included: compare methods on futures of one outcome.

    Args: method, monte_carlo or scope, of ordinary futures, or reach, of suppressed ones.
    """
    p, _ = _METHODS[method](futures, k)
    return p.var(axis=1, ddof=1) * futures.lengths.mean(axis=1, dtype=np.float64)


def _ended(futures: Futures, k: int, *kinds: int) -> np.ndarray:
    return np.isin(futures.ended[..., k], kinds)


def _counted(futures: Futures, k: int) -> tuple[np.ndarray, np.ndarray]:
    share = futures.share[..., k].astype(np.float64)
    late = futures.by_horizon[..., k] & _ended(futures, k, POSITIVE)
    return np.where(late, 1.0, share), (1 - share) * _ended(futures, k, NEGATIVE)


def _summed(futures: Futures, k: int) -> tuple[np.ndarray, np.ndarray]:
    p, q = (sums[..., k].astype(np.float64) for sums in (futures.positive, futures.negative))
    rest = (1 - futures.share[..., k].astype(np.float64)) * futures.by_horizon[..., k]
    return p + rest * _ended(futures, k, POSITIVE), q + rest * _ended(futures, k, NEGATIVE)


def _survived(futures: Futures, k: int) -> tuple[np.ndarray, np.ndarray]:
    survival = futures.survival[..., k].astype(np.float64)
    late = futures.by_horizon[..., k] & _ended(futures, k, POSITIVE)
    # What a positive horizon adds to 1 − Π is Π: together 1.
    return np.where(late, 1.0, -np.expm1(survival)), np.where(_ended(futures, k, NEGATIVE), np.exp(survival), 0.0)


_METHODS = {"monte_carlo": _counted, "scope": _summed, "reach": _survived}


def _mean(p: np.ndarray) -> Estimate:
    copies = p.shape[1]
    error = p.std(axis=1, ddof=1) / np.sqrt(copies) if copies > 1 else np.full(len(p), np.nan)
    return Estimate(p.mean(axis=1), error)


def _ratio(p: np.ndarray, q: np.ndarray, least: int = 1) -> Estimate:
    """mean(p) / mean(p + q), NaN where that is 0/0, and its standard error by the delta method.

    The error is that of the mean of (1 − r)·p − r·q, divided by mean(p + q) (Cochran 1977, eq. 6.4, copies for
    sampling units). least: copies with p + q > 0 without which there is none.
    """
    copies, whole = p.shape[1], p.mean(axis=1) + q.mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(whole > 0, p.mean(axis=1) / whole, np.nan)
        rest = (1 - ratio)[:, None] * p - ratio[:, None] * q
        error = np.sqrt((rest**2).sum(axis=1) / max(copies - 1, 1) / copies) / whole
    few = (copies < 2) | (((p + q) > 0).sum(axis=1) < least)
    return Estimate(ratio, np.where(few, np.nan, error))
