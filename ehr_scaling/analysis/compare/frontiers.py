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
    theta = np.vstack([law.theta[None], law.draws[~np.isnan(law.draws).any(1)]])
    part, N = max(1, _AT_ONCE // D.size), np.broadcast_to(N, D.shape)
    return np.concatenate([law.losses_of(theta[i : i + part], N, D).min(-1) for i in range(0, len(theta), part)])


def of_optima(budgets: list[isoflop.BudgetFit]) -> Frontier | None:
    used = [b for b in budgets if b.verdict == BRACKETED and b.told is not None and not b.thin]
    if len(used) < LEAST_BUDGETS:
        return None
    x, lowest = np.log([b.C for b in used]), np.array([b.L for b in used])
    draws = np.stack([b.told[:, 2] for b in used if b.told is not None and not b.thin], 1)
    # A vertex that a draw lost stands at its estimate there.
    y = np.log(np.vstack([lowest, np.where(draws > 0, draws, lowest)]))

    def curve(C: Floats) -> Floats:
        at = np.clip(np.searchsorted(x, np.log(C)) - 1, 0, len(x) - 2)  # beyond the ends their lines go on
        share = (np.log(C) - x[at]) / (x[at + 1] - x[at])
        return np.exp(y[:, at] * (1 - share) + y[:, at + 1] * share)

    return Frontier(OPTIMA, (used[0].C, used[-1].C), curve)


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
        reached.append(np.array([np.interp(-levels, own, np.log(grid), left=np.nan, right=np.nan) for own in falling]))
    draws = min(len(r) for r in reached)
    return reached[0][:draws] - reached[1][:draws], reached
