"""The recipe of the seed study (arXiv 2505.22964) under another config: --config=configs/published.py:challenge_2012.

A Llama-style decoder with a head of its own, trained with AdamW; a value is a token after its code; 13 intervals; no
mixing of neighbouring positions. What the study does not tell (rates, batch, schedule) is as in the config that it is
laid over. For comparison: configs/recipes.py says what each step away from it is worth.
"""

import importlib
from typing import Any

from ml_collections import ConfigDict

from ehr_scaling import configs
from ehr_scaling.configs import base
from ehr_scaling.errors import UserError

sweep = base.sweep

SETTINGS: dict[str, Any] = {
    "model.mixing": "none",
    "model.tied": False,
    "training.optimizer": "adamw",
    "data.tokens.value_tokens": "separate",
    "data.tokens.intervals": 13,
}
# With which it was compared, before runs of many lengths showed that longer ones want lower rates
EARLIER_RATES: dict[str, Any] = {"training.rate.peak": 0.025, "training.rate.tokens_exponent": 0.0}


def get_config(under: str = "quickstart") -> ConfigDict:
    """Args: under, the name of a config, and behind a colon the argument of its get_config ("records:meds")."""
    name, *arguments = under.split(":", 1)
    if name not in configs.NAMES:
        raise UserError(f"--config=configs/published.py:{under}: take one of {', '.join(configs.NAMES)}")
    c: ConfigDict = importlib.import_module(f"{configs.__name__}.{name}").get_config(*arguments)
    c.title = f"{c.title}, published recipe"
    c.update_from_flattened_dict(SETTINGS)
    return c
