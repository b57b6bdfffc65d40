"""The 100 open patients of the MIMIC-IV demo 2.2: shows the way from MIMIC-IV to a report, not a law.

A few hundred thousand tokens are passed over many times even at these budgets, so the curves measure over-fitting
as much as scaling, and the report says so. With ten patients in the test split there may be no death to predict: then
the report says that no outcome was scored. N 3.5 k to 40 k, D 0.04 to 1.6 M, some 3 minutes on 2 CPU cores.
"""

from ml_collections import ConfigDict

from ehr_scaling.configs import base

sweep = base.sweep


def get_config() -> ConfigDict:
    c = base.get_config()
    c.title = "MIMIC-IV demo"
    c.data.source = "mimic-iv-demo"
    c.data.tokens.min_count = 5
    c.model.vocab_multiple = 16  # at this vocabulary 128 would be wasted on a CPU
    c.data.phases = 8  # the budgets below take some ten passes over it
    c.grid.budgets = (2e10, 6e10, 1.8e11)
    c.grid.sizes = ("3.5k", "6.7k", "14k", "25k", "40k")
    return c
