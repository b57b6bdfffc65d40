"""Which runs to train next: those that narrow a named target the most for what they cost.

One run after another, each where the draws of the law, by what they say of its loss, tell most of the target (a
c-optimal design: Atkinson, Donev & Tobias 2007, Optimum Experimental Designs, ch. 10); of a few large runs and many
small ones whatever narrows it more for the same compute. After each run the draws are drawn together as far as it would
tell them apart, by the ensemble square-root filter (Whitaker & Hamill 2002, Mon. Weather Rev. 130:1913), and widths are
read off their quantiles. Losses and targets are used as the draws have them: parameters of a law stand in for each
other, have heavy tails, and their covariance says nothing of what the law tells.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, ends, normal_quantile
from ehr_scaling.analysis.joint.optimum import best_log_size, log_best
from ehr_scaling.analysis.plan.planner import plan
from ehr_scaling.analysis.plan.record import Planner
from ehr_scaling.analysis.words import Verdict

TARGETS = ("N", "loss")
SIZES, COSTS = 32, 24  # of the candidates
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # runs of one proposal
CHEAPEST = 1e-3  # of the budget, that a run costs at least
BEYOND = 3.0  # times the smallest and the largest size, and the best of the dearest candidate
FAR = 0.2  # above the lowest loss of its compute: no run is proposed there
OUTLYING = 0.01  # of the draws, at either end of the target: no run is chosen for them
REASON = (
    "widths are those of the law's own draws, were the law true; what it gets wrong beyond the runs they do not hold"
)


@dataclass(frozen=True)
class NextRuns:
    """Runs to train next.

    target: "N" (the best size) or "loss" (that of the plan), at C FLOPs. runs: dicts {N, D, C, width}, in the order of
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


class Candidates(NamedTuple):
    """N, D, C: [candidates]. losses: [draws, candidates] of log L."""

    N: Floats
    D: Floats
    C: Floats
    losses: Floats


def propose(
    known: Planner, target: str, C: float, budget: float, unique_tokens: float = np.inf, most_passes: float = np.inf
) -> NextRuns:
    """Which runs to add for `budget` FLOPs in all, none dearer than C nor cheaper than the cheapest there is.

    target: of TARGETS, at C FLOPs. unique_tokens, most_passes: as of `planner.plan`: what a run may draw on.
    """
    law = known.sizing.law if target == "N" else known.forecaster.law
    level = known.forecaster.options.level
    theta = law.good
    if len(theta) < 20:
        return NextRuns(target, C, [], np.nan, np.nan, 0.0, words.missing("the law has no draws to narrow"))
    if target == "N":
        values = log_best(law, theta, C, known.cost)[:, 0]
    else:
        planned = plan(known, C, unique_tokens, most_passes)
        values = np.log(law.losses_of(theta, np.array(planned.N), np.array(planned.D)))
    before = _width(values, level)
    candidates = _candidates(known, theta, C, budget, unique_tokens * most_passes * known.positions, target)
    # A scatter of nothing would make one run worth everything.
    scatter = max(float(np.ptp(known.forecaster.noise)) / 2 / normal_quantile(level), 1e-4)
    ways = [_greedy(values, candidates, scatter, budget, many, level) for many in COUNTS] if len(candidates.C) else []
    runs = min(ways, key=lambda way: way[-1]["width"] if way else np.inf, default=[])
    after = runs[-1]["width"] if runs else before
    return NextRuns(
        target, C, runs, before, after, float(sum(run["C"] for run in runs)), law.verdict._replace(reason=REASON)
    )


def _candidates(known: Planner, theta: Floats, C: float, budget: float, most_tokens: float, target: str) -> Candidates:
    law = known.sizing.law if target == "N" else known.forecaster.law
    dearest = min(budget, C)
    cheapest = max(known.seen["C"][0], dearest * CHEAPEST)
    if cheapest > dearest:
        nothing = np.zeros(0)
        return Candidates(nothing, nothing, nothing, np.zeros((len(theta), 0)))
    cost = np.geomspace(cheapest, dearest, COSTS)
    best = float(np.exp(best_log_size(law, law.theta[None], dearest, known.cost)[0]))
    low, high = known.seen["N"]
    sizes = np.geomspace(low / BEYOND, max(high, best) * BEYOND, SIZES)
    N, flops = (v.ravel() for v in np.meshgrid(sizes, cost))
    D = known.cost.tokens(N, flops)
    losses = law(N, D).reshape(COSTS, SIZES)
    # Far off the best size a law is wrong, however much a run there would tell if it were not.
    worth = (losses <= losses.min(1, keepdims=True) * (1 + FAR)).ravel() & (most_tokens >= D)
    N, D, flops = N[worth], D[worth], flops[worth]
    return Candidates(N, D, flops, np.log(law.losses_of(theta, N, D)))


def _greedy(
    values: Floats, candidates: Candidates, scatter: float, budget: float, many: int, level: float
) -> list[dict[str, float]]:
    """Up to `many` runs of at most an equal part of the budget each, every one that narrows the target most."""
    affordable = budget / many * (1 + 1e-9) >= candidates.C
    if not affordable.any():
        return []
    low, high = np.quantile(values, [OUTLYING, 1 - OUTLYING])
    inner = (low <= values) & (values <= high)
    Y, t = candidates.losses[:, affordable], values
    runs = []
    for _ in range(many):
        apart = Y[inner] - Y[inner].mean(0)
        variance = apart.var(0) + scatter**2
        with_target = (t[inner] - t[inner].mean()) @ apart / inner.sum()
        best = int((with_target**2 / variance).argmax())
        y, best_variance = Y[:, best] - Y[inner, best].mean(), variance[best]
        gain = y / best_variance / (1 + scatter / np.sqrt(best_variance))
        t, Y = t - gain * with_target[best], Y - np.outer(gain, apart[:, best] @ apart / inner.sum())
        point = {name: float(getattr(candidates, name)[affordable][best]) for name in ("N", "D", "C")}
        runs.append({**point, "width": _width(t, level)})
    return runs


def _width(values: Floats, level: float) -> float:
    """high / low - 1 of the interval of what `values` are the logarithms of."""
    low, high = ends(values, level)
    return float(np.expm1(high - low))
