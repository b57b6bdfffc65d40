"""A plan, or the runs to add, as a terminal shows it."""

from collections import Counter

import numpy as np

from ehr_scaling.analysis.plan.next_runs import NextRuns
from ehr_scaling.analysis.plan.planner import BAND
from ehr_scaling.analysis.plan.record import ENOUGH, NO_LIMIT, NOT_TOLD, Plan, Planner
from ehr_scaling.analysis.wording import count, decimal, percent, plural, power, significant, span, title


def plan(known: Planner, made: Plan, also: tuple[str, ...] = ()) -> str:
    """The plan, with further lines of its kind, or why there is none."""
    patients = made.unique_tokens / known.tokens_a_patient
    who = f"{count(patients)} patients, " if np.isfinite(patients) else ""
    times = f"at most {significant(made.most_passes, 2)} {'pass' if made.most_passes == 1 else 'passes'}"
    data = f"{who}{count(made.unique_tokens)} unique tokens, " if np.isfinite(made.unique_tokens) else ""
    head = f"with {power(made.C)} FLOPs and {data}{times if np.isfinite(made.most_passes) else 'any number of passes'}:"
    if not np.isfinite(made.unique_tokens):
        head = f"with {power(made.C)} FLOPs and no limit of data:"
    if made.refused:
        ask = "--next_runs says which runs would tell more"
        return "\n".join([head, *(f"refused: {reason}" for reason in made.refused), ask])
    level = percent(known.forecaster.options.level)
    lines = [
        head,
        f"  size    {count(made.N)} body parameters ({level}: {span(made.N_interval, count)}; within "
        f"{percent(BAND, 1)} of the lowest loss: {span(made.band, count)}), {made.words['N'].word}",
        f"  tokens  {count(made.D)}" + (f", {significant(made.passes, 3)} passes" if made.passes else ""),
        f"  loss    {decimal(made.loss)} nats a token ({level}: {span(made.loss_interval)}), {made.words['loss'].word}",
    ]
    if made.words["loss"].reason:
        lines.append(f"          {made.words['loss'].reason}")
    lines += [
        f"  AUROC   {title(task)}: {decimal(o['auroc'])} ({level}: {span(o['interval'])}), {o['word']}"
        for task, o in made.outcomes.items()
    ]
    if np.isfinite(made.batch):
        lines.append(
            f"  batch   {count(made.batch)} tokens a step, peak rate {significant(made.rate)}, as the runs had"
        )
    return "\n".join([*lines, *also, *_exchange(made)])


def _exchange(made: Plan) -> list[str]:
    """What more patients would do."""
    feeds = made.feeds
    fed = f": these feed {count(feeds['N'])} parameters at {power(feeds['C'])} FLOPs" if np.isfinite(feeds["N"]) else ""
    if made.data == NO_LIMIT:
        return []
    if made.data == NOT_TOLD:
        why = "the runs do not say what it costs to see tokens again"
        return [f"  data    whether more patients would help is not told, as {why}{fed}"]
    if made.data == ENOUGH:
        return [f"  data    more patients would not help at this compute{fed}"]
    if np.isfinite(made.patients_are_worth):
        worth = f"are worth {significant(made.patients_are_worth)} times the compute"
    else:
        worth = "reach what no compute does with these"
    return [f"  data    the patients limit this plan: twice as many {worth}"]


def next_runs(found: NextRuns, level: float) -> str:
    """level: of the intervals."""
    what = "best size" if found.target == "N" else "lowest loss"
    if not found.runs:
        return f"no run of that cost would narrow the {what} at {power(found.C)} FLOPs: {found.verdict.reason}"
    lines = [
        f"to narrow the {what} at {power(found.C)} FLOPs, whose {percent(level)} interval is "
        f"{percent(found.before, 1)} wide now:"
    ]
    times = Counter((run["N"], run["D"], run["C"]) for run in found.runs)
    lines += [
        f"  {plural(many, 'run')} of {power(C)} FLOPs: N {count(N)}, D {count(D)}"
        for (N, D, C), many in sorted(times.items())
    ]
    lines.append(f"then {percent(found.after, 1)} wide, for {power(found.cost)} FLOPs in all")
    return "\n".join([*lines, found.verdict.reason])
