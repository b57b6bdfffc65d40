"""What the model of least loss answers to each sheet of questions: codes × horizons, as launch.ask leaves them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.artifacts import RECORD, read_json
from ehr_scaling.errors import UserError

FILE = "sheet.json"  # what makes a folder of outcomes that of a sheet, and not of a task
OCCURRENCES = ("all", "first", "again")  # all stays; those without the code before the prediction; those with it
NUMBERS = ("stays", "patients", "with_outcome", "auroc", "error", "low", "high")


@dataclass(frozen=True)
class Sheet:
    """A sheet, and the answers of the model of least loss among those that have answered.

    Where only models that are in no fit have answered, as the best of all may be one of a learning rate that lost, one
    of them is told: its loss is NaN, and `text` says so, as it says how many such models are passed over.

    scores: a dict for each code, horizon and occurrence, in this order: code, horizon_days, occurrence, NUMBERS (NaN
      where unknown), and suppressed, why nothing is told, or "". models: that have answered.
    """

    sheet: str
    text: str
    cell: str
    size: str
    loss: float
    models: int
    copies: float
    bounded: float
    codes: list[str]
    horizons: list[float]
    scores: list[dict[str, Any]]

    def of(self, occurrence: str, name: str) -> np.ndarray:
        """One number of every question, float64 (codes, horizons): NaN where it is suppressed."""
        values = [row[name] for row in self.scores if row["occurrence"] == occurrence]
        return np.array(values, np.float64).reshape(len(self.codes), len(self.horizons))


def is_sheet(folder: Path) -> bool:
    return (folder / FILE).is_file()


def read(folder: Path, table: RunTable) -> list[Sheet]:
    """Sheets in the directory of tasks that a model has answered, by name; of those of the table the one of least loss.

    Raises: UserError naming the file where answers are damaged, or not those to the questions of the sheet.
    """
    sheets = []
    for path in sorted(p for p in folder.iterdir() if not p.name.startswith(".") and is_sheet(p)):
        order = np.argsort(table.loss, kind="stable")
        answered = [i for i in order if (path / f"{table.cell[i]}.json").is_file()]
        others = _in_no_fit(path, table)
        if answered:
            cell, size, loss = (getattr(table, name)[answered[0]] for name in ("cell", "size", "loss"))
            note = f"Models that are in no fit have answered too, and are passed over: {len(others)}." if others else ""
            sheets.append(_read_sheet(path, str(cell), str(size), float(loss), len(answered), note))
        elif others:
            note = f"The answers are those of {others[0]}, which is in no fit, as models of a learning rate that lost."
            sheets.append(_read_sheet(path, others[0], others[0], np.nan, len(others), note))
    return sheets


def _in_no_fit(folder: Path, table: RunTable) -> list[str]:
    """Models that have answered and are not in the table, by name."""
    no_cells = {FILE, RECORD, *(f"{cell}.json" for cell in table.cell)}
    return [path.stem for path in sorted(folder.glob("[!.]*.json")) if path.name not in no_cells]


def _read_sheet(folder: Path, cell: str, size: str, loss: float, models: int, note: str) -> Sheet:
    about = read_json(folder / FILE)
    path = folder / f"{cell}.json"
    answers = read_json(path)
    try:
        codes, horizons = [str(code["code"]) for code in about["codes"]], [float(days) for days in about["horizons"]]
        rows = [
            _row(score, occurrence)
            for score in answers["scores"]
            for occurrence in OCCURRENCES
        ]  # fmt: skip
        questions = [(code, days) for code in codes for days in horizons]
        if [(row["code"], row["horizon_days"]) for row in rows[:: len(OCCURRENCES)]] != questions:
            raise ValueError
        facts = {name: float(answers[name]) for name in ("copies", "bounded")}
    except (LookupError, TypeError, ValueError):
        raise UserError(f"{path} does not answer {folder / FILE}: delete it and run launch.ask again") from None
    text = " ".join(filter(None, (str(about.get("description", "")), note)))
    return Sheet(
        folder.name, text, cell, size, loss, models, **facts, codes=codes, horizons=horizons, scores=rows
    )  # fmt: skip


def _row(score: dict[str, Any], occurrence: str) -> dict[str, Any]:
    part = score[occurrence]
    numbers = {name: np.nan if part.get(name) is None else float(part[name]) for name in NUMBERS}
    about = {"code": str(score["code"]), "horizon_days": float(score["horizon_days"]), "occurrence": occurrence}
    return {**about, **numbers, "suppressed": str(part.get("suppressed", ""))}


def to_json(sheets: list[Sheet]) -> list[dict[str, Any]]:
    """Of laws.json."""
    keys = ("sheet", "text", "cell", "size", "loss", "models", "copies", "bounded", "codes", "horizons")
    return [
        {
            **{key: getattr(sheet, key) for key in keys},
            "scores": [{**row, "suppressed": row["suppressed"] or None} for row in sheet.scores],
        }
        for sheet in sheets
    ]
