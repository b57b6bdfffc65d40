"""The first screen of the report: what the study found in one sentence, two figures, and a row for every budget."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ehr_scaling.analysis.isoflop import parabola
from ehr_scaling.analysis.outcomes.downstream import Outcome
from ehr_scaling.analysis.outcomes.scores import LEAST_LOSS, of_role, telling
from ehr_scaling.analysis.outcomes.seeds import Seeds
from ehr_scaling.analysis.report.html import Noted, Raw, Table, render
from ehr_scaling.analysis.report.results import Results, budget_verdict, verdicts
from ehr_scaling.analysis.report.summary import few_patients
from ehr_scaling.analysis.wording import DASH, count, decimal, known, power, signed, significant, span, title


def answer(r: Results, figures: Mapping[str, str]) -> Raw:
    """figures: SVG by the names that `report.draw` gives them."""
    line, word = r.lines["N"], verdicts(r)["a"]
    scored = next((task for task in r.outcomes if task.rows), None)
    return render(
        "answer.html",
        few=few_patients(r.table.largest("patients")),
        told=known(line.interval[0]) and word.told,
        exponent=line.exponent,
        interval=line.interval,
        level=r.options.level,
        word=word,
        why=word.reason.split(";")[0],
        loss=float(r.table.loss.min()),
        one_size=len(np.unique(r.table.N)) == 1,
        task=scored and title(scored.task),
        best=scored and scored.rows[0],  # rows go by loss
        seeds=scored and _seeds(scored),
        baselines=scored and _baselines(scored),
        isoflop=Raw(figures["isoflop"]),
        beside=Raw(figures.get(f"auroc_{scored.task}" if scored else "best_sizes", "")),
        table=budgets(r),
        of=len(r.budgets),
        planned=r.planner is not None,
    )


def _seeds(task: Outcome) -> Seeds | None:
    """What the seeds of the model of least loss reach together, None where it has no other."""
    N, D = (task.rows[0][name] for name in ("N", "D"))
    return next((cell for cell in task.seeds if cell.N == N and cell.D == D), None)


def _baselines(task: Outcome) -> str:
    """What the baselines that tell patients apart reach, and by how much the model of least loss is off the first."""
    base = task.baseline or {}
    best = next(iter(of_role(task.compared, LEAST_LOSS)), None)
    difference = best and best.differences.get("auroc")
    less = ""
    if difference and known(difference.low) and known(difference.high):
        ends = span((difference.low, difference.high), lambda x: signed(x, 3))
        shown = "" if difference.low > 0 or difference.high < 0 else ": these patients show no difference"
        less = f" (the model less it {signed(difference.value, 3)}, {ends}{shown})"
    first = [f"{base.get('name', 'the baseline')} reaches {decimal(base['auroc'])}{less}"] if base else []
    others = [
        f"{score.name} {decimal(score.measures['auroc'].value)}"
        for score in telling(task.compared)
        if "auroc" in score.measures and score.name != base.get("name")
    ]
    return "; ".join(first + others)


def budgets(r: Results) -> Table:
    """The optimum of every budget that has one, or all where none has; each number with its interval below it."""
    rows: list[list[Any]] = []
    for b in [b for b in r.budgets if b.verdict == parabola.BRACKETED] or r.budgets:
        ratio, word = b.D / b.N, budget_verdict(b, r.options)
        ends = (b.D_interval[0] / b.N_interval[1], b.D_interval[1] / b.N_interval[0])  # at one C, D falls as N grows
        rows.append(
            [
                power(b.C),
                _noted(count(b.N), span(b.N_interval, count)),
                _noted(count(b.D), span(b.D_interval, count)),
                _noted(significant(ratio), span(ends, significant)),
                _noted(decimal(b.L), span(b.L_interval)),
                word if not word.supported else word._replace(reason=""),
            ]
        )
    header = ["C (FLOPs)", "N*, parameters", "D*, tokens", "Tokens a parameter", "L*, nats a token", "Word"]
    return Table(header, rows, long=(5,))


def _noted(value: str, interval: str) -> Noted | str:
    return Noted(value, interval) if interval != DASH else value
