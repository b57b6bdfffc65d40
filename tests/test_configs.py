"""Every config can be read, says what it is, and yields points that the registry knows."""

import importlib
import json
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from ehr_scaling import configs, publish, settings
from ehr_scaling.configs import base, challenge_2012_forecast, challenge_2012_reference, published, recipes, records
from ehr_scaling.data.tokenization import tokenizer
from ehr_scaling.errors import UserError
from ehr_scaling.models import sizes


@pytest.mark.parametrize("name", configs.NAMES)
def test_a_config_is_whole(name):
    module = importlib.import_module(f"ehr_scaling.configs.{name}")
    config = module.get_config("meds") if module is records else module.get_config()
    assert len(module.__doc__) > 80
    points = list(module.sweep(config))
    assert len({tuple(point.values()) for point in points}) == len(points)
    for point in points:
        sizes.get(point["size"])
    for length in ("budget", "passes"):
        lengths = [point[length] for point in points if length in point]
        assert lengths == sorted(lengths, reverse=True)
    # A change of a default has to be meant: configs share the fields of the base and add none.
    assert set(config.to_dict()) == set(base.get_config().to_dict())
    config.data.raw = "/home/somebody/records"
    told = json.dumps(settings.reportable(config), allow_nan=False)  # as it stands in the report
    assert "somebody" not in told and json.loads(told)["grid"]["seeds"] == list(config.grid.seeds)


def test_sizes_may_follow_the_budgets():
    config = base.get_config()
    config.grid.budgets, config.grid.seeds = (1e10, 1e11), (5,)
    config.grid.sizes = (("3.5k",), ("6.7k", "14k"))
    points = [(p["budget"], p["size"], p["seed"]) for p in base.sweep(config)]
    assert points == [(1e11, "6.7k", 5), (1e11, "14k", 5), (1e10, "3.5k", 5)]
    config.grid.sizes = (("3.5k",),)
    with pytest.raises(UserError, match="1 tuples of sizes for 2 budgets"):
        list(base.sweep(config))
    config.grid.sizes = ("3.5k", "14k")
    assert len(list(base.sweep(config))) == 4


def test_cheap_budgets_may_have_more_seeds():
    config = base.get_config()
    config.grid.budgets, config.grid.sizes, config.grid.seeds = (1e10, 1e11), ("3.5k",), (5, 6, 7)
    config.grid.dear = 1e11
    points = [(p["budget"], p["seed"]) for p in base.sweep(config)]
    assert points == [(1e11, 5), (1e11, 6), (1e10, 5), (1e10, 6), (1e10, 7)]
    config.grid.passes = (1e11,)  # that many passes cost what they cost
    assert len(list(base.sweep(config))) == 3


def test_the_quickstart_is_a_grid_to_believe():
    """The least that its IsoFLOP curves need; how they come out is for the report to say."""
    quickstart = importlib.import_module("ehr_scaling.configs.quickstart")
    points = list(quickstart.sweep(quickstart.get_config()))
    budgets = {point["budget"] for point in points}
    assert len(budgets) >= 4
    assert max(budgets) / min(budgets) >= 10**1.5 * 0.999
    for budget in budgets:
        assert len({p["size"] for p in points if p["budget"] == budget}) >= 4
    assert len({p["seed"] for p in points}) >= 2


@pytest.mark.parametrize("config", [challenge_2012_reference, challenge_2012_forecast])
def test_a_filed_study_is_the_grid_of_its_config(config):
    folder = config.__name__.rpartition(".")[2].removesuffix("_reference")
    claims = publish.read_claims(Path(__file__).parents[1] / "studies" / folder / "claims.yaml")
    points = list(config.sweep(config.get_config()))
    assert {tuple(point.get(name) for name in publish.POINT) for point in points} == publish.points(claims)


def test_whatever_the_budgets_no_run_of_the_reference_study_comes_twice():
    config = challenge_2012_reference.get_config()
    config.grid.budgets, config.grid.sizes = (1e13,), ("151k",)
    seeds = [point["seed"] for point in challenge_2012_reference.sweep(config) if "budget" in point]
    assert sorted(seeds) == [41, 42, 43, 43, 44, 44]


def test_the_recipe_of_all_configs_is_the_top_of_the_ladder():
    every = base.get_config().to_dict()
    for name, value in recipes.settings(recipes.TOP).items():
        *path, last = name.split(".")
        assert reduce(getitem, path, every)[last] in (value, None)


def test_each_rung_differs_from_the_one_it_changes_by_what_it_says():
    assert recipes.LADDER[0].settings == published.SETTINGS | published.EARLIER_RATES
    for data in recipes.DATA:
        flat = {
            name: flatdict(recipes.get_config(f"{data}/{name}").to_dict() | {"title": ""}) for name in recipes.CHANGES
        }
        for change in (*recipes.LADDER[1:], *recipes.TRIED):
            own, below = flat[change.name], flat[change.on]
            assert {key for key in own if own[key] != below[key]} == set(change.settings)
    with pytest.raises(UserError, match=r"configs/recipes\.py:synthetic/none: take one of synthetic, challenge-2012"):
        recipes.get_config("synthetic/none")


def flatdict(tree, path=""):
    return {
        name: leaf
        for key, value in tree.items()
        for name, leaf in (
            flatdict(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
        ).items()
    }


def test_the_published_recipe_can_be_laid_over_any_config():
    for name in ("quickstart", "challenge_2012"):
        config = flatdict(published.get_config(name).to_dict())
        assert {key: config[key] for key in published.SETTINGS} == published.SETTINGS
        assert config["title"].endswith("published recipe")
    assert published.get_config("records:meds").data.source == "meds"
    with pytest.raises(UserError, match=r"configs/published\.py:nope: take one of base, challenge_2012, "):
        published.get_config("nope")


def test_every_option_of_the_tokenizer_is_a_field():
    c = base.get_config()
    assert {"preset", *c.data.tokens} == set(tokenizer.COMMON)
    assert not [name for name in c.data.tokens if hasattr(ConfigDict, name)]  # flags could not set it
