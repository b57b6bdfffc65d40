"""The mean losses of the different sizes of a budget (or rates of a size), which are what a profile rests on.

Seeds repeat a size: whatever sets a size apart from its neighbours beyond the noise of seeds, they share.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis.draws import Floats

LEAST = 4  # a parabola has three coefficients; with three values of x nothing is left to judge it by
NEAREST = 5


class Sizes(NamedTuple):
    """The different x of n runs: log x ascending [values], each run's index among them [n], runs and mean y of each
    [values], the deviations of the runs from that mean [n], and the variances of the means about a smooth curve,
    relative to their average [values]."""

    x: Floats
    at: NDArray[np.int64]
    counts: NDArray[np.int64]
    means: Floats
    deviation: Floats
    variance: Floats

    @property
    def best(self) -> int:
        return int(self.means.argmin())

    @property
    def noise(self) -> float:
        """Pooled standard deviation of runs of one x; NaN when none was run twice."""
        return _noise(self.deviation, self.counts)


def sizes(x: Floats, y: Floats) -> Sizes:
    """x: [n] logarithms. y: [n] losses."""
    levels, at = np.unique(x, return_inverse=True)
    counts = np.bincount(at)
    means = np.bincount(at, weights=y) / counts
    deviation = y - means[at]
    return Sizes(levels, at, counts, means, deviation, _variance(levels, means, counts, _noise(deviation, counts)))


def _noise(deviation: Floats, counts: NDArray[np.int64]) -> float:
    freedom = len(deviation) - len(counts)
    return float(np.sqrt((deviation**2).sum() / freedom)) if freedom else np.nan


def _variance(x: Floats, means: Floats, counts: NDArray[np.int64], noise: float) -> Floats:
    """That of runs of one x falls with their number, what sets an x apart from its neighbours does not: the two are
    told apart by `_fourths`."""
    if len(x) < LEAST or np.ptp(counts) == 0:
        return np.ones(len(x))
    four, weights = _fourths(x)
    weights /= np.sqrt((weights**2).sum(1))[:, None]
    squares = (weights * means[four]).sum(1) ** 2
    apart = max(float((squares - noise**2 * (weights**2 / counts[four]).sum(1)).mean()), 0.0)
    variance: Floats = apart + noise**2 / counts
    return variance / variance.mean() if variance.min() > 0 else np.ones(len(x))


def roughness(seen: Sizes, near: NDArray[np.bool_]) -> tuple[float, int]:
    """Mean square of the deviation of a mean loss from a smooth curve over some x, and its degrees of freedom.

    near: [values] bool, which of the different x.

    From each four neighbouring x, how far the fourth is from the parabola through three, in units of a mean's standard
    deviation (difference-based variance, Gasser, Sroka & Jennen-Steinmetz 1986).
    """
    x, y, variance = seen.x[near], seen.means[near], seen.variance[near]
    if len(x) < LEAST:
        return 0.0, 0
    four, weights = _fourths(x)
    weights /= np.sqrt((weights**2 * variance[four]).sum(1))[:, None]
    return float(((weights * y[four]).sum(1) ** 2).mean()), len(four)


def _fourths(x: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Each four neighbours among x [values]: their indices, and weights whose sum any parabola in x makes zero; both
    [values - 3, 4]."""
    four = np.lib.stride_tricks.sliding_window_view(np.arange(len(x)), 4)
    gaps = x[four][:, :, None] - x[four][:, None, :] + np.eye(4)
    return four, 1 / gaps.prod(2)


def nearest(xs: Floats, best: int, reach: float) -> NDArray[np.bool_]:
    """[values] bool: those within `reach` of the best in log x, and the `NEAREST` nearest to it."""
    distance = np.abs(xs - xs[best])
    inside = distance <= reach + 1e-9
    inside[np.argsort(distance, kind="stable")[:NEAREST]] = True
    return inside
