"""The long parts of the report: every cell, provenance."""

from typing import Any

import numpy as np

from ehr_scaling.analysis.joint import quality
from ehr_scaling.analysis.report.html import Raw, Table, render
from ehr_scaling.analysis.report.results import Results
from ehr_scaling.analysis.report.sections.limits import left_out
from ehr_scaling.analysis.tables.selection import kind_names
from ehr_scaling.analysis.wording import DASH, count, decimal, integer, known, power, significant, title

# Tables of thousands of runs would make the page unreadable; laws are in laws.json, rows in the user's own file.
MOST_ROWS = 2000


def cells(r: Results) -> Raw:
    """The section of every run that was read, with what became of it."""
    t = r.all_runs
    notes = {note.run: note for note in t.notes}
    doubts = quality.by_run(r.doubts)
    scores = {m["cell"]: m["auroc"] for task in r.outcomes[:1] for m in task.rows}
    name = f"AUROC {title(r.outcomes[0].task)}" if r.outcomes else ""
    kinds = kind_names(t)
    several = any(kinds)
    rows = []
    for i in np.lexsort((t.seed, t.N, t.C if not np.isfinite(t.budget).all() else t.budget))[:MOST_ROWS]:
        se = f" ± {significant(t.loss_se[i], 2)}" if known(t.loss_se[i]) else ""
        note = notes.get(str(t.run[i]))
        rows.append(
            [
                t.size[i] or DASH, *([kinds[i]] if several else []),
                count(t.N[i]), count(t.N_head[i]), count(t.D[i]), significant(t.passes[i]),
                power(t.C[i]), power(t.C_6nd[i]), integer(t.seed[i]), decimal(t.loss[i]) + se,
                *([decimal(scores.get(str(t.cell[i])))] if scores else []),
                left_out(note.code, t) if note else _used(doubts.get(str(t.run[i]))),
                significant(t.lr[i]), count(t.batch[i]), count(t.unique_tokens[i]), t.run[i],
            ]
        )  # fmt: skip
    header = [
        "Size", *(["Kind"] if several else []),
        "N body", "N head", "D tokens", "Passes", "C counted", "6ND", "Seed", "Loss ± s.e.",
        *([name] if scores else []), "In the fits", "Peak LR", "Batch (tokens)", "Unique tokens", "Run",
    ]  # fmt: skip
    told = [k for k, column in enumerate(zip(*rows, strict=True)) if set(column) != {DASH}]
    words = {"Size", "Kind", "In the fits", "Run"}
    table = Table([header[k] for k in told], [[row[k] for k in told] for row in rows])
    return render(
        "cells.html",
        table=table._replace(words=[k for k, name in enumerate(table.header) if name in words]),
        runs=len(t),
        unfinished=[n for n in t.notes if n.code in ("unfinished", "diverged", "damaged")],
        of_patients=t.of_patients,
        errors=bool(np.isfinite(t.loss_se).any()),
    )


def _used(doubts: str | None) -> str:
    return f"used; {title(doubts)}" if doubts else "used"


def learning_curves(svg: str | None) -> Raw:
    """The section of `curve_plots.learning`. Empty where the runs kept no curves."""
    return render("curves.html", svg=Raw(svg)) if svg else Raw("")


def provenance(facts: dict[str, Any]) -> Raw:
    """The section of facts: dict of dicts, one table each; deeper ones as dotted names."""
    loose = {k: v for k, v in facts.items() if not isinstance(v, dict)}
    groups = ({"study": loose} if loose else {}) | {k: v for k, v in facts.items() if isinstance(v, dict)}
    tables = {
        name: Table(["Setting", "Value"], [[k, Raw("<code>{}</code>").format(v)] for k, v in _flat(values)], (0,), (1,))
        for name, values in groups.items()
    }
    return render("provenance.html", tables=tables)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return rows
