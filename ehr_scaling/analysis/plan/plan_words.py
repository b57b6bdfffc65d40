"""The words beside a plan, and why one is refused."""

import numpy as np

from ehr_scaling.analysis import words
from ehr_scaling.analysis.plan.record import Plan, Planner
from ehr_scaling.analysis.wording import count, decimal, percent, span
from ehr_scaling.analysis.words import SLACK, Verdict

TOLERANCE = 0.02  # by which laws nearly as good may disagree about a loss beyond the runs
JOINT_LAW, ISOFLOP = "the joint law", "the line through the IsoFLOP optima"


def of(known: Planner, made: Plan) -> dict[str, Verdict]:
    """The words of "N" and "loss"."""
    line = known.sizing.line
    loss = words.plan(
        made.C,
        known.forecaster.top,
        {"N": (made.N, known.seen["N"]), "D": (made.D, known.seen["D"])},
        (made.passes, known.seen["passes"][1]),
        None if line is None else tuple(line["C"]),
        known.missed,
        repeats=known.repeats is not None,
        anew=min(made.unique_tokens, made.D / known.positions) > known.unique_tokens * SLACK,
    )
    return {"N": words.plan_size(loss, made.N_interval), "loss": loss}


def refusals(known: Planner, made: Plan, at_the_end: bool, tolerance: float) -> list[str]:
    """Why a plan should not be acted on, in sentences."""
    found, beyond = known.forecaster, known.forecaster.top * SLACK < made.C
    reasons = []
    between = known.sizing.bracketed(made.C)
    # Between bracketed budgets size and loss were measured; the exponents need not be told for that.
    if not between and not found.law.verdict.told:
        reasons.append(f"the law is unidentified: {found.law.verdict.reason}")
    apart = max(abs(np.log(loss / made.loss)) for loss in made.laws.values())
    # Inside the runs, what laws say otherwise is in the interval.
    if beyond and apart > tolerance:
        named = ", ".join(f"{name} {decimal(loss)}" for name, loss in made.laws.items())
        reasons.append(
            f"laws that forecast the held-out runs about equally well disagree by {percent(apart, 1)} here, more than "
            f"{percent(tolerance, 1)}: {named}"
        )
    if not between and disjoint(made):
        named = ", ".join(
            f"{count(N)} ({span((low, high), count)}) by {way}" for way, (N, low, high) in made.ways.items()
        )
        reasons.append(f"the ways to the best size disagree beyond their intervals: {named}")
    if beyond and np.isnan(found.rolling.drift):
        reasons.append("beyond the runs nothing tells how far off the law is: too few budgets to hold any out")
    if not all(map(np.isfinite, made.loss_interval)):
        reasons.append("the loss has no interval")
    if at_the_end:
        reasons.append("the best size lies further from the runs than a law can be asked")
    if not made.words["N"].told:
        reasons.append(f"the size is not told: {made.words['N'].reason}")
    return reasons


def disjoint(made: Plan) -> bool:
    """Whether the ways to N* have intervals with nothing in common."""
    return len(made.ways) > 1 and max(low for _, low, _ in made.ways.values()) > min(h for *_, h in made.ways.values())
