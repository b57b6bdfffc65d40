"""tbd: what exploring led to, expected loss and wall time. This line is replaced before the first release of it."""

from ml_collections import ConfigDict

from configs import base

sweep = base.sweep


def get_config() -> ConfigDict:
    c = base.get_config()
    c.title = "Challenge 2012"
    c.data.source = "challenge-2012"
    c.data.seed = 11
    c.data.context = 256
    c.training.batch.at_tokens = 1.2e6  # as many tokens a step as the quickstart, in sequences twice as long
    c.outcome.anchor = "ICU_ADMISSION"
    c.outcome.hours = 48.0
    c.outcome.silence = 24.0
    c.outcome.copies = 8
    c.outcome.new_tokens = 16
    c.grid.budgets = (1e11, 3e11, 1e12)
    c.grid.sizes = ("3.5k", "6.7k", "14k", "25k", "40k")
    return c
