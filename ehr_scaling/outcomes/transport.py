"""What a model says is worth among other patients, less what it is worth among the test patients of its study."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling import artifacts, storage
from ehr_scaling.data import disclosure
from ehr_scaling.data.inspection import inspection
from ehr_scaling.errors import UserError, first_line
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import probabilities
from ehr_scaling.outcomes.asking import questions
from ehr_scaling.outcomes.asking.prepared import Question
from ehr_scaling.outcomes.asking.stays import Stays
from ehr_scaling.outcomes.asking.tasks import tasks
from ehr_scaling.outcomes.asking.tasks.tasks import Task
from ehr_scaling.outcomes.judging.metrics import calibration, metrics, subgroups
from ehr_scaling.outcomes.judging.metrics.paired import Answers


class Home(NamedTuple):
    """What a model said of the test patients of its study, as `launch.evaluate` left it."""

    answers: Answers
    weights: np.ndarray | None  # float64 (n,), see `probabilities.weights_of`
    score: dict[str, Any]
    options: dict[str, Any]  # how they were asked, of `questions.prepare`
    generated: bool  # nobody's patients


def home(model: Path, cell: str, task: Task) -> Home | str:
    """The same question about a study's own patients, or why it cannot be compared with.

    Args: model, the work directory of the study.
    """
    try:
        return _home(model, cell, task)
    except UserError as e:  # others can be asked all the same
        return first_line(e)


def _home(model: Path, cell: str, task: Task) -> Home | str:
    folder = Layout(model).task(task.name)
    storage.fetch(folder)
    path = folder / f"{cell}.parquet"
    if task.labels:
        return "labels say who is asked when, which is not how the study's own patients were asked"
    if not path.is_file() or not path.with_suffix(".json").is_file():
        ask = f"launch.evaluate --workdir={model} --config.outcome.tasks=\"('{task.name}',)\""
        return "the study's own patients were not asked" + (f": {ask}" if task.name in tasks.load() else "")
    question = Question(folder, record := artifacts.record(folder), questions.task_of(record))
    if dataclasses.replace(question.task, description="") != dataclasses.replace(task, description=""):
        return f"the study's own patients were asked another question by the name {task.name}"
    if (method := question.options["method"]) != "scope":
        return f"the study's own patients were asked by {method}, and these by scope"
    answers, generated = probabilities.answers(path), inspection.of_generated(model)
    kinds = [len(np.unique(answers.subject_ids[answers.labels == kind])) for kind in (True, False)]
    if min(kinds) < (1 if generated else calibration.SMALLEST):
        return "too few of the study's own patients have the outcome, or lack it"
    weights = probabilities.weights_of(questions.load(folder))
    return Home(answers, weights, artifacts.read_json(path.with_suffix(".json")), question.options, generated)


def penalty(
    at_home: Home, elsewhere: Stays, risks: np.ndarray, *, options: dict[str, Any], draws: int, seed: int
) -> dict[str, Any]:
    """Scores of n other patients' stays less those of the study's test patients.

    Both are other people, so that neither sample is paired: patients of both are drawn anew, and the difference has the
    chance of both in it. It holds all that differs: who is treated there, what is recorded, and how.

    Args: elsewhere, the other stays, with labels; risks, float (n,), of the model; options, how they were asked, by
      names of `Home.options`; draws and seed, of the bootstrap.
    Returns: home, the score of the study's patients: auroc, low, high; auroc and calibration_in_the_large (log-odds):
      value, low, high, told, could_hide, as `subgroups.gaps` has them. Or `missing`, why there is none.
    """
    # Shorter prompts, and fewer copies, blur ranks: that is no matter of the patients
    if others := [name for name, value in options.items() if at_home.options[name] != value]:
        how = ", ".join(f"{at_home.options[name]} {name}" for name in others)
        return {"missing": f"the study's own patients were asked with {how}: ask these so too"}
    answers = at_home.answers
    _, owners = np.unique(answers.subject_ids, return_inverse=True)
    weighs = (np.ones(len(elsewhere.labels)), metrics.ones_for(at_home.weights, len(answers.labels)))
    gaps = subgroups.gaps(
        np.arange(len(elsewhere.labels)),
        np.concatenate([elsewhere.labels, answers.labels]),
        np.concatenate([risks, answers.probabilities]),
        np.concatenate([elsewhere.patients, owners + elsewhere.patients.max() + 1]),
        weights=np.concatenate(weighs),
        draws=draws,
        seed=seed,
    )
    score = {name: at_home.score[name] for name in ("auroc", "low", "high")}
    told: dict[str, Any] = disclosure.rounded({"home": score, **gaps}, at_home.generated)
    return told


def describe(part: dict[str, Any]) -> str:
    """One line of a penalty."""
    if "auroc" not in part:
        return f"what the move costs is not known: {part.get('missing', 'one group has stays of one outcome only')}"
    gap, before = part["auroc"], part["home"]["auroc"]
    low, high = gap["low"], gap["high"]
    interval = "no interval" if low is None else f"95 % interval {low:+.3f} to {high:+.3f}"
    none_shown = "" if low is None or gap["told"] else f"; none is shown, one of {gap['could_hide']:.3f} not excluded"
    return (
        f"the move changes the AUROC by {gap['value']:+.3f} ({interval}), from {before:.3f} of the study's own test "
        f"patients{none_shown}"
    )
