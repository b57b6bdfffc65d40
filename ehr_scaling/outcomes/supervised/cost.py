"""What heads cost at most, counted before any is fitted: positions read, and the FLOPs of `flops.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ehr_scaling import flops
from ehr_scaling.grid import cost
from ehr_scaling.grid.cell import Cell
from ehr_scaling.grid.executors import Cost
from ehr_scaling.grid.status import duration
from ehr_scaling.outcomes.supervised import batches, finetune, heads, labels
from ehr_scaling.outcomes.supervised.finetune import Recipe
from ehr_scaling.outcomes.supervised.heads import Data
from ehr_scaling.outcomes.supervised.records import Request

BACKWARD = 2  # passes forward that a backward pass costs as much as


class Row(NamedTuple):
    """Heads of one kind: positions read forward, and as many more as a backward pass costs."""

    what: str
    heads: int
    positions: int


def _read(prompts: np.ndarray) -> float:
    """Mean positions of a prompt, as batches are cut."""
    every = batches.widths(prompts.shape[1])
    return float(every[np.searchsorted(every, batches.lengths(prompts))].mean())


def of_finetuning(data: Data, recipe: Recipe, count: int | None) -> int:
    """Positions of one fine-tuned head at most: all epochs at all rates, a look at the tuning stays before and after
    each, and at last the test stays."""
    train, tuning = (len(part.labels) for part in (data.train, data.tuning))
    train, tuning = (n if count is None else min(count, n) for n in (train, tuning))
    epochs = recipe.epochs * len(recipe.rates)
    trained = epochs * finetune.passes(train, recipe) * train * _read(data.train.prompts) * (1 + BACKWARD)
    looked_at = (1 + epochs) * tuning * _read(data.tuning.prompts)
    return round(trained + looked_at + len(data.test_prompts) * _read(data.test_prompts))


def rows(data: Data, request: Request) -> list[Row]:
    """What the heads of one model for one task cost: a row for the frozen states, which all heads read, and a row for
    the fine-tuned heads of each number of labels. Args: data, of that task; request, of which heads."""
    frozen = sum(len(p) * _read(p) for p in (data.train.prompts, data.tuning.prompts, data.test_prompts))
    probes = len(request.known()) if heads.PROBE in request.methods else 0
    listed = [Row("frozen states of all stays", probes, round(frozen))]
    for count in request.counts if heads.FINETUNE in request.methods else ():
        draws = 1 if count is None else request.draws
        told = f"{labels.ALL if count is None else f'{count:,}'} labels"
        listed.append(Row(f"fine-tuning, {told}", draws, draws * of_finetuning(data, request.recipe, count)))
    return listed


def of_position(cell: Cell, width: int) -> float:
    """FLOPs of a pass forward, a position: without the head of the vocabulary, which no head on states needs."""
    whole = flops.forward(width=cell.width, layers=cell.layers, ff=cell.ff, vocab=0, context=width, mixing=cell.mixing)
    return whole / width


def of_cell(cell: Cell, data: Sequence[Data], request: Request) -> Cost:
    """Of one model and all tasks. Args: data, of each of the request's tasks."""
    by_task = [(one.test_prompts.shape[1], sum(row.positions for row in rows(one, request))) for one in data]
    return Cost(sum(positions * of_position(cell, width) for width, positions in by_task), sum(p for _, p in by_task))


def table(cells: Sequence[Cell], data: Sequence[Data], request: Request, workdir: Path, workers: int) -> str:
    """What a dry run says: positions and FLOPs of each kind of head, and the time by what training took here, for all
    models of a size."""
    speed = cost.Speed(list(cells), workdir, cost.Machine.here(workers), workers)
    lines = [f"{'size':>6} {'models':>6} {'heads':>6} {'positions':>14} {'FLOPs':>9} {'time':>7}"]
    total = 0.0
    sizes: dict[str, list[Cell]] = {}
    for cell in cells:
        sizes.setdefault(cell.size, []).append(cell)
    for size, alike in sizes.items():
        for name, one in zip(request.tasks, data, strict=True):
            for row in rows(one, request):
                counted = len(alike) * row.positions * of_position(alike[0], one.test_prompts.shape[1])
                seconds = counted * speed.seconds(alike[:1])[0] / alike[0].own_flops
                total += seconds
                lines.append(
                    f"{size:>6} {len(alike):6} {len(alike) * row.heads:6} {len(alike) * row.positions:14,} "
                    f"{counted:9.2e} {duration(seconds):>7} {name}: {row.what}"
                )
    every = sum(of_cell(cell, data, request).flops for cell in cells)
    together = min(workers, len(cells))
    lines.append(
        f"at most {every:.3g} FLOPs, about {duration(total / together)} in {together} process{'es' * (together > 1)}; "
        f"early stopping makes it less. Speed: {speed.basis}."
    )
    return "\n".join(lines)
