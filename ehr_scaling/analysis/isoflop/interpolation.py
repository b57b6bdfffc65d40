"""Where does a loss turn, by a curve through every size instead of a parabola near the best one?

Akima's interpolation (1970, J. ACM 17(4)) of log loss in log N, as in Porian et al. 2024 (arXiv 2406.19146): it
assumes no shape, so a lopsided profile does not bias it, and follows the noise of every size, so a parabola is
steadier.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.interpolate import Akima1DInterpolator

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.isoflop import parabola
from ehr_scaling.analysis.isoflop.sizes import LEAST, NEAREST, Sizes, nearest, roughness, sizes

PER_STEP = 16  # points looked at between two sizes
MOST_POINTS = 2000
FLOOR = 1e-12  # of log loss: rounding of exact tables must not look like signal
CHI2 = 3.84  # 5 % point of chi-square with one degree of freedom

RULE = (
    "drawn through the mean log loss of every {what}. The noise of these means about a smooth curve is read off third "
    "differences of neighbouring {what}s within a factor {reach:g} of the best one (at least the {nearest} nearest), "
    "over all budgets together, as a power of compute where they tell one from a constant. Too few: "
    "under {least} {what}s. Flat: the losses in the window are told from a constant by no F-test at 5 %, or their "
    "curvature from zero by no t-test at 5 %, both against that noise. Inverted: the curvature is significantly "
    "negative. Edge: the best {what} is the smallest or largest run. Bracketed: none of these."
)


def rule(what: str, reach: float) -> str:
    """How `fit` judges, for the report: the end of a sentence that says which curve is drawn."""
    return RULE.format(what=what, reach=reach, nearest=NEAREST, least=LEAST)


@dataclass(frozen=True, kw_only=True)
class Interpolation(parabola.Profile):
    """x, y: [values] log x and mean log loss, which the curve goes through. centre: mean of x; NaN when too few."""

    x: Floats
    y: Floats
    centre: float = np.nan

    def curve(self, x: Floats) -> Floats:
        """Loss of the curve at x, any shape; NaN outside the smallest and largest."""
        loss: Floats = np.exp(Akima1DInterpolator(self.x, self.y)(np.log(x)))
        return loss


class Noise(NamedTuple):
    """sd: [budgets] of the mean log loss of a size about a smooth curve. freedom: degrees of it, over all budgets."""

    sd: Floats
    freedom: int

    def uncertain(self, factors: Floats, rng: np.random.Generator) -> Floats:
        """Factors [draws, n] with the noise's own error in them: the spread of each draw is one that could have given
        this estimate (scaled inverse chi-square), which makes normal draws Student's."""
        scale = np.sqrt(self.freedom / rng.chisquare(max(self.freedom, 1), len(factors)))
        return factors * scale[:, None]


def noise(C: Floats, profiles: Sequence[tuple[Floats, Floats]], reach: float) -> Noise:
    """The noise at every budget, from all of them: few sizes each tell little alone, and it falls with compute.

    C: [budgets] FLOPs. profiles: of each its x and losses [n]. reach: as in `fit`.
    A power of C by maximum likelihood (the mean squares are chi-square) where a likelihood-ratio test at 5 % tells it
    from a constant.
    """
    seen = [sizes_of(*profile) for profile in profiles]
    windows = [nearest(budget.x, budget.best, np.log(reach)) for budget in seen]
    estimates = [roughness(budget, window) for budget, window in zip(seen, windows, strict=True)]
    squares, freedom = np.array(estimates).reshape(-1, 2).T
    told = freedom > 0
    if not told.any():
        return Noise(np.full(len(C), np.nan), 0)
    squares = np.maximum(squares, FLOOR**2)
    u = np.log(C) - np.log(C[told]).mean()
    weight = freedom[told]
    mean = np.array([np.log((weight * squares[told]).sum() / weight.sum()), 0.0])
    coefficients = mean.copy()
    X = np.vander(u[told], 2, increasing=True)
    if np.ptp(u[told]) > 0:
        for _ in range(50):  # Fisher scoring of a chi-square with a logarithmic link
            step = np.linalg.solve(
                X.T @ (weight[:, None] * X), X.T @ (weight * (_ratio(squares[told], X, coefficients) - 1))
            )
            coefficients = coefficients + np.clip(step, -1, 1)
    if _deviance(weight, squares[told], X, mean) - _deviance(weight, squares[told], X, coefficients) < CHI2:
        coefficients = mean
    return Noise(np.exp((coefficients[0] + coefficients[1] * u) / 2), int(weight.sum()))


def _ratio(squares: Floats, X: Floats, coefficients: Floats) -> Floats:
    ratio: Floats = squares * np.exp(-(X @ coefficients))
    return ratio


def _deviance(weight: Floats, squares: Floats, X: Floats, coefficients: Floats) -> float:
    """-2 log likelihood up to a constant."""
    return float((weight * (X @ coefficients + _ratio(squares, X, coefficients))).sum())


def sizes_of(x: Floats, loss: Floats) -> Sizes:
    """Runs of one x together, in log x and log loss."""
    return sizes(np.log(x), np.log(loss))


def fit(
    x: Floats, y: Floats, factors: Floats, sd: float, *, reach: float, level: float, what: str, near: float
) -> Interpolation:
    """Draws the curve through [n] losses y at [n] positive x, runs of one x being repeats.

    factors: [draws, values] of `Noise.uncertain`, one for every different x. sd: of the mean log loss of an x. reach:
    the losses within this factor of the best x are judged. level: of the intervals. what: the name of x in reasons.
    near: the share of `Near`. A draw moves every mean by its factor times `sd` and looks for the lowest point anew.
    """
    seen = sizes_of(x, y)
    if len(seen.x) < LEAST:
        return Interpolation(**parabola.too_few(seen, LEAST, what), x=seen.x, y=seen.means)
    window = nearest(seen.x, seen.best, np.log(reach))
    points = np.linspace(seen.x[0], seen.x[-1], min(PER_STEP * (len(seen.x) - 1), MOST_POINTS) + 1)
    turn, lowest = (float(v[0]) for v in _lowest(seen.x, seen.means[None], points))
    line = np.linspace(seen.x[window].min(), seen.x[window].max(), parabola.LINE)
    curve = np.exp(Akima1DInterpolator(seen.x, seen.means)(line))
    verdict, reason = _judge(seen, window, sd, what)
    partial = Interpolation(
        verdict=verdict,
        reason=reason,
        window=window[seen.at],
        values=len(seen.x),
        x=seen.x,
        y=seen.means,
        centre=float(seen.x.mean()),
        vertex=parabola.exp(turn),
        depth=float(np.ptp(curve)),
        scatter=sd * float(np.exp(seen.means.min())),
        seed_noise=sizes(seen.x[seen.at], y).noise,
    )
    if verdict != parabola.BRACKETED:
        return partial

    drawn = seen.means + sd * np.sqrt(seen.variance) * factors
    turns = np.stack(_lowest(seen.x, drawn, points), 1)
    turns[:, 1] = np.exp(turns[:, 1])
    curves = np.exp(Akima1DInterpolator(seen.x, drawn.T)(line)).T
    step = np.diff(seen.x)[np.searchsorted(seen.x, turn) - 1]
    return replace(
        partial,
        optimum=parabola.exp(turn),
        lowest=float(np.exp(lowest)),
        # The curve follows every size: the optimum may lie anywhere between two of them.
        resolution=float(step) / np.sqrt(12),
        near=parabola.near_band(line, curve, curves, near, level),
        **parabola.spread(turns, level),
    )


def _lowest(x: Floats, y: Floats, points: Floats) -> tuple[Floats, Floats]:
    """log x and log loss [b] at the lowest point of the curves through y [b, values]; NaN at an end of x.

    Among `points`, and then at the vertex of the parabola through the lowest and its neighbours.
    """
    curves = Akima1DInterpolator(x, y.T)(points)
    lowest = curves.argmin(0)
    inside = (lowest > 0) & (lowest < len(points) - 1)
    k, column = np.clip(lowest, 1, len(points) - 2), np.arange(len(y))
    left, middle, right = (curves[k + i, column] for i in (-1, 0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num((left - right) / (2 * (left - 2 * middle + right)))
    turn = points[k] + share * (points[1] - points[0])
    return np.where(inside, turn, np.nan), np.where(inside, middle - (left - right) * share / 4, np.nan)


def _judge(seen: Sizes, window: NDArray[np.bool_], sd: float, what: str) -> tuple[str, str]:
    """As `parabola.fit` judges, but by the noise of the means: what a parabola leaves over is not held against it."""
    x, y, weight = seen.x[window], seen.means[window], 1 / seen.variance[window]
    variance = max(sd, FLOOR) ** 2
    root = np.sqrt(weight)
    X = np.vander(x - x.mean(), 3, increasing=True)
    bend = (np.linalg.pinv(root[:, None] * X) * root)[2]
    level = (weight * y).sum() / weight.sum()
    explained = float((weight * (y - level) ** 2).sum())
    freedom = len(x) - 3
    depth_p = float(special.fdtrc(len(x) - 1, freedom, explained / (len(x) - 1) / variance))
    curvature_p = parabola.two_sided(float(bend @ y), bend / root, variance, freedom)
    return parabola.judge(seen, float(bend @ y), 0, depth_p, curvature_p, what)
