"""Heads fitted and scored, one record each: `outcomes/<task>/supervised/<method>/<labels>/<cell>.json` and `.parquet`.

`<labels>` is `all`, or the number of labels and that of their draw, as in `200-1`. Beside them, for the models that
differ in their seed alone, `mean-….json` and `.parquet`: the same of the mean of their risks. What is there is not made
again.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling import artifacts, storage
from ehr_scaling.data import disclosure
from ehr_scaling.data.inspection import inspection
from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import Cell, Unit
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import probabilities, scoring
from ehr_scaling.outcomes.asking import questions
from ehr_scaling.outcomes.asking.prepared import Question
from ehr_scaling.outcomes.judging.metrics import paired
from ehr_scaling.outcomes.supervised import heads, labels, probe
from ehr_scaling.outcomes.supervised.finetune import Recipe
from ehr_scaling.training.setup import restored_params

VERSION = 1  # of what is made of a model and labels: raise it, and all heads are fitted again
# With each scoring.VERSION until this one heads were fitted again; since then their predictions are judged anew.
_FITTED = 4
# What a score may lack that is made anew
_SOMETIMES = ("interval_missing", "against_zero_shot", "against_baseline")
FOLDER, ZERO_SHOT = "supervised", "zero-shot"
MEAN = "mean-"  # how names of what is of several models begin


class Request(NamedTuple):
    """Which heads are asked for."""

    tasks: tuple[str, ...]  # names of prepared ones
    methods: tuple[str, ...] = heads.METHODS
    counts: tuple[int | None, ...] = (None,)  # numbers of labels, None: all
    draws: int = 3  # of the labels, of each number but for all
    recipe: Recipe = Recipe()
    seed: int = 0

    def known(self) -> list[tuple[int | None, int]]:
        """(number of labels, draw) of each head of a method."""
        return [(count, draw) for count in self.counts for draw in range(1 if count is None else self.draws)]


class Head(NamedTuple):
    """One head to fit, and where its score lies."""

    method: str
    known: int | None  # labels, None: all
    draw: int
    path: Path


def asked_of(name: str, question: Question, request: Request) -> list[Head]:
    """All heads of a task. Args: name, of a cell, or of the mean of some."""
    folder = question.folder / FOLDER
    return [
        Head(method, count, draw, folder / method / of_labels(count, draw) / f"{name}.json")
        for method in request.methods
        for count, draw in request.known()
    ]


def of_labels(count: int | None, draw: int) -> str:
    return labels.ALL if count is None else f"{count}-{draw + 1}"


def fewer_than_all(request: Request, stays: int) -> Request:
    """The request with numbers of labels below `stays`, of train stays; all others become one None, for all stays."""
    some = [count for count in request.counts if count is not None and count < stays]
    return request._replace(counts=(*some, *((None,) if len(some) < len(request.counts) else ())))


def job(unit: Unit, workdir: Path, report: Callable[..., None], request: Request) -> list[dict[str, Any]]:
    """Fit and score what is missing of the heads of finished cells; for `grid.executors.run`.

    Returns: of each cell the scores by their names below `supervised/`, as in their JSON.
    Raises: UserError as `heads.check` and `heads.data_of` do.
    """
    return [_of_cell(cell, workdir, report, request) for cell in unit]


def finished(unit: Unit, workdir: Path, request: Request) -> list[dict[str, Any]] | None:
    """The scores of cells that have all heads, else None."""
    scores = []
    for cell in unit:
        of_all: dict[str, Any] = {}
        for question in (heads.question_of(workdir, task) for task in request.tasks):
            there, _ = _there(cell, question, request)
            zero_shot = [question.folder / f"{cell.id}.parquet"]
            for head in asked_of(cell.id, question, request):
                score = there.get(_key(question, head))
                if score is None or not _as_now(score, question, head, request, zero_shot):
                    return None
            of_all |= there
        scores.append(of_all)
    return scores


def _there(cell: Cell, question: Question, request: Request) -> tuple[dict[str, Any], list[Head]]:
    """The scores that are there, and the heads that are left."""
    there, missing = {}, []
    for head in asked_of(cell.id, question, request):
        storage.fetch(head.path.parent, f"{cell.id}.*")
        score = _read(head.path, _fingerprint(cell.id, question, head, request))
        if score is None:
            missing.append(head)
        else:
            there[_key(question, head)] = score
    return there, missing


def _as_now(score: dict[str, Any], question: Question, head: Head, request: Request, zero_shot: Sequence[Path]) -> bool:
    """Whether a score is made as scores are now, and has the differences to all that has been scored by now."""
    now = _made_now(question, head, request)
    return all(score.get(name) == value for name, value in now.items()) and (
        "against_zero_shot" in score or not _all_there(zero_shot)
    )


def _made_now(question: Question, head: Head, request: Request) -> dict[str, Any]:
    """Of a score: by which version of the measures, beside which baseline, and how the head is fitted."""
    beside = probabilities.baseline_of(question.folder)
    return {"judged": scoring.VERSION, "baseline": beside, "way": group_key(head.method, request)}


def _all_there(files: Sequence[Path]) -> bool:
    return bool(files) and all(file.exists() for file in files)


def _key(question: Question, head: Head) -> str:
    return f"{question.task.name}/{head.method}/{head.path.parent.name}"


def _read(path: Path, fingerprint: str) -> dict[str, Any] | None:
    if path.exists() and path.with_suffix(".parquet").exists():
        score: dict[str, Any] = artifacts.read_json(path)
        if score.get("fingerprint") == fingerprint:
            return score
    return None


def _fingerprint(what: Any, question: Question, head: Head, request: Request) -> str:
    """Of all that predictions depend on. Args: what, the cell, or those of a mean."""
    return artifacts.fingerprint(
        {
            **_fitted(head.method, request),
            "samples": question.record["fingerprint"],
            "of": what,
            "head": [head.method, head.known, head.draw, request.seed],
        }
    )


def group_key(method: str, request: Request) -> str:
    """Fingerprint of what heads must share to be averaged: method, recipe, choices, seed and versions. Heads of other
    models, or of other labels, have the same. It is `way` in a score."""
    return artifacts.fingerprint({**_fitted(method, request), "method": method, "seed": request.seed})


def _fitted(method: str, request: Request) -> dict[str, Any]:
    recipes = {
        heads.FINETUNE: request.recipe._asdict(),
        heads.PROBE: {"class_weights": request.recipe.class_weights},
        ZERO_SHOT: {"answers": scoring.ANSWERS},
    }
    return {
        "versions": [VERSION, _FITTED],
        "choices": [heads.FEATURES, probe.STRENGTHS],
        "recipe": recipes[method],
    }


def _of_cell(cell: Cell, workdir: Path, report: Callable[..., None], request: Request) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    trained: Any = None
    for task in request.tasks:
        question = heads.question_of(workdir, task)
        there, missing = _there(cell, question, request)
        zero_shot = [question.folder / f"{cell.id}.parquet"]
        for head in asked_of(cell.id, question, request):
            score = there.get(_key(question, head))
            if score is not None and not _as_now(score, question, head, request, zero_shot):
                there[_key(question, head)] = _again(workdir, question, head, request, score, zero_shot)
        scores |= there
        if not missing:
            continue
        heads.check(cell, workdir, question)
        data = heads.data_of(workdir, question)
        trained = trained or restored_params(cell, Layout(workdir).run(cell.id))
        started = time.monotonic()
        model = heads.read(trained[0], trained[1], data, report)
        read = time.monotonic() - started
        generated = inspection.of_generated(workdir)
        for head in missing:
            started = time.monotonic()
            fitted = heads.fit(
                model,
                data,
                head.method,
                request.recipe,
                count=head.known,
                draw=head.draw,
                seed=request.seed,
                report=report,
            )
            facts = {"cell": cell.id, **_facts(question, head), **_told(fitted.settings, generated)}
            facts["seconds"] = read + time.monotonic() - started
            facts["fingerprint"] = _fingerprint(cell.id, question, head, request)
            facts["fitted_at"] = time.time()  # of several ways the report takes the newest
            score = _write(workdir, question, head, request, fitted.probability, facts, zero_shot)
            scores[_key(question, head)] = score
    return scores


def _facts(question: Question, head: Head) -> dict[str, Any]:
    drawn = {} if head.known is None else {"draw": head.draw + 1}
    return {"task": question.task.name, "method": head.method, "labels": head.known or labels.ALL, **drawn}


def _told(settings: dict[str, Any], generated: bool) -> dict[str, Any]:
    """Without counts of few patients."""
    counts = {name: disclosure.told(settings[name], generated) for name in ("train_positives", "tuning_positives")}
    return settings | counts


def _write(
    workdir: Path,
    question: Question,
    head: Head,
    request: Request,
    probability: np.ndarray,
    facts: dict[str, Any],
    zero_shot: Sequence[Path],
) -> dict[str, Any]:
    """Score predictions as those of a baseline are, beside the zero-shot ones of the same models, and write both."""
    path = head.path
    artifacts.work_directory(path.parent.parent.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    samples, predicted = questions.load(question.folder), path.with_suffix(".parquet")
    # As they are stored: of risks that hardly differ, rounding makes ties
    probability = probability.astype(np.float32).astype(np.float64)
    score = {**facts, **scoring.of_baseline(workdir, question, samples, probability, predicted)}
    score |= _made_now(question, head, request)
    said = probabilities.answers(predicted)
    seeds = {name: question.options[name] for name in ("draws", "seed")}
    about: dict[str, Any] = {"weights": probabilities.weights_of(samples), **seeds}
    if _all_there(zero_shot):
        score["against_zero_shot"] = paired.compare(_mean(zero_shot), said, **about)
    if score["baseline"] is not None:
        regression = (question.folder / probabilities.BASELINE).with_suffix(".parquet")
        score["against_baseline"] = paired.compare(probabilities.answers(regression), said, **about)
    artifacts.write_sealed(path, score)
    for file in (predicted, path):
        storage.store(file)
    return score


def _again(
    workdir: Path,
    question: Question,
    head: Head,
    request: Request,
    score: dict[str, Any],
    zero_shot: Sequence[Path],
) -> dict[str, Any]:
    """The score of predictions that are there, as it is made now, beside what has been scored since."""
    said = probabilities.answers(head.path.with_suffix(".parquet")).probabilities.astype(np.float64)
    facts = {name: value for name, value in score.items() if name not in _SOMETIMES}
    facts.setdefault("fitted_at", head.path.stat().st_mtime)  # of an earlier version, which did not say
    return _write(workdir, question, head, request, said, facts, zero_shot)


def _mean(files: Sequence[Path]) -> paired.Answers:
    """The mean of the probabilities of several models for the same stays."""
    return paired.mean([probabilities.answers(file) for file in files])


def _check_one_way(files: Sequence[Path], now: str) -> None:
    """Raises UserError where heads are fitted in another way, as by a second command with another recipe meanwhile."""
    for file in files:
        if artifacts.read_json(file.with_suffix(".json")).get("way") != now:
            raise UserError(f"{file} is of another recipe or seed than is asked for: run the same command again")


def setting(cell: Cell) -> str:
    """What cells have in common that differ in their seed alone."""
    return artifacts.fingerprint({name: value for name, value in cell.learnt().items() if name != "seed"})


def of_means(workdir: Path, cells: Sequence[Cell], request: Request) -> dict[str, Any]:
    """Score the mean of the risks of cells that differ in their seed alone, where there are several, of each head; and
    of their zero-shot risks, where all have been scored, in `zero-shot/all/`.

    Returns: scores by their names below `supervised/`, of the settings one after the other.
    """
    scores = {}
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(setting(cell), []).append(cell)
    for of_all, group in groups.items():
        name, ids = f"{MEAN}{of_all}", sorted(cell.id for cell in group)
        if len(ids) < 2:
            continue
        for task in request.tasks:
            question = heads.question_of(workdir, task)
            zero_shot = [question.folder / f"{cell}.parquet" for cell in ids]
            every = asked_of(name, question, request)
            if _all_there(zero_shot):
                path = question.folder / FOLDER / ZERO_SHOT / labels.ALL / f"{name}.json"
                every.append(Head(ZERO_SHOT, None, 0, path))
            for head in every:
                fingerprint = _fingerprint(ids, question, head, request)
                score = _read(head.path, fingerprint)
                beside = [] if head.method == ZERO_SHOT else zero_shot
                if score is None:
                    of_each = [head.path.with_name(f"{cell}.parquet") for cell in ids]
                    if beside:
                        _check_one_way(of_each, group_key(head.method, request))
                    said = _mean(of_each if beside else zero_shot).probabilities.astype(np.float64)
                    facts = {"cells": ids, **_facts(question, head), "fingerprint": fingerprint}
                    score = _write(workdir, question, head, request, said, facts, beside)
                elif not _as_now(score, question, head, request, beside):
                    score = _again(workdir, question, head, request, score, beside)
                scores[f"{_key(question, head)}/{name}"] = score
    return scores
