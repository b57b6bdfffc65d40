"""The reference study: Challenge 2012 over two decades of compute, and what a pass over the same patients is worth.

    python -m launch.study --config=configs/challenge_2012_reference.py --config.data.split_file=p12_splits.csv:split1

A night of 2 CPU cores; it goes on where it was, and launch.sweep --status --watch shows where that is. Two grids in one
work directory: five budgets of six sizes for N_opt ∝ C^a and D_opt ∝ C^b, and shares of the patients, passed over up to
16 times, for the law of repeated data. studies/challenge_2012/claims.yaml was filed before the first reported run and
lists them all; studies/challenge_2012/README.md says what came of it.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from configs import base, challenge_2012

SIZES = {
    3e11: ("6.7k", "10k", "14k", "25k", "40k", "56k"),
    1e12: ("10k", "14k", "25k", "40k", "56k", "101k"),
    3e12: ("14k", "25k", "40k", "56k", "101k", "151k"),
    1e13: ("25k", "40k", "56k", "101k", "151k", "332k"),
    3e13: ("40k", "56k", "101k", "151k", "332k", "443k"),
}


def sweep(config: ConfigDict) -> Iterator[dict[str, Any]]:
    """The budgets on all patients with the first seeds, the seeds that AUROC has beside them, the repeats."""
    yield from base.sweep(_with(config, fractions=(1.0,)))
    more = config.more
    yield from base.sweep(_with(config, fractions=(1.0,), budgets=(max(config.grid.budgets),), sizes=more.sizes,
                                seeds=more.seeds, dear=float("inf")))  # fmt: skip
    own = config.repeats
    for point in base.sweep(_with(config, passes=own.passes, sizes=own.sizes, seeds=own.seeds)):
        if point["fraction"] * point["passes"] <= own.most:
            yield point


def _with(config: ConfigDict, **grid: Any) -> ConfigDict:
    """A copy with other fields of grid."""
    copy = ConfigDict(config)
    copy.grid = ConfigDict({**config.grid, **grid})
    return copy


def get_config() -> ConfigDict:
    c = challenge_2012.get_config()
    c.title = "Challenge 2012, reference"
    c.data.context = 512  # most of a record of 48 hours
    c.grid.budgets = tuple(SIZES)
    c.grid.sizes = tuple(SIZES.values())
    c.grid.seeds = (41, 42, 43, 44)
    c.grid.dear = 3e12
    c.grid.fractions = (0.125, 0.25, 0.5, 1.0)
    c.more = ConfigDict()  # seeds at the largest budget: an AUROC needs three at least
    c.more.sizes = ("101k", "151k")
    c.more.seeds = (43, 44)
    c.repeats = ConfigDict()
    c.repeats.passes = (1.0, 4.0, 16.0)
    c.repeats.most = 4.0  # passes over all patients: beyond, the budgets have their own
    c.repeats.sizes = ("14k", "40k", "101k")
    c.repeats.seeds = (41, 42)
    c.outcome.recalibrate = True
    return c
