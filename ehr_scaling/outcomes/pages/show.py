"""The futures of a finished model as a page to look at, and as trajectories for other programs."""

from pathlib import Path

import numpy as np

from ehr_scaling import artifacts, storage
from ehr_scaling.data.inspection import inspection
from ehr_scaling.errors import UserError
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import choosing, together
from ehr_scaling.outcomes.asking import prepared
from ehr_scaling.outcomes.asking.prepared import Question, Union
from ehr_scaling.outcomes.exchange import trajectories
from ehr_scaling.outcomes.judging import estimators
from ehr_scaling.outcomes.pages import fan
from ehr_scaling.outcomes.sampler import simulate
from ehr_scaling.outcomes.together import Simulation
from ehr_scaling.progress import Bar
from ehr_scaling.training.setup import restored_params

PAGE = "futures.html"


def _first_group(workdir: Path) -> tuple[list[Question], Union, Simulation]:
    """The prepared tasks that are answered by the same futures: of several such groups the first by name.

    What is looked at are futures as the model draws them, with REACH too, which suppresses the outcome in its own.
    """
    groups = [g for g in prepared.groups(prepared.asked_in(workdir)) if g[0].task.kind != "class"]
    if not groups:
        raise UserError(f"{Layout(workdir).outcomes} holds no task that is answered by simulated futures: prepare one")
    union = prepared.union_of(groups[0])
    simulation = together.of_group(workdir, groups[0], union)
    return groups[0], union, simulation._replace(request=simulation.request._replace(suppress=False))


def check(workdir: Path, stays: int | None, trajectories_to: Path | None, cell: str | None) -> None:
    """Raises the UserErrors of `page` and `write_trajectories` that can be told before anything is simulated.

    Args: stays and cell as in `page`, trajectories_to as `out` in `write_trajectories`; None: not asked for.
    """
    if cell is not None and stays is None and trajectories_to is None:
        raise UserError("--cell is for --show and --trajectories, and neither is given: all models are scored")
    if stays is not None:
        fan.check_open(inspection.events_record(workdir))
    if trajectories_to is not None:
        trajectories.check_new(trajectories_to)
    if stays is not None or trajectories_to is not None:
        choosing.best_cell(workdir, cell)


def page(workdir: Path, stays: int, *, cell: str | None = None, copies: int = 30, seed: int = 0) -> Path:
    """Write `report/futures.html`: a few histories, each with the futures that one model draws (see `fan.page`).

    Args: cell, id of the model; None: of the finished ones that with the least validation loss. Stays are drawn by
      `seed`, as many with the outcome of the first task as without where there are.
    Raises: UserError for records that not everybody may see, and where nothing is trained or prepared.
    """
    events = inspection.events_record(workdir)
    fan.check_open(events)
    if stays < 1:
        raise UserError(f"--show={stays}: take 1 or more")
    group, union, simulation = _first_group(workdir)
    rows = _some(union, stays, seed)
    request = simulation.request.take(rows)._replace(copies=copies)
    chosen = choosing.best_cell(workdir, cell)
    futures = simulate.simulate(*restored_params(chosen, Layout(workdir).run(chosen.id)), request)
    outcomes = [
        fan.Outcome(
            question.task.name,
            question.task.description,
            together.days(question.task, futures, k) if question.task.kind == "days" else estimators.scope(futures, k),
        )
        for k, question in enumerate(group)
    ]
    text = fan.page(
        events,
        simulation.vocabulary,
        request.prompts,
        futures,
        outcomes,
        clock=request.clock,
        gaps=request.gaps,
        horizons=request.horizons,
        silence=simulation.silence,
        labels=inspection.labels(Layout(workdir).events),
        model=f"The model has {chosen.N_body:,} body parameters and was trained on {chosen.tokens:,} tokens.",
    )
    path = Layout(workdir).report / PAGE
    path.parent.mkdir(exist_ok=True)
    artifacts.write_text(path, text)
    storage.store(path)
    return path


def _some(union: Union, stays: int, seed: int) -> np.ndarray:
    rng, labels = np.random.default_rng(seed), union.samples[0].stays.labels
    order = rng.permutation(len(labels))
    if labels.dtype == bool:  # with and without the outcome in turns
        kinds = [order[labels[order]], order[~labels[order]]]
        turns = [(i, k, row) for k, kind in enumerate(kinds) for i, row in enumerate(kind)]
        order = np.array([row for *_, row in sorted(turns)])
    return union.rows[0][order[:stays]]


def write_trajectories(workdir: Path, out: Path, *, cell: str | None = None) -> dict[str, int]:
    """Write the futures of all stays of the first group of tasks into `out`, see `trajectories.write`.

    They are those that the model's scores rest on, but for REACH: a future depends on the stay, the copy and the seed.
    Args: cell as in `page`. Returns: counts, see `trajectories.write`.
    Raises: UserError where nothing is trained or prepared, and where `out` holds trajectories already.
    """
    trajectories.check_new(out)
    group, _, simulation = _first_group(workdir)
    request = simulation.request
    chosen = choosing.best_cell(workdir, cell)
    model, params = restored_params(chosen, Layout(workdir).run(chosen.id))
    split, every = group[0].options["split"], np.arange(len(request.ids))
    total = len(every) * request.copies * request.new_tokens
    with Bar("simulating futures", total, "token", scaled=True) as bar:
        futures = simulation.run(model, params, every, bar.update)
    return simulation.write_trajectories(out, split, futures)
