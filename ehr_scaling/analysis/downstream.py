"""Does a lower loss mean a better prediction? Outcome AUROC of each model against its validation loss."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ehr_scaling.analysis.run_table import RunTable
from ehr_scaling.analysis.uncertainty import Options, interval
from ehr_scaling.artifacts import read_json
from ehr_scaling.errors import UserError

LEAST_MODELS = 5


@dataclass(frozen=True)
class Outcome:
    """One task. rows: dicts {cell, size, N, seed, loss, loss_se, auroc, low, high, n, positives, undetermined}.

    baseline: {name, auroc, low, high, n, positives} or None. spearman: of loss with AUROC over the models, negative
    when lower loss ranks better; its interval from resampling models. missing: cells of the table without a score.
    """

    task: str
    text: str
    rows: list[dict[str, Any]]
    baseline: dict[str, Any] | None
    spearman: float
    spearman_interval: tuple[float, float]
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def read(folder: Path, table: RunTable, options: Options, finished: NDArray[np.str_]) -> list[Outcome]:
    """Reads `<folder>/<task>/<cell>.json`, `baseline.json` and `task.json`, joined to the runs by cell.

    finished: cells of all runs, also of those that are in no fit and whose scores are passed over.
    Raises: UserError naming the file when a score is damaged or incomplete.
    """
    if not folder.is_dir():
        raise UserError(f"--outcomes={folder}: no such directory; run launch.evaluate first or leave the flag out")
    tasks = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [outcome for task in tasks if (outcome := _read_task(task, table, options, finished))]


def _read_task(folder: Path, table: RunTable, options: Options, finished: NDArray[np.str_]) -> Outcome | None:
    about = folder / "task.json"
    described = read_json(about) if about.is_file() else {}
    text = str(described.get("description") or described.get("text") or "") if isinstance(described, dict) else ""
    baseline = folder / "baseline.json"
    base = _score(baseline) if baseline.is_file() else None
    at = {str(cell): i for i, cell in enumerate(table.cell)}
    rows, unknown = [], []
    for path in sorted(folder.glob("*.json")):
        if path.stem in ("baseline", "task", "artifact") or path.name.startswith("."):
            continue
        score = _score(path)
        i = at.get(path.stem)
        if i is None:
            unknown += [] if (finished == path.stem).any() else [path.stem]
            continue
        run = {name: _plain(getattr(table, name)[i]) for name in ("N", "D", "C", "seed", "loss", "loss_se")}
        rows.append({"cell": path.stem, "size": str(table.size[i]), **run, **score})
    if not rows and base is None:
        return None
    rows.sort(key=lambda r: r["loss"])
    seen = {r["cell"] for r in rows}
    rho, bounds = spearman([r["loss"] for r in rows], [r["auroc"] for r in rows], options)
    missing = [cell for cell in at if cell not in seen]
    return Outcome(folder.name, text, rows, base, rho, bounds, missing, unknown)


def _score(path: Path) -> dict[str, Any]:
    record = read_json(path)
    if not isinstance(record, dict):
        raise UserError(f"{path} is damaged: delete it and run launch.evaluate again")
    score: dict[str, Any] = {}
    for name in ("auroc", "low", "high", "n", "positives"):
        value = record.get(name)
        if name == "auroc" and (not isinstance(value, int | float) or not 0 <= value <= 1):
            raise UserError(f"{path}: auroc is not a number from 0 to 1; delete the file and run launch.evaluate again")
        score[name] = float(value) if isinstance(value, int | float) and np.isfinite(value) else None
    for name in ("undetermined", "name", "method"):
        if record.get(name) is not None:
            score[name] = record[name]
    return score


def spearman(loss: list[float], auroc: list[float], options: Options) -> tuple[float, tuple[float, float]]:
    """Rank correlation over models and its interval from resampling models; NaN with fewer than five models."""
    x, y = np.array(loss), np.array(auroc)
    if len(x) < LEAST_MODELS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan, (np.nan, np.nan)
    rng = np.random.default_rng([options.seed, 4])
    picks = rng.integers(0, len(x), (options.draws, len(x)))
    rank_x, rank_y = stats.rankdata(x[picks], axis=1), stats.rankdata(y[picks], axis=1)
    rank_x -= rank_x.mean(1, keepdims=True)
    rank_y -= rank_y.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = (rank_x * rank_y).sum(1) / np.sqrt((rank_x**2).sum(1) * (rank_y**2).sum(1))
    return float(stats.spearmanr(x, y).statistic), interval(draws, options.level)


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
