"""A study small enough for tests: generated patients, packed, and cells that train in a second or two."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ehr_scaling import study
from ehr_scaling.configs import base
from ehr_scaling.grid import cells
from ehr_scaling.grid.cell import Cell

ABOUT = {"data": "generated patients", "generated": True}
# For python -c, with a module of launch and its flags: the command with boosted trees so few that they take no time
FEW_TREES = """
import runpy, sys
from ehr_scaling.outcomes.judging import baselines
baselines.MOST_TREES, baselines.MORE_TREES = 20, 10
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def silent(tokens: int, before: bool = False) -> None:
    """A report that nobody reads."""


def config(**changes: Any) -> ConfigDict:
    c = base.get_config()
    c.title = "test"
    c.data.patients = 300
    c.data.context = 64
    c.data.block = 4
    c.training.dispatch_sequences = 16
    c.training.batch.sequences = 4
    c.training.min_steps = 8
    # The rule gives runs of so few tokens rates at which sums in another order end elsewhere
    c.training.rate.peak, c.training.rate.tokens_exponent = 0.025, 0.0
    c.validation.sequences = 32
    c.validation.batch = 16
    c.grid.budgets = (1.2e9,)
    c.grid.sizes = ("3.5k",)
    c.grid.seeds = (0,)
    c.workers = 1
    c.update_from_flattened_dict(changes)
    return c


def cell(packed: dict[str, Any], changes: dict[str, Any] | None = None, **point: Any) -> Cell:
    """One cell on the data of the record `packed`; `changes` are settings, `point` budget, size or seed."""
    c = config(**(changes or {}))
    return cells.solve(c, {"budget": 1.2e9, "size": "3.5k", "seed": 0, **point}, packed, ABOUT)


def prepare(workdir: Path) -> dict[str, Any]:
    return study.prepare(config(), workdir)
