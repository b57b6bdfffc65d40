"""Where does a loss turn? A local parabola in the logarithm of a quantity, with a verdict on whether it tells.

For model sizes at one budget (`isoflop`) and for learning rates at one size (`rates`). What curves of other kinds
share with it (`interpolation`) is here too.
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ehr_scaling.analysis.draws import Floats, interval
from ehr_scaling.analysis.isoflop.sizes import LEAST, NEAREST, Sizes, nearest, roughness, sizes
from ehr_scaling.analysis.small_sample import LEAST_LEFT, SmallSample, none, small_sample
from ehr_scaling.analysis.wording import plural

BRACKETED = "bracketed"
EDGE = "edge"
FLAT = "flat"
INVERTED = "inverted"
OUTSIDE = "vertex outside the grid"
TOO_FEW = "too few"
MISFIT = "no parabola"

SIGNIFICANCE = 0.05
LOPSIDED = 0.01  # asked of every bracketed profile, so that 5 % would call many a sound one lopsided
LINE = 201  # points of a drawn curve

RULE = (
    "fitted to the mean losses of the {what}s within a factor {reach:g} of the best one (at least the {nearest} "
    "nearest). Too few: under {least} {what}s. Flat: the losses in the window are told from a constant by no F-test at "
    "5 %, or the curvature from zero by no t-test at 5 %, both against the scatter of these means about the parabola. "
    "Inverted: the curvature is significantly negative. Vertex outside the grid: the minimum lies beyond the smallest "
    "or largest {what} run. No parabola: so does it, but the best {what} is neither the smallest nor the largest and a "
    "cubic term is told from none by a t-test at 1 %. Edge: the best {what} is the smallest or largest run. Bracketed: "
    "none of these; doubtful, where these means scatter about a parabola more than about their neighbours by an F-test "
    "at 1 %, and the {nearest} nearest {what}s alone put the minimum outside its interval."
)


def rule(what: str, reach: float) -> str:
    """How `fit` judges, for the report: the end of a sentence that says which parabola is fitted."""
    return RULE.format(what=what, reach=reach, nearest=NEAREST, least=LEAST)


class Near(NamedTuple):
    """All x whose fitted loss is at most a given share above the lowest.

    low, high: in x, each with its interval. open_low, open_high: there the loss is still as good at the last x that
    the curve saw, so that the band may reach further.
    """

    low: float
    high: float
    low_interval: tuple[float, float]
    high_interval: tuple[float, float]
    open_low: bool
    open_high: bool


class Bend(NamedTuple):
    """What a cubic beside the parabola says of the turn. shift: in log x, to first order in the cubic term. unit: its
    variance where that of a mean loss is 1. variance: of a mean loss about the cubic, with its degrees of freedom."""

    shift: float
    unit: float
    variance: float
    freedom: int


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Loss y (nats a token) against log x under some curve; NaN where the verdict leaves a number undefined.

    window: [n] bool, which of the runs decide. values: number of different x.
    vertex: x at the curve's minimum wherever it lies (NaN when there is none).
    optimum, lowest: x and y there, only when bracketed. depth: rise of the curve over its window.
    scatter: standard deviation of the mean loss of an x about a smooth curve. freedom: of that, where it is of this
    profile alone. seed_noise: that between runs of one x, which says nothing of the curve: runs of one x share whatever
    sets this x apart from its neighbours.
    lopsided: p-value of a cubic term beside the parabola, NaN where it was not asked. bend: None likewise.
    systematic: p-value of the means scattering no more about the curve than about their neighbours, NaN where no
    neighbours tell; a small one says that the curve is not of their shape. doubtful: it is small, and the nearest x
    alone put the minimum outside its interval.
    resolution: in log x, below which the curve cannot place an optimum; 0 for curves fitted to many runs.
    small: what a small window does to the spread of the turns.
    turns: [draws, 2] log x and y at the minimum of each bootstrap draw, NaN where it left the grid.
    failed: the share of those. near: only when bracketed and asked for.
    """

    verdict: str
    reason: str
    window: NDArray[np.bool_]
    values: int
    vertex: float = np.nan
    optimum: float = np.nan
    optimum_interval: tuple[float, float] = (np.nan, np.nan)
    lowest: float = np.nan
    lowest_interval: tuple[float, float] = (np.nan, np.nan)
    depth: float = np.nan
    scatter: float = np.nan
    freedom: int = 0
    seed_noise: float = np.nan
    lopsided: float = np.nan
    bend: Bend | None = None
    systematic: float = np.nan
    doubtful: bool = False
    resolution: float = 0.0
    small: SmallSample = field(default_factory=none)
    turns: Floats | None = None
    failed: float = np.nan
    near: Near | None = None

    @property
    def thin(self) -> bool:
        """A single degree of freedom is left: those that are called bracketed are then those whose noise looks small by
        chance, and in simulated studies 95 % intervals held the optimum in 77 to 89 %."""
        return self.freedom == 1


@dataclass(frozen=True, kw_only=True)
class Parabola(Profile):
    """coefficients: (c0, c1, c2) of c0 + c1 u + c2 u^2, u = log x - centre; NaN when too few."""

    coefficients: tuple[float, ...] = (np.nan, np.nan, np.nan)
    centre: float = np.nan

    def curve(self, x: Floats) -> Floats:
        """Loss of the parabola at x, any shape."""
        u = np.log(x) - self.centre
        return sum((c * u**k for k, c in enumerate(self.coefficients)), np.zeros_like(u))


def too_few(seen: Sizes, least: int, what: str) -> dict[str, Any]:
    """The fields of a Profile with too few different x."""
    return {
        "verdict": TOO_FEW,
        "reason": f"{plural(len(seen.x), what)}; at least {least} are needed",
        "window": np.zeros(len(seen.at), bool),
        "values": len(seen.x),
        "seed_noise": seen.noise,
    }


def fit(
    x: Floats,
    y: Floats,
    factors: Floats,
    *,
    reach: float,
    level: float,
    what: str,
    near: float | None = None,
) -> Parabola:
    """Fits [n] losses y at [n] positive x, runs of one x being repeats.

    factors: [draws, values] of `draws.of_cells`, one for every different x. reach: the parabola sees x within
    this factor of the best one. level: of the intervals. what: the name of x in reasons. near: the share of `Near`.
    """
    x = np.log(x)
    seen = sizes(x, y)
    if len(seen.x) < LEAST:
        return Parabola(**too_few(seen, LEAST, what))

    near_x = nearest(seen.x, seen.best, np.log(reach))
    window = near_x[seen.at]
    xs, ys, weight = seen.x[near_x], seen.means[near_x], 1 / seen.variance[near_x]
    centre = float(xs.mean())
    polynomial = _solve(xs - centre, ys, weight, 2)
    coefficients, residual, freedom = polynomial.coefficients, polynomial.residual, len(ys) - 3
    scatter = float(np.sqrt((residual**2).sum() / freedom))
    turn, lowest = (float(v[0]) for v in _minima(coefficients[None]))
    line = np.linspace(xs.min(), xs.max(), LINE)
    powers = np.vander(line - centre, 3, increasing=True)
    # Rounding of exact tables must not look like signal.
    variance = max(scatter**2, (1e-12 * np.abs(ys).max()) ** 2)
    about = ys - (weight * ys).sum() / weight.sum()
    explained = max(float((weight * about**2).sum() - (residual**2).sum()), 0.0)
    depth_p = float(special.fdtrc(2, freedom, explained / 2 / variance))
    curvature = float(coefficients[2])
    curvature_p = two_sided(curvature, polynomial.solve[2], variance, freedom)
    beyond = int(turn + centre >= seen.x[-1]) - int(turn + centre <= seen.x[0])  # 0 where it is NaN
    verdict, reason = judge(seen, curvature, beyond, depth_p, curvature_p, what)
    lopsided, elsewhere, bend = _lopsided(xs - centre, ys, weight, polynomial)
    if lopsided <= LOPSIDED and verdict == OUTSIDE and 0 < seen.best < len(seen.x) - 1:
        verdict = MISFIT
        reason += f", yet the best run does not: no parabola fits this window (cubic term, {p_value(lopsided)})"
    elif lopsided <= LOPSIDED and verdict == BRACKETED:
        where = f"it at {np.exp(elsewhere - turn):.2f} times that {what}" if np.isfinite(elsewhere) else "none there"
        reason += f"; lopsided: a cubic has {where} ({p_value(lopsided)})"

    partial = Parabola(
        verdict=verdict,
        reason=reason,
        window=window,
        values=len(seen.x),
        coefficients=tuple(float(c) for c in coefficients),
        centre=centre,
        vertex=exp(turn + centre),
        depth=float(np.ptp(powers @ coefficients)),
        scatter=scatter,
        freedom=freedom,
        seed_noise=seen.noise,
        lopsided=lopsided,
        bend=bend,
        systematic=_systematic(seen, near_x, variance, freedom),
    )
    if verdict != BRACKETED:
        return partial
    # HC3: a residual is divided by 1 - leverage, because the parabola bends towards every point.
    leverage = np.einsum("ij,ji->i", polynomial.X, polynomial.solve)
    wild = polynomial.X @ coefficients + factors[:, near_x] * (residual / np.maximum(1 - leverage, LEAST_LEFT))
    drawn = wild @ polynomial.solve.T
    turns = np.stack(_minima(drawn), 1) + np.array([centre, 0.0])
    turns[~((turns[:, 0] > seen.x[0]) & (turns[:, 0] < seen.x[-1]))] = np.nan
    small = small_sample(polynomial.X, polynomial.solve, coefficients, turn, leverage)
    fitted = replace(partial, optimum=exp(turn + centre), lowest=lowest, small=small, **spread(turns, level))
    if partial.systematic <= LOPSIDED:
        fitted = _doubted(fitted, seen, what)
    if near is None:
        return fitted
    return replace(fitted, near=near_band(line, powers @ coefficients, drawn @ powers.T, near, level))


def _doubted(fitted: Parabola, seen: Sizes, what: str) -> Parabola:
    """`fitted`, doubtful where the parabola through the nearest x alone is lowest outside of its interval."""
    near = nearest(seen.x, seen.best, 0.0)
    coefficients = _solve(seen.x[near] - fitted.centre, seen.means[near], 1 / seen.variance[near], 2).coefficients
    turn = float(_minima(coefficients[None])[0][0]) + fitted.centre
    low, high = fitted.optimum_interval
    if not seen.x[0] < turn < seen.x[-1] or not (exp(turn) < low or high < exp(turn)):
        return fitted
    doubt = (
        f"; doubtful: the {NEAREST} nearest {what}s alone have it at {exp(turn) / fitted.optimum:.2f} times "
        f"that {what}, and the means scatter about the parabola more than about their neighbours "
        f"({p_value(fitted.systematic)})"
    )
    return replace(fitted, doubtful=True, reason=fitted.reason + doubt)


class _Polynomial(NamedTuple):
    """residual [n], X [n, degree + 1] and its pseudoinverse, all with rows multiplied by the root of their weight."""

    coefficients: Floats
    residual: Floats
    X: Floats
    solve: Floats


def _solve(u: Floats, y: Floats, weight: Floats, degree: int) -> _Polynomial:
    root = np.sqrt(weight)
    X, y = root[:, None] * np.vander(u, degree + 1, increasing=True), root * y
    solve = np.asarray(np.linalg.pinv(X), np.float64)
    coefficients = solve @ y
    return _Polynomial(coefficients, y - X @ coefficients, X, solve)


def _minima(coefficients: Floats) -> tuple[Floats, Floats]:
    """[b, 3 or 4] -> u [b] at the local minimum of a parabola or cubic, and its y; NaN where there is none."""
    c0, c1, c2 = coefficients[:, :3].T
    c3 = coefficients[:, 3] if coefficients.shape[1] == 4 else np.zeros(len(coefficients))
    with np.errstate(divide="ignore", invalid="ignore"):
        # The root of the derivative with positive curvature, in the form that stays exact as c3 goes to 0.
        turn = -c1 / (c2 + np.sqrt(c2 * c2 - 3 * c1 * c3))
        turn = np.where(np.isfinite(turn) & (c2 + 3 * c3 * turn > 0), turn, np.nan)
    return turn, c0 + turn * (c1 + turn * (c2 + turn * c3))


def _lopsided(u: Floats, y: Floats, weight: Floats, parabola: _Polynomial) -> tuple[float, float, Bend | None]:
    """p-value of the cubic term in the parabola's own window, u at the cubic's minimum, and the bend; NaN or None
    without the runs."""
    freedom = len(u) - 4
    if freedom < 1:
        return np.nan, np.nan, None
    cubic = _solve(u, y, weight, 3)
    variance = max(float((cubic.residual**2).sum()) / freedom, (1e-12 * np.abs(y).max()) ** 2)
    turn = float(_minima(cubic.coefficients[None])[0][0])
    inside = u.min() < turn < u.max()
    # The parabola has taken up what it can of the cubic term: what is left of u^3 has a slope where the parabola turns.
    _, linear, curvature = parabola.coefficients
    _, level, rise = _solve(u, u**3, weight, 2).coefficients
    at = -linear / (2 * curvature) if curvature > 0 else np.nan
    turned = float(-(3 * at**2 - level - 2 * rise * at) / (2 * curvature))
    third = cubic.coefficients[3]
    bend = Bend(turned * float(third), turned**2 * float((cubic.solve[3] ** 2).sum()), variance, freedom)
    p = two_sided(third, cubic.solve[3], variance, freedom)
    return p, turn if inside else np.nan, bend if np.isfinite(turned) else None


def _systematic(seen: Sizes, near: NDArray[np.bool_], variance: float, freedom: int) -> float:
    """variance: of the means about the curve."""
    square, others = roughness(seen, near)
    square = max(square, (1e-12 * float(np.abs(seen.means).max())) ** 2)
    return float(special.fdtrc(freedom, others, variance / square)) if others else np.nan


def two_sided(value: float, weights: Floats, variance: float, freedom: int) -> float:
    """p-value of a weighted sum of losses against zero, by a t-test; weights: [n], variance: of one loss."""
    return float(2 * special.stdtr(freedom, -abs(value) / np.sqrt(variance * (weights**2).sum())))


def spread(turns: Floats, level: float) -> dict[str, Any]:
    """The fields of a Profile that come from the draws' turns [draws, 2]."""
    bounds = [interval(turns[:, k], level) for k in range(2)]
    return {
        "turns": turns,
        "failed": float(np.isnan(turns[:, 0]).mean()) if len(turns) else np.nan,
        "optimum_interval": (exp(bounds[0][0]), exp(bounds[0][1])),
        "lowest_interval": bounds[1],
    }


def near_band(line: Floats, curve: Floats, draws: Floats, share: float, level: float) -> Near:
    """The band about the minimum where a curve is within `share` of its lowest loss.

    line: [points] log x. curve: [points] losses there, draws: [draws, points] those of bootstrap draws.
    """
    low, high = _within(line, curve[None], share)
    low_end, high_end = (interval(ends, level) for ends in _within(line, draws, share))
    return Near(
        low=exp(low[0]),
        high=exp(high[0]),
        low_interval=(exp(low_end[0]), exp(low_end[1])),
        high_interval=(exp(high_end[0]), exp(high_end[1])),
        open_low=bool(low[0] == line[0]),
        open_high=bool(high[0] == line[-1]),
    )


def _within(line: Floats, curves: Floats, share: float) -> tuple[Floats, Floats]:
    """Where curves [b, points] leave the stretch about their minimum that is within `share` of it: log x below and
    above [b], straight between points; the ends of `line` where they do not."""
    best = curves.argmin(1)[:, None]
    over = curves - (1 + share) * np.take_along_axis(curves, best, 1)
    points, row = np.arange(len(line)), np.arange(len(curves))
    low = np.where((over > 0) & (points < best), points, -1).max(1)  # the last point outside
    high = np.where((over > 0) & (points > best), points, len(line)).min(1)

    def crossing(outside: NDArray[np.int64], inside: NDArray[np.int64]) -> Floats:
        outside = np.clip(outside, 0, len(line) - 1)
        there, here = over[row, outside], over[row, inside]
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(outside == inside, 0.0, here / (here - there))
        return np.asarray(line[inside] + part * (line[outside] - line[inside]))

    return crossing(low, low + 1), crossing(high, high - 1)


def judge(seen: Sizes, curvature: float, beyond: int, depth_p: float, curvature_p: float, what: str) -> tuple[str, str]:
    """The verdict and its reason; the order of the questions is the order in which they make the next one idle.

    beyond: -1 or 1 where the curve's minimum lies beyond the smallest or largest x, else 0. depth_p, curvature_p:
    p-values of a constant and of no curvature.
    """
    end = seen.best in (0, len(seen.x) - 1)
    which = "smallest" if seen.best == 0 else "largest"
    if depth_p > SIGNIFICANCE:
        return FLAT, f"a constant explains the losses as well ({p_value(depth_p)})"
    if curvature <= 0 and curvature_p <= SIGNIFICANCE:
        return INVERTED, f"the profile curves downwards ({p_value(curvature_p)}): there is no minimum inside"
    if beyond and (end or curvature_p <= SIGNIFICANCE):
        side = "smallest" if beyond < 0 else "largest"
        return OUTSIDE, f"the minimum of the parabola lies beyond the {side} {what} run"
    if end:
        return EDGE, f"the {which} {what} is the best: the other side was not run"
    if curvature_p > SIGNIFICANCE:
        return FLAT, f"the curvature is not told from zero by the scatter of the runs ({p_value(curvature_p)})"
    return BRACKETED, f"worse on both sides of the minimum (curvature {p_value(curvature_p)})"


def p_value(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def exp(value: float) -> float:
    return float(np.exp(value)) if not value >= 700 else np.inf
