"""Studies of known laws, of five families, for judging how losses and sizes beyond the runs are forecast."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.tables.run_table import RunTable, from_columns

FAMILIES = ("chinchilla", "coupled", "broken", "mistuned", "data-limited")
SIZES = 2000  # among which the best size of a budget is sought


@dataclass(frozen=True)
class Study:
    """loss: the law without noise, of N and D, broadcast together."""

    family: str
    table: RunTable
    loss: Callable[[Floats, Floats], Floats]

    def best_size(self, C: float) -> float:
        """N* at C = 6 N D, by search."""
        N = np.geomspace(self.table.N.min() / 30, self.table.N.max() * 30, SIZES)
        return float(N[self.loss(N, C / (6 * N)).argmin()])


def study(family: str, seed: int) -> Study:
    """One study, drawn: its law, its grid (3 to 9 budgets over 1.3 to 3.5 decades of compute, or as many sizes and
    lengths at random), 1 to 3 seeds, and its noise, 0.1 to 0.6 % between runs, of which a part is common to the seeds
    of a cell.

    Every family is E + (A N^-α + B D^-β)^k about a middle of compute where the best run's loss is 1.2 to 2.5 times E;
    k = 1 but for `coupled` and `mistuned`. `broken`: the exponent of N falls by 15 to 50 % at a size inside the runs
    (Caballero et al. 2023, arXiv 2210.14891). `mistuned`: below a size inside the runs losses rise by 2 to 8 % for
    each squared decade of size. `data-limited`: tokens are worth ever less as they are repeated (Muennighoff et al.
    2023, arXiv 2305.16264, eq. 5, R_D* 5 to 15), and up to 2 to 20 passes are made.
    """
    rng = np.random.default_rng([FAMILIES.index(family), seed])
    budgets, decades = int(rng.integers(3, 10)), rng.uniform(1.3, 3.5)
    levels = 10 ** rng.uniform(13, 19) * np.geomspace(1, 10**decades, budgets)
    middle = float(np.sqrt(levels[0] * levels[-1]))
    N0 = float(np.sqrt(middle / 6 / 10 ** rng.uniform(0.8, 2)))
    loss = _law(family, N0, middle / (6 * N0), levels, rng)
    if rng.random() < 0.25:
        N, D = _scattered(levels, N0 / middle**0.5, rng)
    else:
        N, D = _grid(levels, loss, N0, rng)
    seeds = int(rng.choice([1, 1, 2, 3]))
    N, D = np.repeat(N, seeds), np.repeat(D, seeds)
    noise, shared = 10 ** rng.uniform(-3, -2.2), rng.uniform(0, 0.8)
    cells = np.repeat(rng.standard_normal(len(N) // seeds), seeds)
    scatter = noise * (np.sqrt(shared) * cells + np.sqrt(1 - shared) * rng.standard_normal(len(N)))
    table = from_columns({"N": N, "D": D, "C": 6 * N * D, "loss": loss(N, D) * np.exp(scatter)}, source=family)
    return Study(family, table, loss)


def _law(
    family: str, N0: float, D0: float, levels: Floats, rng: np.random.Generator
) -> Callable[[Floats, Floats], Floats]:
    alpha, beta = rng.uniform(0.25, 0.6, 2)
    k = {"coupled": rng.uniform(0.35, 0.8), "mistuned": rng.uniform(0.5, 1.0)}.get(family, 1.0)
    alpha, beta = np.array([alpha, beta]) / np.sqrt(k)
    # Of the term that N0 and D0 are the best of: α and β share it so that neither is better at their cost.
    by_N, floor, above = beta / (alpha + beta), rng.uniform(0.5, 2), rng.uniform(0.2, 1.5)
    low, high = (N0 * (C / np.sqrt(levels[0] * levels[-1])) ** 0.5 for C in (levels[0], levels[-1]))
    knee = np.exp(rng.uniform(np.log(low), np.log(high)))
    less, passes, R_D = rng.uniform(0.15, 0.5), 10 ** rng.uniform(0.3, 1.3), rng.uniform(5, 15)
    rise = rng.uniform(0.02, 0.08)
    unique = D0 * (levels[-1] / levels[0]) ** 0.25 / passes

    def loss(N: Floats, D: Floats) -> Floats:
        N, D = np.asarray(N, np.float64), np.asarray(D, np.float64)
        if family == "data-limited":
            distinct = np.minimum(D, unique)
            D = distinct - distinct * R_D * np.expm1(-(D / distinct - 1) / R_D)
        by_size = (N / N0) ** -alpha
        if family == "broken":
            by_size = by_size * ((1 + (N / knee) ** 4) / (1 + (N0 / knee) ** 4)) ** (less * alpha / 4)
        losses = floor * (1 + above * (by_N * by_size + (1 - by_N) * (D / D0) ** -beta) ** k)
        if family == "mistuned":
            losses = losses * (1 + rise * np.maximum(np.log10(knee / N), 0) ** 2)
        return np.asarray(losses)

    return loss


def _grid(
    levels: Floats, loss: Callable[[Floats, Floats], Floats], N0: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    sizes, step, shift = int(rng.integers(4, 10)), 10 ** rng.uniform(0.15, 0.4), rng.uniform(-0.7, 0.7)
    candidates = N0 * np.geomspace(1e-4, 1e4, SIZES)
    best = np.array([candidates[loss(candidates, C / (6 * candidates)).argmin()] for C in levels])
    N = best[:, None] * step ** (np.arange(sizes) - (sizes - 1) / 2 + shift)
    return N.ravel(), (levels[:, None] / (6 * N)).ravel()


def _scattered(levels: Floats, ratio: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    runs = int(rng.integers(30, 150))
    C = np.exp(rng.uniform(np.log(levels[0]), np.log(levels[-1]), runs))
    N = ratio * C**0.5 * 10 ** rng.uniform(-0.6, 0.6, runs)
    return N, C / (6 * N)
