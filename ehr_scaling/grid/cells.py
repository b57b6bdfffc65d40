"""The grid: points of a study, each solved to whole numbers of sequences and steps, and grouped to be trained.

A point is a budget (or a number of passes), a size and a seed, and where the study asks for them a fraction of the
patients, a multiple of the rate, a weight decay. A cell is what it comes to. Cells that share work form a unit.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ml_collections import ConfigDict

from ehr_scaling import flops
from ehr_scaling.artifacts import fingerprint
from ehr_scaling.errors import UserError
from ehr_scaling.grid import rules
from ehr_scaling.grid.cell import Cell, Engine, Unit, units
from ehr_scaling.grid.check import check
from ehr_scaling.models import sizes
from ehr_scaling.models.transformer import padded_vocab

Point = dict[str, Any]
TOLERANCE = 0.01  # of the budget; beyond it a cell does not belong on its IsoFLOP curve


class Infeasible(Exception):
    """This size cannot be trained at this budget; the message says why."""


def solve(config: ConfigDict, point: Point, packed: dict[str, Any], about: dict[str, Any]) -> Cell:
    """The integer cell for one point of the grid, trained on its own.

    Steps are the whole number that comes nearest the budget C; tokens D = steps × batch × context, counted over all
    positions the device processes, padding included. Batch and peak rate are those of `grid.rules`, the batch for the
    tokens that the budget gives without what updates cost beside them.

    Args:
      config: of the study.
      point: budget (FLOPs) or passes; size (a name of the registry), seed; optional: fraction, rate (a multiple),
        weight_decay.
      packed: the record of the packed data of that fraction: its `fingerprint` and `summary`.
      about: what the patients are, `{"data": a name, "generated": bool}`, and for `init` what the model starts from
        where it does not start afresh; every result carries it.
    Raises: Infeasible when there are too few steps to train at all, or the budget cannot be met within 1 %.
    """
    context = packed["summary"]["context"]
    wanted = _sequences(config, point, packed)
    return _cell(config, point, packed, about, rules.batch_sequences(config.training, wanted * context))


def _name(point: Point) -> str:
    return f"{point['size']} at {point['budget']:.2g} FLOPs" if point.get("budget") else str(point["size"])


def _dims(config: ConfigDict, size: str, packed: dict[str, Any]) -> dict[str, Any]:
    """Of `flops.training`, but for the context."""
    shape = sizes.get(size)
    padded = padded_vocab(packed["summary"]["vocab_size"], config.model.vocab_multiple)
    return {
        "width": shape.width,
        "layers": shape.layers,
        "ff": shape.ff,
        "vocab": padded,
        "mixing": config.model.mixing,
    }


def _sequences(config: ConfigDict, point: Point, packed: dict[str, Any], batch: float = math.inf) -> float:
    """Sequences the point asks for, before they are rounded to whole steps of `batch` of them, each with an update."""
    if point.get("passes"):
        rows = [phase["sequences"] for phase in packed["summary"]["splits"]["train"]["phases"]]
        return point["passes"] * sum(rows) / len(rows)
    each, update = _flops(config, point["size"], packed)
    return float(point["budget"]) / (each + update / batch)


def _flops(config: ConfigDict, size: str, packed: dict[str, Any]) -> tuple[int, int]:
    """Of a sequence, and of an update beside its sequences."""
    shape = sizes.get(size)
    update = flops.update(config.training.optimizer, width=shape.width, layers=shape.layers, ff=shape.ff)
    return flops.training(**_dims(config, size, packed), context=packed["summary"]["context"]), update


def _cell(
    config: ConfigDict,
    point: Point,
    packed: dict[str, Any],
    about: dict[str, Any],
    sequences: int,
    **schedule: float,
) -> Cell:
    """A cell of `sequences` a step; `schedule` overrides steps, warmup, cooldown, start and, for the rate, D."""
    shape, t = sizes.get(point["size"]), config.training
    data, context = packed["summary"], packed["summary"]["context"]
    dims = _dims(config, shape.name, packed)
    each, update = _flops(config, shape.name, packed)
    wanted = schedule["steps"] * sequences if "steps" in schedule else _sequences(config, point, packed, sequences)
    steps = round(wanted / sequences)
    name = _name(point)
    if steps < t.min_steps:
        raise Infeasible(f"{name}: {steps} steps, under training.min_steps={t.min_steps}")
    achieved = float(steps * (sequences * each + update))
    if abs(steps * sequences / wanted - 1) > TOLERANCE:
        raise Infeasible(f"{name}: whole steps miss what was asked for by over 1 %")
    counts = flops.parameters(**dims, tied=config.model.tied)
    tokens, train = steps * sequences * context, data["splits"]["train"]
    multiple, start = float(point.get("rate", 1.0)), int(schedule.get("start", 0))
    return Cell(
        size=shape.name,
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        ff=shape.ff,
        tied=config.model.tied,
        dtype=config.model.dtype,
        dropout=config.model.dropout,
        mixing=config.model.mixing,
        parametrization=config.model.parametrization,
        base_width=t.rate.at_width,
        vocab=data["vocab_size"],
        padded_vocab=dims["vocab"],
        context=context,
        seed=point["seed"],
        budget=float(point["budget"]) if point.get("budget") else None,
        flops=achieved,
        flops_6nd=flops.six_nd(counts.body, tokens),
        N_body=counts.body,
        N_head=counts.head,
        N_embedding=counts.embedding,
        tokens=tokens,
        fraction=float(point.get("fraction", 1.0)),
        unique_tokens=train["real_tokens"],
        patients=train["patients"],
        steps=steps,
        start=start,
        phase="cooled",
        batch_sequences=sequences,
        batch_tokens=sequences * context,
        optimizer=t.optimizer,
        schedule=point.get("schedule", t.schedule),
        learning_rate=multiple
        * rules.learning_rate(t, shape, sequences, schedule.get("tokens", tokens), config.model.parametrization),
        rate_multiple=multiple,
        warmup=float(schedule.get("warmup", math.ceil(t.warmup * steps))),
        cooldown=float(schedule.get("cooldown", math.ceil(t.cooldown * steps))),
        floor=t.floor,
        weight_decay=float(point.get("weight_decay", t.weight_decay)),
        clip=t.clip,
        b1=t.b1,
        b2=t.b2,
        eval_sequences=config.validation.batch,
        validation_sequences=config.validation.sequences,
        packed=packed["fingerprint"],
        **about,
        own_tokens=(steps - start) * sequences * context,
        own_flops=float((steps - start) * (sequences * each + update)),
        edge=rules.at_the_edge(t, counts.body, tokens),
        measured_on=data.get("measured_on"),
        engine=engine(config),
    ).named()


def engine(config: ConfigDict) -> Engine:
    """How cells are trained, which does not change what they learn."""
    t = config.training
    return Engine(
        attention=config.model.attention,
        remat=config.model.remat,
        mesh=t.mesh.to_dict(),
        dispatch_sequences=t.dispatch_sequences,
        microbatch=t.microbatch,
        max_skipped=t.max_skipped,
        checkpoint_seconds=t.checkpoint_seconds,
        skip_damaged=config.data.skip_damaged,
        read_timeout=config.data.read_timeout,
        tracking=config.tracking.to_dict(),
        validation_share=t.validation_share,
    )


def family(
    config: ConfigDict, points: list[Point], packed: dict[str, Any], about: dict[str, Any]
) -> tuple[list[Cell], list[str]]:
    """A trunk at a constant rate and, for each of `points`, which differ in budget or passes, a branch that cools.

    Batch, rate and warm-up have to be one for all branches: batch and rate are the rules' at the geometric mean of
    their D, rounded (to powers of four for the rate) so that one budget more leaves most trunks what they are, the
    warm-up the share of the shortest. Branches go on from the trunk's checkpoints (Hägele et al. 2024, arXiv
    2405.18392). A point that cannot be is left out, and the trunk is that of the others; one alone has none, nor have
    points whose trunk would have too few steps.

    Returns: the trunk, phase "hot", then the branches in the order of their beginnings; and a line for each point that
      is left out.
    """
    if len(points) == 1:
        try:
            return [solve(config, points[0], packed, about)], []
        except Infeasible as e:
            return [], [str(e)]
    t = config.training
    context = packed["summary"]["context"]
    wanted = [_sequences(config, point, packed) for point in points]
    middle = math.exp(sum(map(math.log, wanted)) / len(wanted))
    sequences = rules.batch_sequences(t, middle * context)
    shared = {
        "warmup": math.ceil(t.warmup * min(wanted) / sequences),
        "tokens": 4.0 ** round(math.log(middle * context, 4)),
    }
    branches: list[Cell] = []
    for point in sorted(points, key=lambda p: _sequences(config, p, packed)):
        try:
            alone = _cell(config, point, packed, about, sequences, **shared)
            if (start := alone.steps - int(alone.cooldown)) < alone.warmup:
                raise Infeasible(f"{_name(point)}: its cooldown would begin in the warm-up")
        except Infeasible as e:  # batch, rate and warm-up are those of the others
            cells, refused = family(config, [other for other in points if other is not point], packed, about)
            return cells, [str(e), *refused]
        branches.append(_cell(config, point, packed, about, sequences, **shared, start=start))
    hot = {**points[0], "budget": None, "passes": None}
    try:
        trunk = _cell(config, hot, packed, about, sequences, steps=branches[-1].start, cooldown=0, **shared)
    except Infeasible:
        apart = [family(config, [point], packed, about) for point in points]
        return [cell for cells, _ in apart for cell in cells], [line for _, lines in apart for line in lines]
    # It keeps the id by which it is named above: those of trunks that are there stay good
    trunk = replace(trunk, phase="hot", marks=tuple(branch.start for branch in branches))
    return [trunk, *(replace(branch, trunk=trunk.id, unit=trunk.unit) for branch in branches)], []


def grid(
    config: ConfigDict,
    points: list[Point],
    packed: Mapping[float, dict[str, Any]],
    about: dict[str, Any],
    initial: Mapping[str, str] | None = None,
) -> tuple[list[Cell], list[str]]:
    """All feasible cells, and a line for each point that is not.

    Args: packed, the record of the packed data of each fraction that the points name; initial, of each size the
      fingerprint of the weights that it starts from, where there are any.
    Raises: UserError when none is feasible.
    """
    check(config, points)
    cells: list[Cell] = []
    refused: list[str] = []
    for group in _groups(config, points):
        told = {**about, "init": (initial or {}).get(group[0]["size"], "")}
        solved, left_out = family(config, group, packed[group[0].get("fraction", 1.0)], told)
        cells += solved
        refused += left_out
    if not cells:
        reason = refused[0] if refused else "it has no point"
        raise UserError(
            f"the grid has no feasible cell ({reason}): change --config.grid.budgets, .sizes or .seeds, "
            "or lower --config.training.min_steps"
        )
    if len({cell.id for cell in cells}) < len(cells):
        raise UserError("the grid holds the same cell twice: look for a repeated budget, size or seed in --config.grid")
    return _together(cells, config.training.together), refused


def _groups(config: ConfigDict, points: list[Point]) -> Iterable[list[Point]]:
    """Points of one trunk together; each by itself, where it has none."""
    groups: dict[str, list[Point]] = {}
    for number, point in enumerate(points):
        shared = {name: value for name, value in point.items() if name not in ("budget", "passes")}
        trunk = config.training.trunk and point.get("schedule", config.training.schedule) == "wsd"
        groups.setdefault(fingerprint(shared if trunk else number), []).append(point)
    return groups.values()


def _together(cells: list[Cell], most: int) -> list[Cell]:
    """The cells, with units of up to `most` members: families alike in all but seed, rate and weight decay."""
    if most < 2:
        return cells
    families = units(cells)
    alike: dict[str, list[Unit]] = {}
    for unit in families:
        key = fingerprint([cell.shared() for cell in unit])
        alike.setdefault(key, []).append(unit)
    joined = {}
    for same in alike.values():
        for i in range(0, len(same), most):
            name = same[i][0].unit
            joined.update({cell.id: name for unit in same[i : i + most] for cell in unit})
    return [replace(cell, unit=joined[cell.id]) for cell in cells]
