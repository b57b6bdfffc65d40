"""The first screen of the report: what the study found in one sentence, two figures, and a row for every budget."""

from collections.abc import Mapping
from typing import Any

from ehr_scaling.analysis.isoflop import parabola
from ehr_scaling.analysis.report.html import Noted, Raw, Table, render
from ehr_scaling.analysis.report.results import Results, budget_verdict, verdicts
from ehr_scaling.analysis.report.summary import few_patients
from ehr_scaling.analysis.wording import DASH, count, decimal, known, power, significant, span, title


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
        task=scored and title(scored.task),
        best=scored and scored.rows[0],  # rows go by loss
        baseline=scored and scored.baseline,
        isoflop=Raw(figures["isoflop"]),
        beside=Raw(figures.get(f"auroc_{scored.task}" if scored else "best_sizes", "")),
        table=budgets(r),
        of=len(r.budgets),
        planned=r.planner is not None,
    )


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
