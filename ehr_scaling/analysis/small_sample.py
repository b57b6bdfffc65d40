"""How far the spread of bootstrap draws of a profile's minimum can be trusted where few runs are under it."""

from typing import NamedTuple

import numpy as np

from ehr_scaling.analysis.uncertainty import Floats

LEAST_LEFT = 0.05  # of a run's noise in its residual, below which that is not scaled up further


class SmallSample(NamedTuple):
    """What a small window does to the variances of [2] the turn and the loss there that its draws have.

    freedom: [2] degrees of freedom of these variances, as estimates; infinite where all profiles share one. inflation:
    [2] by how much they are too large on average, which makes up for the few degrees of freedom where a profile stands
    alone, and adds up where many are put together.
    """

    freedom: Floats
    inflation: Floats


def none() -> SmallSample:
    return SmallSample(np.full(2, np.inf), np.ones(2))


def small_sample(
    X: Floats, solve: Floats, coefficients: Floats, turn: float, leverage: Floats, factors: Floats
) -> SmallSample:
    """For draws with HC3 residuals, to first order in these and for noise of one size (Bell & McCaffrey 2002, Survey
    Methodology 28:169).

    X: [n, degree + 1] powers. solve: its pseudoinverse. coefficients: of the polynomial, whose minimum is at `turn`.
    leverage: [n]. factors: [1 or 0, n], equal for rows of one run.
    """
    k = np.arange(X.shape[1])
    slopes = k * float(turn) ** np.maximum(k - 1, 0)
    bend = float((k * (k - 1) * float(turn) ** np.maximum(k - 2, 0)) @ coefficients)
    run = np.unique(factors[0], return_inverse=True)[1] if len(factors) else np.arange(len(X))
    runs, hat = int(run.max()) + 1, solve @ solve.T
    freedom, inflation = np.full(2, np.inf), np.ones(2)
    for i, weights in enumerate((-slopes / bend @ solve, float(turn) ** k @ solve)):
        # The variance is y' R M R y, R what the fit leaves of y, M a block of b b' for each run.
        b = weights / np.maximum(1 - leverage, LEAST_LEFT)
        across = np.stack([np.bincount(run, b * column, runs) for column in X.T])
        own, inner = np.bincount(run, b * b, runs), hat @ across @ across.T
        trace = own.sum() - np.trace(inner)
        squared = own @ own - 2 * own @ np.einsum("ic,ij,jc->c", across, hat, across) + np.trace(inner @ inner)
        if trace > 0 and squared > 0:
            freedom[i] = trace**2 / squared
            inflation[i] = float((b * b * (1 - leverage)).sum() / (weights @ weights))
    return SmallSample(freedom, inflation)
