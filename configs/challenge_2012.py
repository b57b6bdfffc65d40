"""tbd"""

from ml_collections import ConfigDict

from configs import base

sweep = base.sweep


def get_config() -> ConfigDict:
    c = base.get_config()
    c.title = "Challenge 2012"
    c.data.source = "challenge-2012"
    c.data.context = 256
    c.training.batch.sequences = 4
    c.outcome.anchor = "ICU_ADMISSION"
    c.outcome.hours = 48.0
    c.grid.budgets = (1e11, 3e11, 1e12)
    c.grid.sizes = ("3.5k", "6.7k", "14k", "25k", "40k")
    return c
