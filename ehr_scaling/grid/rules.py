"""Batch and learning rate as functions of model and data: one rule for every cell of a study.

A rule found on small runs is an assumption about large ones. The config says on which N and D it was explored; a cell
outside is marked at the edge, in the table before anything runs and in the run's metrics.
"""

import math
from typing import Any

from ml_collections import ConfigDict

from ehr_scaling.errors import UserError
from ehr_scaling.grid.cell import Cell
from ehr_scaling.models.sizes import Shape

# Activations of so many tokens stay in the caches of a CPU core, and cost no page faults: 1.2 to 1.5 times as fast
CPU_TOKENS = 512
LARGEST_RATE = 10.0  # no optimizer here survives more; a slip of the keyboard does not reach the device


def batch_sequences(training: ConfigDict, tokens: float) -> int:
    """Sequences a step for a run of D = `tokens`: B₀·(D/D₀)^p to the nearest power of two, at least 1."""
    rule = training.batch
    return 2 ** max(0, round(math.log2(rule.sequences * (tokens / rule.at_tokens) ** rule.exponent)))


def learning_rate(training: ConfigDict, shape: Shape, sequences: int, tokens: float, parametrization: str) -> float:
    """Peak rate: η₀·(d/d₀)^q·(B/B₀)^r·(D/D₀)^s. Under "mup" the factor of width is the parametrization's, leaf by leaf.

    The root of the batch is Adam's (Malladi et al. 2022, arXiv 2205.10287); that longer runs want lower rates was seen
    by Bjorck et al. 2024 (arXiv 2409.19913), with an exponent of -.32.
    """
    rule = training.rate
    width = 1.0 if parametrization == "mup" else (shape.width / rule.at_width) ** rule.width_exponent
    batch = (sequences / training.batch.sequences) ** rule.batch_exponent
    return float(rule.peak * width * batch * (tokens / rule.at_tokens) ** rule.tokens_exponent)


def sequences_at_a_time(cell: Cell, rows: int, on_cpu: bool) -> int:
    """Of a batch, on all devices together: the setting's number, or what suits `rows` of them."""
    whole = rows * max(1, CPU_TOKENS // cell.context) if on_cpu else cell.batch_sequences
    return min(cell.engine.microbatch or whole, cell.batch_sequences)


def at_the_edge(training: ConfigDict, body: int, tokens: int) -> str:
    """Which of N and D lie outside of what the rules were explored on: "", "N", "D" or "N, D"."""
    explored: Any = training.explored
    sides = (("N", body, explored.parameters), ("D", tokens, explored.tokens))
    return ", ".join(name for name, value, (low, high) in sides if not low <= value <= high)


def check(training: ConfigDict, rates: tuple[float, ...]) -> None:
    """Raises UserError, naming the flag, for a rate or batch that no run should start with."""
    for rate in (training.rate.peak * multiple for multiple in rates):
        if not 0 < rate <= LARGEST_RATE:
            raise UserError(
                f"--config.training.rate.peak times --config.grid.rates gives a learning rate of {rate:g}: take one "
                f"above 0 and up to {LARGEST_RATE:g}, such as 0.01"
            )
    positive = {f"batch.{name}": training.batch[name] for name in ("sequences", "at_tokens")}
    for name, value in {**positive, "rate.at_tokens": training.rate.at_tokens}.items():
        if not value > 0:
            raise UserError(f"--config.training.{name}={value:g}: take a number above 0")
