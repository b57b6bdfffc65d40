"""How far the spread of bootstrap draws of a profile's minimum can be trusted where few sizes are under it."""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from ehr_scaling.analysis.draws import Floats

LEAST_LEFT = 0.05  # of a size's noise in its residual, below which that is not scaled up further


class SmallSample(NamedTuple):
    """What a small window does to the variances of [2] the turn and the loss there that its draws have.

    freedom: [2] degrees of freedom of these variances, as estimates; infinite where all profiles share one. inflation:
    [2] by how much they are too large on average, which makes up for the few degrees of freedom where a profile stands
    alone, and adds up where many are put together. unit: [2] the variances that noise of variance one would give.
    """

    freedom: Floats
    inflation: Floats
    unit: Floats


def none() -> SmallSample:
    return SmallSample(np.full(2, np.inf), np.ones(2), np.full(2, np.nan))


def small_sample(X: Floats, solve: Floats, coefficients: Floats, turn: float, leverage: Floats) -> SmallSample:
    """For draws with HC3 residuals, to first order in these and for noise of one size (Bell & McCaffrey 2002, Survey
    Methodology 28:169).

    X: [n, 3] powers of u, rows multiplied by the roots of their weights. solve: its pseudoinverse. coefficients: of the
    parabola, whose minimum is at `turn`. leverage: [n].
    """
    slopes, value = np.array([0.0, 1.0, 2 * turn]), np.array([1.0, turn, turn * turn])
    hat, bend = solve @ solve.T, 2 * float(coefficients[2])
    freedom, inflation, unit = none()
    for i, weights in enumerate((-slopes / bend @ solve, value @ solve)):
        # The variance is y' R M R y, R what the fit leaves of y, M diagonal with b².
        diagonal = (weights / np.maximum(1 - leverage, LEAST_LEFT)) ** 2
        inner = hat @ (X.T * diagonal) @ X
        trace = diagonal.sum() - np.trace(inner)
        squared = diagonal @ diagonal - 2 * diagonal**2 @ leverage + np.trace(inner @ inner)
        unit[i] = weights @ weights
        if trace > 0 and squared > 0:
            freedom[i] = trace**2 / squared
            inflation[i] = float((diagonal * (1 - leverage)).sum() / unit[i])
    return SmallSample(freedom, inflation, unit)


def moderated(variance: Floats, freedom: Floats) -> Floats:
    """Variances [points], each estimated with `freedom` [points], drawn together as far as their differences are those
    of estimates of one variance: the empirical Bayes of Smyth 2004 (Stat. Appl. Genet. Mol. Biol. 3:3, section 6.2).

    Variances of infinite freedom, or fewer than three, stay as they are.
    """
    if len(variance) < 3 or not np.isfinite(freedom).all() or not (variance > 0).all():
        return variance
    middle, prior_freedom = common(variance, freedom)
    if np.isinf(prior_freedom):
        return np.full(len(variance), middle)
    return np.asarray((prior_freedom * middle + freedom * variance) / (prior_freedom + freedom))


def common(variance: Floats, freedom: Floats) -> tuple[float, float]:
    """The variance that three or more estimates [points] of finite `freedom` [points] scatter about, and the degrees of
    freedom that it is worth as an estimate of any of them: infinite where chance explains all differences."""
    half = freedom / 2
    logs = np.log(variance) - special.digamma(half) + np.log(half)
    beyond = float(logs.var(ddof=1) - special.polygamma(1, half).mean())
    if beyond <= 0:
        return float(np.exp(logs.mean())), np.inf
    prior = float(optimize.brentq(lambda t: special.polygamma(1, np.exp(t)) - beyond, -20, 30))  # log of half of it
    return float(np.exp(logs.mean() + special.digamma(np.exp(prior)) - prior)), 2 * float(np.exp(prior))
