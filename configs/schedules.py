"""Do WSD branches end where separate cosine runs do? Challenge 2012, equal (N, D), both schedules, 3 seeds.

2 sizes, 14 k and 25 k body parameters, 4 budgets a factor of 1.5 apart, D 0.7 to 4 M tokens; the trunk of a size and
seed serves its four branches, for a little over half of the FLOPs of separate runs. Batch and rate are constant, so
that both kinds learn from the same steps. The report sets the two kinds side by side, against the scatter of seeds.
"""

from ml_collections import ConfigDict

from ehr_scaling.configs import base, challenge_2012, published

sweep = base.sweep


def get_config() -> ConfigDict:
    c = challenge_2012.get_config()
    c.title = "WSD branches and cosine runs"
    c.update_from_flattened_dict(
        published.SETTINGS | published.EARLIER_RATES
    )  # with which the figures in BENCHMARKS were measured
    c.training.trunk = True
    c.training.schedule = "wsd"
    c.training.batch.sequences = 4
    c.training.batch.exponent = 0.0  # a trunk has one batch for all of its branches
    c.grid.schedules = ("wsd", "cosine")
    c.grid.budgets = tuple(2e11 * 1.5**i for i in range(4))
    c.grid.sizes = ("14k", "25k")
    c.grid.seeds = (41, 42, 43)
    c.grid.dear = float("inf")
    return c
