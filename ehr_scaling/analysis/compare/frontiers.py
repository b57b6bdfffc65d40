"""The least loss that is reached at a compute, by several ways; and how much compute two sets of runs need for one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ehr_scaling.analysis.draws import Floats
from ehr_scaling.analysis.isoflop import isoflop, power_laws
from ehr_scaling.analysis.isoflop.parabola import BRACKETED
from ehr_scaling.analysis.joint.joint_laws import JointLaw
from ehr_scaling.analysis.joint.optimum import cost_of
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.tables.run_table import RunTable

LEAST_BUDGETS = 3
OPTIMA, LINES = "optima of the bracketed budgets", "L(C) of the bracketed budgets"
LEAST = "least losses of the budgets"
_WIDER = 30.0  # beyond the runs' compute, where draws are looked for
_COMPUTES, _SIZES = 96, 80
_AT_ONCE = 4_000_000  # losses held at a time


@dataclass(frozen=True)
class Frontier:
    """The least loss at a compute. kind: where it is from. C: least and most FLOPs of the runs.
    curve: [m] FLOPs -> [1 + draws, m] losses, of the estimate and of each draw of the run bootstrap."""

    kind: str
    C: tuple[float, float]
    curve: Callable[[Floats], Floats]


def of_laws(laws: list[JointLaw], tables: tuple[RunTable, RunTable]) -> list[Frontier]:
    return [_frontier(law, table) for law, table in zip(laws, tables, strict=True)] if laws else []


def _frontier(law: JointLaw, table: RunTable) -> Frontier:
    N = np.geomspace(table.N.min(), table.N.max(), _SIZES)  # the best of sizes that were run: none beyond is taken
    each = cost_of(table)(N)
    return Frontier(
        f"joint law {law.name}",
        (float(table.C.min()), float(table.C.max())),
        lambda C: _least(law, N, C[:, None] / (each * N)),
    )


def _least(law: JointLaw, N: Floats, D: Floats) -> Floats:
    """[1 + draws, m] least loss over sizes N [sizes] at tokens D [m, sizes]."""
    theta = np.vstack([law.theta[None], law.good])
    part, N = max(1, _AT_ONCE // D.size), np.broadcast_to(N, D.shape)
    return np.concatenate([law.losses_of(theta[i : i + part], N, D).min(-1) for i in range(0, len(theta), part)])


def of_optima(budgets: list[isoflop.BudgetFit]) -> Frontier | None:
    used = [b for b in budgets if b.verdict == BRACKETED and b.told is not None and not b.thin]
    if len(used) < LEAST_BUDGETS:
        return None
    x, lowest = np.log([b.C for b in used]), np.array([b.L for b in used])
    draws = np.stack([b.told[:, 2] for b in used if b.told is not None and not b.thin], 1)
    # A vertex that a draw lost stands at its estimate there.
    return _joined(OPTIMA, x, np.log(np.vstack([lowest, np.where(draws > 0, draws, lowest)])))


def of_least(table: RunTable, options: Options) -> Frontier | None:
    """The least of the sizes' mean losses at each budget; for grids of too few sizes to bracket, the same in two
    tables, whose minima are as far from the true ones in both. None with too few budgets, or no seeds.

    Draws: each cell's mean moves by the noise of its seeds, one for all cells, with its own uncertainty.
    """
    keys = np.stack([table.group, np.unique(table.N, return_inverse=True)[1].ravel()])
    (group, _), cell = np.unique(keys, axis=1, return_inverse=True)
    count, log = np.bincount(cell.ravel()), np.log(table.loss)
    mean = np.bincount(cell.ravel(), log) / count
    freedom = len(log) - len(count)
    if len(table.budgets) < LEAST_BUDGETS or not freedom:
        return None
    rng = np.random.default_rng(options.seed)
    noise = np.sqrt(((log - mean[cell.ravel()]) ** 2).sum() / rng.chisquare(freedom, (options.draws, 1)))
    drawn = np.vstack([mean, mean + noise / np.sqrt(count) * rng.standard_normal((options.draws, len(mean)))])
    least = np.stack([drawn[:, group == k].min(1) for k in range(len(table.budgets))], 1)
    return _joined(LEAST, np.log(table.budgets), least)


def _joined(kind: str, x: Floats, y: Floats) -> Frontier:
    """Straight lines of log L [1 + draws, budgets] in log C [budgets]; beyond the ends theirs go on."""

    def curve(C: Floats) -> Floats:
        at = np.clip(np.searchsorted(x, np.log(C)) - 1, 0, len(x) - 2)
        share = (np.log(C) - x[at]) / (x[at + 1] - x[at])
        return np.exp(y[:, at] * (1 - share) + y[:, at + 1] * share)

    return Frontier(kind, (float(np.exp(x[0])), float(np.exp(x[-1]))), curve)


def of_line(budgets: list[isoflop.BudgetFit], options: Options) -> Frontier | None:
    law = power_laws.fit(budgets, options)["L"]
    if not np.isfinite(law.exponent):
        return None
    return Frontier(LINES, (float(law.C[0]), float(law.C[-1])), lambda C: law(C)[None])


def log_ratios(sides: list[Frontier], levels: Floats) -> tuple[Floats, list[Floats]]:
    """[1 + draws, levels] log C_A / C_B at each level of loss; and log C of either, NaN where a curve is not there."""
    reached = []
    for side in sides:
        grid = np.geomspace(side.C[0] / _WIDER, side.C[1] * _WIDER, _COMPUTES)
        falling = -np.minimum.accumulate(side.curve(grid), axis=1)
        reached.append(np.array([np.interp(-levels, row, np.log(grid), left=np.nan, right=np.nan) for row in falling]))
    draws = min(len(r) for r in reached)
    return reached[0][:draws] - reached[1][:draws], reached
