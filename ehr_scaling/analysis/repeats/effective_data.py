"""What repeated data are worth: the law of Muennighoff et al. 2023 (arXiv 2305.16264, eqs. 5 to 7 and 10).

Chinchilla's law in effective N' and D'. Of D tokens of which U are unique, D' = U + U R_D* (1 - exp(-R_D / R_D*)) with
R_D = D / U - 1 repeats; likewise N' from the N that suits U, beyond which parameters are worth less and less.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, interval, resampling_counts
from ehr_scaling.analysis.joint.joint_fit import huber
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.words import Verdict

LEAST_RUNS = 6
# Of both constants. Above its end a run of any length here is worth as much as one of new data.
GRID = np.geomspace(0.05, 1e6, 80)
_FARTHEST = 200.0  # log of how many times too large a model is counted; the powers of more overflow


@dataclass(frozen=True)
class EffectiveData:
    """R_D*, R_N*: repeats after which data, and parameters, have given 1 - 1/e of what they will.

    base: {E, A, B, alpha, beta} of the law of unrepeated data, in the units of N and D. objective: the Huber sum of the
    residuals of log L. draws: [draws, 2] of R_D*, R_N* of the run bootstrap, on GRID. intervals: of both; ends lie on
    the grid, and one at its end is open.
    """

    R_D: float
    R_N: float
    base: dict[str, float]
    objective: float
    draws: Floats
    intervals: dict[str, tuple[float, float]]
    verdicts: dict[str, Verdict]

    def __call__(self, N: Floats, D: Floats, U: Floats) -> Floats:
        """Loss in nats a token at N parameters, D tokens of which U are unique, broadcast together."""
        return np.exp(_log_loss(self.base, np.asarray(N), np.asarray(D), np.asarray(U), self.R_D, self.R_N))


def effective(N: Floats, D: Floats, U: Floats, base: dict[str, float], R_D: float, R_N: float) -> tuple[Floats, Floats]:
    """N' and D', float64, in the units of N and D, broadcast together; N and D themselves where nothing is repeated."""
    found = worth(np.log(N), np.log(D), np.log(np.minimum(U, D)), *_logs(base), np.log(R_D), np.log(R_N))
    return np.exp(found.N), np.exp(found.D)


def _logs(base: dict[str, float]) -> tuple[float, float, float, float]:
    return float(np.log(base["A"])), float(np.log(base["B"])), base["alpha"], base["beta"]


class Worth(NamedTuple):
    """Logs of N', of D', of the N that suits U, and slopes: of N' by the log of what suits and of R_N*, of D' by that
    of R_D*."""

    N: Floats
    D: Floats
    suits: Floats
    by_suits: Floats
    by_R_N: Floats
    by_R_D: Floats


def worth(
    N: Floats, D: Floats, U: Floats, A: Floats | float, B: Floats | float, alpha: Floats | float, beta: Floats | float,
    R_D: Floats | float, R_N: Floats | float,
) -> Worth:  # fmt: skip
    """Logs of N' and D' from logs of N, D, U <= D, A, B, R_D*, R_N*; all broadcast together."""
    suits = (np.log(alpha / beta) + A - B + beta * U) / alpha
    held = np.clip(suits, N - _FARTHEST, N)
    more_D, _, by_R_D = _saturating(D - U, R_D)
    more_N, by_times, by_R_N = _saturating(N - held, R_N)
    by_suits = np.where((suits < N) & (suits > N - _FARTHEST), 1 - by_times, 0.0)
    return Worth(held + more_N, U + more_D, suits, by_suits, by_R_N, by_R_D)


def _saturating(times: Floats, R: Floats | float) -> tuple[Floats, Floats, Floats]:
    """log of 1 + R (1 - exp(-q / R)), where 1 + q = e^times, and its slopes by `times` and by log R; R is a log."""
    repeats, R = np.expm1(times), np.exp(R)
    # expm1: with 1 - exp the sum would lose all digits where R* is large, and find an optimum that is none.
    more, left = -R * np.expm1(-repeats / R), np.exp(-repeats / R)
    return np.log1p(more), left * (1 + repeats) / (1 + more), (more - left * repeats) / (1 + more)


def _log_loss(base: dict[str, float], N: Floats, D: Floats, U: Floats, R_D: float, R_N: float) -> Floats:
    N, D = effective(N, D, U, base, R_D, R_N)
    return np.log(base["E"] + base["A"] * N ** -base["alpha"] + base["B"] * D ** -base["beta"])


def objective(
    N: Floats, D: Floats, U: Floats, loss: Floats, base: dict[str, float], R_D: float, R_N: float, delta: float
) -> Floats:
    """[n] Huber losses of the residuals of log L; the fit minimises their sum."""
    return huber(_log_loss(base, N, D, U, R_D, R_N) - np.log(loss), delta)


def fit(
    N: Floats,
    D: Floats,
    U: Floats,
    loss: Floats,
    base: dict[str, float],
    clusters: NDArray[np.int64] | None = None,
    options: Options | None = None,
) -> EffectiveData | None:
    """R_D* and R_N* for a law of unrepeated data that is given, as in the paper.

    N, D, U, loss: [n] positive. base: `JointLaw.parameters` of a Chinchilla law fitted to runs that repeat nothing.
    clusters: [n] index of each row's run; None when every row is its own.
    Returns: None with fewer than 6 runs, or where no run repeats data.
    """
    options = options or Options()
    clusters = np.arange(len(N)) if clusters is None else clusters
    if len(np.unique(clusters)) < LEAST_RUNS or not (D > U).any():
        return None
    each = np.array([[objective(N, D, U, loss, base, d, n, options.delta) for n in GRID] for d in GRID])
    each = each.reshape(len(GRID) ** 2, len(N))

    def total(log_R: Floats) -> float:
        R_D, R_N = np.exp(np.clip(log_R, np.log(GRID[0]), np.log(GRID[-1])))
        return float(objective(N, D, U, loss, base, R_D, R_N, options.delta).sum())

    order = np.argsort(each.sum(1), kind="stable")[:3]
    at = [np.log([GRID[i // len(GRID)], GRID[i % len(GRID)]]) for i in order]
    found = min((minimize(total, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-16}) for start in at),
                key=lambda result: result.fun)  # fmt: skip
    R_D, R_N = np.exp(np.clip(found.x, np.log(GRID[0]), np.log(GRID[-1])))

    counts = resampling_counts(clusters, options.draws, np.random.default_rng([options.seed, 4]))
    lowest = (each @ counts.T).argmin(0)
    draws = np.column_stack([GRID[lowest // len(GRID)], GRID[lowest % len(GRID)]])
    bounds = {name: interval(draws[:, k], options.level) for k, name in enumerate(("R_D", "R_N"))}
    return EffectiveData(
        float(R_D), float(R_N), dict(base), float(found.fun), draws, bounds,
        {
            name: words.factor((low, np.inf if high >= GRID[-1] else high)) for name, (low, high) in bounds.items()
        },
    )  # fmt: skip
