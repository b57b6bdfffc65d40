"""Where does a loss turn? A local parabola in the logarithm of a quantity, with a verdict on whether it tells.

For model sizes at one budget (`isoflop`) and for learning rates at one size (`rates`).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ehr_scaling.analysis.uncertainty import Floats, interval
from ehr_scaling.analysis.wording import plural

BRACKETED = "bracketed"
EDGE = "edge"
FLAT = "flat"
INVERTED = "inverted"
OUTSIDE = "vertex outside the grid"
TOO_FEW = "too few"

LEAST = 4  # a parabola has three coefficients; with three values of x nothing is left to judge it by
NEAREST = 5
SIGNIFICANCE = 0.05

RULE = (
    "fitted to the {what}s within a factor {reach:g} of the best one (at least the {nearest} nearest), every seed a "
    "point. Too few: under {least} {what}s. Flat: the losses in the window are told from a constant by no F-test at "
    "5 %, or the curvature from zero by no t-test at 5 %, both against the scatter of the runs about the parabola. "
    "Inverted: the curvature is significantly negative. Vertex outside the grid: the minimum lies beyond the smallest "
    "or largest {what} run. Edge: the best {what} is the smallest or largest run. Bracketed: none of these."
)


def rule(what: str, reach: float) -> str:
    """How `fit` judges, for the report: the end of a sentence that says which parabola is fitted."""
    return RULE.format(what=what, reach=reach, nearest=NEAREST, least=LEAST)


@dataclass(frozen=True, kw_only=True)
class Parabola:
    """Loss y (nats a token) against log x; NaN where the verdict leaves a number undefined.

    window: [n] bool, which of the runs the parabola saw. values: number of different x.
    coefficients: (c0, c1, c2) of c0 + c1 u + c2 u^2, u = log x - centre; NaN when too few.
    vertex: x at the parabola's minimum wherever it lies (NaN when it opens downwards).
    optimum, lowest: x and y there, only when bracketed. depth: rise of the parabola over its window.
    scatter: residual standard deviation about the parabola. seed_noise: standard deviation between runs of one x.
    turns: [draws, 2] log x and y at the minimum of each bootstrap draw, NaN where it left the grid.
    failed: the share of those.
    """

    verdict: str
    reason: str
    window: NDArray[np.bool_]
    values: int
    coefficients: tuple[float, float, float] = (np.nan, np.nan, np.nan)
    centre: float = np.nan
    vertex: float = np.nan
    optimum: float = np.nan
    optimum_interval: tuple[float, float] = (np.nan, np.nan)
    lowest: float = np.nan
    lowest_interval: tuple[float, float] = (np.nan, np.nan)
    depth: float = np.nan
    scatter: float = np.nan
    seed_noise: float = np.nan
    turns: Floats | None = None
    failed: float = np.nan

    def curve(self, x: Floats) -> Floats:
        """Loss of the parabola at x, any shape."""
        c0, c1, c2 = self.coefficients
        u = np.log(x) - self.centre
        return c0 + c1 * u + c2 * u * u


def fit(x: Floats, y: Floats, factors: Floats, *, reach: float, level: float, what: str) -> Parabola:
    """Fits [n] losses y at [n] positive x, runs of one x being repeats.

    factors: [draws, n] of `uncertainty.multipliers`. reach: the parabola sees x within this factor of the best one.
    level: of the intervals. what: the name of x in reasons.
    """
    x = np.log(x)
    levels, at = np.unique(x, return_inverse=True)
    counts = np.bincount(at)
    means = np.bincount(at, weights=y) / counts
    noise = _seed_noise(y - means[at], counts)
    window = np.zeros(len(x), bool)
    if len(levels) < LEAST:
        reason = f"{plural(len(levels), what)}; at least {LEAST} are needed"
        return Parabola(verdict=TOO_FEW, reason=reason, window=window, values=len(levels), seed_noise=noise)

    best = int(means.argmin())
    window = _window(levels, best, np.log(reach))[at]
    xs, ys = x[window], y[window]
    centre = float(xs.mean())
    X = np.vander(xs - centre, 3, increasing=True)
    solve = np.linalg.pinv(X)
    c0, c1, c2 = (float(c) for c in solve @ ys)
    fitted = X @ (c0, c1, c2)
    residual = ys - fitted
    freedom = len(ys) - 3
    scatter = float(np.sqrt((residual**2).sum() / freedom))
    turn = float(centre - c1 / (2 * c2)) if c2 > 0 else np.nan
    line = np.linspace(xs.min(), xs.max(), 101) - centre
    swing = c0 + c1 * line + c2 * line**2

    # Rounding of exact tables must not look like signal.
    floor = (1e-12 * np.abs(ys).max()) ** 2
    variance = max(scatter**2, floor)
    explained = max(float(((ys - ys.mean()) ** 2).sum() - (residual**2).sum()), 0.0)
    depth_p = float(stats.f.sf(explained / 2 / variance, 2, freedom))
    curvature_p = float(2 * stats.t.sf(abs(c2) / np.sqrt(variance * (solve[2] ** 2).sum()), freedom))
    verdict, reason = _judge(levels, best, c2, turn, depth_p, curvature_p, what)

    partial = Parabola(
        verdict=verdict,
        reason=reason,
        window=window,
        values=len(levels),
        coefficients=(c0, c1, c2),
        centre=centre,
        vertex=_exp(turn),
        depth=float(np.ptp(swing)),
        scatter=scatter,
        seed_noise=noise,
    )
    if verdict != BRACKETED:
        return partial

    # HC3: a residual is divided by 1 - leverage, because the parabola bends towards every point.
    leverage = np.einsum("ij,ji->i", X, solve)
    wild = fitted + factors[:, window] * (residual / np.maximum(1 - leverage, 0.05))
    turns = _vertices(wild @ solve.T, centre, levels)
    bounds = [interval(turns[:, k], level) for k in range(2)]
    return replace(
        partial,
        turns=turns,
        failed=float(np.isnan(turns[:, 0]).mean()),
        optimum=_exp(turn),
        lowest=c0 - c1**2 / (4 * c2),
        optimum_interval=(_exp(bounds[0][0]), _exp(bounds[0][1])),
        lowest_interval=bounds[1],
    )


def _judge(
    xs: Floats, best: int, curvature: float, turn: float, depth_p: float, curvature_p: float, what: str
) -> tuple[str, str]:
    """The verdict and its reason; the order of the questions is the order in which they make the next one idle."""
    end = best in (0, len(xs) - 1)
    which = "smallest" if best == 0 else "largest"
    if depth_p > SIGNIFICANCE:
        return FLAT, f"a constant explains the losses as well ({_p(depth_p)})"
    if curvature <= 0 and curvature_p <= SIGNIFICANCE:
        return INVERTED, f"the profile curves downwards ({_p(curvature_p)}): there is no minimum inside"
    if curvature > 0 and not xs[0] < turn < xs[-1] and (end or curvature_p <= SIGNIFICANCE):
        side = "smallest" if turn <= xs[0] else "largest"
        return OUTSIDE, f"the minimum of the parabola lies beyond the {side} {what} run"
    if end:
        return EDGE, f"the {which} {what} is the best: the other side was not run"
    if curvature_p > SIGNIFICANCE:
        return FLAT, f"the curvature is not told from zero by the scatter of the runs ({_p(curvature_p)})"
    return BRACKETED, f"worse on both sides of the minimum (curvature {_p(curvature_p)})"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def _window(xs: Floats, best: int, reach: float) -> NDArray[np.bool_]:
    """[values] bool: those within `reach` of the best in log x, and the five nearest to it at least."""
    distance = np.abs(xs - xs[best])
    inside = distance <= reach + 1e-9
    inside[np.argsort(distance, kind="stable")[:NEAREST]] = True
    return inside


def _vertices(coefficients: Floats, centre: float, xs: Floats) -> Floats:
    """[draws, 3] coefficients -> [draws, 2] of log x and y at the minimum; NaN rows where it is not inside the grid."""
    c0, c1, c2 = coefficients.T
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = centre - c1 / (2 * c2)
        low = c0 - c1**2 / (4 * c2)
    inside = (c2 > 0) & (turn > xs[0]) & (turn < xs[-1])
    return np.where(inside[:, None], np.stack([turn, low], 1), np.nan)


def _seed_noise(deviation: Floats, counts: NDArray[np.int64]) -> float:
    """Pooled standard deviation of runs of one x; NaN when none was run twice."""
    freedom = len(deviation) - len(counts)
    return float(np.sqrt((deviation**2).sum() / freedom)) if freedom else np.nan


def _exp(value: float) -> float:
    return float(np.exp(value)) if value < 700 else np.inf
