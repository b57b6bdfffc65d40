"""What is known of a directory's runs before any of their results is read: the cells of the grid beside it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling.analysis.tables.readers import METRICS, newest_metrics
from ehr_scaling.analysis.tables.run_table import RunTable, from_rows
from ehr_scaling.artifacts import read_lines
from ehr_scaling.errors import UserError

MANIFEST = Path("grid") / "manifest.jsonl"  # beside the directory of runs; a cell a line
# Where the plan calls a column otherwise than the metrics of the run, or cannot know it
PLANNED = METRICS | {"cell": "id", "D": "tokens", "real_tokens": "", "passes": "", "loss": "", "loss_se": ""}


def read(runs: Path) -> RunTable | None:
    """The finished runs of a directory, by the grid beside it; all losses are NaN.

    No file of a run is opened: a run counts as finished where its last planned step has left one.
    Returns: None where no grid lies beside the directory, or not of all its runs.
    Raises: UserError for a damaged manifest.
    """
    manifest = runs.parent / MANIFEST
    if not manifest.is_file():
        return None
    cells = _cells(manifest)
    rows: list[dict[str, Any]] = []
    for folder in sorted(p for p in runs.iterdir() if p.is_dir() and not p.name.startswith(".")):
        try:
            newest = newest_metrics(folder)
        except UserError:  # damaged: whoever reads the losses tells
            continue
        if newest is None:
            continue
        if (cell := cells.get(folder.name)) is None:
            return None
        if newest.parents[1].name == str(cell["steps"]):
            row = {ours: cell.get(theirs) for ours, theirs in PLANNED.items()}
            rows.append({**row, "run": folder.name, "cell": folder.name, "loss": 1.0})  # a table asks for a number
    if not rows:
        return None
    planned = from_rows(rows, source=str(manifest))
    return replace(planned, loss=np.full(len(planned), np.nan))


def _cells(manifest: Path) -> dict[str, dict[str, Any]]:
    cells = read_lines(manifest, f"delete {manifest.parent} and run launch.sweep again")
    return {cell["id"]: {**cell, "steps": int(cell["steps"])} for cell in cells}
