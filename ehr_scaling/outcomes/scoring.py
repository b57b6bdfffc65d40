"""The score of one model, or of a baseline, on prepared tasks: what it says of each stay, and how good that is.

A model answers all tasks of a group with the same futures, or the same probabilities of a next token. Predictions are
written here, `outcomes/<task>/<cell>.parquet`; scores are what `evaluate` keeps beside them.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling.data.timelines import timelines
from ehr_scaling.grid.cell import Cell
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes import probabilities, together
from ehr_scaling.outcomes.asking import questions
from ehr_scaling.outcomes.asking.prepared import Question, union_of
from ehr_scaling.outcomes.asking.questions import Samples
from ehr_scaling.outcomes.exchange import predictions
from ehr_scaling.outcomes.judging import estimators
from ehr_scaling.outcomes.judging.estimators import Estimate
from ehr_scaling.outcomes.judging.metrics import metrics, values
from ehr_scaling.outcomes.sampler import simulate, two_tokens
from ehr_scaling.outcomes.sampler.simulate import Futures
from ehr_scaling.processes import preemption

VERSION = 8  # of how scores are made from samples: raise it, and every model is scored again
ANSWERS = 3  # the first VERSION that writes these predictions: scores since then are made anew of what is stored
METHODS = {
    "scope": "SCOPE estimate of P(outcome) / (P(outcome) + P(its opposite)) over simulated futures (arXiv 2602.03730)",
    "reach": "REACH estimate of P(outcome) over simulated futures without the outcome (arXiv 2602.03730)",
    "monte_carlo": "share of simulated futures with the outcome among those with it or its opposite",
    "exact": "P(outcome) / (P(outcome) + P(its opposite)) by the next two tokens, summed over the first",
}
_OF_FUTURES = (  # of a score: not to be had from predictions
    *("method", "unknown", "median_error", "monte_carlo_auroc", "monte_carlo_stays", "copies", "undetermined"),
    *("open", "bounded", "stays_undetermined", "generated_tokens", "seconds"),
)


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
    Raises: UserError where predictions that a score is compared with, or recalibrated by, are damaged. Preempted after
      SIGTERM, where that was put off.
    """
    answer = _answer_exact if group[0].exact else _answer_futures
    answer = _answer_classes if group[0].task.kind == "class" else answer
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
        return probabilities.judge(question, samples, predicted)
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
    every = simulate.next_token(model, params, prompts, named_by_any)
    report(len(union.first))
    for question, samples, rows in zip(group, union.samples, union.rows, strict=True):
        preemption.check()
        p, named = estimators.class_probabilities(every[rows], samples.meanings[named_by_any])
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
        preemption.check()
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
        if question.task.kind == "days":
            score = _judge_days(cell, question, samples, task_futures, k)
        else:
            method = question.options["method"]
            score = _judge(cell, question, samples, getattr(estimators, method)(task_futures, k))
            score |= _counted(samples, task_futures, k) if method == "scope" else {}
        yield question, {**score, **facts}


def _answer_exact(
    cell: Cell,
    workdir: Path,
    model: Transformer,
    params: Any,
    group: list[Question],
    scratch: Path,
    report: Callable[..., None],
) -> Iterator[tuple[Question, dict[str, Any]]]:
    """Of tasks that two tokens decide: nothing is drawn."""
    started, union = time.monotonic(), union_of(group)
    decided = two_tokens.decide(model, params, together.of_group(workdir, group, union).asked)
    report(len(union.first))
    seconds = time.monotonic() - started
    for k, (question, samples, rows) in enumerate(zip(group, union.samples, union.rows, strict=True)):
        preemption.check()
        of_task = decided.take(rows)
        estimate = estimators.exact(of_task, k)
        # Of probability, what shares of copies are of futures
        open_share, bounded = float(of_task.open[:, k].mean()), float(of_task.undecided[:, k].mean())
        facts = {
            "undetermined": open_share + bounded,
            "open": open_share,
            "bounded": bounded,
            "stays_undetermined": float(np.isnan(estimate.probability).mean()),
            "seconds": seconds,
        }
        yield question, {**_judge(cell, question, samples, estimate), **facts}


def _counted(samples: Samples, futures: Futures, k: int) -> dict[str, Any]:
    """What counting copies would say instead, of the stays of which a copy came to an end."""
    counted = estimators.monte_carlo(futures, k).probability
    said = ~np.isnan(counted)
    both = 0 < samples.stays.labels[said].sum() < said.sum()
    area = float(metrics.auroc(samples.stays.labels[said], counted[said])) if both else None
    return {"monte_carlo_auroc": area, "monte_carlo_stays": int(said.sum())}


def _judge(cell: Cell, question: Question, samples: Samples, estimate: Estimate) -> dict[str, Any]:
    """The score of a yes-or-no task, whose predictions are written."""
    method, sampled = question.options["method"], samples.stays
    probability, base = estimators.filled(estimate.probability, samples.weights)
    predictions.write_binary(question.folder / f"{cell.id}.parquet", sampled, probability)
    errors = estimate.error[np.isfinite(estimate.error)]
    return {
        **probabilities.judge_model(cell, question, samples),
        "method": f"zero-shot: {METHODS[method]}; interval: percentile bootstrap of patients",
        # Of whom no copy said anything: how many, and the probability that they were given, the mean of the others'
        "unknown": {"stays": int(np.isnan(estimate.probability).sum()), "probability": base},
        "median_error": float(np.median(errors)) if len(errors) else None,  # of a probability, over copies
    }


def judged_again(cell: Cell, question: Question, score: dict[str, Any]) -> dict[str, Any]:
    """The score that stands beside stored predictions, of another VERSION or recalibration, as it is made now.

    What futures alone tell is taken from there, and so is the score of a number or a class, which has not changed.
    """
    if question.task.kind != "binary":
        return score
    kept = {name: score[name] for name in _OF_FUTURES if name in score}
    return probabilities.judge_model(cell, question, questions.load(question.folder)) | kept


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
