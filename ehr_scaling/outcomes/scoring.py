"""The score of one model, or of a baseline, on prepared tasks: what it says of each stay, and how good that is.

A model answers all tasks of a group with the same futures, or the same probabilities of a next token. Predictions are
written here, `outcomes/<task>/<cell>.parquet`; scores are what `evaluate` keeps beside them.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ehr_scaling.data import parquet, timelines
from ehr_scaling.errors import UserError, first_line
from ehr_scaling.grid.cell import Cell
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes import together
from ehr_scaling.outcomes.asking import questions
from ehr_scaling.outcomes.asking.prepared import Question, tuning_of, union_of
from ehr_scaling.outcomes.asking.questions import Samples
from ehr_scaling.outcomes.exchange import predictions
from ehr_scaling.outcomes.judging import calibration, estimators, metrics, paired, subgroups, values
from ehr_scaling.outcomes.sampler import simulate
from ehr_scaling.outcomes.sampler.simulate import Futures

VERSION = 3  # of how scores are made from samples: raise it, and every model is scored again
METHODS = {
    "scope": "SCOPE estimate of P(outcome) / (P(outcome) + P(its opposite)) over simulated futures (arXiv 2602.03730)",
    "reach": "REACH estimate of P(outcome) over simulated futures without the outcome (arXiv 2602.03730)",
    "monte_carlo": "share of simulated futures with the outcome among those with it or its opposite",
}
_GROUP_DRAWS = 200  # bootstrap draws of a subgroup


def of_model(
    cell: Cell,
    workdir: Path,
    model: Transformer,
    params: Any,
    group: list[Question],
    scratch: Path,
    report: Callable[..., None],
) -> Iterator[tuple[Question, dict[str, Any]]]:
    """The score of a trained model on each task of a group, whose predictions are written: one after the other.

    Args: group, tasks that are answered by the same futures, as `prepared.groups` has them; scratch, where futures are
      kept that are drawn, so that an interrupted simulation goes on; report, called with the stays or tokens done.
    Raises: UserError where predictions that a score is compared with, or recalibrated by, are damaged.
    """
    answer = _answer_classes if group[0].task.kind == "class" else _answer_futures
    return answer(cell, workdir, model, params, group, scratch, report)


def of_baseline(
    workdir: Path, question: Question, samples: Samples, predicted: np.ndarray, file: Path
) -> dict[str, Any]:
    """The score of what a baseline predicts for the stays of a task, which is written to `file`.

    Args: predicted, float (stays,): probabilities or values; (stays, classes) for tasks that ask for a class.
    """
    sampled, kind = samples.stays, question.task.kind
    seeds = {"draws": question.options["draws"], "seed": question.options["seed"]}
    if kind == "binary":
        predictions.write_binary(file, sampled, predicted)
        return _judge_probabilities(question, samples, predicted)
    if kind == "days":
        predictions.write_values(file, sampled, predicted)
        return values.evaluate_values(sampled.labels, predicted, sampled.patients, **seeds)
    vocabulary = timelines.vocabulary(workdir)
    names = [vocabulary.tokens[i] for i in np.flatnonzero(samples.meanings >= 0)]
    predictions.write_classes(file, sampled, names, predicted)
    return values.evaluate_classes(sampled.labels, predicted, sampled.patients, **seeds)


def _answer_classes(
    cell: Cell,
    workdir: Path,
    model: Transformer,
    params: Any,
    group: list[Question],
    scratch: Path,
    report: Callable[..., None],
) -> Iterator[tuple[Question, dict[str, Any]]]:
    """Of tasks that ask for the next token: nothing is drawn."""
    vocabulary, started = timelines.vocabulary(workdir), time.monotonic()
    union = union_of(group)
    # Of a large vocabulary a task names a few tokens: the others' probabilities would fill the memory.
    named_by_any = np.flatnonzero(np.any([samples.meanings >= 0 for samples in union.samples], axis=0))
    prompts = np.concatenate([samples.prompts for samples in union.samples])[union.first]
    probabilities = simulate.next_token(model, params, prompts, named_by_any)
    report(len(union.first))
    for question, samples, rows in zip(group, union.samples, union.rows, strict=True):
        p, named = estimators.class_probabilities(probabilities[rows], samples.meanings[named_by_any])
        names = [vocabulary.tokens[i] for i in np.flatnonzero(samples.meanings >= 0)]
        predictions.write_classes(question.folder / f"{cell.id}.parquet", samples.stays, names, p)
        seeds = {"draws": question.options["draws"], "seed": question.options["seed"]}
        score = values.evaluate_classes(samples.stays.labels, p, samples.stays.patients, **seeds)
        if question.task.ordered:
            steps = np.arange(p.shape[1]) + 1.0
            truth = steps[samples.stays.labels]
            mean = estimators.expectation(p, steps).value
            score["expectation"] = values.evaluate_values(truth, mean, samples.stays.patients, **seeds)
        yield question, {**score, "names_a_class": float(named.mean()), "seconds": time.monotonic() - started}


def _answer_futures(
    cell: Cell,
    workdir: Path,
    model: Transformer,
    params: Any,
    group: list[Question],
    scratch: Path,
    report: Callable[..., None],
) -> Iterator[tuple[Question, dict[str, Any]]]:
    """Of tasks that are answered by simulated futures, the same for all of them."""
    started, union = time.monotonic(), union_of(group)
    futures = together.of_group(workdir, group, union).run_in_parts(model, params, scratch, report)
    seconds = time.monotonic() - started
    for k, (question, samples, rows) in enumerate(zip(group, union.samples, union.rows, strict=True)):
        task_futures = futures.take(rows)
        lost = estimators.undetermined(task_futures, k)
        facts = {
            "copies": question.options["copies"],
            "undetermined": lost.open + lost.bounded,
            "open": lost.open,
            "bounded": lost.bounded,
            "stays_undetermined": lost.samples,
            "generated_tokens": int(task_futures.lengths.sum()),
            "seconds": seconds,
        }
        judge = _judge_days if question.task.kind == "days" else _judge
        yield question, {**judge(cell, question, samples, task_futures, k), **facts}


def _judge(cell: Cell, question: Question, samples: Samples, futures: Futures, k: int) -> dict[str, Any]:
    """The score of a yes-or-no task, whose predictions are written."""
    method, sampled = question.options["method"], samples.stays
    estimate = getattr(estimators, method)(futures, k)
    probability, base = estimators.filled(estimate.probability, weights_of(samples))
    predictions.write_binary(question.folder / f"{cell.id}.parquet", sampled, probability)
    errors = estimate.error[np.isfinite(estimate.error)]
    score = {
        **_judge_probabilities(question, samples, probability),
        "method": f"zero-shot: {METHODS[method]}; interval: percentile bootstrap of patients",
        # Of whom no copy said anything: how many, and the probability that they were given, the mean of the others'
        "unknown": {"stays": int(np.isnan(estimate.probability).sum()), "probability": base},
        "median_error": float(np.median(errors)) if len(errors) else None,  # of a probability, over copies
    }
    if tuning := tuning_of(question):
        said = answers(tuning.folder / f"{cell.id}.parquet")
        weights = weights_of(questions.load(tuning.folder))
        score["recalibrated"] = _recalibrated(question, samples, probability, said, weights)
    if method == "scope":  # by counting copies instead: over the stays of which a copy came to an end
        counted = estimators.monte_carlo(futures, k).probability
        said = ~np.isnan(counted)
        both = 0 < sampled.labels[said].sum() < said.sum()
        score["monte_carlo_auroc"] = float(metrics.auroc(sampled.labels[said], counted[said])) if both else None
        score["monte_carlo_stays"] = int(said.sum())
    beside = question.folder / "baseline.parquet"
    if beside.exists():
        score["against_baseline"] = paired.compare(
            answers(beside),
            paired.Answers(sampled.subject_ids, sampled.times, sampled.labels, probability.astype(np.float32)),
            weights=weights_of(samples),
            draws=question.options["draws"],
            seed=question.options["seed"],
        )
    return score


def _judge_probabilities(question: Question, samples: Samples, probability: np.ndarray) -> dict[str, Any]:
    sampled = samples.stays

    def of_group(rows: np.ndarray) -> dict[str, Any]:
        return _short(_of_rows(question, samples, probability, rows, _GROUP_DRAWS))

    by_attribute = {
        name: subgroups.by_group(getattr(samples, name), sampled.patients, sampled.labels, of_group)
        for name in ("sex", "age", "race")
    }
    return {**_of_rows(question, samples, probability), "subgroups": by_attribute}


def _of_rows(
    question: Question,
    samples: Samples,
    probability: np.ndarray,
    rows: np.ndarray | slice = slice(None),
    draws: int | None = None,
) -> dict[str, Any]:
    """`metrics.evaluate` of some stays, all of them unless told, with as many draws as the question asks for."""
    sampled, weights = samples.stays, weights_of(samples)
    return metrics.evaluate(
        sampled.labels[rows],
        probability[rows],
        sampled.patients[rows],
        weights=None if weights is None else weights[rows],
        probabilities=True,
        draws=draws or question.options["draws"],
        seed=question.options["seed"],
    )


def _recalibrated(
    question: Question, samples: Samples, probability: np.ndarray, said: paired.Answers, weights: np.ndarray | None
) -> dict[str, Any]:
    """What a logistic regression on other patients, to whom the model said `said`, makes of the probabilities."""
    about = {"stays": len(said.labels), "positives": int(said.labels.sum()), "split": questions.TUNING}
    weighs = metrics.ones_for(weights, len(said.labels))
    if (line := calibration.line(said.labels, said.probabilities.astype(np.float64), weighs)) is None:
        return {**about, "missing": "the predictions separate the labels of these stays, or are all the same"}
    score = _of_rows(question, samples, calibration.moved(probability, *line))
    told = {name: score[name] for name in (*calibration.NAMES, "weighted", "calibration_curve")}
    return {**about, "intercept": line[0], "slope": line[1], **told}


def _short(score: dict[str, Any]) -> dict[str, Any]:
    """What is told of a subgroup."""
    return {name: value for name, value in score.items() if name not in ("calibration_curve", "operating_point")}


def weights_of(samples: Samples) -> np.ndarray | None:
    """What each stay weighs, float64 (n,); None where none was sampled by outcome."""
    return None if (samples.weights == 1).all() else samples.weights


def answers(path: Path) -> paired.Answers:
    """What predictions in the schema of MEDS say, of a yes-or-no task. Raises UserError where the file is damaged."""
    try:
        table = parquet.read(path, schema=predictions.BINARY)
    except (OSError, pa.ArrowException) as e:
        raise UserError(f"{path} is damaged ({first_line(e)}): delete it and run again") from None
    return paired.Answers(
        table["subject_id"].to_numpy(),
        table["prediction_time"].to_numpy().astype(np.int64),
        table["boolean_value"].to_numpy(zero_copy_only=False),
        table["predicted_boolean_probability"].to_numpy(),
    )


def _judge_days(cell: Cell, question: Question, samples: Samples, futures: Futures, k: int) -> dict[str, Any]:
    """The score of a task that asks for days since the anchor, whose predictions are written."""
    days = together.days(question.task, futures, k).value
    # Copies that had not ended when the tokens were used up: the longest of those that did is the least they had.
    known = np.isfinite(days)
    days = np.where(known, days, days[known].max() if known.any() else 0.0)
    predictions.write_values(question.folder / f"{cell.id}.parquet", samples.stays, days)
    return values.evaluate_values(
        samples.stays.labels,
        days,
        samples.stays.patients,
        draws=question.options["draws"],
        seed=question.options["seed"],
    )
