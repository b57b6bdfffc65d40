"""`grid/manifest.jsonl`: the cells of a study, one a line, fixed before any of them runs."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ehr_scaling import artifacts
from ehr_scaling.errors import UserError
from ehr_scaling.grid import cells

MANIFEST = "manifest.jsonl"


def build(
    config: ConfigDict, points: list[dict[str, Any]], packed: dict[str, Any], about: dict[str, Any], out: Path
) -> dict[str, Any]:
    """Solve the grid and write it to the folder `out`; see `artifacts.build` for what is returned and raised."""

    def make(folder: Path) -> dict[str, Any]:
        solved, refused = cells.grid(config, points, packed, about)
        (folder / MANIFEST).write_text("".join(json.dumps(cell) + "\n" for cell in solved), encoding="utf-8")
        return {"cells": len(solved), "infeasible": refused}

    inputs = {
        "packed": packed["fingerprint"],
        "points": points,
        "model": config.model.to_dict(),
        "training": {k: v for k, v in config.training.to_dict().items() if k != "checkpoint_seconds"},
        "validation": config.validation.to_dict(),
    }
    return artifacts.build(out, inputs, make)


def read(grid: Path) -> list[cells.Cell]:
    """The cells of a manifest. Raises UserError, with the line's number, when it is damaged."""
    path = grid / MANIFEST
    if not path.exists():
        raise UserError(f"{path} is missing: run launch.study, or launch.sweep, to plan the grid first")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            raise UserError(f"{path} line {number} is not JSON: delete {grid} and run again") from None
    return found
