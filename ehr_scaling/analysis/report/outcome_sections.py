"""What the report says of outcomes: how the models rank patients, how far their risks are to be believed."""

from typing import Any

import numpy as np

from ehr_scaling.analysis.outcomes import downstream, scores
from ehr_scaling.analysis.outcomes.scores import LEAST_LOSS, Measure, Score, of_role
from ehr_scaling.analysis.report.html import Raw, chip, figure, join, paragraph, section, table
from ehr_scaling.analysis.report.results import Results
from ehr_scaling.analysis.wording import (
    DASH,
    count,
    decimal,
    known,
    percent,
    plural,
    power,
    signed,
    significant,
    span,
    title,
    whole,
)

NAMES = {
    "auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier score", "calibration_slope": "Slope",
    "calibration_in_the_large": "In the large", "ece": "ECE", "mae": "MAE", "rmse": "RMSE", "r2": "R²",
    "spearman": "Rank correlation", "top1": "Top 1", "top5": "Top 5", "log_loss": "Log-loss (nats)",
    "macro_auroc": "Macro AUROC",
}  # fmt: skip
PLACES = {"brier": 4, "ece": 4, "calibration_slope": 2, "calibration_in_the_large": 2, "mae": 2, "rmse": 2}
KINDS = {"days": "a number of days", "class": "a class"}


def outcomes(r: Results, svgs: dict[str, str], accuracy: dict[str, str]) -> Raw:
    """svgs: of AUROC against loss and compute; accuracy: of ROC and calibration curves; by task."""
    if not r.outcomes and not r.valued:
        return section("outcomes", "Outcomes", paragraph("No outcome was scored for these runs."))
    parts: list[Any] = []
    for task in r.outcomes:
        parts.append(_heading(task.task))
        if task.text:
            parts.append(paragraph(task.text))
        if task.task in svgs:
            caption = (
                "Each mark is one model, scored zero-shot in simulated timelines. Left: bars are patient-bootstrap "
                "intervals; all models are scored on the same patients, so neighbouring bars move together. Right: "
                "lines join the mean of each size. Horizontal lines are baselines, the first with its interval."
            )
            parts.append(figure(svgs[task.task], caption, "AUROC against validation loss and against compute"))
        if np.isfinite(task.spearman):
            parts.append(
                paragraph(
                    f"Rank correlation of loss and AUROC over {len(task.rows)} models: {decimal(task.spearman, 2)} "
                    f"({span(task.spearman_interval, lambda v: decimal(v, 2))}); −1 would mean that lower loss "
                    "always ranks patients better."
                )
            )
        parts += _curve(task)
        if task.task in accuracy:
            parts.append(figure(accuracy[task.task], _accuracy_caption(task.compared), "ROC and calibration curves"))
        parts += _compared(task)
        if task.task not in accuracy and (weighted := scores.sampled(task.compared)):
            parts.append(paragraph(weighted, "muted"))
        parts += _subgroups(task.compared)
        parts += _models(task)
    parts += [part for task in r.valued for part in _valued(task)]
    shown = [score for task in r.outcomes for score in task.compared] + [s for task in r.valued for s in task.scores]
    return section("outcomes", "Outcomes", *parts, *_legend(shown))


def _heading(task: str) -> Raw:
    return join(Raw("<h3>"), title(task).capitalize(), Raw("</h3>"))


def _curve(task: downstream.Outcome) -> list[Any]:
    """What the law of AUROC in loss says, with its verdict."""
    parts: list[Any] = [paragraph(join(chip(task.verdict.word), f" {task.pattern}: {task.verdict.reason}."))]
    if task.curve is None:
        return parts
    known_lead = known(task.lead_interval[0])
    lead = f" Against the baseline, the curve at the lowest loss stands at {signed(task.lead, 3)} AUROC "
    lead += f"({span(task.lead_interval, lambda v: signed(v, 3))})." if known_lead else "(no interval)."
    seeds = f" Seeds of a cell differ by {decimal(task.seed_noise)} AUROC." if known(task.seed_noise) else ""
    ranks = (
        f" Task loss, the nats a stay of what came true, has rank correlation {decimal(task.spearman_task_loss, 2)} "
        "with loss." if known(task.spearman_task_loss) else ""
    )  # fmt: skip
    text = (
        f"AUROC = {task.curve.formula}, the form that predicts left-out cells best. A single model scatters by "
        f"{decimal(task.curve.noise)} about it beyond what patients explain.{seeds}{lead if task.baseline else ''}"
        f"{ranks} At most: what endlessly many simulated futures could give, as their noise blurs ranks."
    )
    return [*parts, paragraph(text, "muted")]


def _accuracy_caption(compared: list[Score]) -> str:
    parts = []
    if any(s.roc is not None for s in compared):
        parts.append("ROC curves of the model of least loss, the smallest one and the baselines, on the same stays.")
    if any(s.bins for s in compared):
        parts.append(
            "Calibration: mean predicted risk and share with the outcome in bins of about equal weight, with Wilson "
            f"intervals, each of at least {scores.LEAST_PATIENTS} patients; below the dotted line risks are too high. "
            "A mark on the edge of logarithmic axes lies at or below it."
        )
    return " ".join([*parts, scores.sampled(compared)])


def _compared(task: downstream.Outcome) -> list[Any]:
    """The model of least loss, the smallest and the baselines in one table."""
    names = scores.named(scores.PROBABILITIES, task.compared)
    # A table of nothing but the AUROC would repeat the one of all models.
    if names in ([], ["auroc"]) and not any(s.differences or s.shares for s in task.compared):
        return []
    paired = any("auroc" in s.differences for s in task.compared)
    shares = [name for name in scores.SHARES if any(name in s.shares for s in task.compared)]
    rows = [
        [s.name, *(_measure(name, s.measures.get(name)) for name in names),
         *([_difference(s.differences.get("auroc"))] if paired else []),
         *(_share(name, s.shares.get(name)) for name in shares)]
        for s in task.compared
    ]  # fmt: skip
    heads = {"open": "Open copies", "bounded": "Bounded copies", "median_error": "Median error"}
    base = str((task.baseline or {}).get("name", "baseline"))
    header = ["Model", *(NAMES[n] for n in names), *([f"AUROC less that of {base}"] if paired else []),
              *(heads[n] for n in shares)]  # fmt: skip
    return [table(header, rows, words=(0,)), *_differences(task, base)]


def _legend(compared: list[Score]) -> list[Any]:
    """What the columns mean, of those that are there."""
    there = {name for score in compared for name in (*score.measures, *score.shares)}
    said = {
        "auprc": "AUPRC: that of ranking nothing is the share with the outcome.",
        "calibration_slope": "Slope: of a logistic regression on the predicted log-odds; 1 is right, below it risks "
        "are too extreme.",
        "calibration_in_the_large": "In the large: positive where outcomes are more frequent than predicted, in "
        "log-odds.",
        "ece": "ECE: mean distance of predicted and observed share over bins; noise alone raises it.",
        "open": "Open: copies that ended without an answer.",
        "bounded": "Bounded: copies cut off by the number of tokens.",
        "median_error": "Median error: standard error of a probability over its simulated futures.",
    }
    parts = [text for name, text in said.items() if name in there]
    if not parts:
        return []
    return [paragraph(" ".join(["Below each number stands its 95 % interval.", *parts]), "muted")]


def _differences(task: downstream.Outcome, base: str) -> list[Any]:
    """All paired differences of the model of least loss in a sentence."""
    best = of_role(task.compared, LEAST_LOSS)
    if not best or not best[0].differences:
        return []
    texts = []
    for name, m in best[0].differences.items():
        value, low, high = (signed(x, PLACES.get(name, 3)) for x in m[:3])
        bounds = [f"{low} to {high}"] if known(m.low) and known(m.high) else []
        said = bounds + ([f"p {_p(m.p_value)}"] if known(m.p_value) else [])
        texts.append(f"{NAMES[name]} {value}" + (f" ({', '.join(said)})" if said else ""))
    return [paragraph(f"The model of least loss less {base}, on the same patients: {'; '.join(texts)}.")]


def _measure(name: str, found: Measure | None, sign: bool = False) -> Raw | str:
    if found is None:
        return DASH
    places = PLACES.get(name, 3)

    def text(value: float) -> str:
        return signed(value, places) if sign else decimal(value, places)

    interval = span((found.low, found.high), text)
    return join(text(found.value), Raw("<small>"), interval, Raw("</small>")) if interval != DASH else text(found.value)


def _difference(found: Measure | None) -> Raw | str:
    """With its p-value; below the interval."""
    shown = _measure("difference", found, sign=True)
    if found is None or not known(found.p_value):
        return shown
    return join(shown, Raw("<small>"), f"p {_p(found.p_value)}", Raw("</small>"))


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {significant(value, 2)}"


def _share(name: str, value: float | None) -> str:
    return significant(value, 2) if name == "median_error" else percent(value, 1)


def _subgroups(compared: list[Score]) -> list[Any]:
    """Subgroups of the model of least loss; those that are suppressed are said so, without a count."""
    groups = [g for s in of_role(compared, LEAST_LOSS) for g in s.groups]
    if not groups:
        return []
    names = scores.named(scores.PROBABILITIES, groups)
    rows = []
    for k, g in enumerate(groups):
        first = k == 0 or groups[k - 1].attribute != g.attribute
        who = [title(g.attribute).capitalize() if first else "", title(g.name) if g.attribute != "age" else g.name]
        numbers = [whole(g.counts.get(key)) for key in ("patients", "n", "positives")]
        if g.suppressed:
            rows.append([*who, *[DASH] * (3 + len(names)), g.suppressed])
        else:
            rows.append([*who, *numbers, *(_measure(name, g.measures.get(name)) for name in names), ""])
    header = ["", "Group", "Patients", "Stays", "With outcome", *(NAMES[n] for n in names), "Note"]
    body = table(header, rows, words=(0, 1), long=(len(header) - 1,))
    hidden = sum(bool(g.suppressed) for g in groups)
    note = f", {hidden} of {len(groups)} suppressed" if hidden else ""
    return [Raw(f"<details><summary>Subgroups of the model of least loss{note}</summary>{body}</details>")]


def _models(task: downstream.Outcome) -> list[Any]:
    """Every model of the task."""
    rows = [
        [m["size"] or m["cell"], count(m["N"]), power(m["C"]), whole(m["seed"]), decimal(m["loss"]),
         decimal(m["auroc"]), span((m["low"], m["high"])), decimal(m.get("auroc_at_most")),
         decimal(m.get("task_loss")), whole(m["n"]), whole(m["positives"]), percent(m.get("undetermined"), 1)]
        for m in task.rows
    ]  # fmt: skip
    if task.baseline:
        base = task.baseline
        rows.append([base.get("name", "baseline"), DASH, DASH, DASH, DASH, decimal(base["auroc"]),
                     span((base["low"], base["high"])), DASH, DASH, whole(base["n"]), whole(base["positives"]),
                     DASH])  # fmt: skip
    header = ["Model", "N", "C", "Seed", "Loss", "AUROC", "Interval", "At most", "Task loss", "Stays",
              "With outcome", "Undetermined"]  # fmt: skip
    parts: list[Any] = [Raw("<details><summary>All models</summary>" + table(header, rows, words=(0,)) + "</details>")]
    if task.missing:
        parts.append(paragraph(f"{plural(len(task.missing), 'run')} without a score.", "muted"))
    if task.unknown:
        parts.append(
            paragraph(f"{plural(len(task.unknown), 'score')} belong to no finished run and are left out.", "muted")
        )
    return parts


def _valued(task: scores.Valued) -> list[Any]:
    """A task whose outcome is a number or a class."""
    names = scores.named((*scores.NUMBERS, *scores.CLASSES), task.scores)
    shares = [name for name in ("open", "bounded") if any(name in s.shares for s in task.scores)]
    rows = [
        [s.name, *(_measure(n, s.measures.get(n)) for n in names), *(_share(n, s.shares.get(n)) for n in shares)]
        for s in task.scores
    ]
    unit = " (days)" if task.kind == "days" else ""
    heads = [NAMES[n] + (unit if n in ("mae", "rmse") else "") for n in names]
    header = ["Model", *heads, *(f"{n.capitalize()} copies" for n in shares)]
    kind = KINDS.get(task.kind, task.kind)
    text = f"The outcome is {kind}. {plural(task.models, 'model')} scored."
    return [
        _heading(task.task),
        *([paragraph(task.text)] if task.text else []),
        table(header, rows, words=(0,)),
        paragraph(text, "muted"),
    ]
