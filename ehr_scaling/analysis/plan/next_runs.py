"""Which runs to train next: those that narrow a named target the most for what they cost.

A c-optimal design (Atkinson, Donev & Tobias 2007, Optimum Experimental Designs, ch. 10), one run after another; of a
few large runs and many small ones whatever narrows the target more for the same compute. What is known of the law's
parameters is the covariance M⁻¹ of its bootstrap draws; a run at (N, D) adds J Jᵀ / s² to M, J the gradient of log L
there and s the scatter of runs about the law. The variance of a target with gradient g is then gᵀ M⁻¹ g.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ehr_scaling.analysis.joint.joint_laws import JointLaw
from ehr_scaling.analysis.joint.optimum import Cost, log_best
from ehr_scaling.analysis.plan.planner import Planner
from ehr_scaling.analysis.uncertainty import UNIDENTIFIED, Floats, Verdict, normal_quantile

TARGETS = ("N", "loss")
SIZES, COSTS = 24, 16  # of the candidates
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # runs of one proposal
FAR = 0.2  # above the lowest loss of its compute: no run is proposed there
STEP = 1e-4


@dataclass(frozen=True)
class NextRuns:
    """Runs to train next.

    target: "N" (the best size) or "loss" (the lowest loss), at C FLOPs. runs: dicts {N, D, C, width}, in the order of
    their use; `width` is the target's expected interval after it, as the share high / low - 1. before, after: that
    share without them and with all of them. cost: FLOPs of all.
    """

    target: str
    C: float
    runs: list[dict[str, float]]
    before: float
    after: float
    cost: float
    verdict: Verdict


def propose(known: Planner, target: str, C: float, budget: float) -> NextRuns:
    """Which runs to add for `budget` FLOPs in all.

    target: of TARGETS, at C FLOPs. Candidates: sizes from a third of the smallest to three times the largest run, each
    at costs from those of the cheapest run to ten times those of the dearest, whose loss is within 20 % of the lowest.
    """
    found = known.forecaster
    law, z = found.law, normal_quantile(found.options.level)
    free = law.form.free
    draws = law.draws[~np.isnan(law.draws).any(1)][:, free]
    if len(draws) < 20:
        return NextRuns(target, C, [], np.nan, np.nan, 0.0, Verdict(UNIDENTIFIED, "the law has no draws to narrow"))
    covariance = np.cov(draws, rowvar=False)
    # A scatter of nothing would make one run worth everything.
    scatter = max(float(np.ptp(found.noise)) / 2 / z, 1e-4)
    slope = _gradient(lambda theta: _target(law, theta, target, C, known.cost), law.theta, free)
    N = np.geomspace(known.seen["N"][0] / 3, known.seen["N"][1] * 3, SIZES)
    cost = np.geomspace(1, 1 / max(COUNTS), COSTS) * budget
    cost = cost[(cost >= known.seen["C"][0]) & (cost <= 10 * known.seen["C"][1])]
    grid_N, grid_C = (v.ravel() for v in np.meshgrid(N, cost))
    D = known.cost.tokens(grid_N, grid_C)
    # Far off the best size a law is wrong, however much a run there would tell if it were not.
    losses = law(grid_N, D).reshape(len(cost), SIZES)
    worth = (losses <= losses.min(1, keepdims=True) * (1 + FAR)).ravel()
    grid_N, grid_C, D = grid_N[worth], grid_C[worth], D[worth]
    J = _gradient(lambda theta: np.log(law.losses_of(theta[None], grid_N, D)[0]), law.theta, free)  # [free, candidates]

    before = _width(covariance, slope, z)
    ways = [_greedy(covariance, slope, J, scatter, grid_C, budget, many) for many in COUNTS] if len(cost) else []
    chosen, left = min(ways, key=lambda way: _width(way[1], slope, z), default=([], covariance))
    runs, so_far = [], covariance
    for best in chosen:
        so_far = _with_run(so_far, J[:, best], scatter)
        point = {"N": float(grid_N[best]), "D": float(D[best]), "C": float(grid_C[best])}
        runs.append({**point, "width": _width(so_far, slope, z)})
    after = _width(left, slope, z)
    reason = (
        "widths are those of the law's own interval, were it true and its draws normal; what the law gets wrong beyond "
        "the runs they do not hold"
    )
    spent = float(sum(run["C"] for run in runs))
    return NextRuns(target, C, runs, before, after, spent, Verdict(law.verdict.word, reason))


def _greedy(
    covariance: Floats, slope: Floats, J: Floats, scatter: float, cost: Floats, budget: float, many: int
) -> tuple[list[int], Floats]:
    """Up to `many` runs of at most an equal part of the budget each, every one that narrows the target most."""
    chosen: list[int] = []
    for _ in range(many):
        through = covariance @ J
        gain = (slope @ through) ** 2 / (scatter**2 + np.einsum("ij,ij->j", J, through))
        best = int(np.where(cost <= budget / many * (1 + 1e-9), gain, -np.inf).argmax())
        if cost[best] > budget / many * (1 + 1e-9) or not gain[best] > 0:
            break
        chosen.append(best)
        covariance = _with_run(covariance, J[:, best], scatter)
    return chosen, covariance


def _with_run(covariance: Floats, j: Floats, scatter: float) -> Floats:
    """What a run of gradient j takes off a covariance (Sherman & Morrison 1950)."""
    through = covariance @ j
    return covariance - np.outer(through, through) / (scatter**2 + j @ through)


def _target(law: JointLaw, theta: Floats, target: str, C: float, cost: Cost) -> Floats:
    return log_best(law, theta[None], C, cost)[:, 0 if target == "N" else 2]


def _gradient(function: Callable[[Floats], Floats], theta: Floats, free: Any) -> Floats:
    """[free, ...] central differences in the free columns of theta; [free] of a function with one value."""
    rows = []
    for column in free:
        step = np.zeros(6)
        step[column] = STEP
        rows.append((function(theta + step) - function(theta - step)) / (2 * STEP))
    found: Floats = np.array(rows)
    return found[:, 0] if found.shape[1] == 1 else found


def _width(covariance: Floats, slope: Floats, z: float) -> float:
    """high / low - 1 of the interval of the target, whose logarithm has the gradient `slope`."""
    return float(np.expm1(2 * z * np.sqrt(max(float(slope @ covariance @ slope), 0.0))))
