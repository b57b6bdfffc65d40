"""The score of one model, or of a baseline, on prepared tasks: what it says of each stay, and how good that is.

A model answers all tasks of a group with the same futures, or the same probabilities of a next token. Predictions are
written here, `outcomes/<task>/<cell>.parquet`; scores are what `evaluate` keeps beside them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.data.timelines import timelines
from ehr_scaling.grid.cell import Cell
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes import parts, probabilities, together
from ehr_scaling.outcomes.asking import questions
from ehr_scaling.outcomes.asking.prepared import Question, Union, union_of
from ehr_scaling.outcomes.asking.questions import Samples
from ehr_scaling.outcomes.exchange import predictions
from ehr_scaling.outcomes.judging import estimators
from ehr_scaling.outcomes.judging.estimators import Estimate
from ehr_scaling.outcomes.judging.metrics import metrics, values
from ehr_scaling.outcomes.parts import Work
from ehr_scaling.outcomes.sampler import simulate, two_tokens
from ehr_scaling.outcomes.sampler.simulate import Futures
from ehr_scaling.outcomes.sampler.two_tokens import Decided
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

    Args: group, tasks that are answered by the same futures, as `prepared.groups` has them; scratch, where parts are
      kept of what is computed for that, so that who is interrupted goes on; report, called with the stays or tokens
      done.
    Raises: UserError where predictions that a score is compared with, or recalibrated by, are damaged. Preempted after
      SIGTERM, where that was put off.
    """
    started, union = time.monotonic(), union_of(group)
    said = parts.compute_all(work(workdir, model, params, group, union), scratch, report)
    seconds = time.monotonic() - started
    tokens = timelines.vocabulary(workdir).tokens
    for k, (question, samples, rows) in enumerate(zip(group, union.samples, union.rows, strict=True)):
        preemption.check()
        if isinstance(of_task := said.take(rows), NextTokens):
            score = _of_next_tokens(cell, question, samples, of_task, _named(union), tokens)
        else:
            score = (_of_futures if isinstance(of_task, Futures) else _of_sums)(cell, question, samples, of_task, k)
        yield question, {**score, "seconds": seconds}


class NextTokens(NamedTuple):
    """Of n stays: float32 (n, K), the probabilities of the next token, of the K that any task of a group names."""

    probabilities: np.ndarray

    def take(self, rows: Any) -> "NextTokens":
        """Of some stays."""
        return NextTokens(self.probabilities[rows])


def work(workdir: Path, model: Transformer, params: Any, group: list[Question], union: Union) -> Work[Any]:
    """What a model has to compute of the stays of a group: `NextTokens` of tasks that ask for a class, `Decided` of
    those that two tokens decide, and else `Futures`, which alone are drawn.

    Raises: UserError as `together.of_group`.
    """
    stays = len(union.first)
    if group[0].task.kind == "class":
        prompts = np.concatenate([samples.prompts for samples in union.samples])[union.first]
        # Of a large vocabulary a task names a few tokens: the others' probabilities would fill the memory.
        named = np.flatnonzero(_named(union))

        def next_tokens(rows: np.ndarray, report: Callable[..., None]) -> NextTokens:
            of_rows = simulate.next_token(model, params, prompts[rows], named)
            report(len(rows))
            return NextTokens(of_rows)

        return Work(stays, NextTokens, next_tokens)
    simulation = together.of_group(workdir, group, union)
    if not group[0].exact:
        return simulation.work(model, params)

    def decided(rows: np.ndarray, report: Callable[..., None]) -> Decided:
        of_rows = two_tokens.decide(model, params, simulation.request.take(rows))
        report(len(rows))
        return of_rows

    return Work(stays, Decided, decided)


def _named(union: Union) -> np.ndarray:
    """bool (V,): tokens that any of the tasks names."""
    return np.any([samples.meanings >= 0 for samples in union.samples], axis=0)


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


def _of_next_tokens(
    cell: Cell, question: Question, samples: Samples, said: NextTokens, named: np.ndarray, tokens: Sequence[str]
) -> dict[str, Any]:
    """Of a task that asks for a class: nothing is drawn. Args: named, bool (V,), the tokens that `said` is of."""
    p, total = estimators.class_probabilities(said.probabilities, samples.meanings[named])
    names = [tokens[i] for i in np.flatnonzero(samples.meanings >= 0).tolist()]
    predictions.write_classes(question.folder / f"{cell.id}.parquet", samples.stays, names, p)
    seeds = {"draws": question.options["draws"], "seed": question.options["seed"]}
    score = values.evaluate_classes(samples.stays.labels, p, samples.stays.patients, **seeds)
    if question.task.ordered:
        steps = np.arange(p.shape[1]) + 1.0
        truth = steps[samples.stays.labels]
        mean = estimators.expectation(p, steps).value
        score["expectation"] = values.evaluate_values(truth, mean, samples.stays.patients, **seeds)
    return {**score, "names_a_class": float(total.mean())}


def _of_futures(cell: Cell, question: Question, samples: Samples, futures: Futures, k: int) -> dict[str, Any]:
    """Of a task that is the outcome k of simulated futures."""
    lost = estimators.undetermined(futures, k)
    facts = {
        "copies": question.options["copies"],
        "undetermined": lost.open + lost.bounded,
        "open": lost.open,
        "bounded": lost.bounded,
        "stays_undetermined": lost.samples,
        "generated_tokens": int(futures.lengths.sum()),
    }
    if question.task.kind == "days":
        return {**_judge_days(cell, question, samples, futures, k), **facts}
    method = question.options["method"]
    score = _judge(cell, question, samples, getattr(estimators, method)(futures, k))
    return {**score, **(_counted(samples, futures, k) if method == "scope" else {}), **facts}


def _of_sums(cell: Cell, question: Question, samples: Samples, decided: Decided, k: int) -> dict[str, Any]:
    """Of a task that two tokens decide: nothing is drawn."""
    estimate = estimators.exact(decided, k)
    # Of probability, what shares of copies are of futures
    open_share, bounded = float(decided.open[:, k].mean()), float(decided.undecided[:, k].mean())
    facts = {
        "undetermined": open_share + bounded,
        "open": open_share,
        "bounded": bounded,
        "stays_undetermined": float(np.isnan(estimate.probability).mean()),
    }
    return {**_judge(cell, question, samples, estimate), **facts}


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
