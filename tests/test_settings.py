"""Settings are checked against those of configs/base.py, kept in the work directory, and told where they differ."""

import json
import sys
from pathlib import Path

import pytest

from ehr_scaling import settings, study
from ehr_scaling.configs import base
from ehr_scaling.data import pipeline
from ehr_scaling.errors import UserError
from tests import forked, small

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("trainig.floor", "did you mean --config.training.floor?"),
        ("training.rate.peek", "did you mean --config.training.rate.peak?"),
        ("data.tokens.bin", "did you mean --config.data.tokens.bins?"),
        ("seeds", "did you mean --config.grid.seeds?"),  # in another group
        ("nothing_like_it", "--print_config lists all fields"),
    ],
)
def test_a_misspelt_field_is_told_with_its_nearest(name, meant):
    with pytest.raises(UserError) as told:
        settings.check_fields(["title", name], "--config.{}")
    assert str(told.value) == f"--config.{name} is no field of configs/base.py: {meant}"


def test_a_group_is_no_field():
    with pytest.raises(UserError, match=r"--config\.data\.tokens is a group of fields: .* --config\.data\.tokens\.age"):
        settings.check_fields(["data.tokens"], "--config.{}")
    settings.check_fields(settings.flat(base.get_config()), "--config.{}")


def test_a_change_is_told_against_the_base_or_what_was_before():
    config = base.get_config()
    assert settings.changes(settings.plain(config)) == {}
    config.grid.dear, config.grid.seeds = 1e12, (7,)
    now = settings.plain(config)
    assert settings.changes(now) == {"grid.dear": ("inf", 1e12), "grid.seeds": ([1, 2], [7])}
    # What an earlier version did not have is taken as the base has it
    assert settings.changes(now, {"grid": {"dear": 1e12, "seeds": [8]}}) == {"grid.seeds": ([8], [7])}
    starred = [line for line in settings.listing(config).splitlines() if line.startswith("*")]
    assert starred == [
        "* grid.dear = 1000000000000.0  # configs/base.py: inf",
        "* grid.seeds = (7,)  # configs/base.py: (1, 2)",
    ]
    assert len(settings.listing(config).splitlines()) == len(settings.flat(now))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([1e11, [3, "a"]], "(1e+11, (3, a))"),
        (list(range(40)), "40 entries"),
        (None, "None"),
        ("", "''"),
        ("inf", "inf"),
    ],
)
def test_how_a_value_is_shown(value, told):
    assert settings.shown(value) == told


def test_a_work_directory_keeps_what_it_was_made_with(tmp_path):
    path, first, other = tmp_path / "w" / "config.json", small.config(), small.config(**{"data.context": 32})
    with pytest.raises(RuntimeError), settings.kept(first, path.parent):
        assert json.loads(path.read_text()) == settings.plain(first)  # while it is being made
        raise RuntimeError("interrupted")
    assert path.parent.stat().st_mode & 0o077 == 0
    with pytest.raises(UserError), settings.kept(other, path.parent):
        raise UserError("refused")
    assert json.loads(path.read_text()) == settings.plain(first)
    told = settings.differences(other, path.parent)
    assert (
        " ".join(told[-1].split())
        == f"settings that differ from those that {path.parent} was made with: data.context=32 (was 64)"
    )
    with settings.kept(other, path.parent):
        pass
    assert json.loads(path.read_text()) == settings.plain(other)
    assert len(settings.differences(other, path.parent)) == 1  # from the base alone
    path.write_text("[]")
    with pytest.raises(UserError, match=r"config\.json is damaged: delete it"):
        settings.differences(other, path.parent)


def test_the_settings_of_a_work_directory_can_be_taken_up(tmp_path):
    made = small.config(**{"title": "mine", "grid.sizes": (("1.7k",), ("3.5k", "6.7k")), "data.raw": "/records"})
    here = small.config(**{"grid.dear": 1e10, "outcome.copies": 7})
    settings.take_kept(here, tmp_path, ())
    assert here.title != "mine"  # nothing is kept there
    with settings.kept(made, tmp_path):
        pass
    settings.take_kept(here, tmp_path, ("outcome.copies",))
    assert here.outcome.copies == 7 and here.grid.dear == float("inf")
    here.outcome.copies = made.outcome.copies
    assert here.to_dict() == made.to_dict()


def test_a_command_that_goes_on_shows_what_it_goes_by(tmp_path):
    """And where a config is given, it is that."""
    with settings.kept(small.config(**{"title": "mine", "outcome.copies": 3}), tmp_path):
        pass

    def shown(*flags):
        argv = [sys.executable, "-m", "launch.evaluate", f"--workdir={tmp_path}", "--print_config", *flags]
        lines = forked.run(argv, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
        return {line[2:].split(" = ")[0]: line.split(" = ")[1].split("  #")[0] for line in lines}

    assert shown("--config.outcome.copies=7").items() >= {("title", "'mine'"), ("outcome.copies", "7")}
    assert shown("--config=configs/quickstart.py")["title"] != "'mine'"


def test_every_stage_that_makes_keeps_them(tmp_path, monkeypatch):
    config = small.config()
    seen = []
    monkeypatch.setattr(pipeline, "prepare", lambda *_, **__: seen.append((tmp_path / "config.json").is_file()))
    study.prepare(config, tmp_path)
    assert seen == [True]


def test_a_report_tells_of_no_place_on_a_machine():
    config = base.get_config()
    config.data.raw, config.data.split_file, config.outcome.file = (
        "/home/a/raw",
        "/home/a/splits.csv:2",
        "/home/a/t.yaml",
    )
    told = settings.changes(settings.reportable(config))
    assert told == {"data.split_file": (None, "splits.csv:2"), "outcome.file": (None, "t.yaml")}


def test_how_risks_are_recalibrated_was_once_a_yes_or_a_no(tmp_path):
    config = base.get_config()
    for value, meant in ((True, "line"), (False, "none"), ("none", "none"), ("line", "line"), ("isotonic", "isotonic")):
        config.outcome.recalibrate = value
        assert settings.plain(config)["outcome"]["recalibrate"] == settings.recalibration(value) == meant
    for value in ("isotnic", "", None, 1.5, (True,)):
        config.outcome.recalibrate = value
        with pytest.raises(UserError, match=r"--config\.outcome\.recalibrate=.*: take none, line, isotonic"):
            settings.plain(config)
    # A work directory of then differs in nothing, and its settings are taken
    kept = settings.plain(base.get_config())
    (tmp_path / "config.json").write_text(json.dumps(kept | {"outcome": kept["outcome"] | {"recalibrate": False}}))
    assert settings.differences(base.get_config(), tmp_path) == []
    (tmp_path / "config.json").write_text(json.dumps(kept | {"outcome": kept["outcome"] | {"recalibrate": True}}))
    config = base.get_config()
    assert "outcome.recalibrate=none (was line)" in settings.differences(config, tmp_path)[0]
    settings.take_kept(config, tmp_path, ())
    assert config.outcome.recalibrate == "line" and settings.differences(config, tmp_path)[1:] == []
