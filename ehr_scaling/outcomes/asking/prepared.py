"""Tasks that a study has prepared, and which of them are answered by the same futures."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling import artifacts, storage
from ehr_scaling.outcomes.asking import questions
from ehr_scaling.outcomes.asking.questions import Samples
from ehr_scaling.outcomes.asking.tasks.tasks import Task

RECALIBRATION = "recalibration.json"  # in the folder of the stays that a recalibration is fitted to: which one
NONE, LINE, ISOTONIC = "none", "line", "isotonic"


class Question(NamedTuple):
    """A prepared task: its folder `outcomes/<task>/`, the record in it, and the task that the record is about."""

    folder: Path
    record: dict[str, Any]
    task: Task

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `questions.prepare`."""
        return self.record["inputs"]

    @property
    def suppress(self) -> bool:
        """Whether its futures are drawn without the outcome: as REACH wants it, which estimates no days."""
        return self.options["method"] == "reach" and self.task.kind == "binary"

    @property
    def exact(self) -> bool:
        """Whether it is answered by a sum over two tokens, without futures; days take futures."""
        return self.options["method"] == "exact" and self.task.kind == "binary"

    @property
    def simulation(self) -> tuple[Any, ...]:
        """What its futures depend on beside the model: tasks with the same are answered by the same futures."""
        names = ("context", "copies", "new_tokens", "room", "seed", "split")
        return (
            self.task.spec,
            *(self.options[name] for name in names),
            *((self.task.name,) if self.suppress else ()),
            *(("exact",) if self.exact else ()),
        )


def asked_in(workdir: Path) -> list[Question]:
    """The prepared tasks of a study, by name. Raises UserError when there is none."""
    records = [(folder, artifacts.record(folder)) for folder in questions.prepared(workdir)]
    return [Question(folder, record, questions.task_of(record)) for folder, record in records]


def tuning_of(question: Question) -> Question | None:
    """The same question about the stays that its recalibration is fitted to, where one is asked for."""
    tuning = tuning_there(question)
    return None if tuning is None or recalibration_of(tuning) == NONE else tuning


def tuning_there(question: Question) -> Question | None:
    """The same, where the stays were prepared, whether a recalibration is asked for now or not."""
    folder = question.folder / questions.TUNING
    return Question(folder, artifacts.record(folder), question.task) if folder.is_dir() else None


def recalibration_of(tuning: Question) -> str:
    """LINE, ISOTONIC or NONE: how risks are moved as the stays of `tuning_there` ask; LINE where nothing says so."""
    path = tuning.folder / RECALIBRATION
    return str(artifacts.read_json(path)["method"]) if path.is_file() else LINE


def recalibrate_by(method: str, folder: Path) -> None:
    """Set `recalibration_of` for the prepared task in a folder: scores of another one are made anew of predictions.

    Nothing is written where no stays were prepared for one.
    """
    path = folder / questions.TUNING / RECALIBRATION
    if not path.parent.is_dir():
        return
    if not path.is_file() or artifacts.read_json(path) != {"method": method}:
        artifacts.write_sealed(path, {"method": method})
    storage.store(path)


def groups(ungrouped: list[Question]) -> list[list[Question]]:
    """Those that are answered by the same futures together, in the order given."""
    by_simulation: dict[Any, list[Question]] = {}
    for question in ungrouped:
        by_simulation.setdefault(question.simulation, []).append(question)
    return list(by_simulation.values())


class Union(NamedTuple):
    """The stays of several tasks, each once."""

    samples: list[Samples]
    first: np.ndarray  # int64 (n,), which of the tasks' samples, one after the other, each stay of the union is
    rows: list[np.ndarray]  # int64 (n_k,) for each task: its stays in the union


def union_of(group: list[Question]) -> Union:
    """Raises: UserError where samples are missing or damaged."""
    samples = [questions.load(question.folder) for question in group]
    _, first, inverse = np.unique(np.concatenate([s.ids for s in samples]), return_index=True, return_inverse=True)
    return Union(samples, first, np.split(inverse, np.cumsum([len(s.ids) for s in samples])[:-1]))
