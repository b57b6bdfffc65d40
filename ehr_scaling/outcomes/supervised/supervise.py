"""All heads of some models and tasks of a study: which are asked for, what they cost, and what came out."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ehr_scaling import artifacts, storage
from ehr_scaling.data import disclosure
from ehr_scaling.data.inspection import inspection
from ehr_scaling.errors import UserError
from ehr_scaling.grid import executors
from ehr_scaling.grid.cell import Cell
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import choosing
from ehr_scaling.outcomes.asking import prepared
from ehr_scaling.outcomes.asking.prepared import Question
from ehr_scaling.outcomes.asking.tasks.tasks import Unanswerable
from ehr_scaling.outcomes.supervised import cost, heads, records
from ehr_scaling.outcomes.supervised.finetune import Recipe
from ehr_scaling.outcomes.supervised.records import Request


class Plan(NamedTuple):
    """Models, and what is asked of each: one request a task, since the labels there are differ."""

    cells: list[Cell]
    requests: list[Request]
    notes: list[str]  # for whoever asked


def plan(
    workdir: Path,
    *,
    cells: Sequence[str] = (),
    tasks: Sequence[str] = (),
    methods: tuple[str, ...] = heads.METHODS,
    counts: tuple[int | None, ...] = (None,),
    draws: int = 3,
    recipe: Recipe | None = None,
    seed: int = 0,
) -> Plan:
    """See that all that is asked for can be done, before any of it is.

    Args: cells, ids of finished cells, none: that of least validation loss and those that differ in the seed alone;
      tasks, names of prepared ones, none: all of yes or no; else as of `Request`. One that cannot be learnt, and of
      all of yes or no one whose label files are gone, is passed over with a note.
    Raises: UserError for a cell that is not finished or reads other tokens, a task that is not prepared or is of
      another kind, and where no task is left.
    """
    there = Layout(workdir)
    for folder in (there.timelines, there.outcomes):
        storage.fetch(folder)
    chosen = [choosing.best_cell(workdir, name) for name in dict.fromkeys(cells)] or _best(workdir)
    notes: list[str] = []
    named = [heads.question_of(workdir, name) for name in dict.fromkeys(tasks)]
    questions = named or _all_binary(workdir, notes)
    generated, requests = inspection.of_generated(workdir), []
    for question in questions:
        heads.check_kind(question)
        for cell in chosen:
            heads.check(cell, workdir, question)
        try:
            stays = len(heads.learnt_from(workdir, question)[0].labels)
        except Unanswerable as e:
            notes.append(f"{question.task.name} is passed over: {e}")
            continue
        request = Request((question.task.name,), methods, counts, draws, recipe or Recipe(), seed)
        requests.append(records.fewer_than_all(request, stays))
        if requests[-1].counts != counts:
            notes.append(
                f"{question.task.name}: the train split has {disclosure.words(stays, generated)} labelled stays; "
                "larger numbers of labels are all of them"
            )
    if not requests:
        raise UserError("; ".join(notes))
    models = ", ".join(f"{cell.id} ({cell.size}, seed {cell.seed})" for cell in chosen)
    return Plan(chosen, requests, [f"models: {models}", *notes])


def _best(workdir: Path) -> list[Cell]:
    """The finished cell of least validation loss, and those that differ from it in the seed alone."""
    best = choosing.best_cell(workdir, None)
    alike = [cell for _, cell in choosing.finished(workdir) if records.setting(cell) == records.setting(best)]
    return sorted(alike, key=lambda cell: cell.seed)


def _all_binary(workdir: Path, notes: list[str]) -> list[Question]:
    """Those whose label files are not where they were are passed over: one such task is no reason to learn no other."""
    questions = [question for question in prepared.asked_in(workdir) if question.task.kind == "binary"]
    if not questions:
        raise UserError(f"{Layout(workdir).outcomes} holds no task of yes or no: prepare one with launch.evaluate")
    labelled = []
    for question in questions:
        try:
            labelled.append(heads.with_labels(workdir, question))
        except UserError as e:
            notes.append(f"{question.task.name} is passed over: {e}")
    return labelled


def cost_of(workdir: Path, planned: Plan, workers: int = 0) -> str:
    """A table of FLOPs and times, see `cost.table`."""
    return "\n".join(
        cost.table(
            planned.cells,
            [heads.data_of(workdir, heads.question_of(workdir, request.tasks[0]))],
            request,
            workdir,
            executors.workers_for(workers),
        )
        for request in planned.requests
    )


def run(workdir: Path, planned: Plan, workers: int = 0) -> dict[str, Any]:
    """Fit and score all that is missing, a process for each model.

    Args: workers, processes; 0: one a core of a CPU.
    Returns: scores by `<task>/<method>/<labels>/<cell>`, and those of means of several seeds.
    """
    scores: dict[str, Any] = {}
    each = [[cell] for cell in planned.cells]
    for request in planned.requests:
        data = heads.data_of(workdir, heads.question_of(workdir, request.tasks[0]))
        done = executors.run(
            partial(records.job, request=request),
            each,
            workdir,
            workers=min(executors.workers_for(workers), len(each)),
            title=f"fitting heads for {request.tasks[0]}",
            costs=[cost.of_cell(cell, [data], request) for cell in planned.cells],
            done=partial(records.finished, request=request),
            saves=False,
        )
        for cell, of_unit in zip(planned.cells, done, strict=True):
            scores |= {f"{key}/{cell.id}": score for key, score in (of_unit or [{}])[0].items()}
        finished = [cell for cell, of_unit in zip(planned.cells, done, strict=True) if of_unit is not None]
        scores |= records.of_means(workdir, finished, request)
    return scores


def describe(planned: Plan, workdir: Path, scores: Mapping[str, Any]) -> str:
    """AUROC and AUPRC of each method and number of labels, mean of the models and of the mean of their risks."""
    lines = []
    for request in planned.requests:
        (task,) = request.tasks
        folder = Layout(workdir).task(task)
        lines.append(f"{task}:")
        lines.append(
            f"  {'':26} {'models':>6}  {'AUROC, mean ± SD of models':27} {'of their mean risk':24} AUPRC of it"
        )
        for method in request.methods:
            for count, draw in request.known():
                labels = records.of_labels(count, draw)
                name = f"{method}, {'all labels' if count is None else f'{count:,} labels, draw {draw + 1}'}"
                begin = f"{task}/{method}/{labels}/"
                lines.append(_line(name, {k[len(begin) :]: s for k, s in scores.items() if k.startswith(begin)}))
        beside = {cell.id: folder / f"{cell.id}.json" for cell in planned.cells}
        zero_shot = {name: artifacts.read_json(path) for name, path in beside.items() if path.exists()}
        begin = f"{task}/{records.ZERO_SHOT}/all/"
        zero_shot |= {k[len(begin) :]: s for k, s in scores.items() if k.startswith(begin)}
        if zero_shot:
            lines.append(_line("zero-shot", zero_shot))
        if (path := folder / "baseline.json").exists():
            regression = artifacts.read_json(path)
            lines.append(_line(regression["name"], {"": regression}))
            trees = regression.get("others", {}).get("gradient-boosted trees")
            lines += [_line("gradient-boosted trees", {"": trees})] if trees else []
    return "\n".join(lines)


def _line(name: str, scores: Mapping[str, Any]) -> str:
    """Args: scores by cell, and of means by names that begin so; of one model they are those of its own risk."""
    models = [score for key, score in scores.items() if not key.startswith(records.MEAN)]
    means = [score for key, score in scores.items() if key.startswith(records.MEAN)] or models
    if not models:
        return f"  {name:26} {'none':>6}"
    areas = np.array([score["auroc"] for score in models])
    spread = f" ± {areas.std(ddof=1):.3f}" if len(areas) > 1 else ""
    if len(means) > 1:  # models of several settings
        return f"  {name:26} {len(models):6}  {f'{areas.mean():.3f}{spread}':27}"
    (together,) = means
    of_mean = _interval({**together, "value": together["auroc"]})
    return (
        f"  {name:26} {len(models):6}  {f'{areas.mean():.3f}{spread}':27} {of_mean:24} {_interval(together['auprc'])}"
    )


def _interval(part: Mapping[str, Any]) -> str:
    known = part["low"] is not None
    return f"{part['value']:.3f}" + (f" [{part['low']:.3f}, {part['high']:.3f}]" if known else "")
