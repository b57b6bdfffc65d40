"""Your own records at a laptop's budgets: a first look before configs/mimic_iv.py goes to an accelerator.

`--data=<folder>` picks it, or name it: --config=configs/records.py:mimic-iv (or :meds) --config.data.raw=<folder>.
The grid is that of the quickstart, whose LR and batch rules were found on generated patients: cells at the edge of
their budget will tell.
"""

from ml_collections import ConfigDict

from ehr_scaling.configs import quickstart

sweep = quickstart.sweep


def get_config(source: str) -> ConfigDict:
    c = quickstart.get_config()
    c.title = f"own records ({source})"
    c.data.source = source
    return c
