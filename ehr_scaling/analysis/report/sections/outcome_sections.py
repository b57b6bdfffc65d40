"""What the report says of outcomes: how the models rank patients, how far their risks are to be believed."""

from collections.abc import Mapping
from typing import Any

from ehr_scaling.analysis.outcomes import downstream, scores, supervised
from ehr_scaling.analysis.outcomes.decisions import OF_GAP
from ehr_scaling.analysis.outcomes.scores import LEAST_LOSS, VALIDATION, Measure, Score, of_role
from ehr_scaling.analysis.report.figures.decision_plots import decided, looked_at
from ehr_scaling.analysis.report.html import Noted, Raw, Table, render
from ehr_scaling.analysis.report.results import Results
from ehr_scaling.analysis.report.sections import decision_sections
from ehr_scaling.analysis.tables.run_table import SPAN
from ehr_scaling.analysis.wording import (
    DASH,
    count,
    decimal,
    integer,
    known,
    percent,
    power,
    signed,
    significant,
    span,
    title,
)

NAMES = {
    "auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier score", "calibration_slope": "Slope",
    "calibration_in_the_large": "In the large", "ece": "ECE", "mae": "MAE", "rmse": "RMSE", "r2": "R²",
    "spearman": "Rank correlation", "top1": "Top 1", "top5": "Top 5", "log_loss": "Log-loss (nats)",
    "macro_auroc": "Macro AUROC",
}  # fmt: skip
PLACES = {"brier": 4, "ece": 4, "calibration_slope": 2, "calibration_in_the_large": 2, "mae": 2, "rmse": 2}
KINDS = {"days": "a number of days", "class": "a class"}
SHARES = {"open": "Open", "bounded": "Bounded", "median_error": "Median error"}


def outcomes(r: Results, figures: Mapping[str, str]) -> Raw:
    """The section of all tasks; empty without any. figures: SVG by the names that `report.draw` gives them."""
    if not r.outcomes and not r.valued:
        return Raw("")
    first = next((task.task for task in r.outcomes if task.rows), "")  # whose AUROC of compute is on the first screen
    shown = [score for task in r.outcomes for score in task.compared] + [s for task in r.valued for s in task.scores]
    return render(
        "outcomes.html",
        tasks=[_task(r, task, {**figures, f"auroc_{first}": ""}) for task in r.outcomes],
        valued=[{"task": task, "kind": KINDS.get(task.kind, task.kind), "table": valued(task)} for task in r.valued],
        there={name for score in shown for name in (*score.measures, *score.shares)},
    )


def _task(r: Results, task: downstream.Outcome, figures: Mapping[str, str]) -> dict[str, Any]:
    best = of_role(task.compared, LEAST_LOSS)
    return {
        "task": task,
        "base": str((task.baseline or {}).get("name", "baseline")),
        "compared": _compared(task),
        "differences": "; ".join(_difference_in_words(n, m) for n, m in (best[0].differences if best else {}).items()),
        "seeds": _seeds(task),
        "decided": decision_sections.in_words(task.compared),
        "recalibration": decision_sections.recalibration(task.compared),
        "validation": bool(of_role(task.compared, VALIDATION)),
        "thresholds": decision_sections.thresholds(task.compared),
        "less_baselines": decision_sections.less_baselines(task.compared),
        "counted": best[0].counted if best else None,
        "fittings": [f"{s.name}: {s.fitting}" for s in task.compared if s.fitting],
        "thresholds_suppressed": sum(d.thresholds_suppressed for _, d in looked_at(decided(task.compared))),
        "heads": _heads(task),
        "by_labels": _by_labels(task),
        "subgroups": subgroups(task.compared),
        "gaps": any(g.gaps for s in best for g in s.groups),
        "groups_moved": decision_sections.recalibrated(task.compared),
        "hidden": sum(bool(g.suppressed) for s in best for g in s.groups),
        "models": _models(task),
        "at_most": any(known(row.get("auroc_at_most")) for row in task.rows),
        "sampled": scores.sampled(task.compared),
        "thinned": r.table.generated is False,
        "roc": any(s.roc is not None for s in task.compared),
        "bins": any(s.bins for s in task.compared),
        "least": scores.LEAST_PATIENTS,
        **{
            kind: Raw(figures.get(f"{kind}_{task.task}", ""))
            for kind in ("outcome", "auroc", "accuracy", "decision", "labels")
        },
    }


def _compared(task: downstream.Outcome) -> Table | None:
    """The model of least loss, the smallest and the baselines in one table."""
    names = scores.named(scores.PROBABILITIES, task.compared)
    # A table of nothing but the AUROC would repeat the one of all models.
    if names in ([], ["auroc"]) and not any(s.differences or s.shares for s in task.compared):
        return None
    paired = any("auroc" in s.differences for s in task.compared)
    shares = [name for name in scores.SHARES if any(name in s.shares for s in task.compared)]
    rows = [
        [s.name, *(_measure(name, s.measures.get(name)) for name in names),
         *([_difference(s.differences.get("auroc"))] if paired else []),
         *(_share(name, s.shares.get(name)) for name in shares)]
        for s in task.compared
    ]  # fmt: skip
    base = str((task.baseline or {}).get("name", "baseline"))
    header = ["Model", *(NAMES[n] for n in names), *([f"AUROC less that of {base}"] if paired else []),
              *(SHARES[n] for n in shares)]  # fmt: skip
    return Table(header, rows, words=(0,))


def _seeds(task: downstream.Outcome) -> Table | None:
    """What the seeds of each cell of the largest compute reach together."""
    top = [cell for cell in task.seeds if cell.C * SPAN >= task.seeds[0].C]
    if not top:
        return None

    def lead(value: float, ends: tuple[float, float]) -> Noted | str:
        return Noted(signed(value, 3), span(ends, lambda x: signed(x, 3))) if known(value) else DASH

    rows = [
        [count(cell.N), str(cell.models), Noted(decimal(cell.mean), span(cell.interval)), decimal(cell.deviation),
         lead(cell.lead, cell.lead_interval), Noted(decimal(cell.average), span(cell.average_interval)),
         lead(cell.average_lead, cell.average_lead_interval),
         Noted(decimal(cell.apart), f"a tenth above {decimal(cell.apart_most)}" if known(cell.apart_most) else "")]
        for cell in top
    ]  # fmt: skip
    base = str((task.baseline or {}).get("name", "baseline"))
    header = ["N", "Seeds", "Mean AUROC", "Between seeds", f"Less {base}", "Of their mean risk", f"Less {base}",
              "Apart on a stay"]  # fmt: skip
    return Table(header, rows)


def _heads(task: downstream.Outcome) -> Table | None:
    """Zero-shot, heads that had all labels, and the baselines, on the same stays."""
    if task.supervised is None or not any(row.name in supervised.METHODS.values() for row in task.supervised.rows):
        return None
    rows = [
        [row.name, str(row.models), _measure("auroc", row.mean), decimal(row.deviation), _measure("auroc", row.auroc),
         _measure("auprc", row.auprc), _measure("auroc", row.less_zero_shot, sign=True),
         _measure("auroc", row.less_regression, sign=True)]
        for row in task.supervised.rows
    ]  # fmt: skip
    base = str((task.baseline or {}).get("name", "baseline"))
    header = ["Method", "Models", "Mean AUROC", "Between seeds", "Of their mean risk", "AUPRC of it", "Less zero-shot",
              f"Less {base}"]  # fmt: skip
    return Table(header, rows, words=(0,))


def _by_labels(task: downstream.Outcome) -> Table | None:
    """AUROC of heads by the number of labels; with all labels alone the other table has it."""
    points = task.supervised.points if task.supervised else []
    if all(point.every for point in points):
        return None
    rows = [
        [supervised.METHODS[point.method], integer(point.labels), str(point.draws), str(point.models),
         _measure("auroc", point.auroc), decimal(point.deviation), span((min(point.reached), max(point.reached))),
         _measure("auroc", point.lead if known(point.lead.value) else None, sign=True)]
        for point in points
    ]  # fmt: skip
    header = ["Method", "Labels", "Draws", "Models", "Mean AUROC", "Between draws", "Lowest to highest",
              "Less zero-shot"]  # fmt: skip
    return Table(header, rows, words=(0,))


def _difference_in_words(name: str, m: Measure) -> str:
    value, low, high = (signed(x, PLACES.get(name, 3)) for x in m[:3])
    bounds = [f"{low} to {high}"] if known(m.low) and known(m.high) else []
    said = bounds + ([f"p {_p(m.p_value)}"] if known(m.p_value) else [])
    return f"{NAMES[name]} {value}" + (f" ({', '.join(said)})" if said else "")


def _measure(name: str, measure: Measure | None, sign: bool = False) -> Noted | str:
    if measure is None:
        return DASH
    places = PLACES.get(name, 3)

    def text(value: float) -> str:
        return signed(value, places) if sign else decimal(value, places)

    interval = span((measure.low, measure.high), text)
    return Noted(text(measure.value), interval if interval != DASH else "")


def _difference(difference: Measure | None) -> Noted | str:
    """With its p-value; below the interval."""
    shown = _measure("difference", difference, sign=True)
    if difference is None or isinstance(shown, str) or not known(difference.p_value):
        return shown
    return Noted(shown.text, ", ".join(filter(None, (shown.note, f"p {_p(difference.p_value)}"))))


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {significant(value, 2)}"


def _share(name: str, value: float | None) -> str:
    return significant(value, 2) if name == "median_error" else percent(value, 1)


def subgroups(compared: list[Score]) -> Table | None:
    """Subgroups of the model of least loss; those that are suppressed are said so, without a count."""
    groups = [g for s in of_role(compared, LEAST_LOSS) for g in s.groups]
    if not groups:
        return None
    names = scores.named(scores.PROBABILITIES, groups)
    gaps = [name for name in OF_GAP if any(name in g.gaps for g in groups)]
    rows: list[list[Any]] = []
    for k, g in enumerate(groups):
        first = k == 0 or groups[k - 1].attribute != g.attribute
        who = [title(g.attribute).capitalize() if first else "", decision_sections.group_name(g)]
        numbers = [integer(g.counts.get(key)) for key in ("patients", "n", "positives")]
        if g.suppressed:
            rows.append([*who, *[DASH] * (3 + len(names) + len(gaps)), g.suppressed])
        else:
            apart = [decision_sections.gap(name, g) for name in gaps]
            rows.append([*who, *numbers, *(_measure(name, g.measures.get(name)) for name in names), *apart, ""])
    less = [f"{NAMES[name]} less the rest" for name in gaps]
    header = ["", "Group", "Patients", "Stays", "With outcome", *(NAMES[n] for n in names), *less, "Note"]
    return Table(header, rows, words=(0, 1), long=(len(header) - 1,))


def _models(task: downstream.Outcome) -> Table:
    """Every model of the task, and the first baseline."""
    rows = [
        [m["size"] or m["cell"], count(m["N"]), power(m["C"]), integer(m["seed"]), decimal(m["loss"]),
         decimal(m["auroc"]), span((m["low"], m["high"])), decimal(m.get("auroc_at_most")),
         decimal(m.get("task_loss")), integer(m["n"]), integer(m["positives"]), percent(m.get("undetermined"), 1)]
        for m in task.rows
    ]  # fmt: skip
    if task.baseline:
        base = task.baseline
        rows.append([base.get("name", "baseline"), DASH, DASH, DASH, DASH, decimal(base["auroc"]),
                     span((base["low"], base["high"])), DASH, DASH, integer(base["n"]), integer(base["positives"]),
                     DASH])  # fmt: skip
    header = ["Model", "N", "C", "Seed", "Loss", "AUROC", "Interval", "At most", "Task loss", "Stays",
              "With outcome", "Undetermined"]  # fmt: skip
    return Table(header, rows, words=(0,))


def valued(task: scores.Valued) -> Table:
    """Models and baselines of a task whose outcome is a number or a class."""
    names = scores.named((*scores.NUMBERS, *scores.CLASSES), task.scores)
    shares = [name for name in ("open", "bounded") if any(name in s.shares for s in task.scores)]
    rows = [
        [s.name, *(_measure(n, s.measures.get(n)) for n in names), *(_share(n, s.shares.get(n)) for n in shares)]
        for s in task.scores
    ]
    unit = " (days)" if task.kind == "days" else ""
    heads = [NAMES[n] + (unit if n in ("mae", "rmse") else "") for n in names]
    return Table(["Model", *heads, *(SHARES[n] for n in shares)], rows, words=(0,))
