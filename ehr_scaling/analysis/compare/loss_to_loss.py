"""The loss of the same models on two data sets, or of two recipes at the same cells: what one says of the other.

L2 = κ (L1 - E1)^γ + E2 (Brandfonbrener et al. 2024, arXiv 2411.12925): if both losses follow laws in N and D
with floors E1 and E2, then so does each in the other. Two sites, two patient groups, two years of one hospital.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, interval, resampling_counts
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.tables.selection import grouped
from ehr_scaling.analysis.wording import decimal, plural, significant, span
from ehr_scaling.analysis.words import PENDING, Place, Verdict

LEAST_PAIRS = 5
SAME_SIZE = 0.03  # share of N that a change of recipe may add to a size; neighbours of the registry are 1.4 x apart
LEAST_FOR_POWER = 8  # four parameters and something to judge them by
SIGNIFICANCE = 0.05
LINE, POWER = "line", "power"
FORMULAS = {LINE: "kappa L1 + E2", POWER: "kappa (L1 - E1)^gamma + E2"}
_FLOORS = np.append(0.0, 1 - np.geomspace(1.0, 0.02, 24)[1:])  # E1, as a share of the lowest L1
_GAMMAS = np.geomspace(0.2, 5.0, 60)


@dataclass(frozen=True)
class Pairs:
    """n models of both tables. L1, L2: [n] nats a token. cell: [n] index of the model's N and D (or C), which its seeds
    share. cluster: [n] what is evidence of its own: cells, of which those that are checkpoints of one run are one. N,
    D, C: [n] of the first table. unmatched: rows of the first and of the second table without a partner."""

    L1: Floats
    L2: Floats
    cell: NDArray[np.int64]
    cluster: NDArray[np.int64]
    N: Floats
    D: Floats
    C: Floats
    unmatched: tuple[int, int]

    def __len__(self) -> int:
        return len(self.L1)


def matched(first: RunTable, second: RunTable, at: str = "D") -> Pairs:
    """Rows of the same N, D and seed in both tables; of the same N and D where a table does not know its seeds.

    Equal means to six digits; a named size of the registry is one in both, if a recipe adds under SAME_SIZE to its N.
    Rows of one key are averaged. at: "D", or "C" for equal compute: the budgets' names where
    both tables have them, else counted FLOPs to three digits.
    """
    seeded = bool(len(first) and len(second)) and bool(np.isfinite(np.r_[first.seed, second.seed]).all())
    named = at == "C" and bool(np.isfinite(np.r_[first.budget, second.budget]).all())
    N = first.N, _as_in(first, second)
    groups = [grouped(_keys(table, sizes, at, seeded, named)) for table, sizes in zip((first, second), N, strict=True)]
    both = [key for key in groups[0] if key in groups[1]]
    one, two = (
        [table.loss[rows_of[key]].mean() for key in both]
        for table, rows_of in zip((first, second), groups, strict=True)
    )
    rows = np.array([groups[0][key][0] for key in both], np.int64)
    cell = np.unique([key[0] + " " + key[1] for key in both], return_inverse=True)[1].astype(np.int64)
    run = np.unique(first.run[rows], return_inverse=True)[1].astype(np.int64)
    counts = [sum(len(rows_of[key]) for key in both) for rows_of in groups]
    return Pairs(
        np.array(one, np.float64),
        np.array(two, np.float64),
        cell,
        first_of(cell, run)[cell],
        first.N[rows],
        first.D[rows],
        first.C[rows],
        (len(first) - counts[0], len(second) - counts[1]),
    )


def first_of(cell: NDArray[np.int64], run: NDArray[np.int64]) -> NDArray[np.int64]:
    """[cells] the lowest run of each cell, cells being all indices [n] up to the last: the same for cells whose seeds
    went on from one to the other."""
    lowest = np.full(int(cell.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(lowest, cell, run)
    return lowest


def _as_in(first: RunTable, second: RunTable) -> Floats:
    """N of the second table, of sizes that both name that of the first."""
    names = {size: N for size, N in zip(first.size, first.N, strict=True) if size}
    other = np.array([names.get(size, N) for size, N in zip(second.size, second.N, strict=True)])
    return np.where(np.abs(second.N / other - 1) < SAME_SIZE, other, second.N)


def _keys(table: RunTable, N: Floats, at: str, seeded: bool, named: bool) -> list[tuple[str, ...]]:
    second = [f"{v:.6g}" for v in table.D] if at == "D" else [f"{v:.3g}" for v in (table.budget if named else table.C)]
    seeds = [f"{s:g}" for s in table.seed] if seeded else [""] * len(table)
    return list(zip([f"{n:.6g}" for n in N], second, seeds, strict=True))


@dataclass(frozen=True)
class LossToLoss:
    """L2 of L1, fitted to n pairs.

    form: LINE or POWER. theta: [4] κ, γ, E1, E2; of a line κ, 1, 0, E2, where E2 is the line's height at L1 = 0 and no
    floor. draws: [draws, 4] of the run bootstrap. L1: [n] of the pairs. residuals: [n] L2 less the law, empty
    without one. words: of each parameter that was fitted.
    """

    form: str
    theta: Floats
    draws: Floats
    L1: Floats
    residuals: Floats
    options: Options
    verdict: Verdict
    words: dict[str, Verdict]

    def __call__(self, L1: Floats) -> Floats:
        """L2 at L1, any shape."""
        return _law(self.theta[None], L1)[0]

    def forecast(self, L1: Floats, *, noise: bool = True) -> tuple[Floats, Floats, Floats]:
        """L2 and its interval at L1 [m], all [m]: the bootstrap of the law, and the scatter of one model (`noise`).

        Both losses of a model are noisy, that of L1 by as much of L2 as the law is steep there: scatter is taken to
        grow with the slope as it does when both have an even part in it on average.
        """
        L1 = np.asarray(L1, np.float64)
        values = _law(self.draws, L1)
        if noise and len(self.residuals):
            rng, n = np.random.default_rng([self.options.seed, 9]), len(self.residuals)
            even = self.residuals / self._steepness(self.L1) * np.sqrt(n / max(n - len(self._fitted), 1))
            values = values + rng.choice(even, values.shape) * self._steepness(L1)
        low, high = np.array([interval(values[:, i], self.options.level) for i in range(len(L1))]).T
        return self(L1), low, high

    def _steepness(self, L1: Floats) -> Floats:
        kappa, gamma, E1, _ = self.theta
        local = kappa * gamma * np.maximum(L1 - E1, 1e-9 * self.seen[0]) ** (gamma - 1)
        return np.hypot(local, np.diff(self(np.array(self.seen))) / np.diff(self.seen))

    @property
    def seen(self) -> tuple[float, float]:
        """Lowest and highest L1; NaN without pairs."""
        return (float(self.L1.min()), float(self.L1.max())) if len(self.L1) else (np.nan, np.nan)

    def word(self, L1: float) -> Verdict:
        """As of the law between the losses seen, extrapolated beyond them."""
        return words.at(self.verdict, Place(L1, self.seen, "nats of loss"), slack=1.0)

    @property
    def _fitted(self) -> dict[str, int]:
        return {"kappa": 0, "E2": 3} if self.form == LINE else {"kappa": 0, "gamma": 1, "E1": 2, "E2": 3}

    @property
    def parameters(self) -> dict[str, float]:
        return {name: float(self.theta[j]) for name, j in self._fitted.items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        return {name: interval(self.draws[:, j], self.options.level) for name, j in self._fitted.items()}


def _law(theta: Floats, L1: Floats) -> Floats:
    """[b, 4] -> [b, ...]; L1 below E1 is taken as E1."""
    kappa, gamma, E1, E2 = (theta[:, j].reshape((-1,) + (1,) * np.ndim(L1)) for j in range(4))
    return kappa * np.maximum(L1 - E1, 0.0) ** gamma + E2


def fit(
    L1: Floats, L2: Floats, clusters: NDArray[np.int64] | None = None, options: Options | None = None
) -> LossToLoss:
    """A line, and the power law instead where it explains the pairs better than chance (F-test of its two parameters,
    5 %, against the scatter about it): with less bend than that, no exponent is told.

    L1, L2: [n] of the same models. clusters: [n] index of each row's cell or run; None when every row is its own.
    κ, E2 >= 0 in the power law. Least squares of L2.
    """
    options = options or Options()
    L1, L2 = np.asarray(L1, np.float64), np.asarray(L2, np.float64)
    clusters = np.arange(len(L1)) if clusters is None else clusters
    runs = len(np.unique(clusters))
    if runs < LEAST_PAIRS or np.ptp(L1) == 0:
        few = f"{plural(runs, 'model')} in both; at least {LEAST_PAIRS} are needed"
        return _nothing(few if runs < LEAST_PAIRS else "all models have one loss on the first data set", L1, options)
    counts = resampling_counts(clusters, options.draws, np.random.default_rng([options.seed, 10]))
    counts = np.vstack([np.ones(len(L1)), counts])
    form, theta = LINE, _lines(L1, L2, counts)
    told = (
        "no bend is told from a line, so no exponent" if runs >= LEAST_FOR_POWER else "too few models for an exponent"
    )
    if runs >= LEAST_FOR_POWER:
        powers = _powers(L1, L2, counts)
        squares = [float(((L2 - _law(t[:1], L1)[0]) ** 2).sum()) for t in (theta, powers)]
        freedom = runs - 4  # seeds of a cell tell no bend
        rounding = len(L1) * (1e-9 * float(np.abs(L2).max())) ** 2  # of exact tables: no signal
        ratio = (squares[0] - squares[1]) / 2 / max(squares[1] / freedom, rounding)
        p = float(special.fdtrc(2, freedom, max(ratio, 0.0)))
        if p < SIGNIFICANCE:
            form, theta, told = POWER, powers, f"bends away from a line (p = {p:.2g})"
    law = LossToLoss(form, theta[0], theta[1:], L1, L2 - _law(theta[:1], L1)[0], options, PENDING, {})
    return _judged(law, runs, told)


def _judged(law: LossToLoss, runs: int, told: str) -> LossToLoss:
    ends = np.array(law.seen)
    rise = np.diff(_law(law.draws, ends), axis=1)[:, 0] / np.diff(ends)
    slope, bounds = float(np.diff(law(ends))[0] / np.diff(ends)[0]), interval(rise, law.options.level)
    scatter = float(np.sqrt((law.residuals**2).sum() / max(len(law.residuals) - len(law._fitted), 1)))
    what = (
        f"L2 changes by {decimal(slope)} ({span(bounds)}) for 1 of L1 over {plural(runs, 'model')}, scatter "
        f"{significant(scatter, 2)}"
    )
    inverted = "models that are better on one are worse on the other"
    verdict = words.follows(bounds, what, inverted=inverted, told=f"{what}; {told}")
    lowest = {"E1": law.seen[0], "E2": float((law(law.L1) + law.residuals).min())}
    each = {}
    for name, limits in law.intervals.items():
        if name in lowest:
            each[name] = words.floor(limits[0], lowest[name])
        else:
            each[name] = words.factor(limits) if name == "kappa" else words.width(limits, law.options)
    if law.form == LINE:
        each["E2"] = words.missing("no floor: a line")
    return replace(law, verdict=verdict, words=each)


def _lines(L1: Floats, L2: Floats, counts: Floats) -> Floats:
    """[b, 4] of the weighted lines; NaN where a draw has one value of L1 only."""
    centre = L1.mean()
    x = L1 - centre
    s0, s1, s2 = counts.sum(1), counts @ x, counts @ x**2
    t0, t1 = counts @ L2, counts @ (x * L2)
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = np.where(s0 * s2 - s1**2 > 1e-12 * s0 * s2, s0 * s2 - s1**2, np.nan)
        slope, level = (s0 * t1 - s1 * t0) / determinant, (s2 * t0 - s1 * t1) / determinant
    return np.column_stack([slope, np.ones(len(slope)), np.zeros(len(slope)), level - slope * centre])


def _powers(L1: Floats, L2: Floats, counts: Floats) -> Floats:
    """[b, 4] of least squares with κ, E2 >= 0: from a grid of E1 and γ, and for the first problem from finer ones."""
    best = _on_grid(L1, L2, counts, _FLOORS * L1.min(), _GAMMAS)
    _, gamma, E1, _ = best[0]
    reach, factor = 0.2 * (L1.min() - E1), 1.1
    for _ in range(12):
        floors = np.clip(E1 + reach * np.linspace(-1, 1, 11), 0.0, L1.min() - 1e-9 * np.ptp(L1))
        gammas = np.clip(gamma * factor ** np.linspace(-1, 1, 11), _GAMMAS[0], _GAMMAS[-1])
        best[:1] = _on_grid(L1, L2, counts[:1], floors, gammas)
        _, gamma, E1, _ = best[0]
        reach, factor = reach / 2, np.sqrt(factor)
    return best


def _on_grid(L1: Floats, L2: Floats, counts: Floats, floors: Floats, gammas: Floats) -> Floats:
    """[b, 4] the best of E1 in `floors` and γ in `gammas`, with κ and E2 in closed form, in which the law is linear.

    L1 - E1 is taken relative to its mean, so that powers stay tame.
    """
    best, lowest = np.full((len(counts), 4), np.nan), np.full(len(counts), np.inf)
    s0, t0, tt = counts.sum(1)[:, None], (counts @ L2)[:, None], (counts @ L2**2)[:, None]
    for E1 in floors:
        base = L1 - E1
        scale = float(np.exp(np.log(base).mean()))
        g = (base / scale) ** gammas[:, None]  # [γ, n]
        s1, s2, t1 = counts @ g.T, counts @ (g**2).T, counts @ (g * L2).T
        with np.errstate(divide="ignore", invalid="ignore"):
            determinant = np.where(s0 * s2 - s1**2 > 1e-12 * s0 * s2, s0 * s2 - s1**2, np.nan)
            kappa, E2 = (s0 * t1 - s1 * t0) / determinant, (s2 * t0 - s1 * t1) / determinant
        kappa, E2 = np.where(E2 < 0, t1 / s2, kappa), np.maximum(E2, 0.0)
        cost = tt - 2 * (kappa * t1 + E2 * t0) + kappa**2 * s2 + 2 * kappa * E2 * s1 + E2**2 * s0
        cost = np.where((kappa > 0) & np.isfinite(cost), cost, np.inf)
        at = cost.argmin(1)
        rows = np.arange(len(counts))
        better = cost[rows, at] < lowest
        lowest[better] = cost[rows, at][better]
        gamma = gammas[at]
        candidates = np.column_stack([kappa[rows, at] * scale**-gamma, gamma, np.full(len(rows), E1), E2[rows, at]])
        best[better] = candidates[better]
    return best


def _nothing(reason: str, L1: Floats, options: Options) -> LossToLoss:
    nan = np.full(4, np.nan)
    return LossToLoss(LINE, nan, np.full((0, 4), np.nan), L1, np.zeros(0), options, words.missing(reason), {})


def to_json(law: LossToLoss) -> dict[str, Any]:
    return {
        "form": law.form,
        "formula": FORMULAS[law.form],
        "parameters": law.parameters,
        "intervals": law.intervals,
        "words": {name: word._asdict() for name, word in law.words.items()},
        "seen": law.seen,
        "pairs": len(law.L1),
        "verdict": law.verdict._asdict(),
    }
