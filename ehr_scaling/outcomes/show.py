"""The futures of a finished model as a page to look at, and as trajectories for other programs."""

from pathlib import Path
from typing import Any

import numpy as np

from ehr_scaling import artifacts
from ehr_scaling.data import inspection
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes import estimators, evaluate, fan, predict, trajectories
from ehr_scaling.outcomes.evaluate import Question, Simulation, Union
from ehr_scaling.outcomes.simulate import Futures, clock
from ehr_scaling.training.run import folder_of
from ehr_scaling.training.setup import restored_params

PAGE = "futures.html"


def _first_group(workdir: Path) -> tuple[list[Question], Union, Simulation]:
    """The prepared tasks that are answered by the same futures: of several such groups the first by name."""
    groups = [g for g in evaluate.groups(evaluate.asked_in(workdir)) if g[0].task.kind != "class"]
    if not groups:
        raise UserError(f"{workdir / 'outcomes'} holds no task that is answered by simulated futures: prepare one")
    union = evaluate.union_of(groups[0])
    return groups[0], union, evaluate.simulation_of(workdir, groups[0], union)


def page(workdir: Path, stays: int, *, cell: str | None = None, copies: int = 30, seed: int = 0) -> Path:
    """Write `report/futures.html`: a few histories, each with the futures that one model draws (see `fan.page`).

    Args: cell, id of the model; None: of the finished ones that with the least validation loss. Stays are drawn by
      `seed`, as many with the outcome of the first task as without where there are.
    Raises: UserError for records that not everybody may see, and where nothing is trained or prepared.
    """
    events = artifacts.read_json(workdir / "events" / artifacts.RECORD)
    fan.check_open(events)
    if stays < 1:
        raise UserError(f"--show={stays}: take 1 or more")
    group, union, simulation = _first_group(workdir)
    rows = _some(union, stays, seed)
    chosen = predict.best_cell(workdir, cell)
    futures = simulation.run(*restored_params(chosen, folder_of(workdir, chosen)), rows, copies=copies)
    outcomes = [
        fan.Outcome(question.task.name, question.task.description, estimators.scope(futures, k))
        for k, question in enumerate(group)
    ]
    text = fan.page(
        events,
        simulation.vocabulary,
        simulation.prompts[rows],
        futures,
        outcomes,
        clock=clock(simulation.vocabulary),
        gaps=simulation.gaps[rows],
        horizons=simulation.horizons[rows],
        silence=group[0].task.silence,
        labels=inspection.labels(workdir),
        model=f"The model has {chosen['N_body']:,} body parameters and was trained on {chosen['D']:,} tokens.",
    )
    (workdir / "report").mkdir(exist_ok=True)
    artifacts.write_text(workdir / "report" / PAGE, text)
    return workdir / "report" / PAGE


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

    They are those that the model's scores rest on: a future depends on the stay, the copy and the seed alone.
    Args: cell as in `page`. Returns: counts, see `trajectories.write`.
    """
    group, union, simulation = _first_group(workdir)
    chosen = predict.best_cell(workdir, cell)
    futures: Futures = simulation.run(*restored_params(chosen, folder_of(workdir, chosen)), np.arange(len(union.first)))
    fields: list[Any] = list(zip(*(s.stays for s in union.samples), strict=True))
    asked = type(union.samples[0].stays)(*(np.concatenate(f)[union.first] for f in fields))
    split, silence = group[0].options["split"], group[0].task.silence
    times = clock(simulation.vocabulary)
    return trajectories.write(out, split, asked, futures, simulation.vocabulary, times, simulation.gaps, silence)
