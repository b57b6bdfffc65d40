"""tbd: what exploring led to, expected loss and wall time. This line is replaced before the first release of it."""

from ml_collections import ConfigDict

from configs import base

sweep = base.sweep


def get_config() -> ConfigDict:
    c = base.get_config()
    c.title = "quickstart"
    c.data.seed = 11
    c.grid.budgets = (3e10, 6.5e10, 1.4e11, 3e11)
    c.grid.sizes = (
        ("1.7k", "3.5k", "6.7k", "14k", "25k"),
        ("3.5k", "6.7k", "14k", "25k", "40k"),
        ("3.5k", "6.7k", "14k", "25k", "40k"),
        ("6.7k", "14k", "25k", "40k", "56k"),
    )
    c.grid.seeds = (11, 12)
    c.outcome.copies = 8
    c.outcome.samples = 400
    c.outcome.positive_share = 0.25
    return c
