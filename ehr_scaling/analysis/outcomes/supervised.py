"""What labels add to zero-shot: heads that learnt the outcome, by how many labels they had, on the same stays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from ehr_scaling.analysis.draws import Floats, interval
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes import predictions
from ehr_scaling.analysis.outcomes.predictions import Predictions
from ehr_scaling.analysis.outcomes.scores import Measure
from ehr_scaling.artifacts import read_json
from ehr_scaling.errors import UserError

FOLDER, ALL, MEAN = "supervised", "all", "mean-"  # of `outcomes/<task>/`, and how names of means of models begin
ZERO_SHOT = "zero-shot"
METHODS = {"probe": "linear probe", "finetune": "fine-tuned"}  # by their folders, in the order of a table
TREES = "gradient-boosted trees"


class Point(NamedTuple):
    """Heads of one method that had so many labels: every draw of the labels, of every model.

    auroc: their mean, with an interval that holds who the patients are and what draws (with all labels: seeds) differ
    by, Student's t; none with a single one. deviation: of the means of draws, or of seeds where there is one draw, NaN
    of one. reached: AUROC of each head. lead: of the mean over that of the zero-shot risks of the same models.
    """

    method: str
    labels: int  # train stays
    every: bool  # whether these are all there are
    draws: int
    models: int
    auroc: Measure
    deviation: float
    reached: tuple[float, ...]
    lead: Measure


class Row(NamedTuple):
    """Of a table: what a method says with all labels, or without any.

    mean, deviation: AUROC of models, as of `Point`. auroc, auprc: of the mean of the models' risks. less_zero_shot,
    less_regression: of that AUROC; None of the one itself, and where the other is not known.
    """

    name: str
    models: int
    mean: Measure
    deviation: float
    auroc: Measure
    auprc: Measure | None
    less_zero_shot: Measure | None
    less_regression: Measure | None


@dataclass(frozen=True)
class Supervised:
    """Of one task. cells: the models, which differ in their seed alone. notes: what is left out, and of whom it is."""

    cells: tuple[str, ...]
    rows: list[Row]
    points: list[Point]
    notes: list[str] = field(default_factory=list)


class _Said(NamedTuple):
    """Predictions of all that is compared, and resampled AUROCs of them: [m] and [draws, m], by name the place."""

    place: dict[str, int]
    auroc: Floats
    draws: Floats


def read(task: Path, loss_of: Mapping[str, float], options: Options) -> Supervised | None:
    """What heads reached, of the models of least mean loss that have some; None without any.

    Models that are in no fit are told where no others have heads: the model of least loss of all, which heads are made
    of unless others are named, may be of a learning rate that lost. Heads of one method are of one recipe and seed, the
    newest there is, since a mean over several would tell of none.

    Args: task, the folder of a task; loss_of, validation loss of the models that are in the analysis, by cell.
    Raises: UserError naming the file where a score or its predictions are damaged, or do not agree.
    """
    folder = task / FOLDER
    every = _heads(folder)
    newest, ways = _of_newest_way(every)
    notes = _notes_of_ways(every, newest)
    groups = _groups(folder, newest, ways)
    if not groups:
        return None
    fitted = [group for group in groups if all(cell in loss_of for cell in group)]
    out = sorted({cell for group in groups for cell in group} - {cell for group in fitted for cell in group})
    if fitted:
        cells = min(fitted, key=lambda group: (-len(group), np.mean([loss_of[cell] for cell in group])))
        if out:
            notes.append(
                "heads are left out of models that are in no fit, and of those that differ from them in the seed "
                f"alone: {', '.join(out)}"
            )
    else:
        cells = min(groups, key=lambda group: (-len(group), group))
        unknown = ", ".join(cell for cell in cells if cell not in loss_of)
        notes.append(f"models in no fit, as those of a learning rate that lost, have these heads: {unknown}")
    heads = {key: score for key, score in newest.items() if key[2] in cells}
    paths = {f"{method}/{known}/{cell}": folder / method / known / f"{cell}.parquet" for method, known, cell in heads}
    zero_shot = {f"{ZERO_SHOT}/{cell}": task / f"{cell}.parquet" for cell in cells}
    beside = {"regression": task / "baseline.parquet", TREES: task / "baselines" / f"{TREES.replace(' ', '_')}.parquet"}
    there = {name: path for name, path in {**paths, **zero_shot, **beside}.items() if path.is_file()}
    said = _said(there, cells, options)
    for key, score in heads.items():
        name = "/".join(key)
        if name in said.place and abs(said.auroc[said.place[name]] - score["auroc"]) > predictions.AGREES:
            raise UserError(f"{paths[name]} and the score beside it differ: delete both and run launch.supervise again")
    points = _points(heads, said, options)
    rows = _rows(task, folder, cells, ways, said, points, options)
    return Supervised(tuple(cells), rows, points, notes)


def _heads(folder: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Scores by method, folder of labels, and cell."""
    heads = {}
    for method in METHODS:
        for path in sorted(folder.glob(f"{method}/*/*.json")):
            if path.name.startswith((".", MEAN)):
                continue
            score = read_json(path)
            numbers = ("auroc", "train_stays") if isinstance(score, dict) else ()
            if not numbers or not all(isinstance(score.get(name), int | float) for name in numbers):
                raise UserError(f"{path} is damaged: delete it and run launch.supervise again")
            if path.with_suffix(".parquet").is_file():
                heads[method, path.parent.name, path.stem] = score
    return heads


def _of_newest_way(
    every: Mapping[tuple[str, str, str], dict[str, Any]],
) -> tuple[dict[tuple[str, str, str], dict[str, Any]], dict[str, Any]]:
    """The heads of each method that share recipe, choices and seed with the newest one of it; and by method its way,
    None of an earlier version, which does not say."""
    newest: dict[str, dict[str, Any]] = {}
    for (method, _, _), score in every.items():
        if method not in newest or _time(score) > _time(newest[method]):
            newest[method] = score
    ways = {method: score.get("way") for method, score in newest.items()}
    return {key: score for key, score in every.items() if score.get("way") == ways[key[0]]}, ways


def _time(score: Mapping[str, Any]) -> float:
    time = score.get("fitted_at")
    return float(time) if isinstance(time, int | float) else 0.0


def _notes_of_ways(every: Mapping[tuple[str, str, str], Any], newest: Mapping[tuple[str, str, str], Any]) -> list[str]:
    notes = []
    for method, name in METHODS.items():
        there, told = (sum(key[0] == method for key in heads) for heads in (every, newest))
        if told < there:
            notes.append(
                f"{name}: {there - told} of {there} heads were fitted with another recipe, seed or version than the "
                "newest, and are passed over"
            )
    return notes


def _groups(folder: Path, newest: Mapping[tuple[str, str, str], Any], ways: Mapping[str, Any]) -> list[list[str]]:
    """Cells that means were taken of which still are of heads in `newest`, and those that stand alone."""
    groups = []
    for path in sorted(folder.glob(f"*/*/{MEAN}*.json")):
        method, of_mean = path.parent.parent.name, _json(path)
        if method not in ways or of_mean.get("way") != ways[method]:
            continue
        group = [str(cell) for cell in of_mean.get("cells", ())]
        there = {cell for of_method, _, cell in newest if of_method == method}
        groups += [group] if group and group not in groups and there.issuperset(group) else []
    taken = {cell for group in groups for cell in group}
    return [*groups, *([cell] for cell in sorted({cell for _, _, cell in newest} - taken))]


def _said(files: Mapping[str, Path], cells: Sequence[str], options: Options) -> _Said:
    """Of all files, and of the means over cells: `<method>/all` and `zero-shot`."""
    read, absent = predictions.read(list(files.values()))
    if read is None:
        raise UserError(f"{absent}: delete the folder {FOLDER} and run launch.supervise again")
    place = {name: k for k, name in enumerate(files)}
    means = {}
    for name in (*(f"{method}/{ALL}" for method in METHODS), ZERO_SHOT):
        at = [place[f"{name}/{cell}"] for cell in cells if f"{name}/{cell}" in place]
        if len(at) == len(cells):
            means[name] = read.probability[at].mean(0)
    every = Predictions(read.labels, read.patients, np.vstack([read.probability, *means.values()]))
    place |= {name: len(files) + k for k, name in enumerate(means)}
    rng = predictions.resampling(options.seed)
    draws = every.draws(options.draws, rng) if every.resamplable else np.full((1, len(every.probability)), np.nan)
    return _Said(place, every.auroc, draws)


def _measure(value: float, draws: Floats, options: Options) -> Measure:
    return Measure(float(value), *interval(draws, options.level))


def _mean(groups: Sequence[Sequence[int]], said: _Said, options: Options) -> tuple[float, Floats, float]:
    """Mean AUROC of all, its draws, and the standard deviation of the groups' means: rows of each draw of the labels,
    or of each seed."""
    of_group = np.array([said.auroc[list(rows)].mean() for rows in groups])
    drawn = np.stack([said.draws[:, list(rows)].mean(1) for rows in groups], axis=1).mean(1)
    if len(groups) < 2:
        return float(of_group.mean()), drawn, np.nan
    deviation = float(of_group.std(ddof=1))
    # Student's t at even quantiles, in random order: what draws differ by is told from few of them
    rng = np.random.default_rng([options.seed, 12])
    t = special.stdtrit(len(groups) - 1, (rng.permutation(len(drawn)) + 0.5) / len(drawn))
    return float(of_group.mean()), drawn + deviation / np.sqrt(len(groups)) * t, deviation


def _points(heads: Mapping[tuple[str, str, str], Any], said: _Said, options: Options) -> list[Point]:
    by_count: dict[tuple[str, int, bool], dict[str, dict[str, int]]] = {}
    for (method, known, cell), score in heads.items():
        of_count = by_count.setdefault((method, int(score["train_stays"]), known == ALL), {})
        of_count.setdefault(known, {})[cell] = said.place[f"{method}/{known}/{cell}"]
    points = []
    order = list(METHODS)
    for method, labels, every in sorted(by_count, key=lambda key: (order.index(key[0]), key[1])):
        of_draw = by_count[method, labels, every]
        rows = [list(cells.values()) for cells in of_draw.values()]
        models = {cell for cells in of_draw.values() for cell in cells}
        # Of one draw, the seeds are what may come out otherwise
        groups = rows if len(rows) > 1 else [[row] for row in rows[0]]
        mean, drawn, deviation = _mean(groups, said, options)
        lead = Measure(np.nan, np.nan, np.nan)
        beside = [said.place[name] for cell in sorted(models) if (name := f"{ZERO_SHOT}/{cell}") in said.place]
        if len(beside) == len(models):
            base, base_draws = said.auroc[beside].mean(), said.draws[:, beside].mean(1)
            lead = _measure(mean - base, drawn - base_draws, options)
        reached = tuple(float(said.auroc[row]) for group in rows for row in group)
        auroc = _measure(mean, drawn, options)
        points.append(Point(method, labels, every, len(rows), len(models), auroc, deviation, reached, lead))
    return points


def _rows(
    task: Path,
    folder: Path,
    cells: Sequence[str],
    ways: Mapping[str, Any],
    said: _Said,
    points: Sequence[Point],
    options: Options,
) -> list[Row]:
    def row(title: str, name: str, mean: Measure, models: int, deviation: float, auprc: Any) -> Row:
        at = said.place[name]

        def less(other: str) -> Measure | None:
            if other == name or other not in said.place:
                return None
            k = said.place[other]
            return _measure(said.auroc[at] - said.auroc[k], said.draws[:, at] - said.draws[:, k], options)

        auroc = _measure(said.auroc[at], said.draws[:, at], options)
        return Row(title, models, mean, deviation, auroc, _auprc(auprc), less(ZERO_SHOT), less("regression"))

    def score_of(method: str) -> Any:
        """Of the mean risk, where there are several models; else of the one."""
        every = folder / method / ALL
        if len(cells) == 1:
            return _json((task if method == ZERO_SHOT else every) / f"{cells[0]}.json")
        means = [_json(path) for path in sorted(every.glob(f"{MEAN}*.json"))]
        means = [mean for mean in means if method == ZERO_SHOT or mean.get("way") == ways.get(method)]
        return next((mean for mean in means if mean.get("cells") == list(cells)), None)

    rows = []
    if ZERO_SHOT in said.place:
        models = [[said.place[f"{ZERO_SHOT}/{cell}"]] for cell in cells]
        value, drawn, deviation = _mean(models, said, options)
        mean = _measure(value, drawn, options)
        rows.append(row(ZERO_SHOT, ZERO_SHOT, mean, len(cells), deviation, score_of(ZERO_SHOT)))
    for point in points:
        if point.every and f"{point.method}/{ALL}" in said.place:
            name = f"{point.method}/{ALL}"
            title = METHODS[point.method]
            rows.append(row(title, name, point.auroc, point.models, point.deviation, score_of(point.method)))
    baseline = _json(task / "baseline.json")
    others: Any = baseline.get("others")
    others = others if isinstance(others, dict) else {}
    for name, title, score in (
        ("regression", str(baseline.get("name") or "regression"), baseline),
        (TREES, TREES, others.get(TREES)),
    ):
        if name in said.place:
            at = said.place[name]
            rows.append(row(title, name, _measure(said.auroc[at], said.draws[:, at], options), 1, np.nan, score))
    return rows


def _json(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _auprc(score: Any) -> Measure | None:
    part = score.get("auprc") if isinstance(score, dict) else None
    if not isinstance(part, dict) or not isinstance(part.get("value"), int | float):
        return None
    return Measure(*(float(np.nan if part.get(key) is None else part[key]) for key in ("value", "low", "high")))


def to_json(supervised: Supervised | None) -> dict[str, Any] | None:
    """Of laws.json: {cells, compared: [one for each row], by_labels: [one for each point], notes}."""

    def interval_json(part: Measure | None) -> dict[str, float] | None:
        return None if part is None else {"value": part.value, "low": part.low, "high": part.high}

    if supervised is None:
        return None
    return {
        "cells": list(supervised.cells),
        "compared": [
            {
                "name": row.name,
                "models": row.models,
                "mean_auroc": interval_json(row.mean),
                "between_seeds": row.deviation,
                "auroc": interval_json(row.auroc),
                "auprc": interval_json(row.auprc),
                "less_zero_shot": interval_json(row.less_zero_shot),
                "less_regression": interval_json(row.less_regression),
            }
            for row in supervised.rows
        ],
        "by_labels": [
            {
                "method": point.method,
                "labels": point.labels,
                "all": point.every,
                "draws": point.draws,
                "models": point.models,
                "auroc": interval_json(point.auroc),
                "between": point.deviation,
                "heads": list(point.reached),
                "less_zero_shot": interval_json(point.lead),
            }
            for point in supervised.points
        ],
        "notes": supervised.notes,
    }
