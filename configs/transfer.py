"""Does the best learning rate stay put? Three sizes, the largest 221 times the smallest, each at seven rates under µP.

Every run reads the same tokens in batches of the same size, so that nothing but the model differs (`grid.passes`, not
budgets: those would give small models more steps). With --config.model.parametrization=standard the rates are those
of the rule, peak · 32 / width; with --config.training.rate.width_exponent=0 too, one rate for all, and the optimum
moves with the width. The report's plot of loss against rate says where each optimum lies.
"""

from ml_collections import ConfigDict

from ehr_scaling.configs import base
from ehr_scaling.grid.sweeps import Point

SEEDS_OF_LARGE = 2  # the smallest model's runs differ more, and cost little: it has all the seeds


def sweep(config: ConfigDict) -> list[Point]:
    """The points of base.sweep, with fewer seeds for all sizes but the first."""
    first, some = config.grid.sizes[0], config.grid.seeds[:SEEDS_OF_LARGE]
    return [point for point in base.sweep(config) if point["size"] == first or point["seed"] in some]


def get_config() -> ConfigDict:
    c = base.get_config()
    c.title = "transfer of the learning rate"
    c.model.parametrization = "mup"
    c.model.vocab_multiple = 16
    c.data.seed = 31
    c.grid.passes = (1 / 16,)  # 0.3 M tokens, about 650 steps: the optimum of much shorter runs is that of the warm-up
    c.grid.sizes = ("3.5k", "40k", "792k")  # 12 × 2, 40 × 2 and 128 × 4 (width × layers)
    c.grid.rates = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
    c.grid.seeds = tuple(range(31, 39))
    c.training.together = 2  # seeds of one size and rate, as one program
    return c
