"""The long parts of the report: every cell, provenance."""

from html import escape
from typing import Any

import numpy as np

from ehr_scaling.analysis.joint import quality
from ehr_scaling.analysis.report.html import Raw, bullets, join, paragraph, section, table
from ehr_scaling.analysis.report.results import Results
from ehr_scaling.analysis.tables.selection import kind_names
from ehr_scaling.analysis.wording import (
    DASH,
    count,
    decimal,
    known,
    plural,
    power,
    significant,
    title,
    whole,
)


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
                power(t.C[i]), power(t.C_6nd[i]), whole(t.seed[i]), decimal(t.loss[i]) + se,
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
