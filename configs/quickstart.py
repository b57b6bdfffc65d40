"""tbd"""

from ml_collections import ConfigDict

from configs import base

sweep = base.sweep


def get_config() -> ConfigDict:
    c = base.get_config()
    c.title = "quickstart"
    c.grid.budgets = (3e10, 1e11, 3e11)
    c.grid.sizes = ("3.5k", "6.7k", "14k", "25k", "40k")
    return c
