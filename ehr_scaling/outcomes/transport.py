"""What a model says is worth among other patients, less what it is worth among the test patients of its study."""

from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling import artifacts, storage
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import probabilities
from ehr_scaling.outcomes.asking import questions
from ehr_scaling.outcomes.asking.prepared import Question
from ehr_scaling.outcomes.asking.stays import Stays
from ehr_scaling.outcomes.asking.tasks import Task
from ehr_scaling.outcomes.judging import metrics, subgroups

# Of a task: what decides it, whoever is asked and when
_OUTCOME = (
    *("positive", "negative", "open", "values", "requires", "gap", "horizon", "horizon_from", "at_horizon", "at_end"),
    *("silence", "onset"),
)


def penalty(
    model: Path, cell: str, task: Task, elsewhere: Stays, risks: np.ndarray, *, copies: int, draws: int, seed: int
) -> dict[str, Any]:
    """Scores of n other patients' stays less those of the study's test patients, as `launch.evaluate` left them.

    Both are other people, so that neither sample is paired: patients of both are drawn anew, and the difference has the
    chance of both in it. It holds all that differs: who is treated there, what is recorded, and how.

    Args: model, the work directory of the study; elsewhere, the other stays, with labels; risks, float (n,), of the
      cell; copies, futures of each. draws, seed: of the bootstrap.
    Returns: home, the score of the study's patients: auroc, low, high; auroc and calibration_in_the_large (log-odds):
      value, low, high, told, could_hide, as `subgroups.gaps` has them. Or `missing`, why there is none.
    Raises: UserError where predictions are damaged.
    """
    folder = Layout(model).task(task.name)
    storage.fetch(folder)
    path = folder / f"{cell}.parquet"
    ask = f"launch.evaluate --config.outcome.tasks=\"('{task.name}',)\" --config.outcome.copies={copies}"
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return {"missing": f"the study's own patients were not asked: {ask}"}
    question = Question(folder, record := artifacts.record(folder), questions.task_of(record))
    if any(getattr(question.task, name) != getattr(task, name) for name in _OUTCOME):
        return {"missing": f"the study's own patients were asked for another outcome by the name {task.name}"}
    how = (question.options["method"], question.options["copies"])
    if how != ("scope", copies):  # fewer copies blur ranks: that is no matter of the patients
        return {"missing": f"the study's own patients were asked with {how[1]} copies by {how[0]}: {ask}"}
    home, weights = probabilities.answers(path), probabilities.weights_of(questions.load(folder))
    if metrics.one_class(home.labels):
        return {"missing": "all of the study's own patients have the outcome, or none has"}
    labels = np.concatenate([elsewhere.labels, home.labels])
    _, at_home = np.unique(home.subject_ids, return_inverse=True)
    patients = np.concatenate([elsewhere.patients, at_home + elsewhere.patients.max() + 1])
    weighs = np.concatenate([np.ones(len(elsewhere.labels)), metrics.ones_for(weights, len(home.labels))])
    gaps = subgroups.gaps(
        np.arange(len(elsewhere.labels)),
        labels,
        np.concatenate([risks, home.probabilities]),
        patients,
        weights=weighs,
        draws=draws,
        seed=seed,
    )
    score = artifacts.read_json(path.with_suffix(".json"))
    return {"home": {name: score[name] for name in ("auroc", "low", "high")}, **gaps}


def told(part: dict[str, Any]) -> str:
    """One line of a penalty."""
    if "auroc" not in part:
        return f"no penalty of transport: {part.get('missing', 'one of both has stays of one outcome only')}"
    home, gap = part["home"], part["auroc"]
    interval = "no interval" if gap["low"] is None else f"{gap['low']:+.3f} to {gap['high']:+.3f}"
    shown = "" if gap["told"] or gap["low"] is None else ", which holds 0: these patients show none"
    return f"AUROC {gap['value']:+.3f} ({interval}) against {home['auroc']:.3f} of the study's own test patients{shown}"
