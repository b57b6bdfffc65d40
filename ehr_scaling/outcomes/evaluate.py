"""What each model of a grid answers to the questions asked of held-out patients: `outcomes/<task>/<cell>.…`."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ehr_scaling import artifacts, storage
from ehr_scaling.data import disclosure, inspection, parquet, timelines
from ehr_scaling.errors import UserError, first_line
from ehr_scaling.grid.cell import Cell, Unit
from ehr_scaling.grid.executors import Cost
from ehr_scaling.layout import Layout
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes import choosing, together
from ehr_scaling.outcomes.asking import cohort, questions, stays
from ehr_scaling.outcomes.asking.prepared import Question, asked_in, groups, tuning_of, union_of
from ehr_scaling.outcomes.asking.questions import Samples
from ehr_scaling.outcomes.asking.tasks import Task
from ehr_scaling.outcomes.exchange import predictions
from ehr_scaling.outcomes.judging import baselines, calibration, estimators, metrics, paired, subgroups, values
from ehr_scaling.outcomes.sampler import simulate
from ehr_scaling.outcomes.sampler.simulate import Futures
from ehr_scaling.training.setup import restored_params

BASELINE = "baseline.json"
OTHERS = "baselines"  # folder of what the baselines beside that one predict
VERSION = 3  # of how scores are made from samples: raise it, and every model is scored again
FEATURES_VERSION = 2  # of what baselines are fitted to: raise it, and they are fitted again
METHODS = {
    "scope": "SCOPE estimate of P(outcome) / (P(outcome) + P(its opposite)) over simulated futures (arXiv 2602.03730)",
    "reach": "REACH estimate of P(outcome) over simulated futures without the outcome (arXiv 2602.03730)",
    "monte_carlo": "share of simulated futures with the outcome among those with it or its opposite",
}
_GROUP_DRAWS = 200  # bootstrap draws of a subgroup


def costs(workdir: Path, units: list[Unit]) -> list[Cost]:
    """What it takes to score the cells of each unit on all that is asked."""
    tokens = stays = 0
    for group in groups(_asked(workdir)):
        options = group[0].options
        each = 1 if group[0].task.kind == "class" else options["copies"] * options["new_tokens"]
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
    An interrupted simulation goes on with the stay it had come to.

    Returns: of each cell, the score of each task, as in its JSON.
    Raises: UserError when a cell is not finished, or was trained on other timelines or a shorter context.
    """
    return [_score_cell(cell, workdir, report) for cell in unit]


def finished(unit: Unit, workdir: Path) -> list[dict[str, dict[str, Any]]] | None:
    """The scores of cells that are all scored, else None; costs no JAX."""
    scored = [_scored(cell, workdir) for cell in unit]
    return None if any(waiting for _, waiting in scored) else [scores for scores, _ in scored]


def help_out(unit: Unit, workdir: Path, report: Callable[..., None]) -> bool:
    """Draw parts of the futures of cells that another process is scoring, where it waits for some; an `executors.Help`.

    Both draw the same futures, whoever draws which part, but for rounding.
    """
    for cell in unit:
        for scratch in filter(together.wants_help, Layout(workdir).outcomes.glob(f".{cell.id}-*")):
            for group in groups(_scored(cell, workdir)[1]):
                if _scratch(cell, workdir, group) == scratch:
                    trained = restored_params(cell, Layout(workdir).run(cell.id))
                    simulation = together.of_group(workdir, group, union_of(group))
                    return bool(simulation.draw_parts(*trained, scratch, report))
    return False


def _scored(cell: Cell, workdir: Path) -> tuple[dict[str, dict[str, Any]], list[Question]]:
    """The scores that are there, by the names of their questions, and the questions that are left."""
    scores, waiting = {}, []
    for question in _asked(workdir):
        path = question.folder / f"{cell.id}.json"
        storage.fetch(question.folder, f"{cell.id}.*")
        if path.exists() and path.with_suffix(".parquet").exists():
            score = artifacts.read_json(path)
            if score.get("fingerprint") == _fingerprint(cell, question):
                scores[_name(question)] = score
                _hand_over(path)
                continue
        waiting.append(question)
    return scores, waiting


def _score_cell(cell: Cell, workdir: Path, report: Callable[[int], None]) -> dict[str, dict[str, Any]]:
    scores, waiting = _scored(cell, workdir)
    for question in waiting:
        _check(cell, workdir, question)
    if waiting:
        trained = restored_params(cell, Layout(workdir).run(cell.id))
        for group in groups(waiting):
            score_all = _answer_classes if group[0].task.kind == "class" else _answer_futures
            scratch = _scratch(cell, workdir, group)
            # All are judged before one is written: else an interruption between two would need the futures anew.
            for question, score in list(score_all(cell, workdir, *trained, group, scratch, report)):
                score = {"cell": cell.id, "task": question.task.name, "kind": question.task.kind, **score}
                scores[_name(question)] = {**score, "fingerprint": _fingerprint(cell, question)}
                path = question.folder / f"{cell.id}.json"
                artifacts.write_sealed(path, scores[_name(question)])
                _hand_over(path)
            shutil.rmtree(scratch, ignore_errors=True)
    # Of groups that were interrupted, and then asked in another composition
    for left in Layout(workdir).outcomes.glob(f".{cell.id}-*"):
        shutil.rmtree(left, ignore_errors=True)
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
    """Where the futures of a group are kept until they are judged: of another group they are others."""
    fingerprint = artifacts.fingerprint([question.record["fingerprint"] for question in group])
    return Layout(workdir).outcomes / f".{cell.id}-{fingerprint}"


def _fingerprint(cell: Cell, question: Question) -> str:
    what = {"samples": question.record["fingerprint"], "cell": cell.id, "version": VERSION}
    tuning = tuning_of(question)
    return artifacts.fingerprint(what | ({"tuning": tuning.record["fingerprint"]} if tuning else {}))


def _check(cell: Cell, workdir: Path, question: Question) -> None:
    options, folder = question.options, question.folder
    choosing.check_timelines(cell, workdir, options["timelines"], question.record["summary"]["vocabulary"], folder)
    if options["context"] > cell.context:
        raise UserError(
            f"{folder} asks for {options['context']} tokens of prompt and future, and cell {cell.id} was trained on "
            f"{cell.context}: delete {folder} and prepare it for that context"
        )


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
    probability, base = estimators.filled(estimate.probability, _weights(samples))
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
        said = _answers(tuning.folder / f"{cell.id}.parquet")
        weights = _weights(questions.load(tuning.folder))
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
            _answers(beside),
            paired.Answers(sampled.subject_ids, sampled.times, sampled.labels, probability.astype(np.float32)),
            weights=_weights(samples),
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
    sampled, weights = samples.stays, _weights(samples)
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


def _weights(samples: Samples) -> np.ndarray | None:
    return None if (samples.weights == 1).all() else samples.weights


def _answers(path: Path) -> paired.Answers:
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
        {"samples": record["fingerprint"], "version": VERSION, "features": FEATURES_VERSION}
    )
    there = path.exists() and (folder / "baseline.parquet").exists()
    if there and (score := artifacts.read_json(path)).get("fingerprint") == fingerprint:
        return score
    options, samples = record["inputs"], questions.load(folder)
    every = cohort.stays(workdir, "train", task)
    train = stays.subsample(every, options["train_samples"], None, options["seed"])
    generated = inspection.of_generated(workdir)
    count, all_there = (disclosure.words(len(stays.labels), generated) for stays in (train, every))
    fitted_on = f"fitted on {count} of {all_there} stays of the train split"
    print(f"{task.name}: baselines are {fitted_on}", file=sys.stderr, flush=True)
    x, x_new = baselines.features(workdir, "train", train), baselines.features(workdir, options["split"], samples.stays)
    classes = int(samples.meanings.max()) + 1 if task.kind == "class" else None
    fitted = baselines.fit_all(x, train.labels, train.patients, options["seed"], classes)
    (folder / OTHERS).mkdir(exist_ok=True)
    main = next(name for name in fitted if "regression" in name)
    scores = {}
    for name, method in fitted.items():
        predicted = method.predict(x_new)
        file = folder / "baseline.parquet" if name == main else folder / OTHERS / f"{name.replace(' ', '_')}.parquet"
        scores[name] = {"name": name, **_judge_baseline(workdir, question, samples, predicted, file), **method.settings}
    train_facts = {"method": fitted_on, "features": baselines.FEATURES, "train_stays": len(train.labels)}
    if train.labels.dtype == bool:
        train_facts["train_positives"] = int(train.labels.sum())
    others = {name: score for name, score in scores.items() if name != main}
    score = {"task": task.name, **scores[main], **train_facts, "others": others, "fingerprint": fingerprint}
    artifacts.write_sealed(path, score)
    for written in (folder / OTHERS, folder / "baseline.parquet", path):
        storage.store(written)
    return score


def _judge_baseline(
    workdir: Path, question: Question, samples: Samples, predicted: np.ndarray, file: Path
) -> dict[str, Any]:
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
