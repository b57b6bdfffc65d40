"""How the risk of an outcome grows over simulated time, among the copies of one sample."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, POSITIVE

LEVEL = 0.95


class Incidence(NamedTuple):
    """A step function that is right-continuous: the values of row i hold from times[i] to times[i + 1].

    times: float64 (m,) hours, ascending, the first one 0; share: float64 (m,), probability that the outcome has come
    by then; low, high: float64 (m,), of the pointwise 95 % interval; until: hours up to which anything is known,
    infinite where no copy was lost before it was decided.
    """

    times: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    until: float


def cumulative(hours: np.ndarray, ended: np.ndarray) -> Incidence:
    """Cumulative incidence of POSITIVE, with NEGATIVE as its competing risk, by the estimate of Aalen and Johansen.

    Copies that ended otherwise (OPEN, RUNNING) count as censored at their time: what would have become of them is taken
    to be what became of the others. The variance is that of the delta method (Choudhury 2002, Stat Med 21:1129, eq. 3),
    and the interval that of Clopper and Pearson at the effective number of copies, p(1 − p) / variance (Korn and
    Graubard 1998). Without censoring the share is a plain one, the variance p(1 − p)/C, and the interval the exact one;
    with few copies it never shrinks to nothing, as a normal interval does at a share of 0.

    Args: hours, float (C,); ended, int (C,), of `simulate.Futures`, of one sample and one outcome.
    """
    hours = np.asarray(hours, np.float64)
    decided = np.isin(ended, (POSITIVE, NEGATIVE))
    times = np.unique(np.append(hours[decided], 0.0))
    at_risk = (hours >= times[:, None]).sum(axis=1).astype(np.float64)  # a copy lost at a time was there at it
    came = ((hours == times[:, None]) & (np.asarray(ended) == POSITIVE)).sum(axis=1).astype(np.float64)
    gone = ((hours == times[:, None]) & decided).sum(axis=1).astype(np.float64)
    n = np.maximum(at_risk, 1)
    before = np.append(1.0, np.cumprod(1 - gone / n)[:-1])  # share of copies that nothing has decided before
    share = np.cumsum(before * came / n)
    share = np.where(share > 1 - 1e-12, 1.0, share)  # the sum of rounded parts
    variance = np.array([_variance(share[: i + 1], before[: i + 1], n, came, gone) for i in range(len(times))])
    known = len(hours) - ((~decided) & (hours < times[:, None])).sum(axis=1)
    spread = share * (1 - share)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.where((variance > 0) & (spread > 0), spread / variance, known)
    hits, tail = share * effective, (1 - LEVEL) / 2
    low = np.where(hits > 0, stats.beta.ppf(tail, np.maximum(hits, 1e-9), effective - hits + 1), 0.0)
    misses = effective - hits
    high = np.where(misses > 1e-9, stats.beta.ppf(1 - tail, hits + 1, np.maximum(misses, 1e-9)), 1.0)
    lost = hours[~decided]
    # Beyond the last copy that is lost, if none is left then, nobody is watched any more.
    until = float(lost.max()) if len(lost) and lost.max() >= hours.max() else np.inf
    return Incidence(times, share, low, high, until)


def _variance(share: np.ndarray, before: np.ndarray, n: np.ndarray, came: np.ndarray, gone: np.ndarray) -> float:
    """Variance of the last of `share`, float64 (i,); n, came and gone may go on beyond it."""
    i = len(share)
    n, came, gone = n[:i], came[:i], gone[:i]
    rest = share[-1] - share
    left = n - gone
    # Where nobody is left the share does not change any more: its factor is 0, and the quotient plays no part.
    first = np.where(left > 0, rest**2 * gone / (n * np.maximum(left, 1)), 0.0)
    second = before**2 * came * (n - came) / n**3
    third = rest * before * came / n**2
    return float(np.sum(first + second - 2 * third))
