"""The long parts of the report: outcomes, every cell, provenance."""

from html import escape
from typing import Any

import numpy as np

from ehr_scaling.analysis import downstream, quality
from ehr_scaling.analysis.html import Raw, bullets, chip, figure, join, paragraph, section, table
from ehr_scaling.analysis.results import Results
from ehr_scaling.analysis.selection import kind_names
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
)


def outcomes(r: Results, svgs: dict[str, str]) -> Raw:
    if not r.outcomes:
        return section("outcomes", "Outcomes", paragraph("No outcome was scored for these runs."))
    parts: list[Any] = []
    for task in r.outcomes:
        parts.append(Raw(f"<h3>{title(task.task).capitalize()}</h3>"))
        if task.text:
            parts.append(paragraph(task.text))
        if task.task in svgs:
            caption = (
                "Each mark is one model, scored zero-shot in simulated timelines; bars are patient-bootstrap "
                "intervals. All models are scored on the same patients, so neighbouring bars move together."
            )
            parts.append(figure(svgs[task.task], caption, "AUROC against validation loss"))
        if np.isfinite(task.spearman):
            parts.append(
                paragraph(
                    f"Rank correlation of loss and AUROC over {len(task.rows)} models: {decimal(task.spearman, 2)} "
                    f"({span(task.spearman_interval, lambda v: decimal(v, 2))}); −1 would mean that lower loss "
                    "always ranks patients better."
                )
            )
        parts += _curve(task)
        rows = [
            [m["size"] or m["cell"], count(m["N"]), power(m["C"]), _whole(m["seed"]), decimal(m["loss"]),
             decimal(m["auroc"]), span((m["low"], m["high"])), decimal(m.get("auroc_at_most")),
             decimal(m.get("task_loss")), _whole(m["n"]), _whole(m["positives"]), percent(m.get("undetermined"), 1)]
            for m in task.rows
        ]  # fmt: skip
        if task.baseline:
            base = task.baseline
            rows.append([base.get("name", "baseline"), DASH, DASH, DASH, DASH, decimal(base["auroc"]),
                         span((base["low"], base["high"])), DASH, DASH, _whole(base["n"]), _whole(base["positives"]),
                         DASH])  # fmt: skip
        header = ["Model", "N", "C", "Seed", "Loss", "AUROC", "Interval", "At most", "Task loss", "Stays",
                  "With outcome", "Undetermined"]  # fmt: skip
        parts.append(Raw("<details><summary>All models</summary>" + table(header, rows, words=(0,)) + "</details>"))
        if task.missing:
            parts.append(paragraph(f"{plural(len(task.missing), 'run')} without a score.", "muted"))
        if task.unknown:
            parts.append(
                paragraph(f"{plural(len(task.unknown), 'score')} belong to no finished run and are left out.", "muted")
            )
    return section("outcomes", "Outcomes", *parts)


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


def cells(r: Results) -> Raw:
    t = r.all_runs
    left_out = {note.run: note for note in t.notes}
    doubts = quality.by_run(r.doubts)
    scores = {m["cell"]: m["auroc"] for task in r.outcomes[:1] for m in task.rows}
    name = f"AUROC {title(r.outcomes[0].task)}" if r.outcomes else ""
    kinds = kind_names(t)
    several = any(kinds)
    rows = []
    for i in np.lexsort((t.seed, t.N, t.C if not np.isfinite(t.budget).all() else t.budget)):
        se = f" ± {significant(t.loss_se[i], 2)}" if known(t.loss_se[i]) else ""
        note = left_out.get(str(t.run[i]))
        rows.append(
            [
                t.size[i] or DASH, *([kinds[i]] if several else []),
                count(t.N[i]), count(t.N_head[i]), count(t.D[i]), significant(t.passes[i]),
                power(t.C[i]), power(t.C_6nd[i]), _whole(t.seed[i]), decimal(t.loss[i]) + se,
                *([decimal(scores.get(str(t.cell[i])))] if scores else []),
                title(note.code) if note else _used(doubts.get(str(t.run[i]))),
                significant(t.lr[i]), count(t.batch[i]), count(t.unique_tokens[i]), t.run[i],
            ]
        )  # fmt: skip
    header = [
        "Size", *(["Kind"] if several else []),
        "N body", "N head", "D tokens", "Passes", "C counted", "6ND", "Seed", "Loss ± s.e.",
        *([name] if scores else []), "In the fits", "Peak LR", "Batch (tokens)", "Unique tokens", "Run",
    ]  # fmt: skip
    # Tables of thousands of runs would make the page unreadable; laws are in laws.json, rows in the user's own file.
    shown = rows[:2000]
    cut = paragraph(f"The first 2,000 of {len(rows):,} rows.", "muted") if len(rows) > len(shown) else ""
    unfinished = [n for n in t.notes if n.code == "unfinished"]
    listing = (
        join(
            paragraph(f"{plural(len(unfinished), 'cell')} not finished, and in no fit:"),
            bullets(f"{n.run}: {n.text}" for n in unfinished),
        )
        if unfinished
        else ""
    )
    body = table(header, shown, words=(0, *([1] if several else []), len(header) - 5, len(header) - 1))
    if len(rows) > 60:
        body = Raw(f"<details><summary>{plural(len(rows), 'run')}</summary>{body}</details>")
    legend = (
        "N: body parameters, without embedding and head. D: positions processed. Passes: targets seen over unique "
        "targets. C: forward and backward FLOPs of body, head and causal attention; 6ND beside it. s.e.: of the "
        "mean loss over held-out patients, the same patients for every run."
    )
    return section("cells", "All cells", body, cut, listing, paragraph(legend, "muted"))


def _used(doubts: str | None) -> str:
    return f"used; {title(doubts)}" if doubts else "used"


def _whole(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None and np.isfinite(value) else DASH


def provenance(facts: dict[str, Any]) -> Raw:
    """Dict of dicts, one table each; deeper ones as dotted names."""
    parts: list[Any] = []
    loose = {k: v for k, v in facts.items() if not isinstance(v, dict)}
    groups = ({"study": loose} if loose else {}) | {k: v for k, v in facts.items() if isinstance(v, dict)}
    for name, values in groups.items():
        parts.append(Raw(f"<details{' open' if len(groups) < 3 else ''}><summary>{name}</summary>"))
        parts.append(
            table(
                ["Setting", "Value"],
                [[k, Raw(f"<code>{_escaped(v)}</code>")] for k, v in _flat(values)],
                words=(0,),
                long=(1,),
            )
        )
        parts.append(Raw("</details>"))
    return section("provenance", "Data and provenance", *parts)


def _escaped(value: Any) -> str:
    return escape(str(value), quote=False)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return rows
