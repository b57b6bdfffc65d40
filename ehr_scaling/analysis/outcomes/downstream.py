"""From loss to bedside: the AUROC of each outcome against the validation loss of the models that were scored on it."""

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehr_scaling.analysis import words
from ehr_scaling.analysis.draws import Floats, interval, normal_quantile
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.outcomes import outcome_curve, predictions, scores, scores_json, supervised
from ehr_scaling.analysis.outcomes.outcome_curve import LEAST_MODELS, TOO_FEW, Curve
from ehr_scaling.analysis.outcomes.predictions import Predictions
from ehr_scaling.analysis.outcomes.scores import Score
from ehr_scaling.analysis.outcomes.seeds import Seeds, of_cells
from ehr_scaling.analysis.outcomes.supervised import Supervised
from ehr_scaling.analysis.tables import cells
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.tables.selection import grouped
from ehr_scaling.analysis.words import Verdict
from ehr_scaling.artifacts import read_json
from ehr_scaling.data import disclosure
from ehr_scaling.errors import UserError

OWN_LEVEL = 0.95  # of the interval that a score holds
NOT_SCORED = words.missing("no model was scored")


@dataclass(frozen=True)
class Outcome:
    """One task; of real patients with counts to the nearest ten, and without rows and baseline where it is of so few
    that nothing is told of it. rows: dicts {cell, size, N, D, C, seed, loss, loss_se, auroc, low, high, n, positives,
    undetermined, copies, task_loss, auroc_at_most}: task_loss is the mean nats a stay of what came true, a continuous
    score beside the ranks of AUROC; auroc_at_most, what endlessly many simulated futures could give at most.

    baseline: {name, auroc, low, high, n, positives} or None. spearman: of loss with AUROC over the models, negative
    when lower loss ranks better; its interval from resampling models; spearman_task_loss: of loss with task_loss,
    positive then. missing: cells of the table without a score. unknown: scores without a run.
    curve: AUROC of loss, None with too few models. pattern: of outcome_curve. lead: AUROC of the curve at the lowest
    loss seen less that of the baseline, with its interval. seed_noise: standard deviation of AUROC between seeds of a
    cell, NaN where none has two. seeds: of the cells with several, what these reach together. patients: how the
    uncertainty of who was asked entered. compared: the model of least
    loss, the smallest, and all baselines, with what their scores hold beside the AUROC. supervised: what heads that
    learnt from labels reach, None without any.
    """

    task: str
    text: str
    rows: list[dict[str, Any]]
    baseline: dict[str, Any] | None
    spearman: float
    spearman_interval: tuple[float, float]
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    curve: Curve | None = None
    pattern: str = TOO_FEW
    verdict: Verdict = NOT_SCORED
    spearman_task_loss: float = np.nan
    lead: float = np.nan
    lead_interval: tuple[float, float] = (np.nan, np.nan)
    seed_noise: float = np.nan
    patients: str = ""
    compared: list[Score] = field(default_factory=list)
    seeds: list[Seeds] = field(default_factory=list)
    supervised: Supervised | None = None


def read(folder: Path, table: RunTable, options: Options, finished: NDArray[np.str_]) -> list[Outcome]:
    """Reads `<folder>/<task>/<cell>.json`, `baseline.json` and `task.json`, joined to the runs by cell, and the
    predictions beside them, `<cell>.parquet` and `baseline.parquet`, where they are stored.

    finished: cells of all runs, also of those that are in no fit and whose scores are passed over.
    Raises: UserError naming the file when a score is damaged or incomplete, or is not that of its predictions.
    """
    if not folder.is_dir():
        raise UserError(f"--outcomes={folder}: no such directory; run launch.evaluate first or leave the flag out")
    return [outcome for task in scores.tasks_in(folder) if (outcome := _read_task(task, table, options, finished))]


def _read_task(folder: Path, table: RunTable, options: Options, finished: NDArray[np.str_]) -> Outcome | None:
    about = scores.described(folder)
    if about.get("kind", "binary") != "binary":  # numbers and classes have no AUROC that could follow a loss
        return None
    baseline = folder / "baseline.json"
    base = _score(baseline) if baseline.is_file() else None
    at = {str(cell): i for i, cell in enumerate(table.cell)}
    rows, unknown = [], []
    for path in sorted(folder.glob("*.json")):
        if path.stem in scores.NO_FILES or path.name.startswith("."):
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
    told = Outcome(folder.name, scores.text_of(about), rows, base, np.nan, (np.nan, np.nan))
    generated = table.generated is not False
    if not generated:
        shown = [*rows, *([base] if base else [])]
        if small := next(filter(None, map(scores.too_small, rows or shown)), ""):
            return replace(told, rows=[], baseline=None, verdict=words.missing(f"its scores are {small}"))
        for row, name in itertools.product(shown, ("n", "positives")):
            row[name] = None if row[name] is None else disclosure.told(int(row[name]), generated=False)
    seen = {r["cell"] for r in rows}
    rho, bounds = spearman(_column(rows, "loss"), _column(rows, "auroc"), options)
    missing = [cell for cell in at if cell not in seen]
    outcome = replace(told, spearman=rho, spearman_interval=bounds, missing=missing, unknown=unknown)
    if rows:
        clusters = table.clusters[[at[r["cell"]] for r in rows]]
        outcome = _with_curve(outcome, folder, clusters, options, generated)
    loss_of = {cell: float(table.loss[i]) for cell, i in at.items()}
    heads = supervised.read(folder, loss_of, options)
    compared = scores.as_told(scores.of_task(folder, rows, generated), generated)
    return replace(outcome, compared=compared, supervised=heads)


def _score(path: Path) -> dict[str, Any]:
    record = read_json(path)
    if not isinstance(record, dict):
        raise UserError(f"{path} is damaged: delete it and run launch.evaluate again")
    score: dict[str, Any] = {}
    for name in ("auroc", "low", "high", "n", "positives", "copies"):
        value = record.get(name)
        if name == "auroc" and (not isinstance(value, int | float) or not 0 <= value <= 1):
            raise UserError(f"{path}: auroc is not a number from 0 to 1; delete the file and run launch.evaluate again")
        score[name] = float(value) if isinstance(value, int | float) and np.isfinite(value) else None
    for name in ("undetermined", "name", "method", "features"):
        if record.get(name) is not None:
            score[name] = record[name]
    return score


def _with_curve(
    outcome: Outcome, folder: Path, clusters: NDArray[np.int64], options: Options, generated: bool
) -> Outcome:
    rows = outcome.rows
    loss, auroc = _column(rows, "loss"), _column(rows, "auroc")
    places = cells.of(_column(rows, "N"), _column(rows, "D"))
    groups = list(grouped(places.tolist()).values())
    said, absent = predictions.read([folder / f"{r['cell']}.parquet" for r in rows])
    if said is not None:
        rows = _with_predictions(rows, said, folder, options)
        together = _beside(said, folder) if outcome.baseline else said
        outcome = replace(outcome, rows=rows, seeds=of_cells(rows, together, groups, options, generated))
        outcome = replace(outcome, spearman_task_loss=spearman(loss, _column(rows, "task_loss"), options)[0])
    deviations, base, how = _patients(outcome, said, absent, folder, options, generated)
    outcome = replace(outcome, patients=how, seed_noise=_seed_noise(auroc, groups))
    curve = outcome_curve.fit(loss, auroc, deviations, places, clusters, options)
    if curve is None:
        few = min(len(groups), len(rows))
        why = (
            f"{few} scored cells; at least {LEAST_MODELS} are needed" if few < LEAST_MODELS else "all losses are equal"
        )
        return replace(outcome, verdict=words.missing(why))
    curve = replace(curve, verdict=curve.verdict.also(how))
    outcome = replace(outcome, curve=curve, pattern=curve.pattern, verdict=curve.verdict)
    if outcome.baseline is None:
        return outcome
    best, reached = np.array([curve.losses[0]]), outcome.baseline["auroc"]
    leads = curve.sample(best)[:, 0] - reached - base
    return replace(outcome, lead=float(curve(best)[0]) - reached, lead_interval=interval(leads, options.level))


def _with_predictions(
    rows: list[dict[str, Any]], said: Predictions, folder: Path, options: Options
) -> list[dict[str, Any]]:
    for row, auroc in zip(rows, said.auroc, strict=True):
        if abs(row["auroc"] - auroc) > predictions.AGREES:
            raise UserError(
                f"{folder / row['cell']}.json has AUROC {row['auroc']:.4f}, its predictions in the .parquet beside it "
                f"{auroc:.4f}: delete both and run launch.evaluate again"
            )
    # Of the copies of a stay, those that came to the outcome or its opposite
    ended = np.array([(r["copies"] or np.nan) * (1 - (r.get("undetermined") or 0.0)) for r in rows])
    at_most = np.full(len(rows), np.nan)
    if np.isfinite(ended).all():
        at_most = said.auroc_of_endless_copies(ended, np.random.default_rng([options.seed, 7]))
    columns = zip(rows, said.task_loss, at_most, strict=True)
    return [{**row, "task_loss": float(nats), "auroc_at_most": _plain(most)} for row, nats, most in columns]


def _patients(
    outcome: Outcome, said: Predictions | None, absent: str, folder: Path, options: Options, generated: bool
) -> tuple[Floats, Floats, str]:
    """What drawing the test patients anew adds to the AUROC of each model [draws, n], and of the baseline [draws].

    Without predictions the scores' own intervals are taken as wholly shared: every model goes up and down by its
    standard error with one draw. What patients do to models differently is then in their scatter about the curve.
    """
    rng = predictions.resampling(options.seed)
    known = [*outcome.rows, *([outcome.baseline] if outcome.baseline else [])]
    ends = np.array([[np.nan if r[k] is None else r[k] for k in ("low", "high")] for r in known])
    errors = np.diff(ends, axis=1)[:, 0] / (2 * normal_quantile(OWN_LEVEL))
    models = len(outcome.rows)
    # Where the baseline's own predictions are not known, nor is whether it moves with the models: it moves on its own.
    base = errors[-1] * rng.standard_normal(options.draws)
    if said is None or not said.resamplable:
        why = absent or "fewer than two patients with, or without, the outcome"
        how = f"{why}, so the scores' own intervals stand in, as if patients moved all models alike"
        return errors[:models] * rng.standard_normal((options.draws, 1)), base, how
    together = _beside(said, folder) if outcome.baseline else said
    draws = together.draws(options.draws, rng) - together.auroc
    many = disclosure.words(len(np.unique(said.patients)), generated)
    how = f"{many} patients drawn anew for all models together"
    return draws[:, :models], base if draws.shape[1] == models else draws[:, -1], how


def _beside(said: Predictions, folder: Path) -> Predictions:
    """The models' predictions with the baseline's as the last row, where those are stored."""
    baseline, _ = predictions.read([folder / "baseline.parquet"])
    if baseline is None:
        return said
    if not (np.array_equal(baseline.labels, said.labels) and np.array_equal(baseline.patients, said.patients)):
        raise UserError(f"{folder / 'baseline.parquet'} is about other stays: delete it and run launch.evaluate")
    return replace(said, probability=np.vstack([said.probability, baseline.probability]))


def _seed_noise(auroc: Floats, groups: list[NDArray[np.int64]]) -> float:
    freedom = len(auroc) - len(groups)
    squares = sum(float(((auroc[group] - auroc[group].mean()) ** 2).sum()) for group in groups)
    return float(np.sqrt(squares / freedom)) if freedom else np.nan


def spearman(
    loss: Floats | list[float], score: Floats | list[float], options: Options
) -> tuple[float, tuple[float, float]]:
    """Rank correlation over models and its interval from resampling models; NaN with fewer than five models."""
    x, y = np.array(loss), np.array(score)
    if len(x) < LEAST_MODELS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan, (np.nan, np.nan)
    from scipy import stats  # takes a second: only where outcomes were scored

    rng = np.random.default_rng([options.seed, 4])
    picks = rng.integers(0, len(x), (options.draws, len(x)))
    rank_x, rank_y = stats.rankdata(x[picks], axis=1), stats.rankdata(y[picks], axis=1)
    rank_x -= rank_x.mean(1, keepdims=True)
    rank_y -= rank_y.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = (rank_x * rank_y).sum(1) / np.sqrt((rank_x**2).sum(1) * (rank_y**2).sum(1))
    return float(stats.spearmanr(x, y).statistic), interval(draws, options.level)


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Of laws.json. curve: null with too few models. AUROC of the interval at the level of the analysis."""
    curve = outcome.curve
    return {
        "task": outcome.task,
        "models": outcome.rows,
        "baseline": outcome.baseline,
        "spearman": outcome.spearman,
        "spearman_interval": outcome.spearman_interval,
        "spearman_task_loss": outcome.spearman_task_loss,
        "pattern": outcome.pattern,
        "verdict": outcome.verdict._asdict(),
        "curve": None
        if curve is None
        else {
            "form": curve.form,
            "formula": curve.formula,
            "parameters": curve.parameters,
            "intervals": curve.intervals,
            "gain": curve.gain,
            "gain_interval": curve.gain_interval,
            "losses": curve.losses,
            "left_out_error": curve.errors,
            "model_noise": curve.noise,
        },
        "seed_noise": outcome.seed_noise,
        "seeds": [cell._asdict() for cell in outcome.seeds],
        "lead_over_baseline": outcome.lead,
        "lead_interval": outcome.lead_interval,
        "patients": outcome.patients,
        "compared": scores_json.compared(outcome.compared),
        "subgroups": scores_json.groups(outcome.compared),
        "supervised": supervised.to_json(outcome.supervised),
        "cells_without_score": outcome.missing,
        "scores_without_run": outcome.unknown,
    }


def _column(rows: list[dict[str, Any]], name: str) -> Floats:
    return np.array([row[name] for row in rows], np.float64)


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
