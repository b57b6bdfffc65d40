"""The reference study: Challenge 2012 over two decades of compute, and what a pass over the same patients is worth.

    python -m launch.study --config=configs/challenge_2012_reference.py --config.data.split_file=p12_splits.csv:split1

An hour and a half to three hours of 2 CPU cores; it goes on where it was, and launch.sweep --status --watch shows where
that is. Two grids in one work directory: five budgets of six sizes for N_opt ∝ C^a and D_opt ∝ C^b, and shares of the
patients, passed over up to 16 times, for the law of repeated data. studies/challenge_2012/claims.yaml was filed before
the first run of it and lists them all; its README has what came: a .52 [.49, .54], b .64 [.62, .66], all bracketed.

What led to these settings: runs on the training patients of split 1 alone, split anew, with seeds 1 and 2. At 1e11
FLOPs and T = 512 two seeds of 3.5 k, 6.7 k, 10 k, 14 k, 25 k and 40 k ended at 2.336, 2.273, 2.279, 2.318, 2.388 and
2.522 nats an event: best at about 8 k. At T = 256 it was about 20 k at 3e11 and 33 k at 1e12. At 151 k parameters and
1e13 FLOPs T = 512 reached 1.977 nats an event and an AUROC of .80 [.76, .84], T = 256 2.009 and .78 [.74, .82] (one
seed); up to 1e12 T = 256 is ahead by 1 to 7 %. Of rates of .006, .0125 and .025 that run had 1.975, 1.977 and 1.988;
the rule, which was found at T = 256, gives .0058.
"""

from typing import Any

from ml_collections import ConfigDict

from ehr_scaling.configs import base, challenge_2012
from ehr_scaling.grid.sweeps import Point, chain

SIZES = {
    1e11: ("1.7k", "3.5k", "6.7k", "10k", "14k", "25k"),
    3e11: ("6.7k", "10k", "14k", "25k", "40k", "56k"),
    1e12: ("10k", "14k", "25k", "40k", "56k", "101k"),
    3e12: ("14k", "25k", "40k", "56k", "101k", "151k"),
    1e13: ("25k", "40k", "56k", "101k", "151k", "332k"),
}


# At the largest budget more seeds where its best size is expected: an AUROC needs three at least
MORE = {"sizes": ("101k", "151k"), "seeds": (43, 44)}
REPEATS = {"passes": (1.0, 4.0, 16.0), "sizes": ("14k", "40k", "101k"), "seeds": (41, 42)}
MOST = 2.0  # of the repeats: passes over all patients, beyond which the budgets have runs of their own


def sweep(config: ConfigDict) -> list[Point]:
    """The budgets on all patients, then the passes over shares of them (grid.fractions); the longest first."""
    on_all = changed(config, fractions=(1.0,))
    more = changed(on_all, budgets=(max(config.grid.budgets),), dear=float("inf"), **MORE)
    budgets = sorted(chain(base.sweep(on_all), base.sweep(more)), key=lambda point: -point["budget"])
    repeats = base.sweep(changed(config, **REPEATS))
    return chain(budgets, [point for point in repeats if point["fraction"] * point["passes"] <= MOST])


def changed(config: ConfigDict, **grid: Any) -> ConfigDict:
    """A copy with other fields of grid."""
    copy = ConfigDict(config)
    copy.grid = ConfigDict({**config.grid, **grid})
    return copy


def get_config() -> ConfigDict:
    c = challenge_2012.get_config()
    c.title = "Challenge 2012, reference"
    c.data.context = 512  # most of a record of 48 hours
    c.training.rate.peak = 0.02 * 2**0.5  # steps of as many sequences, twice as long: by the root of the batch
    c.grid.budgets = tuple(SIZES)
    c.grid.sizes = tuple(SIZES.values())
    c.grid.seeds = (41, 42, 43, 44)
    c.grid.dear = 3e12
    c.grid.fractions = (0.125, 0.25, 0.5, 1.0)
    c.outcome.recalibrate = True
    return c
