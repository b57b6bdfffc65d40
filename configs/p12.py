"""In-hospital death on Challenge 2012 as the literature compares it ("P12"): one split, three seeds of one model.

    python -m launch.leaderboard --benchmark=p12 --workdir=W --split_file=p12_splits.csv

trains this on each of the five published splits, and asks about every stay of the held-out patients. 1e13 FLOPs a
model, 1.5e14 in all: half an hour to an hour of two CPU cores, as long again for linear probes (--methods=probe), and
a quarter of an hour of two cores a model to fine-tune for one epoch.

What led to these settings: the reference study (studies/challenge_2012), whose runs of 151 k parameters are at the best
size for 1e13 to 3e13 FLOPs on split 1. Its test patients are among those of this benchmark's first split, so that the
size was not chosen blind to them; nothing else was looked at.
"""

from ml_collections import ConfigDict

from ehr_scaling.configs import base, challenge_2012_reference

sweep = base.sweep


def get_config() -> ConfigDict:
    c = challenge_2012_reference.get_config()
    c.title = "P12"
    c.grid.budgets = (1e13,)
    c.grid.sizes = ("151k",)
    c.grid.seeds = (1, 2, 3)
    c.grid.dear = float("inf")
    c.grid.fractions = (1.0,)
    c.outcome.method = "exact"
    c.outcome.tasks = ("p12_death",)
    return c
