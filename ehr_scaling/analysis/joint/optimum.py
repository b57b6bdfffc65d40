"""The best model at a compute by a joint law: N*, D* and L* where C = f(N) N D is counted.

f, the operations for each body parameter and token, falls with size: small models spend most on the head and on
attention. Of a law that falls with g = A N^-α + B D^-β, D = C / (f(N) N), the loss is least where
α A N^-α = (1 + φ) β B D^-β, φ = d log f / d log N; E and k do not move it. Where f is constant that is N* = G (C / f)^a
with a = β / (α + β) and G = (α A / (β B))^(1 / (α + β)) (Hoffmann et al. 2022, arXiv 2203.15556, eq. 4).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import CubicHermiteSpline, PchipInterpolator

from ehr_scaling.analysis.draws import Floats, interval
from ehr_scaling.analysis.joint.joint_laws import ALPHA, BETA, LOG_A, LOG_B, LOG_E, LOG_K, JointLaw
from ehr_scaling.analysis.tables.run_table import RunTable

ONE_SIZE = 1.1  # sizes within this factor share a knot: slopes between neighbours would be those of rounding
FADE = 3.0  # the factor beyond the sizes of the runs over which f stops changing
SAMPLES = 8  # of each piece of f, among which the lowest loss is sought
NEWTON = 60  # steps at most; one bisects where Newton's leaves the bracket
LARGEST = 300.0  # of a logarithm
POINTS = 5  # computes through whose optima the exponents go


@dataclass(frozen=True)
class Cost:
    """f(N): FLOPs for each body parameter and token, C / (N D).

    sizes, flops, slopes: [knots] N ascending, f there, and d log f / d log N there. Between them log f is the cubic in
    log N of these ends and slopes, beyond them f stays as at the end.
    """

    sizes: Floats
    flops: Floats
    slopes: Floats

    def __call__(self, N: Floats) -> Floats:
        """FLOPs for each parameter and token at N, any shape."""
        return np.exp(self.log_flops(np.log(N)))

    def tokens(self, N: Floats, C: Floats | float) -> Floats:
        """D that C FLOPs buy at N, broadcast together."""
        return np.asarray(C / (self(N) * N))

    def log_flops(self, x: Floats) -> Floats:
        """log f at x = log N, any shape."""
        return np.asarray(self._log_flops(self._within(x)))

    def slope(self, x: Floats) -> tuple[Floats, Floats]:
        """First and second derivative of log f by log N at x = log N, any shape; 0 beyond the knots."""
        within = self._within(x)
        inside = within == x
        return np.where(inside, self._log_flops(within, 1), 0.0), np.where(inside, self._log_flops(within, 2), 0.0)

    @property
    def constant(self) -> bool:
        return bool(np.ptp(self.flops) <= 1e-9 * self.flops[0])

    @cached_property
    def line(self) -> tuple[Floats, Floats]:
        """[m] log N from the first to the last knot, SAMPLES in each piece, and log f there."""
        knots = np.log(self.sizes)
        share = np.arange(SAMPLES) / SAMPLES
        x = np.append((knots[:-1, None] + np.diff(knots)[:, None] * share).ravel(), knots[-1])
        return x, self._log_flops(x)

    @cached_property
    def _log_flops(self) -> CubicHermiteSpline:
        return CubicHermiteSpline(np.log(self.sizes), np.log(self.flops), self.slopes)

    def _within(self, x: Floats) -> Floats:
        return np.clip(x, np.log(self.sizes[0]), np.log(self.sizes[-1]))


def proportional(flops: float = 6.0) -> Cost:
    """C = flops N D at every size."""
    return Cost(np.array([1.0, 2.0]), np.full(2, flops), np.zeros(2))


def cost_of(table: RunTable) -> Cost:
    """f of the sizes of a table: the median C / (N D) of each, joined without overshoot (Fritsch & Butland 1984)."""
    sizes = np.unique(table.N)
    first = [0]
    while (beyond := int(np.searchsorted(sizes, ONE_SIZE * sizes[first[-1]], side="right"))) < len(sizes):
        first.append(beyond)
    at = np.searchsorted(sizes[first], table.N, side="right") - 1
    ratio = np.log(table.C / (table.N * table.D))
    x = np.array([np.log(table.N[at == k]).mean() for k in range(len(first))])
    y = np.array([np.median(ratio[at == k]) for k in range(len(first))])
    if np.ptp(y) <= 1e-9:
        return proportional(float(np.exp(y[0])))
    slopes = PchipInterpolator(x, y).derivative()(x)
    fade = np.log(FADE)
    x = np.concatenate([[x[0] - fade], x, [x[-1] + fade]])
    y = np.concatenate([[y[0] - slopes[0] * fade / 2], y, [y[-1] + slopes[-1] * fade / 2]])
    return Cost(np.exp(x), np.exp(y), np.concatenate([[0.0], slopes, [0.0]]))


@dataclass(frozen=True)
class Optimum:
    """At C FLOPs. draws: [good draws, 3] N*, D*, L* of the run bootstrap."""

    C: float
    N: float
    D: float
    L: float
    draws: Floats

    def interval(self, name: str, level: float) -> tuple[float, float]:
        """Of "N", "D", "L", or "D/N", the tokens a parameter; NaN with under 20 draws."""
        N, D, L = self.draws.T
        return interval({"N": N, "D": D, "L": L, "D/N": D / N}[name], level)


def optimum(law: JointLaw, C: float, cost: Cost) -> Optimum:
    """The best model at C FLOPs. cost: of the table that the law was fitted to (`cost_of`)."""
    theta = np.vstack([law.theta[None], law.good])
    optima = within_reach(log_best(law, theta, C, cost))
    N, D, L = map(float, optima[0])
    return Optimum(C, N, D, L, optima[1:])


def within_reach(logarithm: Floats) -> Floats:
    """The number of a logarithm, or the nearest whose square is one, of what no run comes near."""
    return np.exp(np.clip(logarithm, -LARGEST, LARGEST))


def log_best(law: JointLaw, theta: Floats, C: Floats | float, cost: Cost) -> Floats:
    """[b, 3] logarithms of N*, D* and L* of parameters theta [b, 6] of a law at C FLOPs, one for all or [b]."""
    x = best_log_size(law, theta, C, cost)
    log_f = cost.log_flops(x)
    with np.errstate(invalid="ignore"):  # of parameters that no run comes near
        terms = np.logaddexp(*_terms(law, theta, C, x[:, None], log_f[:, None]))[:, 0]
        log_L = np.logaddexp(theta[:, LOG_E], np.exp(theta[:, LOG_K]) * terms) + np.log(law.scale[2])
    return np.stack([x, np.log(C) - log_f - x, log_L], 1)


def best_log_size(law: JointLaw, theta: Floats, C: Floats | float, cost: Cost) -> Floats:
    """[b] log N* of theta [b, 6] at C FLOPs, one for all or [b]: the lowest loss of all sizes, to the accuracy of
    floats."""
    x, log_f = cost.line
    ends = np.stack([_at_constant(law, theta, C, float(cost.flops[k])) for k in (0, -1)], 1)
    if cost.constant:
        return ends[:, 0]
    within = _terms(law, theta, C, x, log_f)
    at = np.logaddexp(*within).argmin(1)
    inside = _root(law, theta, C, cost, x[np.maximum(at - 1, 0)], x[np.minimum(at + 1, len(x) - 1)], x[at])
    # Beyond the knots, where f is constant, its formula holds.
    tried = np.stack([np.minimum(ends[:, 0], x[0]), inside, np.maximum(ends[:, 1], x[-1])], 1)
    losses = np.logaddexp(*_terms(law, theta, C, tried, cost.log_flops(tried)))
    return np.take_along_axis(tried, losses.argmin(1)[:, None], 1)[:, 0]


def _at_constant(law: JointLaw, theta: Floats, C: Floats | float, flops: float) -> Floats:
    by_N, by_D, _ = law.scale
    alpha, beta = theta[:, ALPHA], theta[:, BETA]
    lean = np.log(alpha / beta) + theta[:, LOG_A] - theta[:, LOG_B]
    log_N: Floats = (lean + beta * np.log(C / flops / by_N / by_D)) / (alpha + beta) + np.log(by_N)
    return log_N


def _terms(law: JointLaw, theta: Floats, C: Floats | float, x: Floats, log_f: Floats) -> tuple[Floats, Floats]:
    """[b, m] logarithms of A N^-α and B D^-β at log N = x [m] or [b, m]."""
    by_N, by_D, _ = law.scale
    A, B, alpha, beta = (theta[:, j, None] for j in (LOG_A, LOG_B, ALPHA, BETA))
    return A - alpha * (x - np.log(by_N)), B - beta * (np.log(np.asarray(C) / by_D)[..., None] - log_f - x)


def _root(law: JointLaw, theta: Floats, C: Floats | float, cost: Cost, low: Floats, high: Floats, x: Floats) -> Floats:
    """[b] where the loss stops falling between low and high [b], from x [b]: by Newton's steps on the logarithm of the
    ratio of its two slopes, which is nearly straight in log N."""
    alpha, beta = theta[:, ALPHA], theta[:, BETA]
    for _ in range(NEWTON):
        u, v = (t[:, 0] for t in _terms(law, theta, C, x[:, None], cost.log_flops(x)[:, None]))
        slope, bend = cost.slope(x)
        rising = np.maximum(1 + slope, 1e-9)
        left = np.log(alpha / beta) + u - v - np.log(rising)  # above 0 the loss still falls
        low, high = np.where(left > 0, x, low), np.where(left > 0, high, x)
        trial = x + left / np.maximum(alpha + beta * (1 + slope) + bend / rising, 1e-9)
        trial = np.where((trial >= low) & (trial <= high), trial, (low + high) / 2)
        moved, x = np.abs(trial - x).max(initial=0.0), trial
        if moved < 1e-13 * max(float(np.abs(x).max(initial=1.0)), 1.0):
            break
    return x


def computes(law: JointLaw, cost: Cost, table: RunTable) -> Floats:
    """Of POINTS values of C over the budgets of a table, those whose optimum lies among its sizes; all of them where f
    is constant, since the exponents are then the same anywhere."""
    C = np.geomspace(table.budgets[0], max(table.budgets[-1], 2 * table.budgets[0]), POINTS)
    if cost.constant:
        return C
    N = np.exp(best_log_size(law, np.repeat(law.theta[None], len(C), 0), C, cost))
    return C[(table.N.min() <= N) & (table.N.max() >= N)]


def exponents(law: JointLaw, theta: Floats, C: Floats, cost: Cost) -> Floats:
    """[b, 2] a and b: slopes in log C of log N* and of log D* over C [m], for theta [b, 6]; NaN for fewer than two C.

    Where f is constant they are β / (α + β) and α / (α + β), whatever the C.
    """
    if len(C) < 2 or C[0] == C[-1]:
        return np.full((len(theta), 2), np.nan)
    N = best_log_size(law, np.repeat(theta, len(C), 0), np.tile(C, len(theta)), cost).reshape(len(theta), len(C))
    D = np.log(C) - cost.log_flops(N) - N
    u = np.log(C) - np.log(C).mean()
    return np.stack([N @ u, D @ u], 1) / (u @ u)
