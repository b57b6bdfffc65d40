"""Which model of a study is asked, and whether it reads tokens as it was taught."""

from pathlib import Path

from ehr_scaling import artifacts, storage
from ehr_scaling.errors import UserError
from ehr_scaling.grid import manifest
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import RESULTS, Layout
from ehr_scaling.training import checkpoint


def finished(workdir: Path) -> list[tuple[float, Cell]]:
    """(validation loss, cell) of the cells of a study that are finished, but for trunks."""
    there = Layout(workdir)
    storage.fetch(there.runs, RESULTS)
    results = [(checkpoint.result(there.run(cell.id)), cell) for cell in _planned(workdir)]
    return [(result["validation_loss"], cell) for result, cell in results if result is not None]


def _planned(workdir: Path) -> list[Cell]:
    return [cell for cell in manifest.read(Layout(workdir).grid) if cell.phase == "cooled"]


def best_cell(workdir: Path, name: str | None) -> Cell:
    """The cell of a study to ask: the one of that id, or of the finished ones that with the least validation loss.

    Raises: UserError where there is no such cell, and where it, or any, is not finished.
    """
    there = Layout(workdir)
    if name is not None and name not in {cell.id for cell in _planned(workdir)}:
        raise UserError(f"--cell={name} is not in {there.grid / manifest.MANIFEST}: take an id from there")
    done = [(loss, cell) for loss, cell in finished(workdir) if name in (None, cell.id)]
    if not done:
        raise UserError(f"{there.runs} holds no finished run of what is asked for: train first (launch.sweep)")
    return min(done, key=lambda pair: pair[0])[1]


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
