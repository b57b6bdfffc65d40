"""The words beside a plan, and why one is refused."""

import numpy as np

from ehr_scaling.analysis.plan.record import Plan, Planner
from ehr_scaling.analysis.uncertainty import EXTRAPOLATED, SUPPORTED, UNIDENTIFIED, Verdict
from ehr_scaling.analysis.wording import count, decimal, percent, power, significant, span

TOLERANCE = 0.02  # by which laws nearly as good may disagree about a loss beyond the runs
WIDE = 10.0  # a size whose interval spans more than this factor is not told
JOINT_LAW, ISOFLOP = "the joint law", "the line through the IsoFLOP optima"


def words(known: Planner, made: Plan) -> dict[str, Verdict]:
    """Of "N" and "loss". Supported: inside the runs, between bracketed budgets, and no sealed forecast missed."""
    beyond = []
    past = made.C > known.forecaster.top * 1.01  # noqa: SIM300
    if past:
        beyond.append(f"compute {significant(made.C / known.forecaster.top, 2)} times the largest run's")
    for name, value in (("N", made.N), ("D", made.D), ("passes", made.passes)):
        low, high = known.seen[name]
        if value > high * 1.01 or (value < low * 0.99 and name != "passes"):
            beyond.append(f"{name} outside {count(low)} to {count(high)} of the runs")
    if made.passes > 1.01 and known.repeats is None and np.isnan(known.seen["passes"][1]):
        beyond.append("the runs do not say how often they saw their data")
    line = known.sizing.line
    if line is None:
        beyond.append("no line through bracketed budgets tells the best size")
    elif not past and not known.sizing.bracketed(made.C):
        beyond.append(f"budgets are bracketed from {power(line['C'][0])} to {power(line['C'][1])} FLOPs only")
    if np.isfinite(known.missed):
        beyond.append(f"the forecast of the sealed budget failed, {percent(known.missed, 1)} off on average")
    where = Verdict(EXTRAPOLATED, "; ".join(beyond)) if beyond else Verdict(SUPPORTED, "inside the runs")
    loss = where
    if beyond and known.repeating:
        again = f"the runs saw their data up to {significant(known.seen['passes'][1], 2)} times, and no law tells what"
        loss = Verdict(EXTRAPOLATED, f"{where.reason}; {again} that costs: more compute may gain less")
    low, high = made.N_interval
    told = high <= WIDE * low
    size = where if told else Verdict(UNIDENTIFIED, f"its interval spans more than a factor of {WIDE:g}")
    return {"N": size, "loss": loss}


def refusals(known: Planner, made: Plan, at_the_end: bool, tolerance: float) -> list[str]:
    """Why a plan should not be acted on, in sentences."""
    found, beyond = known.forecaster, known.forecaster.top * 1.01 < made.C
    reasons = []
    between = known.sizing.bracketed(made.C)
    # Between bracketed budgets size and loss were measured; the exponents need not be told for that.
    if not between and found.law.verdict.word == UNIDENTIFIED:
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
    if made.words["N"].word == UNIDENTIFIED:
        reasons.append(f"the size is not told: {made.words['N'].reason}")
    return reasons


def disjoint(made: Plan) -> bool:
    """Whether the ways to N* have intervals with nothing in common."""
    return len(made.ways) > 1 and max(low for _, low, _ in made.ways.values()) > min(h for *_, h in made.ways.values())
