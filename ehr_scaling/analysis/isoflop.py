"""IsoFLOP profiles: at each compute budget, where does the loss turn?

Approach 2 of Hoffmann et al. 2022 (arXiv 2203.15556): loss against log N at fixed C is fitted by a parabola, whose
vertex is the optimal size. Here the parabola is local, every budget gets a verdict, and only bracketed ones go on.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ehr_scaling.analysis.run_table import RunTable
from ehr_scaling.analysis.uncertainty import Floats, Options, interval, multipliers
from ehr_scaling.analysis.wording import plural

BRACKETED = "bracketed"
EDGE = "edge"
FLAT = "flat"
INVERTED = "inverted"
OUTSIDE = "vertex outside the grid"
TOO_FEW = "too few"
VERDICTS = (BRACKETED, EDGE, FLAT, INVERTED, OUTSIDE, TOO_FEW)

LEAST_SIZES = 4  # a parabola has three coefficients; with three sizes nothing is left to judge it by
NEAREST = 5
SIGNIFICANCE = 0.05

RULE = (
    "In each budget a parabola of loss in log N is fitted to the sizes within a factor {window:g} of the best "
    "one (at least the {nearest} nearest), every seed a point. Too few: under {least} sizes. Flat: the losses "
    "in the window are told from a constant by no F-test at 5 %, or the curvature from zero by no t-test at 5 %, "
    "both against the scatter of the runs about the parabola. Inverted: the curvature is significantly negative. "
    "Vertex outside the grid: the minimum lies beyond the smallest or largest size run. Edge: the best size is the "
    "smallest or largest run. Bracketed: none of these. Only bracketed budgets enter a law."
)


def rule(options: Options) -> str:
    """The rule above with its numbers, for the report."""
    return RULE.format(window=options.window, nearest=NEAREST, least=LEAST_SIZES)


@dataclass(frozen=True)
class BudgetFit:
    """One budget. Losses in nats a token, sizes in parameters; NaN where the verdict leaves a number undefined.

    rows: [n] index into the table. window: [n] bool, which of them the parabola saw.
    coefficients: (c0, c1, c2) of c0 + c1 u + c2 u^2, u = log N - centre; NaN when too few.
    vertex: parameters at the parabola's minimum wherever it lies (NaN when it opens downwards).
    N, D, L: the optimum, only when bracketed. depth: rise of the parabola over its window.
    scatter: residual standard deviation about the parabola. seed_noise: within-size standard deviation.
    draws: [draws, 3] log N*, log D*, L* of each bootstrap draw, NaN where the vertex left the grid.
    failed: the share of those.
    """

    C: float
    rows: NDArray[np.int64]
    window: NDArray[np.bool_]
    sizes: int
    verdict: str
    reason: str
    coefficients: tuple[float, float, float] = (np.nan, np.nan, np.nan)
    centre: float = np.nan
    vertex: float = np.nan
    N: float = np.nan
    D: float = np.nan
    L: float = np.nan
    N_interval: tuple[float, float] = (np.nan, np.nan)
    D_interval: tuple[float, float] = (np.nan, np.nan)
    L_interval: tuple[float, float] = (np.nan, np.nan)
    depth: float = np.nan
    scatter: float = np.nan
    seed_noise: float = np.nan
    draws: Floats | None = None
    failed: float = np.nan

    def curve(self, N: Floats) -> Floats:
        """Loss of the parabola at sizes N, any shape."""
        c0, c1, c2 = self.coefficients
        u = np.log(N) - self.centre
        return c0 + c1 * u + c2 * u * u


def fit(table: RunTable, options: Options) -> list[BudgetFit]:
    """One `BudgetFit` for every budget of the table, ascending in C."""
    rng = np.random.default_rng([options.seed, 1])
    factors = multipliers(table.clusters, options.draws, rng)
    groups = [np.flatnonzero(table.group == g) for g in range(len(table.budgets))]
    return [fit_budget(table, rows, factors[:, rows], options) for rows in groups]


def fit_budget(table: RunTable, rows: NDArray[np.int64], factors: Floats, options: Options) -> BudgetFit:
    """Fits one budget.

    rows: [n] the budget's rows. factors: [draws, n] of `uncertainty.multipliers`.
    """
    C = float(np.exp(np.log(table.C[rows]).mean()))
    x, y = np.log(table.N[rows]), table.loss[rows]
    sizes, at = np.unique(x, return_inverse=True)
    counts = np.bincount(at)
    means = np.bincount(at, weights=y) / counts
    noise = _seed_noise(y - means[at], counts)
    window = np.zeros(len(rows), bool)
    if len(sizes) < LEAST_SIZES:
        reason = f"{plural(len(sizes), 'size')}; at least {LEAST_SIZES} are needed"
        return BudgetFit(C, rows, window, len(sizes), TOO_FEW, reason, seed_noise=noise)

    best = int(means.argmin())
    window = _window(sizes, best, np.log(options.window))[at]
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
    verdict, reason = _judge(sizes, best, c2, turn, depth_p, curvature_p)

    partial = BudgetFit(
        C, rows, window, len(sizes), verdict, reason,
        coefficients=(c0, c1, c2), centre=centre, vertex=_exp(turn),
        depth=float(np.ptp(swing)), scatter=scatter, seed_noise=noise,
    )  # fmt: skip
    if verdict != BRACKETED:
        return partial

    # HC3: a residual is divided by 1 - leverage, because the parabola bends towards every point.
    leverage = np.einsum("ij,ji->i", X, solve)
    wild = fitted + factors[:, window] * (residual / np.maximum(1 - leverage, 0.05))
    draws = _vertices(wild @ solve.T, centre, sizes)
    log_D = _mean_by(at, np.log(table.D[rows]))
    draws[:, 1] = np.interp(draws[:, 0], sizes, log_D, left=np.nan, right=np.nan)
    failed = float(np.isnan(draws[:, 0]).mean())
    bounds = [interval(draws[:, k], options.level) for k in range(3)]
    return replace(
        partial,
        draws=draws,
        failed=failed,
        N=_exp(turn),
        D=_exp(float(np.interp(turn, sizes, log_D))),
        L=c0 - c1**2 / (4 * c2),
        N_interval=(_exp(bounds[0][0]), _exp(bounds[0][1])),
        D_interval=(_exp(bounds[1][0]), _exp(bounds[1][1])),
        L_interval=bounds[2],
    )


def _judge(
    sizes: Floats, best: int, curvature: float, turn: float, depth_p: float, curvature_p: float
) -> tuple[str, str]:
    """The verdict and its reason; the order of the questions is the order in which they make the next one idle."""
    end = best in (0, len(sizes) - 1)
    which = "smallest" if best == 0 else "largest"
    if depth_p > SIGNIFICANCE:
        return FLAT, f"a constant explains the losses as well ({_p(depth_p)})"
    if curvature <= 0 and curvature_p <= SIGNIFICANCE:
        return INVERTED, f"the profile curves downwards ({_p(curvature_p)}): there is no minimum inside"
    if curvature > 0 and not sizes[0] < turn < sizes[-1] and (end or curvature_p <= SIGNIFICANCE):
        side = "smallest" if turn <= sizes[0] else "largest"
        return OUTSIDE, f"the minimum of the parabola lies beyond the {side} size run"
    if end:
        return EDGE, f"the {which} size is the best: the other side was not run"
    if curvature_p > SIGNIFICANCE:
        return FLAT, f"the curvature is not told from zero by the scatter of the runs ({_p(curvature_p)})"
    return BRACKETED, f"worse on both sides of the minimum (curvature {_p(curvature_p)})"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def _window(sizes: Floats, best: int, reach: float) -> NDArray[np.bool_]:
    """[sizes] bool: those within `reach` of the best in log N, and the five nearest to it at least."""
    distance = np.abs(sizes - sizes[best])
    inside = distance <= reach + 1e-9
    inside[np.argsort(distance, kind="stable")[:NEAREST]] = True
    return inside


def _vertices(coefficients: Floats, centre: float, sizes: Floats) -> Floats:
    """[draws, 3] coefficients -> [draws, 3] of log N*, NaN, L*; NaN rows where the vertex is not inside the grid."""
    c0, c1, c2 = coefficients.T
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = centre - c1 / (2 * c2)
        low = c0 - c1**2 / (4 * c2)
    inside = (c2 > 0) & (turn > sizes[0]) & (turn < sizes[-1])
    return np.where(inside[:, None], np.stack([turn, np.full_like(turn, np.nan), low], 1), np.nan)


def _seed_noise(deviation: Floats, counts: NDArray[np.int64]) -> float:
    """Pooled standard deviation of runs of one size; NaN when no size was run twice."""
    freedom = len(deviation) - len(counts)
    return float(np.sqrt((deviation**2).sum() / freedom)) if freedom else np.nan


def _mean_by(at: NDArray[np.int64], values: Floats) -> Floats:
    return np.bincount(at, weights=values) / np.bincount(at)


def _exp(value: float) -> float:
    return float(np.exp(value)) if value < 700 else np.inf
