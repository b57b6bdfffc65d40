"""Tasks that share their prompts, answered by the same futures: the stays of all of them, each once, and the run."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling.data.timelines import timelines
from ehr_scaling.data.vocabulary import Vocabulary
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes.asking import questions, stays
from ehr_scaling.outcomes.asking.prepared import Question, Union
from ehr_scaling.outcomes.asking.stays import Stays
from ehr_scaling.outcomes.asking.tasks import task_tokens
from ehr_scaling.outcomes.asking.tasks.bounds import Values
from ehr_scaling.outcomes.asking.tasks.tasks import Task
from ehr_scaling.outcomes.exchange import trajectories
from ehr_scaling.outcomes.judging import estimators
from ehr_scaling.outcomes.judging.estimators import Value
from ehr_scaling.outcomes.parts import Work
from ehr_scaling.outcomes.sampler import simulate
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE, RUNNING, Futures, SimulationRequest


class Simulation(NamedTuple):
    """Futures that any model may be asked for, of n stays."""

    request: SimulationRequest
    stays: Stays  # n; their labels mean nothing
    vocabulary: Vocabulary
    silence: float  # hours after the prediction that the gaps reach to, see `tasks.Task`

    def run(
        self,
        model: Transformer,
        params: Any,
        rows: np.ndarray,
        report: Callable[[int], None] = lambda tokens: None,
    ) -> Futures:
        """Futures of some of the stays, int (m,) rows."""
        return simulate.simulate(model, params, self.request.take(rows), report=report)

    def work(self, model: Transformer, params: Any) -> Work[Futures]:
        """Futures of all stays, as `parts` computes them."""
        return Work(
            len(self.request.ids),
            Futures,
            lambda rows, report: self.run(model, params, rows, report),
            self.request.copies * self.request.new_tokens,
        )

    def write_trajectories(self, out: Path, split: str, futures: Futures) -> dict[str, int]:
        """The futures of all stays as MEDS, see `trajectories.write`, which tells what is returned."""
        request = self.request
        return trajectories.write(
            out, split, self.stays, futures, self.vocabulary, request.clock, request.gaps, self.silence
        )


def of_group(workdir: Path, group: list[Question], union: Union) -> Simulation:
    """The simulation whose futures answer several prepared tasks at once.

    Args: group, tasks that are drawn with the same options (equal `Question.simulation`), one outcome each; union,
      their stays, each of them once.
    """
    options, task = group[0].options, group[0].task
    stops = task_tokens.stops_of([samples.meanings for samples in union.samples], [q.task for q in group])
    horizons = np.full((len(union.first), len(group)), np.inf, np.float32)
    for k, (samples, rows) in enumerate(zip(union.samples, union.rows, strict=True)):
        horizons[rows, k] = samples.horizons

    def once(fields: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate(list(fields))[union.first]

    vocabulary = timelines.vocabulary(workdir)
    request = SimulationRequest(
        prompts=once(samples.prompts for samples in union.samples),
        ids=once(samples.ids for samples in union.samples),
        gaps=once(samples.gaps for samples in union.samples),
        horizons=horizons,
        stops=stops,
        clock=simulate.clock(vocabulary),
        context=options["context"],
        copies=options["copies"],
        new_tokens=options["new_tokens"],
        context_tokens=vocabulary.context_tokens,
        suppress=group[0].suppress,
        seed=options["seed"],
    )
    everyone = Stays(*map(once, zip(*(samples.stays for samples in union.samples), strict=True)))
    return Simulation(request, everyone, vocabulary, task.silence)


def of_stays(
    folder: Path,
    split: str,
    patient_stays: Stays,
    task: Task,
    vocabulary: Vocabulary,
    *,
    known: Mapping[str, Values] | None = None,
    context: int,
    copies: int,
    new_tokens: int,
    seed: int,
    room: int = 0,
) -> Simulation:
    """The simulation that asks one task of n stays of a split; `as_asked` reads what came of it.

    Args: folder, where their timelines lie; known, as `task_tokens.kinds` has it; context, of the model; room,
      positions of it for what comes, as in a study: 0: new_tokens, but half of it at most. A longer future drops the
      oldest tokens of its prompt.
    Raises: UserError as `stays.prompts` does, Unanswerable as `task_tokens.stops` does.
    """
    judged_tasks = [task, *within_gap(task)]
    request = SimulationRequest(
        prompts=stays.prompts(folder, split, patient_stays, context - min(new_tokens, room or max(1, context // 2))),
        ids=questions.random_stream(patient_stays),
        gaps=task_tokens.gaps(folder, split, patient_stays, task),
        horizons=task_tokens.horizons(judged_tasks, patient_stays),
        stops=task_tokens.stops(vocabulary, judged_tasks, known),
        clock=simulate.clock(vocabulary),
        context=context,
        copies=copies,
        new_tokens=new_tokens,
        context_tokens=vocabulary.context_tokens,
        seed=seed,
    )
    return Simulation(request, patient_stays, vocabulary, task.silence)


def within_gap(task: Task) -> list[Task]:
    """What is decided within a task's gap, which is judged as an outcome beside the task's; none without a gap."""
    at_gap = task.at_horizon or "open"  # of no meaning, but a task without negative tokens needs one
    return [dataclasses.replace(task, horizon=task.gap / 24, at_horizon=at_gap, gap=0.0)] if task.gap else []


def as_asked(futures: Futures, task: Task, vocabulary: Vocabulary) -> Futures:
    """Futures of one outcome, of those of `of_stays`: what the task leaves out of account is open in them.

    Those are futures that come to the horizon without a token that the task requires (a stay of which no copy says more
    is one of which nothing is known), and of a task with a gap all that is decided in it: sums begin after it.
    """
    outcome = Futures(futures.tokens, futures.lengths, *(field[..., :1] for field in futures[2:]))
    if task.requires:
        met = task_tokens.ids(vocabulary, task.requires)[futures.tokens].any(axis=-1)
        silent = outcome.by_horizon & ~met[..., None]
        outcome = outcome._replace(ended=np.where(silent, np.int8(OPEN), outcome.ended))
        # Sums alone would call certain what no copy came to, since the opposite is counted: then nothing is known
        said = (np.isin(outcome.ended, (POSITIVE, NEGATIVE)) | (outcome.share > 0)).any(axis=1, keepdims=True)
        outcome = outcome._replace(
            **{name: np.where(said, getattr(outcome, name), 0) for name in ("positive", "negative")}
        )
    if task.gap:
        early = Futures(futures.tokens, futures.lengths, *(field[..., 1:] for field in futures[2:]))
        decided = (early.ended != RUNNING) & ~early.by_horizon
        sums = ("positive", "negative", "survival")
        outcome = outcome._replace(
            ended=np.where(decided, np.int8(OPEN), outcome.ended),
            share=np.where(decided, np.float32(0), outcome.share),
            **{name: getattr(outcome, name) - getattr(early, name) for name in sums},
        )
    return outcome


def days(task: Task, futures: Futures, k: int) -> Value:
    """Days from the anchor of a task to what decided outcome k; `estimators.days` counts from the prediction."""
    estimate = estimators.days(futures, k)
    return estimate._replace(value=((task.hours or 0.0) + task.silence) / 24 + estimate.value)
