"""`grid/manifest.jsonl`: the cells of a study, one a line, fixed before any of them runs."""

import functools
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ehr_scaling import artifacts, storage
from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import SETTINGS_BEFORE, Cell, Engine, of_json

MANIFEST = "manifest.jsonl"


def build(
    config: ConfigDict,
    points: list[dict[str, Any]],
    packed: Mapping[float, dict[str, Any]],
    about: dict[str, Any],
    out: Path,
    initial: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Solve the grid and write it to the folder `out`; see `artifacts.build` for what is returned and raised.

    Args: initial, as of `cells.grid`.

    How cells are trained (kernels, mesh, checkpoints) is no input: it may change between one call and the next, and is
    then that of the last.
    """

    from ehr_scaling.grid import cells  # needs JAX, which reading a manifest does not

    @functools.cache
    def solve() -> tuple[list[Cell], list[str]]:
        return cells.grid(config, points, packed, about, initial)

    def make(folder: Path) -> dict[str, Any]:
        solved, refused = solve()
        write(folder / MANIFEST, solved)
        return {"cells": len(solved), "infeasible": refused}

    # Not where weights came from either: what they are is among the inputs
    how = (*(f.name for f in fields(Engine)), "together", "explored", "init_from")
    inputs = {
        "packed": {f"{fraction:g}": record["fingerprint"] for fraction, record in packed.items()},
        "points": points,
        "model": {k: v for k, v in config.model.to_dict().items() if k not in how},
        "training": {k: v for k, v in config.training.to_dict().items() if k not in how},
        "validation": config.validation.to_dict(),
        **({"initial": dict(initial)} if initial else {}),
    }
    record = artifacts.build(out, inputs, make, changing=(MANIFEST,), before={"model": SETTINGS_BEFORE})
    (solved, _), before = solve(), read(out)
    if {cell.id for cell in solved} != {cell.id for cell in before}:
        raise _another(out)
    if solved != before:
        write(out / MANIFEST, solved)
        storage.store(out)
    return record


def write(path: Path, planned: list[Cell]) -> None:
    artifacts.write_lines(path, [cell.to_json() for cell in planned])


def read(grid: Path) -> list[Cell]:
    """The cells of a manifest. Raises UserError, with the line's number, when it is damaged."""
    storage.fetch(grid)
    path = grid / MANIFEST
    if not path.exists():
        raise UserError(f"{path} is missing: run launch.study, or launch.sweep, to plan the grid first")
    rows = artifacts.read_lines(path, f"delete {grid} and run again")
    try:
        return [of_json(row) for row in rows]
    except (KeyError, TypeError):  # of fields that it has or lacks
        raise _another(grid) from None


def _another(grid: Path) -> UserError:
    return UserError(f"{grid} was planned by another version of this program: take another --workdir, or delete it")
