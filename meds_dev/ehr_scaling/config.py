"""One model for MEDS-DEV: 26 M body parameters, four passes over the training patients; or a tiny one, to try the way.

Sizes and passes are a middle course that nobody has tuned: on MIMIC-IV, with some 0.3 G tokens, four passes are 1.2 G
tokens and 3e17 FLOPs, a quarter of an hour of one H100 at a third of its peak. A study (launch.study) tells which size
your records can feed. The demo takes a minute on a laptop.
"""

from ml_collections import ConfigDict

from ehr_scaling.configs import base, mimic_iv

sweep = base.sweep


def get_config(demo: str) -> ConfigDict:
    """Args: demo, "True" or "False", as MEDS-DEV spells it."""
    small = {"True": True, "False": False}[demo]
    c = base.get_config() if small else mimic_iv.get_config()
    c.title = "MEDS-DEV"
    c.data.source = "meds"
    c.grid.seeds = (1,)
    c.grid.sizes = ("14k",) if small else ("26m",)
    c.grid.passes = (4.0,)  # over the data; repeated tokens are worth nearly as much as new ones up to about four
    if small:
        c.data.tokens.min_count = 5
        c.data.phases = 4
        c.model.vocab_multiple = 16
    else:
        c.model.dropout = 0.1
    return c
