"""Heads on one trained model for one prepared task: from its weights and labels to risks of the test stays.

The probe is a logistic regression on frozen states, fine-tuning trains every weight. Both are fitted to stays of the
train split and chosen by the log-loss of stays of the tuning (validation) split; no label of a test stay is read.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling import artifacts
from ehr_scaling.data.timelines import timelines
from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import Layout
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes import choosing
from ehr_scaling.outcomes.asking import cohort, questions, stays
from ehr_scaling.outcomes.asking.prepared import Question
from ehr_scaling.outcomes.asking.stays import Stays
from ehr_scaling.outcomes.asking.tasks import tasks
from ehr_scaling.outcomes.asking.tasks.tasks import Unanswerable
from ehr_scaling.outcomes.supervised import finetune, labels, probe, states
from ehr_scaling.outcomes.supervised.finetune import Labelled, Recipe
from ehr_scaling.training.setup import restored_params

PROBE, FINETUNE = "probe", "finetune"
METHODS = (PROBE, FINETUNE)
# What a probe may read: of the end of the prompt, of its events, of both, and of both at two depths
FEATURES = (
    (states.LAST,),
    (states.MEAN,),
    (states.LAST, states.MEAN),
    states.NAMES,
)
Report = Callable[[int], None]


class Data(NamedTuple):
    """What heads of any model learn from and are asked about; the test stays are without labels."""

    train: Labelled
    tuning: Labelled
    test_prompts: np.ndarray  # prompts of the test stays (n, P), in the order of the task's samples
    context_tokens: int  # of static context, in front of each prompt

    def of(self, count: int | None, draw: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the train stays whose labels are known, and of tuning stays to choose by: as many, if so many are.

        Args: count, None for all of both; draw and seed, as of `labels.draw`.
        """
        splits = (self.train.labels, self.tuning.labels)
        if count is None:
            return np.arange(len(splits[0])), np.arange(len(splits[1]))
        rows = (labels.draw(of_split, min(count, len(of_split)), seed, draw) for of_split in splits)
        return next(rows), next(rows)


class Fitted(NamedTuple):
    """One head, fitted: its risks of the n test stays, and what was chosen on the tuning stays."""

    probability: np.ndarray  # float64 (n,), of the outcome
    settings: dict[str, Any]  # numbers of stays, features, strength and losses, for the score


def data_of(workdir: Path, question: Question) -> Data:
    """Prompts and labels for the heads of a prepared task, of all stays that its baselines were fitted to.

    Raises: UserError where the task is not one of yes or no, and as `learnt_from` and `questions.load` do.
    """
    check_kind(question)
    width = question.options["context"] - question.options["room"]

    def labelled(split: str, some: Stays) -> Labelled:
        return Labelled(stays.prompts(workdir, split, some, width), some.labels)

    train, tuning = learnt_from(workdir, question)
    return Data(
        labelled("train", train),
        labelled(questions.TUNING, tuning),
        questions.load(question.folder).prompts,
        timelines.vocabulary(workdir).context_tokens,
    )


def learnt_from(workdir: Path, question: Question) -> tuple[Stays, Stays]:
    """Stays of the train split that heads learn from, and of the tuning split that choose them.

    Raises: UserError for labels without a boolean_value; Unanswerable where either has stays of one outcome only, and
      as `cohort.stays` does.
    """
    options, task = question.options, question.task

    def known(split: str, most: int | None) -> Stays:
        every = cohort.stays(workdir, split, task)
        if every.labels.dtype != bool:
            raise UserError(f"the labels of {task.name} in the {split} split have no boolean_value: add it")
        some = stays.subsample(every, most, None, options["seed"])
        if not 0 < some.labels.sum() < len(some.labels):  # a sample of few may lack what all stays have
            raise Unanswerable(
                f"of the stays of the {split} split that heads for {task.name} learn from "
                f"{'all have' if some.labels.all() else 'none has'} the outcome: both kinds are needed, prepare the "
                "task by launch.evaluate with more of them (outcome.train_samples)"
            )
        return some

    return known("train", options["train_samples"]), known(questions.TUNING, None)


def check_kind(question: Question) -> None:
    """Raises UserError where a task asks for a number or a class."""
    if (kind := question.task.kind) != "binary":
        asks = {"days": "a number of days", "class": "a class"}.get(kind, kind)
        raise UserError(f"--task={question.task.name} asks for {asks}: heads answer tasks of yes or no only, take one")


class Model(NamedTuple):
    """A trained model, and its frozen states of all stays by split and name, float32 (n, D) each."""

    transformer: Transformer
    params: Any
    train: dict[str, np.ndarray]
    tuning: dict[str, np.ndarray]
    test: dict[str, np.ndarray]


def read(transformer: Transformer, params: Any, data: Data, report: Report = lambda tokens: None) -> Model:
    """The states that all heads of a model begin with. Args: report, called with the positions read."""
    of = lambda prompts: states.of_prompts(transformer, params, prompts, data.context_tokens, report=report)  # noqa: E731
    return Model(transformer, params, of(data.train.prompts), of(data.tuning.prompts), of(data.test_prompts))


def fit(
    model: Model,
    data: Data,
    method: str,
    recipe: Recipe,
    *,
    count: int | None = None,
    draw: int = 0,
    seed: int = 0,
    report: Report = lambda tokens: None,
) -> Fitted:
    """One head, and what it says of the test stays.

    Args: method, one of METHODS; count, labels of train stays that are known, None: all; draw, which of them, see
      `Data.of`; seed, of the draws, of the order of training, and of dropout; report, called with the positions read.
    """
    rows, tuning_rows = data.of(count, draw, seed)
    known, chosen_by = (
        Labelled(part.prompts[some], part.labels[some])
        for part, some in ((data.train, rows), (data.tuning, tuning_rows))
    )
    of_train, of_tuning = (
        {name: state[some] for name, state in part.items()}
        for part, some in ((model.train, rows), (model.tuning, tuning_rows))
    )
    choices = FEATURES if method == PROBE else (recipe.features,)
    linear = probe.fit(of_train, known.labels, of_tuning, chosen_by.labels, choices, class_weights=recipe.class_weights)
    about = {
        "train_stays": len(rows),
        "train_positives": int(known.labels.sum()),
        "tuning_stays": len(tuning_rows),
        "tuning_positives": int(chosen_by.labels.sum()),
        "features": list(linear.features),
        "strength": linear.strength,
        "class_weights": recipe.class_weights,
    }
    if method == PROBE:
        return Fitted(linear.probability(model.test), {**about, "tuning_loss": linear.tuning_loss})
    tuned = finetune.fit(
        model.transformer, model.params, linear, known, chosen_by, data.context_tokens, recipe, seed, report
    )
    p = finetune.predict(
        model.transformer, tuned.params, linear, data.test_prompts, data.context_tokens, recipe.features, report
    )
    losses = [loss for curve in tuned.losses.values() for loss in curve] or [linear.tuning_loss]
    return Fitted(
        p,
        {
            **about,
            "rate": tuned.rate,
            "epoch": tuned.epoch,
            "tuning_loss": min(losses),
            "tuning_losses": tuned.losses,
            # As JSON has it
            "recipe": {k: list(v) if isinstance(v, tuple) else v for k, v in recipe._asdict().items()},
        },
    )


def predict(
    workdir: Path,
    cell: Cell | str | None,
    task: str,
    *,
    methods: Sequence[str] = METHODS,
    count: int | None = None,
    draw: int = 0,
    seed: int = 0,
    recipe: Recipe | None = None,
    report: Report = lambda tokens: None,
) -> dict[str, np.ndarray]:
    """Risks of the test stays of a prepared task by heads on one model, by method; nothing is written.

    Args: cell, of the grid of `workdir`, or its id; None: the finished one of least validation loss; task, name of a
      folder in outcomes/; methods, some of METHODS; recipe, of fine-tuning; else as of `fit`.
    Returns: float64 (n,) by method, in the order of `questions.load(folder).stays`, which has their labels.
    Raises: UserError as `data_of`, and where the cell is not finished or reads other tokens.
    """
    question = question_of(workdir, task)
    chosen = cell if isinstance(cell, Cell) else choosing.best_cell(workdir, cell)
    check(chosen, workdir, question)
    data = data_of(workdir, question)
    model = read(*restored_params(chosen, Layout(workdir).run(chosen.id)), data, report)
    about: dict[str, Any] = {"count": count, "draw": draw, "seed": seed, "report": report}
    return {method: fit(model, data, method, recipe or Recipe(), **about).probability for method in methods}


def question_of(workdir: Path, task: str) -> Question:
    """A prepared task by its name. Raises UserError where there is none."""
    known = {folder.name: folder for folder in questions.prepared(workdir)}
    if task not in known:
        raise UserError(f"--task={task} is not prepared in {workdir}: take one of {', '.join(known)}")
    record = artifacts.record(known[task])
    return with_labels(workdir, Question(known[task], record, questions.task_of(record)))


def with_labels(workdir: Path, question: Question) -> Question:
    """The same with the label files where they lie: the record of what was prepared has their name and contents alone.

    Raises: UserError where the labels are gone or others.
    """
    if not question.task.labels:
        return question
    for path in _label_files(workdir, question):
        task = dataclasses.replace(question.task, labels=path)
        if Path(path).exists() and questions.told_of_labels(task) == {"labels": question.task.labels}:
            return question._replace(task=task)
    raise UserError(
        f"{question.task.name} asks by label files ({question.task.labels.rpartition(' ')[0]}), which are gone or "
        "others than they were: put them back, or prepare it again with launch.evaluate, which keeps where they lie"
    )


def _label_files(workdir: Path, question: Question) -> list[str]:
    """Where those of a task may lie: as is kept beside its record, and of tasks that are older as the config says."""
    beside, config = question.folder / questions.LABEL_FILES, Layout(workdir).config
    if beside.is_file():
        return [beside.read_text(encoding="utf-8").strip()]
    file = artifacts.read_json(config).get("outcome", {}).get("file") if config.is_file() else None
    task = tasks.load(Path(file)).get(question.task.name) if file else None
    return [task.labels] if task and task.labels else []


def check(cell: Cell, workdir: Path, question: Question) -> None:
    """Raises UserError where a model was trained on other timelines than a task asks about, or a shorter context."""
    options = question.options
    tokens = question.record["summary"]["vocabulary"]
    choosing.check_timelines(cell, workdir, options["timelines"], tokens, question.folder)
    if (width := options["context"] - options["room"]) > cell.context:
        raise UserError(
            f"{question.folder} has prompts of {width} tokens, and cell {cell.id} was trained on {cell.context}: "
            "take another cell, or prepare the task for that context"
        )
