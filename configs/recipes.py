"""The recipe ladder: from the published recipe upwards, one change at a time, on two sets of patients.

    python -m launch.recipes                                       what each rung changes, and why
    python -m launch.recipes --data=challenge-2012 --workdir=W     train and score each; what it is worth

One rung alone is a study as any other: --config=configs/recipes.py:challenge-2012/mixing. Three budgets of three
sizes and two seeds, the same for all rungs: enough to compare recipes, too few for a law.
"""

from functools import reduce
from operator import getitem
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ehr_scaling.configs import base, challenge_2012, published, quickstart
from ehr_scaling.errors import UserError

sweep = base.sweep

SEEDS = (1, 2)
SIZES = (("6.7k", "14k", "25k"), ("14k", "25k", "40k"), ("25k", "40k", "56k"))
DATA = {"synthetic": quickstart, "challenge-2012": challenge_2012}
BUDGETS = {"synthetic": (4e10, 1.2e11, 3.6e11), "challenge-2012": (1e11, 3e11, 1e12)}


class Times(float):
    """So many times what the config has."""


class Change(NamedTuple):
    """settings: fields of the config that differ from those of the rung `on`."""

    name: str
    on: str
    settings: dict[str, Any]
    why: str


FIRST = "published"
# Each on the one before it
LADDER = (
    Change(FIRST, "", published.SETTINGS | published.EARLIER_RATES, "configs/published.py: what the seed study says"),
    Change("mixing", FIRST, {"model.mixing": "conv"}, "each position reads the three before it, ahead of attention"),
    Change("muon", "mixing", {"training.optimizer": "muon"}, "matrices move along all their directions alike"),
    Change("tied", "muon", {"model.tied": True}, "one matrix embeds tokens and predicts them"),
    Change("fused", "tied", {"data.tokens.value_tokens": "fused"}, "a value and its code are one token"),
    Change(
        "rates",
        "fused",
        {"training.rate.peak": 0.02, "training.rate.tokens_exponent": -0.4},
        "longer runs have lower rates",
    ),
)
TOP, FEW = LADDER[-1].name, "few patients"
# Each on one rung
TRIED = (
    Change("a head of its own", "fused", {"model.tied": False}, "the rung tied taken back, now that values are fused"),
    Change(
        "twice the context",
        "fused",
        {"data.context": Times(2), "training.batch.sequences": Times(0.5), "validation.sequences": Times(0.5)},
        "more of a record at once; as many tokens a step",
    ),
    Change(
        "twice the batch",
        TOP,
        {"training.batch.sequences": Times(2), "training.rate.peak": Times(2**0.5)},
        "fewer steps",
    ),
    Change(
        "half the batch", TOP, {"training.batch.sequences": Times(0.5), "training.rate.peak": Times(0.5**0.5)}, "more"
    ),
    Change("intervals-19", TOP, {"data.tokens.intervals": 19}, "finer steps of time"),
    Change("cooled to 0", TOP, {"training.floor": 0.0}, "the last rate is none instead of a twentieth of the peak"),
    Change("wsd", TOP, {"training.schedule": "wsd"}, "a constant rate and a cooldown, as trunks need it"),
    Change("dropout", TOP, {"model.dropout": 0.1}, "a lever where patients are passed over often"),
    Change("decay .3", TOP, {"training.weight_decay": 0.3}, "another"),
    Change(FEW, TOP, {"grid.fractions": (1 / 32,)}, "up to 24 passes over a 32nd of the patients, where levers count"),
    Change("dropout on few", FEW, {"model.dropout": 0.1}, "under repetition"),
    Change("decay .3 on few", FEW, {"training.weight_decay": 0.3}, "under repetition"),
    Change("by patient", TOP, {"data.sampling": "patient"}, "one window of every patient a pass, whatever its length"),
    Change("mup", TOP, {"model.parametrization": "mup"}, "rates of one width and depth hold at others"),
)
CHANGES = {change.name: change for change in (*LADDER, *TRIED)}


def settings(name: str) -> dict[str, Any]:
    """All that differs from the config of the data, from the first rung up to `name`."""
    change = CHANGES[name]
    return {**(settings(change.on) if change.on else {}), **change.settings}


def get_config(which: str = f"synthetic/{TOP}") -> ConfigDict:
    data, _, name = which.partition("/")
    if data not in DATA or name not in CHANGES:
        raise UserError(
            f"--config=configs/recipes.py:{which}: take one of {', '.join(DATA)}, a slash, and one of "
            f"{', '.join(CHANGES)}"
        )
    c = DATA[data].get_config()
    c.title = f"recipe {name}"
    c.data.seed = 0
    c.grid.budgets, c.grid.sizes, c.grid.seeds = BUDGETS[data], SIZES, SEEDS
    for field, value in settings(name).items():
        *path, last = field.split(".")
        holder = reduce(getitem, path, c)
        holder[last] = type(holder[last])(holder[last] * value) if isinstance(value, Times) else value
    return c
