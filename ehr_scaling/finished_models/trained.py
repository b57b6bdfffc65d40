"""A trained model, wherever it lies, and the futures that it draws of patients.

Shapes: n stays, C copies of each, G most tokens of a future.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.data import disclosure
from ehr_scaling.data.inspection import inspection
from ehr_scaling.data.timelines import timelines
from ehr_scaling.data.vocabulary import Vocabulary
from ehr_scaling.errors import UserError
from ehr_scaling.finished_models import saved
from ehr_scaling.layout import Layout
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes import choosing, together
from ehr_scaling.outcomes.asking import cohort
from ehr_scaling.outcomes.asking.stays import Stays
from ehr_scaling.outcomes.asking.tasks import tasks
from ehr_scaling.outcomes.asking.tasks.tasks import Task
from ehr_scaling.outcomes.judging import estimators
from ehr_scaling.outcomes.judging.estimators import Estimate
from ehr_scaling.outcomes.pages import incidence
from ehr_scaling.outcomes.pages.incidence import Incidence
from ehr_scaling.outcomes.sampler.simulate import Futures


class Model(NamedTuple):
    """transformer.apply({"params": params}, tokens, segments) gives logits, see `Transformer`."""

    transformer: Transformer
    params: Any  # {name: float32}
    context: int  # positions it was trained on
    vocabulary: str  # fingerprint of its tokens
    name: str  # of its size

    def __repr__(self) -> str:
        return f"a model of the size {self.name}, with a context of {self.context} tokens"


def load(folder: Path, cell: str | None = None) -> Model:
    """The model in a folder, with what is needed to draw futures from it.

    Args: folder, the work directory of a study or what launch.export wrote; cell, of a study: the id of a trained
      model, None: the one of least validation loss.
    Raises: UserError where the folder is neither, or has no such model.
    """
    if saved.is_export(folder):
        if cell is not None:
            raise UserError(f"{folder} is an exported model, of which there is one: leave out cell={cell!r}")
        model = saved.of_export(folder)
        name = model.transformer.shape.name
    elif Layout(folder).grid.is_dir():
        chosen = choosing.best_cell(folder, cell)
        model, name = saved.of_study(folder, chosen), chosen.size
    else:
        raise UserError(f"{folder} is neither the work directory of a study nor a folder that launch.export wrote")
    return Model(model.transformer, model.params, model.context, model.vocabulary, name)


@dataclass(frozen=True, repr=False)
class Simulated:
    """Futures of n stays, and what they say of a task."""

    task: Task
    stays: Stays = field(repr=False)  # n of them
    futures: Futures = field(repr=False)  # of one outcome, K = 1; of C copies each
    vocabulary: Vocabulary = field(repr=False)
    generated: bool  # whether the patients are nobody's

    @property
    def patients(self) -> np.ndarray:
        """int64 (n,): ordinals in the split; a patient may have several stays."""
        return self.stays.patients

    @property
    def labels(self) -> np.ndarray:
        """bool (n,): whether the outcome came, by the records."""
        return self.stays.labels

    @property
    def risk(self) -> Estimate:
        """Of the outcome, by SCOPE: .probability and .error, its standard error over copies, float64 (n,) both; NaN
        where no future says anything."""
        return estimators.scope(self.futures, 0)

    def incidence(self, i: int) -> Incidence:
        """How the risk of stay i grows with simulated time: .times, hours after the prediction (and after the silence
        of the task), .share, and .low and .high of its pointwise 95 % interval, float64 (m,); see `Incidence`."""
        return incidence.cumulative(self.futures.hours[i, :, 0], self.futures.ended[i, :, 0])

    def tokens(self, i: int, c: int) -> list[str]:
        """The names of the tokens of future c of stay i."""
        return [self.vocabulary.tokens[t] for t in self.futures.tokens[i, c, : self.futures.lengths[i, c]].tolist()]

    def __repr__(self) -> str:
        n, copies = self.futures.lengths.shape
        return f"{self.task.name}: {disclosure.words(n, self.generated)} stays, {copies} futures each"


def simulate(
    model: Model,
    workdir: Path,
    task: str | Task,
    split: str,
    *,
    patients: list[int] | None = None,
    copies: int = 20,
    new_tokens: int = 512,
    seed: int = 0,
) -> Simulated:
    """Draw futures of the stays of a split that a task is asked of, and judge them by it.

    Args: model, as of `load`; workdir, with timelines in its vocabulary; task, its name or itself, of kind binary;
      patients, ordinals in the split, None: all; copies, futures of each stay; new_tokens, of each future at most.
    Raises: UserError for another vocabulary, split or kind of task; Unanswerable where nobody can be asked.
    """
    for name, value in (("copies", copies), ("new_tokens", new_tokens)):
        if value < 1:
            raise UserError(f"{name}={value}: take 1 or more")
    binary_task = _binary_task(task)
    vocabulary = timelines.vocabulary(workdir)
    if vocabulary.fingerprint != model.vocabulary:
        raise UserError(f"{workdir} holds timelines in another vocabulary than that of the model: take those it read")
    timelines.files(workdir, split)  # a split that is none is told here
    group, generated = cohort.find(workdir, split, [binary_task]), inspection.of_generated(workdir)
    stays = group.of(0)
    if patients is not None:
        stays = stays.take(np.isin(stays.patients, patients))
    if not len(stays.times):
        whom = f"the {split} split" if patients is None else "these patients"
        raise tasks.Unanswerable(f"{binary_task.name} can be asked of nobody of {whom}; {group.describe(0, generated)}")
    simulation = together.of_stays(
        workdir,
        split,
        stays,
        binary_task,
        vocabulary,
        context=model.context,
        copies=copies,
        new_tokens=new_tokens,
        seed=seed,
    )
    futures = simulation.run(model.transformer, model.params, np.arange(len(stays.times)))
    return Simulated(binary_task, stays, futures, vocabulary, generated)


def _binary_task(task: str | Task) -> Task:
    """A task that is answered by yes or no. Raises UserError for another."""
    known = tasks.load()
    if isinstance(task, str):
        if task not in known:
            raise UserError(f"task={task!r} is none: take one of {', '.join(known)}")
        task = known[task]
    if task.kind != "binary":
        yes_or_no = ", ".join(name for name, other in known.items() if other.kind == "binary")
        raise UserError(f"the task {task.name} is not answered by yes or no: take one of {yes_or_no}")
    return task
