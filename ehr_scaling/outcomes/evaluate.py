"""The models of a grid, and the baselines, scored on all prepared tasks: `outcomes/<task>/<cell>.…`, `baseline.…`.

What is there is not made again; how one is scored is said by `scoring`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ehr_scaling import artifacts, storage
from ehr_scaling.data import disclosure
from ehr_scaling.data.inspection import inspection
from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import Cell, Unit
from ehr_scaling.grid.executors import Cost
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import choosing, parts, probabilities, scoring
from ehr_scaling.outcomes.asking import cohort, questions, stays
from ehr_scaling.outcomes.asking.prepared import (
    Question,
    asked_in,
    groups,
    recalibration_of,
    tuning_of,
    tuning_there,
    union_of,
)
from ehr_scaling.outcomes.asking.tasks.tasks import Task
from ehr_scaling.processes import preemption
from ehr_scaling.training.setup import restored_params

BASELINE = probabilities.BASELINE
FEATURES_VERSION = 3  # of what baselines are fitted to: raise it, and they are fitted again


def costs(workdir: Path, units: list[Unit]) -> list[Cost]:
    """What it takes to score the cells of each unit on all that is asked."""
    tokens = stays = 0
    for group in groups(_asked(workdir)):
        options = group[0].options
        drawn = not group[0].exact and group[0].task.kind != "class"
        each = options["copies"] * options["new_tokens"] if drawn else 1
        stays += (many := len(union_of(group).first))
        tokens += many * each
    return [
        Cost(sum(2.0 * (cell.N_body + cell.N_head) for cell in unit) * tokens, len(unit) * tokens, len(unit) * stays)
        for unit in units
    ]


def job(unit: Unit, workdir: Path, report: Callable[..., None]) -> list[dict[str, dict[str, Any]]]:
    """Score finished cells on every prepared task of the study in `workdir`; for `grid.executors.run`.

    Writes `outcomes/<task>/<cell>.parquet`, predictions (see `predictions`), and `<cell>.json`, its score; a score that
    is there, from the same samples, is not made again. Tasks that share their prompts are answered by the same futures.
    What was interrupted goes on with the part of the stays that it had come to.

    Returns: of each cell, the score of each task, as in its JSON.
    Raises: UserError when a cell is not finished, or was trained on other timelines or a shorter context. Preempted
      after SIGTERM, where that was put off.
    """
    return [_score_cell(cell, workdir, report) for cell in unit]


def finished(unit: Unit, workdir: Path) -> list[dict[str, dict[str, Any]]] | None:
    """The scores of cells that are all scored, else None; costs no JAX."""
    states = [_scored(cell, workdir) for cell in unit]
    return None if any(state.unanswered or state.unjudged for state in states) else [state.scores for state in states]


def help_out(unit: Unit, workdir: Path, report: Callable[..., None]) -> bool:
    """Compute parts of what cells say that another process is scoring, where it waits for some; an `executors.Help`.

    Whoever computes which part, it is the same, but for rounding.
    """
    for cell in unit:
        folder = Layout(workdir).parts(cell.id)
        storage.fetch(folder, f"*/*{parts.OPEN}", gone=True)
        for scratch in filter(parts.wants_help, folder.glob("*")):
            for group in groups(_scored(cell, workdir).unanswered):
                if _scratch(cell, workdir, group) == scratch:
                    trained = restored_params(cell, Layout(workdir).run(cell.id))
                    work = scoring.work(workdir, *trained, group, union_of(group))
                    return bool(parts.compute_free(work, scratch, report))
    return False


class _State(NamedTuple):
    """What is there of a cell: scores by the names of their questions, the questions that have no predictions, and
    those whose predictions are to be judged anew, each with the score it has."""

    scores: dict[str, dict[str, Any]]
    unanswered: list[Question]
    unjudged: list[tuple[Question, dict[str, Any]]]


def _scored(cell: Cell, workdir: Path) -> _State:
    state = _State({}, [], [])
    for question in _asked(workdir):
        path = question.folder / f"{cell.id}.json"
        for pattern in (f"{cell.id}.*", "baseline*"):
            storage.fetch(question.folder, pattern)
        score = artifacts.read_json(path) if path.exists() and path.with_suffix(".parquet").exists() else {}
        if score.get("fingerprint") == _fingerprint(cell, question):
            state.scores[_name(question)] = score
            _hand_over(path)
        elif _answered(score, cell, question):
            state.unjudged.append((question, score))
        else:
            state.unanswered.append(question)
    return state


def _score_cell(cell: Cell, workdir: Path, report: Callable[[int], None]) -> dict[str, dict[str, Any]]:
    scores, unanswered, unjudged = _scored(cell, workdir)

    def keep(question: Question, score: dict[str, Any]) -> None:
        score = {"cell": cell.id, "task": question.task.name, "kind": question.task.kind, **score}
        fingerprints = {"answers": _answers(cell, question), "fingerprint": _fingerprint(cell, question)}
        scores[_name(question)] = {**score, **fingerprints}
        path = question.folder / f"{cell.id}.json"
        artifacts.write_sealed(path, scores[_name(question)])
        _hand_over(path)

    for question in unanswered:
        _check(cell, workdir, question)
    if unanswered:
        trained = restored_params(cell, Layout(workdir).run(cell.id))
        for group in groups(unanswered):
            scratch = _scratch(cell, workdir, group)
            # All are judged before one is written: else an interruption between two would need the futures anew.
            for question, score in list(scoring.of_model(cell, workdir, *trained, group, scratch, report)):
                keep(question, score)
            parts.forget(scratch)
    for question, score in unjudged:  # after that, since recalibrations read what was just predicted
        preemption.check()
        keep(question, scoring.judged_again(cell, question, score))
    # Of groups that were interrupted, and then asked in another composition; a name with a dash is an earlier version's
    for left in (Layout(workdir).parts(cell.id), *Layout(workdir).outcomes.glob(f".{cell.id}-*")):
        parts.forget(left)
    return scores


def _hand_over(score: Path) -> None:
    """To the bucket, where there is one: predictions, then what was made of them. What it has is not sent again."""
    for file in (score.with_suffix(".parquet"), score):
        storage.store(file)


def _asked(workdir: Path) -> list[Question]:
    """What each model is asked: first that which recalibrations are fitted to, since those that follow read it."""
    all_questions = asked_in(workdir)
    return [tuning for question in all_questions if (tuning := tuning_of(question))] + all_questions


def _name(question: Question) -> str:
    """A task's, or that of its stays that a recalibration is fitted to."""
    split = question.options["split"]
    return f"{question.task.name}/{split}" if split == questions.TUNING else question.task.name


def _scratch(cell: Cell, workdir: Path, group: list[Question]) -> Path:
    """Where parts of what a cell says of a group are kept until they are judged: of another group they are others."""
    made_by = [scoring.ANSWERS, parts.AT_ONCE]  # parts of another version are others
    fingerprint = artifacts.fingerprint(made_by + [question.record["fingerprint"] for question in group])
    return Layout(workdir).parts(cell.id) / fingerprint


def _fingerprint(cell: Cell, question: Question) -> str:
    """Of all that a score is made from."""
    what = {"samples": question.record["fingerprint"], "cell": cell.id, "version": scoring.VERSION}
    if tuning := tuning_of(question):
        what |= {"tuning": tuning.record["fingerprint"], "recalibration": recalibration_of(tuning)}
    if question.task.kind == "binary":  # others are not compared with it
        what |= {"baseline": probabilities.baseline_of(question.folder)}
    return artifacts.fingerprint(what)


def _answers(cell: Cell, question: Question) -> str:
    """Of all that predictions are made from."""
    return artifacts.fingerprint(
        {"samples": question.record["fingerprint"], "cell": cell.id, "version": scoring.ANSWERS}
    )


def _answered(score: dict[str, Any], cell: Cell, question: Question) -> bool:
    """Whether the predictions beside a score are those that would be made now, so that judging them is enough."""
    as_now = _answers(cell, question)
    if "answers" in score:
        return score["answers"] == as_now
    # Until version 3 one fingerprint stood for both, in which the stays of a recalibration were too.
    tuning = tuning_there(question)
    earlier = {"samples": question.record["fingerprint"], "cell": cell.id, "version": scoring.ANSWERS}
    with_tuning = [earlier | {"tuning": tuning.record["fingerprint"]}] if tuning else []
    return score.get("fingerprint") in (as_now, *map(artifacts.fingerprint, with_tuning))


def _check(cell: Cell, workdir: Path, question: Question) -> None:
    options, folder = question.options, question.folder
    choosing.check_timelines(cell, workdir, options["timelines"], question.record["summary"]["vocabulary"], folder)
    if options["context"] > cell.context:
        raise UserError(
            f"{folder} asks for {options['context']} tokens of prompt and future, and cell {cell.id} was trained on "
            f"{cell.context}: delete {folder} and prepare it for that context"
        )


def baseline(workdir: Path, task: Task) -> dict[str, Any]:
    """Fit the baselines on train stays, score them on the task's samples, and write `baseline.json`.

    The first is that of `baseline.json` (logistic regression; ridge regression or a multinomial one for numbers and
    classes), with its predictions in `baseline.parquet`; the scores of the others are in its `others`, their
    predictions in `baselines/`. All are kept when they are there from the same samples.
    Returns: name, auroc, low, high, n, positives and more, as in the JSON.
    """
    folder = Layout(workdir).task(task.name)
    record = artifacts.record(folder)
    question = Question(folder, record, task)
    path = folder / BASELINE
    storage.fetch(folder, "baseline*")
    fingerprint = artifacts.fingerprint(
        {"samples": record["fingerprint"], "version": scoring.VERSION, "features": FEATURES_VERSION}
    )
    if path.exists() and (score := artifacts.read_json(path)).get("fingerprint") == fingerprint:
        files = (probabilities.file_of(folder, name, score["name"]) for name in (score["name"], *score["others"]))
        if all(file.exists() for file in files):
            return score
    from ehr_scaling.outcomes.judging import baselines, summaries  # scikit-learn takes a second: where it is needed

    options, samples = record["inputs"], questions.load(folder)
    every = cohort.stays(workdir, "train", task)
    train = stays.subsample(every, options["train_samples"], None, options["seed"])
    generated = inspection.of_generated(workdir)
    count, all_there = (disclosure.words(len(stays.labels), generated) for stays in (train, every))
    fitted_on = f"fitted on {count} of {all_there} stays of the train split"
    print(f"{task.name}: baselines are {fitted_on}", file=sys.stderr, flush=True)
    storage.fetch(Layout(workdir).events)  # values are nowhere else
    codes = summaries.common_codes(workdir, "train", train, task.by_time)
    x, x_new = (
        baselines.Features(
            baselines.features(workdir, split, some), summaries.summaries(workdir, split, some, codes, task.by_time)
        )
        for split, some in (("train", train), (options["split"], samples.stays))
    )
    classes = int(samples.meanings.max()) + 1 if task.kind == "class" else None
    fitted = baselines.fit_all(x, train.labels, train.patients, options["seed"], classes)
    (folder / probabilities.OTHERS).mkdir(exist_ok=True)
    main = next(name for name in fitted if "regression" in name)
    scores = {}
    for name, method in fitted.items():
        predicted = method.predict(x_new)
        file = probabilities.file_of(folder, name, main)
        scores[name] = {
            "name": name,
            **scoring.of_baseline(workdir, question, samples, predicted, file),
            **method.settings,
        }
    train_facts = {"method": fitted_on, "features": baselines.FEATURES, "train_stays": len(train.labels)}
    if train.labels.dtype == bool:
        train_facts["train_positives"] = int(train.labels.sum())
    others = {name: score for name, score in scores.items() if name != main}
    score = {"task": task.name, **scores[main], **train_facts, "others": others, "fingerprint": fingerprint}
    artifacts.write_sealed(path, score)
    for written in (folder / probabilities.OTHERS, folder / "baseline.parquet", path):
        storage.store(written)
    return score
