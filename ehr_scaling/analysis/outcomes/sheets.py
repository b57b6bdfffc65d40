"""What the model of least loss answers to each sheet of questions: codes × horizons, as launch.ask leaves them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.artifacts import read_json
from ehr_scaling.errors import UserError

FILE = "sheet.json"  # what makes a folder of outcomes that of a sheet, and not of a task
OCCURRENCES = ("all", "first", "again")  # all stays; those without the code before the prediction; those with it
NUMBERS = ("stays", "patients", "with_outcome", "auroc", "error", "low", "high")


@dataclass(frozen=True)
class Sheet:
    """A sheet, and the answers of the model of least loss among those that have answered.

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
    """Sheets in the directory of tasks that a model of the table has answered, by name.

    Raises: UserError naming the file where answers are damaged, or not those to the questions of the sheet.
    """
    sheets = []
    for path in sorted(p for p in folder.iterdir() if not p.name.startswith(".") and is_sheet(p)):
        order = np.argsort(table.loss, kind="stable")
        answered = [i for i in order if (path / f"{table.cell[i]}.json").is_file()]
        if answered:
            sheets.append(_read_sheet(path, table, answered[0], len(answered)))
    return sheets


def _read_sheet(folder: Path, table: RunTable, best: np.intp, models: int) -> Sheet:
    about, cell = read_json(folder / FILE), str(table.cell[best])
    path = folder / f"{cell}.json"
    answers = read_json(path)
    try:
        codes, horizons = [str(code["code"]) for code in about["codes"]], [float(days) for days in about["horizons"]]
        rows = [
            _row(score, occurrence)
            for score in answers["scores"]
            for occurrence in OCCURRENCES
        ]  # fmt: skip
        asked = [(code, days) for code in codes for days in horizons]
        if [(row["code"], row["horizon_days"]) for row in rows[:: len(OCCURRENCES)]] != asked:
            raise ValueError
        facts = {name: float(answers[name]) for name in ("copies", "bounded")}
    except (LookupError, TypeError, ValueError):
        raise UserError(f"{path} does not answer {folder / FILE}: delete it and run launch.ask again") from None
    loss = float(table.loss[best])
    text = str(about.get("description", ""))
    return Sheet(
        folder.name, text, cell, str(table.size[best]), loss, models, **facts, codes=codes, horizons=horizons,
        scores=rows,
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
