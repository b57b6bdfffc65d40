"""A ladder of recipes: what each change is worth in compute, in the scatter of seeds and at the bedside."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ehr_scaling.analysis.compare import comparable, comparison
from ehr_scaling.analysis.compare.comparison import Comparison
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes import downstream
from ehr_scaling.analysis.plain import plain
from ehr_scaling.analysis.tables import readers
from ehr_scaling.analysis.tables.cells import places
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.wording import decimal, significant, span

UNITS = ("event", "day")


class Rung(NamedTuple):
    """One recipe. folder: work directory of its study. against: name of the rung that it changes; "" for the first."""

    name: str
    folder: Path
    against: str


class Spread(NamedTuple):
    """AUROC of a task over the models of one budget, FLOPs: mean, standard deviation and number of models."""

    task: str
    budget: float
    mean: float
    deviation: float
    models: int


@dataclass(frozen=True)
class Worth:
    """What a rung is worth. by_unit: {unit: comparison with the rung it changes}; none for the first.

    scatter: standard deviation of log loss between the seeds of a cell, over all cells, and its interval. auroc: one
    for each task and budget, these ascending.
    """

    name: str
    against: str
    by_unit: dict[str, Comparison]
    scatter: float
    scatter_interval: tuple[float, float]
    auroc: list[Spread]


def measure(rungs: Sequence[Rung], options: Options) -> list[Worth]:
    """Compares each rung's finished runs with those of the rung it changes, an event and a patient-day.

    Raises: UserError as `comparable.read` and `downstream.read` do.
    """
    folders = {rung.name: rung.folder for rung in rungs}
    return [_worth(rung, folders.get(rung.against), options) for rung in rungs]


def _worth(rung: Rung, below: Path | None, options: Options) -> Worth:
    runs = readers.read(rung.folder / "runs")
    pair = (rung.folder / "runs", below / "runs") if below else None
    by_unit = {u: comparison.compare(comparable.read(pair, u), options) for u in UNITS} if pair else {}
    return Worth(rung.name, rung.against, by_unit, *scatter(runs, options.level), _auroc(rung, runs, options))


def scatter(runs: RunTable, level: float) -> tuple[float, tuple[float, float]]:
    """Standard deviation of log loss between seeds of a cell, pooled, and its χ² interval; NaN without seeds."""
    first, place = places(runs)
    log = np.log(runs.loss)
    left = log - (np.bincount(place, log) / np.bincount(place))[place]
    freedom = len(runs) - len(first)
    if not freedom:
        return np.nan, (np.nan, np.nan)
    squares = float(left @ left)
    high, low = stats.chi2.ppf([(1 - level) / 2, (1 + level) / 2], freedom)
    return float(np.sqrt(squares / freedom)), (float(np.sqrt(squares / low)), float(np.sqrt(squares / high)))


def _auroc(rung: Rung, runs: RunTable, options: Options) -> list[Spread]:
    folder = rung.folder / "outcomes"
    if not folder.is_dir():
        return []
    budget_of = dict(zip(runs.cell.tolist(), runs.budgets[runs.group].tolist(), strict=True))
    spreads = []
    for outcome in downstream.read(folder, runs, options, runs.cell):
        for budget in runs.budgets.tolist():
            values = [row["auroc"] for row in outcome.rows if budget_of.get(row["cell"]) == budget]
            if values:
                deviation = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
                spreads.append(Spread(outcome.task, budget, float(np.mean(values)), deviation, len(values)))
    return spreads


def to_json(ladder: Sequence[Worth]) -> list[dict[str, Any]]:
    """[{name, against, scatter, scatter_interval, auroc: [{task, budget, mean, deviation, models}], units: {unit: as
    `comparison.to_json`}}]."""
    rows = []
    for worth in ladder:
        units = {unit: comparison.to_json(compared) for unit, compared in worth.by_unit.items()}
        row = {name: getattr(worth, name) for name in ("name", "against", "scatter", "scatter_interval")}
        rows.append(plain(row | {"auroc": [spread._asdict() for spread in worth.auroc], "units": units}))
    return rows


HEADER = ("recipe", "against", "loss, %", "compute, by event", "by patient-day", "seeds, %", "AUROC")


def table(ladder: Sequence[Worth]) -> list[tuple[str, ...]]:
    """HEADER and a row a rung: losses and factors of compute with intervals, below 1 where the rung needs less; and
    AUROC of the largest budget's models."""
    rows: list[tuple[str, ...]] = [HEADER]
    for worth in ladder:
        event = worth.by_unit.get("event")
        loss = _within(event.paired.percent, event.paired.interval, 1) if event else ""
        factors = [_within(c.multiplier.value, c.multiplier.interval, 2) for c in worth.by_unit.values()]
        top = {spread.task: spread for spread in worth.auroc}.values()  # the last of each
        aurocs = "; ".join(f"{s.mean:.3f} ± {s.deviation:.3f} ({s.models})" for s in top)
        seeds = significant(100 * worth.scatter)
        rows.append((worth.name, worth.against, loss, *(factors or ("", "")), seeds, aurocs))
    return rows


def _within(value: float, bounds: tuple[float, float], digits: int) -> str:
    return f"{decimal(value, digits)} [{span(bounds, lambda x: decimal(x, digits))}]"
