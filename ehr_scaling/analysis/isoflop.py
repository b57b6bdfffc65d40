"""IsoFLOP profiles: at each compute budget, where does the loss turn?

Approach 2 of Hoffmann et al. 2022 (arXiv 2203.15556): loss against log N at fixed C is fitted by a parabola, whose
vertex is the optimal size. Here the parabola is local, every budget gets a verdict, and only bracketed ones go on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis import parabola
from ehr_scaling.analysis.run_table import RunTable
from ehr_scaling.analysis.uncertainty import Floats, Options, interval, multipliers


def rule(options: Options) -> str:
    """How a budget is judged, for the report."""
    return (
        f"In each budget a parabola of loss in log N is {parabola.rule('size', options.window)} Only bracketed "
        "budgets enter a law."
    )


@dataclass(frozen=True, kw_only=True)
class BudgetFit(parabola.Parabola):
    """One budget: the parabola of loss in log N. Sizes in parameters.

    C: FLOPs. rows: [n] index into the table.
    D, D_interval: tokens at the optimum. log_D: [draws] of the bootstrap.
    """

    C: float
    rows: NDArray[np.int64]
    D: float = np.nan
    D_interval: tuple[float, float] = (np.nan, np.nan)
    log_D: Floats | None = None

    @property
    def N(self) -> float:
        return self.optimum

    @property
    def N_interval(self) -> tuple[float, float]:
        return self.optimum_interval

    @property
    def L(self) -> float:
        return self.lowest

    @property
    def L_interval(self) -> tuple[float, float]:
        return self.lowest_interval

    @property
    def sizes(self) -> int:
        return self.values

    @property
    def draws(self) -> Floats | None:
        """[draws, 3] log N*, log D*, L* of each bootstrap draw, NaN where the vertex left the grid."""
        if self.turns is None or self.log_D is None:
            return None
        return np.stack([self.turns[:, 0], self.log_D, self.turns[:, 1]], 1)


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
    N = table.N[rows]
    found = parabola.fit(N, table.loss[rows], factors, reach=options.window, level=options.level, what="size")
    tokens: dict[str, Any] = {}
    if found.turns is not None:
        sizes, at = np.unique(np.log(N), return_inverse=True)
        mean_log_D = np.bincount(at, weights=np.log(table.D[rows])) / np.bincount(at)
        log_D = np.interp(found.turns[:, 0], sizes, mean_log_D, left=np.nan, right=np.nan)
        low, high = interval(log_D, options.level)
        tokens = {
            "log_D": log_D,
            "D": float(np.exp(np.interp(np.log(found.optimum), sizes, mean_log_D))),
            "D_interval": (float(np.exp(low)), float(np.exp(high))),
        }
    return BudgetFit(**vars(found), C=C, rows=rows, **tokens)
