"""A plan, or the runs to add, as a terminal shows it."""

from collections import Counter

import numpy as np

from ehr_scaling.analysis.plan.next_runs import NextRuns
from ehr_scaling.analysis.plan.planner import BAND
from ehr_scaling.analysis.plan.record import ENOUGH, NO_LIMIT, NOT_TOLD, Plan, Planner
from ehr_scaling.analysis.wording import count, decimal, percent, plural, power, significant, span, title


def plan(known: Planner, plan: Plan, also: tuple[str, ...] = ()) -> str:
    """The plan, with further lines of its kind, or why there is none."""
    patients = plan.unique_tokens / known.tokens_a_patient
    who = f"{count(patients)} patients, " if np.isfinite(patients) else ""
    times = f"at most {significant(plan.most_passes, 2)} {'pass' if plan.most_passes == 1 else 'passes'}"
    data = f"{who}{count(plan.unique_tokens)} unique tokens, " if np.isfinite(plan.unique_tokens) else ""
    head = f"with {power(plan.C)} FLOPs and {data}{times if np.isfinite(plan.most_passes) else 'any number of passes'}:"
    if not np.isfinite(plan.unique_tokens):
        head = f"with {power(plan.C)} FLOPs and no limit of data:"
    if plan.refused:
        ask = "--next_runs says which runs would tell more"
        return "\n".join([head, *(f"refused: {reason}" for reason in plan.refused), ask])
    level = percent(known.forecaster.options.level)
    lines = [
        head,
        f"  size    {count(plan.N)} body parameters ({level}: {span(plan.N_interval, count)}; within "
        f"{percent(BAND, 1)} of the lowest loss: {span(plan.band, count)}), {plan.words['N'].word}",
        f"  tokens  {count(plan.D)}" + (f", {significant(plan.passes, 3)} passes" if plan.passes else ""),
        f"  loss    {decimal(plan.loss)} nats a token ({level}: {span(plan.loss_interval)}), {plan.words['loss'].word}",
    ]
    if plan.words["loss"].reason:
        lines.append(f"          {plan.words['loss'].reason}")
    lines += [
        f"  AUROC   {title(task)}: {decimal(o['auroc'])} ({level}: {span(o['interval'])}), {o['word']}"
        for task, o in plan.outcomes.items()
    ]
    if np.isfinite(plan.batch):
        lines.append(
            f"  batch   {count(plan.batch)} tokens a step, peak rate {significant(plan.rate)}, as the runs had"
        )
    return "\n".join([*lines, *also, *_exchange(plan)])


def _exchange(plan: Plan) -> list[str]:
    """What more patients would do."""
    feeds = plan.feeds
    fed = f": these feed {count(feeds['N'])} parameters at {power(feeds['C'])} FLOPs" if np.isfinite(feeds["N"]) else ""
    if plan.data == NO_LIMIT:
        return []
    if plan.data == NOT_TOLD:
        why = "the runs do not say what it costs to see tokens again"
        return [f"  data    whether more patients would help is not told, as {why}{fed}"]
    if plan.data == ENOUGH:
        return [f"  data    more patients would not help at this compute{fed}"]
    if np.isfinite(plan.patients_are_worth):
        worth = f"are worth {significant(plan.patients_are_worth)} times the compute"
    else:
        worth = "reach what no compute does with these"
    return [f"  data    the patients limit this plan: twice as many {worth}"]


def next_runs(proposal: NextRuns, level: float) -> str:
    """level: of the intervals."""
    what = "best size" if proposal.target == "N" else "lowest loss"
    if not proposal.runs:
        return f"no run of that cost would narrow the {what} at {power(proposal.C)} FLOPs: {proposal.verdict.reason}"
    lines = [
        f"to narrow the {what} at {power(proposal.C)} FLOPs, whose {percent(level)} interval is "
        f"{percent(proposal.before, 1)} wide now:"
    ]
    times = Counter((run["N"], run["D"], run["C"]) for run in proposal.runs)
    lines += [
        f"  {plural(many, 'run')} of {power(C)} FLOPs: N {count(N)}, D {count(D)}"
        for (N, D, C), many in sorted(times.items())
    ]
    lines.append(f"then {percent(proposal.after, 1)} wide, for {power(proposal.cost)} FLOPs in all")
    return "\n".join([*lines, proposal.verdict.reason])
