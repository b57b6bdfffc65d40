"""Which law to forecast with, and how far to trust it, from what rolling hold-outs say. Arrays in, numbers out.

Few folds of one table say little, and of many candidates the luckiest looks best. So both answers begin from what held
in simulated studies of five families (`launch.bench analysis`), and leave it only as far as the folds are evidence.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from ehr_scaling.analysis.draws import Floats, normal_quantile

FEWEST_FOLDS = 2  # one fold has no scatter to judge a difference by
ERRORS = 2.0  # standard errors by which another candidate must be better
CLEARLY = 0.8  # of the usual candidate's error is what another must stay below
CLOSE = 1.25  # laws whose error is within this factor of the best one's are in the running
NEAREST = 1 / 3  # decades of compute over which a drift is seen at least: nearer, it is the noise of a few runs
# How far the chosen law was off beyond simulated studies, root mean square in log loss a decade, and how many
# independent folds that is worth. It is what few folds are pulled towards, and twice of it stands where there are none.
USUAL_DRIFT, WORTH = 0.005, 3.0
SIZE_DRIFT = 0.25  # of N* off line and law beyond the runs there, root mean square in log N a decade
OVERLAP = 0.5  # independent folds in one: each holds the runs of those before it
FEWEST_LEFT = 3.0  # degrees of freedom: Student's interval of fewer is of no use
LEAST_DRIFT = 0.002  # a decade, whatever the folds say: no law was ever seen to be nearer


def chosen(errors: Mapping[str, Sequence[float]], usual: str) -> str:
    """The candidate to forecast with: the usual one, unless another is clearly better on the same folds.

    errors: of each candidate [folds], mean absolute error of a fold. Clearly: the mean difference to the usual one,
    fold by fold, exceeds ERRORS standard errors of it, and the mean error is below CLEARLY of the usual one's. Of
    several such the one of least mean error.
    """
    usual_errors = np.asarray(errors[usual], np.float64)
    if len(usual_errors) < FEWEST_FOLDS:
        return usual
    better = {}
    for name, error in errors.items():
        gain = usual_errors - np.asarray(error)
        beyond_chance = gain.mean() > ERRORS * gain.std(ddof=1) / np.sqrt(len(gain))
        if beyond_chance and np.mean(error) < CLEARLY * usual_errors.mean():
            better[name] = float(np.mean(error))
    return min(better, key=better.__getitem__) if better else usual


def close(errors: Mapping[str, float], first: str) -> tuple[str, ...]:
    """The candidates in the running, `first` before the others: those within CLOSE of the least mean error."""
    least = min(errors.values(), default=np.nan)
    return (first, *(name for name, error in errors.items() if name != first and error <= CLOSE * least))


def drift(biases: Sequence[float], decades: Sequence[float], seen: Sequence[float]) -> float:
    """Standard deviation of log loss for each decade beyond the data, times what makes a normal 95 % interval of it one
    of Student's.

    biases: mean log error of each fold. decades: mean log10 of compute of its runs over the largest that was fitted.
    seen: the range of log compute that was fitted, as a share of that of all runs: a law is off by how far it goes in
    terms of what it has seen, so a fold that saw half of it tells of a decade what two do to the law of all runs.
    The variance is that of the folds and that of USUAL_DRIFT, each weighted by the independent folds it is worth.
    """
    if not len(biases):
        return _student(WORTH) * 2 * USUAL_DRIFT
    reach = np.maximum(np.asarray(decades, np.float64), NEAREST)
    fold_variance = float(np.sum(np.square(biases) * np.square(seen)) / np.sum(reach**2))
    folds = OVERLAP * len(biases)
    variance = (WORTH * USUAL_DRIFT**2 + folds * fold_variance) / (WORTH + folds)
    return _student(WORTH + folds) * max(float(np.sqrt(variance)), LEAST_DRIFT)


def _student(degrees: float) -> float:
    """What makes a normal 95 % interval one of Student's."""
    return float(special.stdtrit(degrees, 0.975)) / normal_quantile(0.95)


UNSEEN_DRIFT = drift([], [], [])  # of a law that nothing was held out from


def freedom(cells: float, parameters: int) -> float:
    """Factor on residuals of a law with so many parameters, fitted to so many cells of equal weight: a fit bends to its
    own runs, and seeds of a cell are no others."""
    return float(np.sqrt(cells / max(cells - parameters, 1.0)))


def widened(cells: float, parameters: int) -> float:
    """Factor on the spread of a law's draws, which rest on such residuals: `freedom`, and Student's interval of as many
    degrees as are left, for a normal one."""
    return freedom(cells, parameters) * _student(max(cells - parameters, FEWEST_LEFT))


def equal_cells(weight: Floats) -> float:
    """How many cells of equal weight tell as much as those of these weights [n] (Kish 1965)."""
    return float(weight.sum() ** 2 / (weight**2).sum())
