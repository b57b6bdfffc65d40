"""What is simulated: the stays of tasks that share their prompts as one set, and the model that draws their futures."""

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling import artifacts
from ehr_scaling.data import timelines
from ehr_scaling.data.vocabulary import Vocabulary
from ehr_scaling.errors import UserError
from ehr_scaling.grid import manifest
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import Layout
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes import estimators, questions, simulate, trajectories
from ehr_scaling.outcomes.estimators import Value
from ehr_scaling.outcomes.questions import Samples
from ehr_scaling.outcomes.simulate import Futures, Stops
from ehr_scaling.outcomes.stays import Stays
from ehr_scaling.outcomes.tasks import KIND_OF, Task
from ehr_scaling.training import checkpoint

AT_ONCE = 1_024  # stays whose futures are drawn between two saves


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
    def simulation(self) -> tuple[Any, ...]:
        """What its futures depend on beside the model: tasks with the same are answered by the same futures."""
        own = ("context", "copies", "new_tokens", "room", "seed", "split")
        return (
            self.task.spec,
            *(self.options[name] for name in own),
            *((self.task.name,) if self.suppress else ()),
        )


def asked_in(workdir: Path) -> list[Question]:
    """The prepared tasks of a study, by name. Raises UserError when there is none."""
    records = [(folder, artifacts.record(folder)) for folder in questions.prepared(workdir)]
    return [Question(folder, record, questions.task_of(record)) for folder, record in records]


def tuning_of(question: Question) -> Question | None:
    """The same question about the stays that its recalibration is fitted to, where they were prepared."""
    folder = question.folder / questions.TUNING
    return Question(folder, artifacts.record(folder), question.task) if folder.is_dir() else None


def groups(asked: list[Question]) -> list[list[Question]]:
    """Those that are answered by the same futures together, in the order given."""
    found: dict[Any, list[Question]] = {}
    for question in asked:
        found.setdefault(question.simulation, []).append(question)
    return list(found.values())


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


class Simulation(NamedTuple):
    """Futures that any model may be asked for, of n stays and K outcomes; see `simulate.simulate`."""

    vocabulary: Vocabulary
    stays: Stays  # n; their labels mean nothing
    ids: np.ndarray  # uint64 (n,)
    prompts: np.ndarray  # (n, P) of the token dtype
    gaps: np.ndarray  # float32 (n,)
    horizons: np.ndarray  # float32 (n, K)
    stops: Stops  # of K outcomes
    silence: float  # hours after the prediction that the gaps reach to, see `definitions.Task`
    context: int
    copies: int
    new_tokens: int
    suppress: bool
    seed: int

    def run(
        self,
        model: Transformer,
        params: Any,
        rows: np.ndarray,
        report: Callable[[int], None] = lambda tokens: None,
    ) -> Futures:
        """Futures of some of the stays, int (m,) rows."""
        return simulate.simulate(
            *(model, params, self.prompts[rows], self.ids[rows], self.stops, simulate.clock(self.vocabulary)),
            copies=self.copies,
            new_tokens=self.new_tokens,
            context=self.context,
            gaps=self.gaps[rows],
            horizons=self.horizons[rows],
            context_tokens=self.vocabulary.context_tokens,
            suppress=self.suppress,
            seed=self.seed,
            report=report,
        )

    def run_in_parts(self, model: Transformer, params: Any, scratch: Path, report: Callable[..., None]) -> Futures:
        """Futures of all stays, in parts that are kept in the folder `scratch`: what is there is not drawn again.

        The folder must be that of this simulation and model alone. report: an `executors.Report`.
        Raises: UserError where a part is damaged.
        """
        artifacts.work_directory(scratch)
        every, parts = np.arange(len(self.ids)), []
        for begin in range(0, len(every), AT_ONCE):
            path = scratch / f"{begin}.npz"
            if path.exists():
                parts.append(_loaded(path))
                report(parts[-1].tokens.size, before=True)
                continue
            parts.append(self.run(model, params, every[begin : begin + AT_ONCE], report))
            with artifacts.writing(path) as partial:
                np.savez(partial, **parts[-1]._asdict())
        return simulate.concatenate(parts)

    def write_trajectories(self, out: Path, split: str, futures: Futures) -> dict[str, int]:
        """The futures of all stays as MEDS, see `trajectories.write`, which tells what is returned."""
        clock = simulate.clock(self.vocabulary)
        return trajectories.write(out, split, self.stays, futures, self.vocabulary, clock, self.gaps, self.silence)


def _loaded(path: Path) -> Futures:
    try:
        with np.load(path, allow_pickle=False) as file:
            return Futures(*(file[name] for name in Futures._fields))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as e:
        raise UserError(f"{path} is damaged ({type(e).__name__}): delete it and run again") from None


def of_group(workdir: Path, group: list[Question], union: Union) -> Simulation:
    """The simulation that answers prepared tasks of one `Question.simulation`."""
    options, task = group[0].options, group[0].task
    kinds = np.stack([samples.meanings for samples in union.samples])
    sets = {name: kinds == kind for name, kind in KIND_OF.items()}
    stops = Stops(**sets, at_horizon=np.array([KIND_OF[q.task.at_horizon or "open"] for q in group], np.int8))
    horizons = np.full((len(union.first), len(group)), np.inf, np.float32)
    for k, (samples, rows) in enumerate(zip(union.samples, union.rows, strict=True)):
        horizons[rows, k] = samples.horizons

    def once(fields: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate(list(fields))[union.first]

    return Simulation(
        vocabulary=timelines.vocabulary(workdir),
        stays=Stays(*map(once, zip(*(samples.stays for samples in union.samples), strict=True))),
        ids=once(samples.ids for samples in union.samples),
        prompts=once(samples.prompts for samples in union.samples),
        gaps=once(samples.gaps for samples in union.samples),
        horizons=horizons,
        stops=stops,
        silence=task.silence,
        context=options["context"],
        copies=options["copies"],
        new_tokens=options["new_tokens"],
        suppress=group[0].suppress,
        seed=options["seed"],
    )


def days(task: Task, futures: Futures, k: int) -> Value:
    """Days from the anchor of a task to what decided outcome k; `estimators.days` counts from the prediction."""
    found = estimators.days(futures, k)
    return found._replace(value=((task.hours or 0.0) + task.silence) / 24 + found.value)


def best_cell(workdir: Path, name: str | None) -> Cell:
    """The cell of a study to ask: the one of that id, or of the finished ones that with the least validation loss.

    Raises: UserError where there is no such cell, and where it, or any, is not finished.
    """
    there = Layout(workdir)
    cells = [cell for cell in manifest.read(there.grid) if cell.phase == "cooled"]
    if name is not None:
        cells = [cell for cell in cells if cell.id == name]
        if not cells:
            raise UserError(f"--cell={name} is not in {there.grid / manifest.MANIFEST}: take an id from there")
    results = [(checkpoint.result(there.run(cell.id)), cell) for cell in cells]
    done = [(result["validation_loss"], cell) for result, cell in results if result is not None]
    if not done:
        raise UserError(f"{there.runs} holds no finished run of what is asked for: train first (launch.sweep)")
    return min(done, key=lambda pair: pair[0])[1]


def check_timelines(cell: Cell, workdir: Path, timelines_fingerprint: str, tokens: int, folder: Path) -> None:
    """A model reads token ids: they must mean what they meant when it was trained.

    Args: timelines_fingerprint and tokens, of the vocabulary by which something was asked; folder, where that lies.
    Raises: UserError when they are not those the cell was trained on.
    """
    packed = Layout(workdir).packed(cell.context) / artifacts.RECORD
    # Copied runs may come without their packed data; then the size of the vocabulary must do.
    source = artifacts.read_json(packed)["inputs"].get("timelines") if packed.exists() else timelines_fingerprint
    if cell.vocab != tokens or source != timelines_fingerprint:
        raise UserError(
            f"cell {cell.id} was trained on other timelines than {folder} was made from: take the --workdir it was "
            f"trained in, or delete {folder} and run again"
        )
