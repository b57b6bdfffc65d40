"""Which model of a study is asked, and whether it reads tokens as it was taught."""

import sys
from pathlib import Path

from ehr_scaling import artifacts, storage
from ehr_scaling.errors import RunFailed, UserError
from ehr_scaling.grid import manifest
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import RESULTS, Layout
from ehr_scaling.training import checkpoint


def finished(workdir: Path) -> list[tuple[float, Cell]]:
    """(validation loss, cell) of the cells of a study that are finished, but for trunks.

    One whose result is damaged is left out, with a warning.
    """
    there, done = Layout(workdir), []
    storage.fetch(there.runs, RESULTS)
    for cell in _planned(workdir):
        try:
            result = checkpoint.result(there.run(cell.id), cell.steps)
        except RunFailed as e:
            print(f"warning: left out: {e}", file=sys.stderr, flush=True)
            continue
        if result is not None:
            done.append((result["validation_loss"], cell))
    return done


def _planned(workdir: Path) -> list[Cell]:
    return [cell for cell in manifest.read(Layout(workdir).grid) if cell.phase == "cooled"]


def best_cell(workdir: Path, name: str | None) -> Cell:
    """The cell of a study to ask: the one of that id, or of the finished ones that with the least validation loss.

    Raises: UserError where there is no such cell, and where it, or any, is not finished; RunFailed where its result is
      damaged.
    """
    there = Layout(workdir)
    if name is None:
        done = finished(workdir)
        best = min(done, key=lambda pair: pair[0])[1] if done else None
    elif named := [cell for cell in _planned(workdir) if cell.id == name]:
        folder = there.run(name)
        storage.fetch(folder, RESULTS)
        best = named[0] if checkpoint.result(folder, named[0].steps) is not None else None
    else:
        raise UserError(f"--cell={name} is not in {there.grid / manifest.MANIFEST}: take an id from there")
    if best is None:
        raise UserError(f"{there.runs} holds no finished run of what is asked for: train first (launch.sweep)")
    return best


def check_timelines(cell: Cell, workdir: Path, timelines_fingerprint: str, tokens: int, folder: Path) -> None:
    """A model reads token ids: they must mean what they meant when it was trained.

    Args: timelines_fingerprint and tokens, of the vocabulary by which something was asked; folder, where that lies.
    Raises: UserError when they are not those the cell was trained on.
    """
    packed = Layout(workdir).packed(cell.context) / artifacts.RECORD
    # Copied runs may come without their packed data; then the size of the vocabulary must do.
    source = artifacts.read_json(packed)["inputs"].get("timelines") if packed.exists() else timelines_fingerprint
    if cell.vocab != tokens or source != timelines_fingerprint:
        raise UserError(
            f"cell {cell.id} was trained on other timelines than {folder} was made from: take the --workdir it was "
            f"trained in, or delete {folder} and run again"
        )
