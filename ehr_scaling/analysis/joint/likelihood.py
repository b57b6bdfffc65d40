"""What the runs tell of every number of a joint law: profiles of its objective.

A quantity is held at values ever further from its estimate while all else is fitted again. Where the objective has
risen by a threshold lies the end of its interval; where it never does, the end is open and the runs do not say. (A
bootstrap shows no open end, only a far one.)

The objective is a sum of Huber losses, no likelihood. Twice its rise over w is chi-square with one degree of freedom
all the same (Kent 1982, Biometrika 69:19; for robust regression Ronchetti 1982), where w is the variance of the
quantity over the one that the curvature alone would give it: w = g'VJVg / g'Vg, with g the gradient of the quantity,
J the sum over runs of their squared scores, and V the inverse of X'MX for the Jacobian X of log L and the slopes M of
the Huber scores. F(1, runs - parameters) takes the place of chi-square, because w is estimated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.joint import newton
from ehr_scaling.analysis.joint.joint_fit import LOG_E, Coupled
from ehr_scaling.analysis.joint.joint_laws import TRUSTED, JointLaw
from ehr_scaling.analysis.joint.optimum import Cost, computes, cost_of, exponents, log_best
from ehr_scaling.analysis.tables.run_table import RunTable

PACE = 0.3  # of the way to the end of an interval, one step
STEPS = 40
STIFF = 100.0  # of the penalty, in curvatures of the objective: a step then ends within 1 % of where it was sent
STIFFEST = 1e96  # more would overflow when it is damped
LEAST_FLOOR = 1e-3  # of the lowest loss; an E below is none
FACTORS = {"A": 1e6, "B": 1e6, "k": 20.0, "L": 10.0}  # from the estimate: beyond them an end is open
FACTOR = 1e4  # of the others
LEAN = (0.02, 0.98)  # of a where C ∝ N D; counted, it may exceed one
STEEPEST = 1.5  # of a then
STENCIL = 1e-4  # of finite differences, in units of theta, whose columns are of order 1


class Quantity(NamedTuple):
    """A parameter, a of N* ∝ C^a, or N* or L* at C FLOPs, on the scale on which it is profiled: logarithms, but a as it
    is. low, high: where the search ends."""

    name: str
    C: float | None
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A profile. points: [points, 2] values of the quantity, ascending, and the rise of the objective there over its
    threshold. low, high: where that is 1; NaN for an open end. undercut: by how much the objective of the fit was
    undercut on the way: 0, or the fit was not the optimum.
    """

    quantity: Quantity
    points: Floats
    low: float
    high: float
    undercut: float


def curves(law: JointLaw, table: RunTable, C_values: Sequence[float], level: float) -> list[Curve]:
    """Of everything in `Values`, in that order, at that level of confidence.

    table: the runs that the law was fitted to. C_values: FLOPs.
    """
    by_N, by_D, by_loss = law.scale
    x, z, y = np.log(table.N / by_N), np.log(table.D / by_D), np.log(table.loss / by_loss)
    value, cost = Values(law, table, C_values), cost_of(table)
    chosen = _quantities(law, value(law.theta[None])[0], C_values, cost)
    start = law.theta.copy()
    if LOG_E not in law.form.fixed:  # a floor of nothing has no gradient by which to leave it
        start[LOG_E] = max(start[LOG_E], np.log(LEAST_FLOOR * law.lowest / by_loss))
    runs = Coupled(x, z, law.form.free)
    X = runs.jacobian(start)
    rise, reach, direction = _thresholds(law, X, table.clusters, value, start, level)
    profiles = []
    for k, (down, up) in enumerate(_march(law, runs, y, value, chosen, start, rise, reach, direction)):
        points = np.concatenate([down[:0:-1], up])
        ends = _end(down, chosen[k].low), _end(up, chosen[k].high)
        profiles.append(Curve(chosen[k], points, *ends, max(0.0, -float(points[:, 1].min() * rise[k]))))
    return profiles


class Values:
    """What was fitted of the parameters (their logarithms), a, then log N* and log L* at each of C_values, for any
    theta: a column each.

    a is left out where under two budgets of the table, which says what compute costs, have their best size among the
    sizes that were run.
    """

    def __init__(self, law: JointLaw, table: RunTable, C_values: Sequence[float]) -> None:
        cost = cost_of(table)
        through = computes(law, cost, table)

        def parameters(theta: Floats) -> Floats:
            return np.stack([np.log(v) for name, v in law.named(theta).items() if name not in ("a", "b")], 1)

        def best(theta: Floats, C: float) -> Floats:
            return log_best(law, theta, C, cost)[:, [0, 2]]

        self._parts: list[tuple[int, Callable[[Floats], Floats]]] = [(len(law.parameters) - 2, parameters)]
        if len(through) > 1:
            self._parts.append((1, lambda theta: exponents(law, theta, through, cost)[:, :1]))
        self._parts += [(2, partial(best, C=float(C))) for C in C_values]

    def __call__(self, theta: Floats) -> Floats:
        """[b, 6] -> [b, columns]."""
        return np.concatenate([part(theta) for _, part in self._parts], 1)

    def of(self, theta: Floats, kinds: NDArray[np.int64]) -> Floats:
        """[b] of theta [b, 6] column kinds[i] at theta[i], and none that nobody asks for."""
        values, first = np.empty(len(theta)), 0
        for many, part in self._parts:
            rows = np.flatnonzero((kinds >= first) & (kinds < first + many))
            if len(rows):
                values[rows] = part(theta[rows])[np.arange(len(rows)), kinds[rows] - first]
            first += many
        return values


def _quantities(law: JointLaw, estimates: Floats, C_values: Sequence[float], cost: Cost) -> list[Quantity]:
    names: list[tuple[str, float | None]] = [(name, None) for name in law.parameters if name not in ("a", "b")]
    names += [("a", None)] * (len(estimates) - len(names) - 2 * len(C_values))
    names += [(name, float(C)) for C in C_values for name in ("N", "L")]
    limits = {
        "E": (np.log(LEAST_FLOOR * law.lowest), np.log(law.lowest)),
        "alpha": (np.log(TRUSTED[0]), np.log(TRUSTED[1])),
        "beta": (np.log(TRUSTED[0]), np.log(TRUSTED[1])),
        "a": LEAN if cost.constant else (LEAN[0], STEEPEST),
    }
    quantities = []
    for (name, C), estimate in zip(names, estimates, strict=True):
        away = np.log(FACTORS.get(name, FACTOR))
        quantities.append(Quantity(name, C, float(estimate), *limits.get(name, (estimate - away, estimate + away))))
    return quantities


def _thresholds(
    law: JointLaw,
    X: Floats,
    clusters: NDArray[np.int64],
    value: Values,
    start: Floats,
    level: float,
) -> tuple[Floats, Floats, Floats]:
    """Of every quantity: the rise of the objective that ends its interval, about how far that is, and the direction
    [quantities, free] in which theta goes as it moves by one."""
    runs, free = int(clusters.max()) + 1, X.shape[1]
    scores = np.zeros((runs, free))
    np.add.at(scores, clusters, X * np.clip(law.residuals, -law.delta, law.delta)[:, None])
    J = scores.T @ scores * runs / (runs - free)
    slopes = _slopes(law.residuals * np.sqrt(len(X) / max(len(X) - free, 1)), law.delta)
    lengths = np.maximum(np.linalg.norm(X, axis=0), 1e-100)
    V = np.linalg.pinv((X / lengths).T @ (slopes[:, None] * X / lengths)) / np.outer(lengths, lengths)
    kinds = np.arange(value(start[None]).shape[1])
    gradient, _ = _differences(value, np.tile(start, (len(kinds), 1)), kinds, law.form.free)
    toward = gradient @ V
    bare = np.maximum(np.einsum("qi,qi->q", toward, gradient), 1e-300)
    variance = np.einsum("qi,ij,qj->q", toward, J, toward)
    F = float(special.fdtri(1, runs - free, level))
    # Rounding of exact tables must not look like signal.
    moved = bare > 1e-200  # what no parameter moves has no direction
    rise = 0.5 * F * np.maximum(np.divide(variance, bare, out=np.zeros_like(bare), where=moved), 1e-16)
    direction = np.divide(toward, bare[:, None], out=np.zeros_like(toward), where=moved[:, None])
    return rise, np.sqrt(2 * rise * bare), direction


def _slopes(residuals: Floats, delta: float) -> Floats:
    """[n] slopes of the Huber scores by differences over a step wider than delta, within which few runs lie (Powell
    1991 for quantiles, whose delta is zero). The step: Silverman 1986, eq. 3.31, times 1.74 for a uniform kernel."""
    quartiles = float(np.diff(np.quantile(residuals, [0.25, 0.75]))[0]) / 1.34
    step = max(delta, 1.74 * 0.9 * min(float(residuals.std()), quartiles) * len(residuals) ** -0.2)
    slopes: Floats = (np.clip(residuals + step, -delta, delta) - np.clip(residuals - step, -delta, delta)) / (2 * step)
    return slopes


def _differences(
    value: Values, theta: Floats, kinds: NDArray[np.int64], free: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Gradient [b, free] and Hessian [b, free, free] of quantity kinds[i] at theta[i] [b, 6], from the parabola through
    points to either side along every column and every pair of columns."""
    n = len(free)
    offsets, weights = _stencil(n)
    points = np.repeat(theta[:, None], len(offsets), 1)
    points[:, :, free] += STENCIL * offsets
    values = value.of(points.reshape(-1, 6), np.repeat(kinds, len(offsets)))
    coefficients = values.reshape(len(theta), -1) @ weights.T
    hessian, (first, second) = np.empty((len(theta), n, n)), np.triu_indices(n)
    hessian[:, first, second] = hessian[:, second, first] = coefficients[:, n + 1 :] / STENCIL**2
    return coefficients[:, 1 : n + 1] / STENCIL, hessian


@cache
def _stencil(n: int) -> tuple[Floats, Floats]:
    """Offsets [points, n] and the weights [1 + n + n (n + 1) / 2, points] of values there in the parabola's value,
    slopes and second derivatives (upper triangle) at its centre."""
    first, second = np.triu_indices(n)
    eye = np.eye(n)
    sides = np.concatenate([eye, eye[first] + eye[second]])
    offsets = np.concatenate([np.zeros((1, n)), sides, -sides])
    products = offsets[:, first] * offsets[:, second] / np.where(first == second, 2, 1)
    return offsets, np.linalg.pinv(np.column_stack([np.ones(len(offsets)), offsets, products]))


def _march(
    law: JointLaw,
    runs: Coupled,
    y: Floats,
    value: Values,
    quantities: list[Quantity],
    start: Floats,
    rise: Floats,
    reach: Floats,
    direction: Floats,
) -> list[tuple[Floats, Floats]]:
    """Every quantity's profile to either side, all at once: [points, 2] of values, outwards, and rise over threshold.

    A step adds a penalty on the distance from where it is sent. Wherever it ends, it ends on the profile: whatever
    minimises objective + penalty(quantity) minimises the objective among all theta of that quantity.
    """
    free, kinds = law.form.free, np.repeat(np.arange(len(quantities)), 2)
    side = np.tile([-1.0, 1.0], len(quantities))
    edge = np.array([end for q in quantities for end in (q.low, q.high)])
    theta, along = np.tile(start, (len(kinds), 1)), direction[kinds]
    at = value.of(theta, kinds)
    step = PACE * np.clip(reach[kinds], 1e-12, 1.0)
    depth = np.zeros(len(kinds))  # root of the rise over the threshold: near linear in the quantity
    points = [[(float(v), 0.0)] for v in at]
    # What no parameter moves has no profile, and both of its sides stay open.
    active = np.flatnonzero((side * (edge - at) > 0) & along.any(1))
    for _ in range(STEPS):
        if not len(active):
            break
        kind, rows, ones = kinds[active], np.arange(len(active)), np.ones((len(active), len(y)))
        stiff = 2 * STIFF * rise[kind] * (PACE / step[active]) ** 2
        pull = _Pull(value, kind, at[active] + side[active] * step[active], np.minimum(stiff, STIFFEST), free)
        # From a step along the last one where that is a better place to begin, else from where the last one ended
        trials = np.stack([theta[active]] * 2)
        trials[1][:, free] += along[active] * (side * step)[active, None]
        trials[1] = newton.within(runs, trials[1])
        costs = [newton.huber_sum(runs, trial, y, ones, law.delta) + pull.cost(trial, rows) for trial in trials]
        trial = np.where((costs[1] < costs[0])[:, None], trials[1], trials[0])
        fitted, objective = newton.minimise(runs, trial, y, ones, law.delta, penalty=pull)
        risen = (objective - pull.cost(fitted, rows) - law.objective) / rise[kind]
        moved = value.of(fitted, kind) - at[active]
        ahead = side[active] * moved > 1e-3 * step[active]
        step[active[~ahead]] /= 4
        on, moved, risen, fitted = active[ahead], moved[ahead], risen[ahead], fitted[ahead]
        deeper = np.sqrt(np.maximum(risen, 0.0))
        pace = PACE * np.abs(moved) / np.maximum(deeper - depth[on], 1e-9)
        step[on] = np.clip(pace, step[on] / 3, step[on] * 3)
        along[on] = (fitted[:, free] - theta[on][:, free]) / moved[:, None]
        theta[on], at[on], depth[on] = fitted, at[on] + moved, deeper
        for i, r in zip(on, risen, strict=True):
            points[i].append((float(at[i]), float(r)))
        active = active[(depth[active] < 1) & (side[active] * (edge[active] - at[active]) > 0)]
    sides = [np.array(p) for p in points]
    return list(zip(sides[::2], sides[1::2], strict=True))


@dataclass(frozen=True)
class _Pull:
    """A penalty of problem i, stiff[i] / 2 times the squared distance of quantity kind[i] from sent[i]; see
    `newton.Penalty`."""

    value: Values
    kind: NDArray[np.int64]
    sent: Floats
    stiff: Floats
    free: NDArray[np.int64]

    def cost(self, theta: Floats, which: NDArray[np.int64]) -> Floats:
        return np.asarray(0.5 * self.stiff[which] * self._off(theta, which) ** 2)

    def derivatives(self, theta: Floats, which: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        gradient, hessian = _differences(self.value, theta, self.kind[which], self.free)
        pull = (self.stiff[which] * self._off(theta, which))[:, None]
        squared = gradient[:, :, None] * gradient[:, None] * self.stiff[which, None, None]
        return pull * gradient, squared + pull[:, None] * hessian, squared

    def _off(self, theta: Floats, which: NDArray[np.int64]) -> Floats:
        return self.value.of(theta, self.kind[which]) - self.sent[which]


def _end(points: Floats, edge: float) -> float:
    """Where a side first reaches the threshold, between its points by the root of the rise; NaN where it never does or
    only beyond `edge`."""
    depth = np.sqrt(np.maximum(points[:, 1], 0.0))
    over = np.flatnonzero(depth >= 1)
    if not len(over):
        return np.nan
    i = int(over[0])
    end = float(np.interp(1.0, depth[i - 1 : i + 1], points[i - 1 : i + 1, 0]))
    return end if abs(end - points[0, 0]) <= abs(edge - points[0, 0]) else np.nan
