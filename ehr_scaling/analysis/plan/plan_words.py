"""The words beside a plan, and why one is refused."""

import numpy as np

from ehr_scaling.analysis import words
from ehr_scaling.analysis.plan.record import Plan, Planner
from ehr_scaling.analysis.wording import count, decimal, percent, span
from ehr_scaling.analysis.words import SLACK, Verdict

TOLERANCE = 0.02  # by which laws nearly as good may disagree about a loss beyond the runs
JOINT_LAW, ISOFLOP = "the joint law", "the line through the IsoFLOP optima"


def of(known: Planner, plan: Plan) -> dict[str, Verdict]:
    """The words of "N" and "loss"."""
    line = known.sizing.line
    loss = words.plan(
        plan.C,
        known.forecaster.top,
        {"N": (plan.N, known.seen["N"]), "D": (plan.D, known.seen["D"])},
        (plan.passes, known.seen["passes"][1]),
        None if line is None else tuple(line["C"]),
        known.missed,
        repeats=known.repeats is not None,
        anew=min(plan.unique_tokens, plan.D / known.positions) > known.unique_tokens * SLACK,
    )
    return {"N": words.plan_size(loss, plan.N_interval), "loss": loss}


def refusals(known: Planner, plan: Plan, at_the_end: bool, tolerance: float) -> list[str]:
    """Why a plan should not be acted on, in sentences."""
    forecaster, beyond = known.forecaster, known.forecaster.top * SLACK < plan.C
    reasons = []
    between = known.sizing.bracketed(plan.C)
    # Between bracketed budgets size and loss were measured; the exponents need not be told for that.
    if not between and not forecaster.law.verdict.told:
        reasons.append(f"the law is unidentified: {forecaster.law.verdict.reason}")
    apart = max(abs(np.log(loss / plan.loss)) for loss in plan.laws.values())
    # Inside the runs, what laws say otherwise is in the interval.
    if beyond and apart > tolerance:
        named = ", ".join(f"{name} {decimal(loss)}" for name, loss in plan.laws.items())
        reasons.append(
            f"laws that forecast the held-out runs about equally well disagree by {percent(apart, 1)} here, more than "
            f"{percent(tolerance, 1)}: {named}"
        )
    if not between and disjoint(plan):
        named = ", ".join(
            f"{count(N)} ({span((low, high), count)}) by {way}" for way, (N, low, high) in plan.ways.items()
        )
        reasons.append(f"the ways to the best size disagree beyond their intervals: {named}")
    if beyond and np.isnan(forecaster.rolling.drift):
        reasons.append("beyond the runs nothing tells how far off the law is: too few budgets to hold any out")
    if not all(map(np.isfinite, plan.loss_interval)):
        reasons.append("the loss has no interval")
    if at_the_end:
        reasons.append("the best size lies further from the runs than a law can be asked")
    if not plan.words["N"].told:
        reasons.append(f"the size is not told: {plan.words['N'].reason}")
    return reasons


def disjoint(plan: Plan) -> bool:
    """Whether the ways to N* have intervals with nothing in common."""
    return len(plan.ways) > 1 and max(low for _, low, _ in plan.ways.values()) > min(h for *_, h in plan.ways.values())
