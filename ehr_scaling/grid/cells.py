"""The IsoFLOP grid: budgets × sizes × seeds, each solved to whole numbers of sequences and steps."""

import math
from typing import Any

from ml_collections import ConfigDict

from ehr_scaling import flops
from ehr_scaling.artifacts import fingerprint
from ehr_scaling.errors import UserError
from ehr_scaling.models import sizes
from ehr_scaling.models.transformer import padded_vocab

Cell = dict[str, Any]
TOLERANCE = 0.01  # of the budget; beyond it a cell does not belong on its IsoFLOP curve


class Infeasible(Exception):
    """This size cannot be trained at this budget; the message says why."""


def solve(config: ConfigDict, point: dict[str, Any], packed: dict[str, Any], about: dict[str, Any]) -> Cell:
    """The integer cell for one point of the grid.

    Steps are the whole number that comes nearest the budget C; tokens D = steps × batch × context, counted over all
    positions the device processes, padding included. The batch and the peak rate are rules of the config, the same
    for all budgets: B = B₀·(D/D₀)^p rounded to a power of two, and η = η₀·(d/d₀)^q·(B/B₀)^r.

    Args:
      config: of the study.
      point: budget (FLOPs), size (a name of the registry), seed.
      packed: the record of the packed data: its `fingerprint` and `summary`.
      about: what the patients are, `{"data": a name, "generated": bool}`; every result carries it.
    Raises: Infeasible when there are too few steps to train at all, or the budget cannot be met within 1 %.
    """
    shape, t = sizes.get(point["size"]), config.training
    data, context = packed["summary"], packed["summary"]["context"]
    padded = padded_vocab(data["vocab_size"], config.model.vocab_multiple)
    dims = {"width": shape.width, "layers": shape.layers, "ff": shape.ff, "vocab": padded}
    per_sequence = flops.training(**dims, context=context)
    budget = float(point["budget"])
    wanted = budget / per_sequence  # sequences
    batch = t.batch.sequences * (wanted * context / t.batch.at_tokens) ** t.batch.exponent
    sequences = 2 ** max(0, round(math.log2(batch)))
    steps = round(wanted / sequences)
    if steps < t.min_steps:
        raise Infeasible(
            f"{point['size']} at {budget:.2g} FLOPs: {steps} steps, under training.min_steps={t.min_steps}"
        )
    achieved = float(steps * sequences * per_sequence)
    if abs(achieved / budget - 1) > TOLERANCE:
        raise Infeasible(f"{point['size']} at {budget:.2g} FLOPs: whole steps miss the budget by over 1 %")
    counts = flops.parameters(**dims, tied=config.model.tied)
    tokens = steps * sequences * context
    train = data["splits"]["train"]
    cell = {
        "size": shape.name,
        "width": shape.width,
        "layers": shape.layers,
        "heads": shape.heads,
        "ff": shape.ff,
        "tied": config.model.tied,
        "dtype": config.model.dtype,
        "vocab": data["vocab_size"],
        "padded_vocab": padded,
        "context": context,
        "seed": point["seed"],
        "budget": budget,
        "flops": achieved,
        "flops_6nd": flops.six_nd(counts.body, tokens),
        "N_body": counts.body,
        "N_head": counts.head,
        "N_embedding": counts.embedding,
        "tokens": tokens,
        "unique_tokens": train["real_tokens"],
        "patients": train["patients"],
        "steps": steps,
        "batch_sequences": sequences,
        "batch_tokens": sequences * context,
        "steps_per_dispatch": t.steps_per_dispatch,
        "schedule": t.schedule,
        "learning_rate": t.rate.peak
        * (shape.width / t.rate.at_width) ** t.rate.width_exponent
        * (sequences / t.batch.sequences) ** t.rate.batch_exponent,
        "warmup": float(math.ceil(t.warmup * steps)),
        "cooldown": float(math.ceil(t.cooldown * steps)),
        "floor": t.floor,
        "weight_decay": t.weight_decay,
        "clip": t.clip,
        "b1": t.b1,
        "b2": t.b2,
        "eval_sequences": config.validation.batch,
        "validation_sequences": config.validation.sequences,
        "packed": packed["fingerprint"],
        **about,
    }
    # The id names what is learnt; how often a run is saved is not part of it.
    return {"id": fingerprint(cell), **cell, "checkpoint_seconds": t.checkpoint_seconds}


def grid(
    config: ConfigDict, points: list[dict[str, Any]], packed: dict[str, Any], about: dict[str, Any]
) -> tuple[list[Cell], list[str]]:
    """All feasible cells, and a line for each point that is not. Raises UserError when none is feasible."""
    cells, refused = [], []
    for point in points:
        try:
            cells.append(solve(config, point, packed, about))
        except Infeasible as e:
            refused.append(str(e))
    if not cells:
        reason = refused[0] if refused else "it has no point"
        raise UserError(
            f"the grid has no feasible cell ({reason}): change --config.grid.budgets, .sizes or .seeds, "
            "or lower --config.training.min_steps"
        )
    if len({cell["id"] for cell in cells}) < len(cells):
        raise UserError("the grid holds the same cell twice: look for a repeated budget, size or seed in --config.grid")
    return cells, refused


def table(cells: list[Cell]) -> str:
    """The grid as a text table, one line for each budget and size: what it costs before anything runs."""
    lines = [f"{'budget':>9} {'size':>6} {'N body':>9} {'tokens D':>12} {'passes':>7} {'steps':>7} {'batch':>6} seeds"]
    seeds: dict[tuple[float, str], list[int]] = {}
    for cell in cells:
        seeds.setdefault((cell["budget"], cell["size"]), []).append(cell["seed"])
    for cell in cells:
        if (own := seeds.pop((cell["budget"], cell["size"]), None)) is not None:
            lines.append(
                f"{cell['budget']:9.2e} {cell['size']:>6} {cell['N_body']:9,} {cell['tokens']:12,} "
                f"{cell['tokens'] / cell['unique_tokens']:7.2f} {cell['steps']:7,} {cell['batch_tokens']:6,} "
                f"{','.join(map(str, own))}"
            )
    lines.append(f"{len(cells)} cells, {sum(cell['flops'] for cell in cells):.3g} FLOPs of training in all")
    return "\n".join(lines)
