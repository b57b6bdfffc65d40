"""What repeated data are worth: the law of Muennighoff et al. 2023 (arXiv 2305.16264, eqs. 5 to 7 and 10).

Chinchilla's law in effective N' and D'. Of D tokens of which U are unique, D' = U + U R_D* (1 - exp(-R_D / R_D*)) with
R_D = D / U - 1 repeats; likewise N' from the N that suits U, beyond which parameters are worth less and less.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ehr_scaling.analysis.joint_laws import huber
from ehr_scaling.analysis.uncertainty import (
    SUPPORTED,
    UNIDENTIFIED,
    Floats,
    Options,
    Verdict,
    interval,
    resampling_counts,
)
from ehr_scaling.analysis.wording import significant

LEAST_RUNS = 6
# Of both constants. Above its end a run of any length here is worth as much as one of new data.
GRID = np.geomspace(0.05, 1e6, 80)


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
    U = np.minimum(U, D)
    # expm1: with 1 - exp the sum would lose all digits where R* is large, and find an optimum that is none.
    effective_D = U - U * R_D * np.expm1(-(D / U - 1) / R_D)
    alpha, beta = base["alpha"], base["beta"]
    G = (alpha * base["A"] / (beta * base["B"])) ** (1 / (alpha + beta))
    suits = np.minimum(N, G * (U * G) ** (beta / alpha))
    return suits - suits * R_N * np.expm1(-(N / suits - 1) / R_N), effective_D


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
        {name: _verdict(*ends) for name, ends in bounds.items()},
    )  # fmt: skip


def _verdict(low: float, high: float) -> Verdict:
    if high >= GRID[-1]:
        return Verdict(UNIDENTIFIED, f"the data say no more than that it is above {significant(low, 2)}")
    if not high <= 10 * low:
        return Verdict(UNIDENTIFIED, "known to no better than a factor of ten")
    return Verdict(SUPPORTED, "")
