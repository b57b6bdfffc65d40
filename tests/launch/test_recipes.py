"""launch.recipes as a user runs it, on rungs that train in seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ehr_scaling.configs import recipes
from tests import buckets, forked

SMALL = """
from ehr_scaling.configs import recipes
from tests import small
import launch.recipes

def config(which):
    c = small.config(**{"grid.budgets": (2e8, 4e8, 8e8), "grid.sizes": ("1.7k",), "grid.seeds": (0, 1)})
    c.update_from_flattened_dict(recipes.settings(which.partition("/")[2]))
    return c

recipes.get_config = config
launch.recipes.run(launch.recipes.main)
"""


def launch(*flags, start=forked.run):
    return start([sys.executable, *flags], capture_output=True, text=True, check=False)


def test_without_a_folder_it_shows_the_ladder():
    done = launch("-m", "launch.recipes")
    assert done.returncode == 0, done.stderr
    for change in recipes.CHANGES.values():
        assert f"  {change.name} (" in done.stdout and change.why in done.stdout


def test_rungs_are_trained_compared_and_gone_on_with(tmp_path):
    flags = ("-c", SMALL, f"--workdir={tmp_path}", "--noscore", "--draws=40")
    both = launch(*flags, "--rungs=published,mixing", start=subprocess.run)  # with another seed of hashes than the next
    assert both.returncode == 0, both.stderr
    assert (tmp_path / "mixing" / "events").stat().st_ino != (tmp_path / "published" / "events").stat().st_ino
    parts = [sorted((tmp_path / rung / "events").rglob("*.parquet")) for rung in ("published", "mixing")]
    assert [p.stat().st_ino for p in parts[0]] == [p.stat().st_ino for p in parts[1]]  # not made twice
    record = json.loads((tmp_path / "recipes.json").read_text())
    assert [(r["name"], r["against"]) for r in record["rungs"]] == [("published", ""), ("mixing", "published")]
    assert record["rungs"][1]["units"]["event"]["paired"]["cells"] == 3
    told = next(line for line in both.stdout.splitlines() if line.startswith("mixing  "))
    again = launch(*flags, "--rungs=mixing", f"--beside={tmp_path / 'recipes.json'}")  # the other is there
    assert (tmp_path / "recipes.png").stat().st_size > 5000
    assert told in again.stdout.splitlines()


def test_rungs_of_other_machines_are_brought_from_the_bucket(tmp_path):
    url = buckets.url("file", tmp_path)
    code = (
        "from ehr_scaling import storage; import launch.recipes; "
        f"workdir = storage.local('{url}'); "
        "print(launch.recipes.trained({name: workdir / name for name in ('published', 'mixing')}))"
    )
    for file in ("runs/a/8/metrics/metrics", "runs/a/8/files.json", "outcomes/death/a.json"):
        path = Path(url.removeprefix("file://")) / "mixing" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    done = forked.run(
        [sys.executable, "-c", code],
        env=os.environ | {"EHR_SCALING_MIRRORS": str(tmp_path / "mirrors")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "['mixing']\n", done.stderr
    assert len(list((tmp_path / "mirrors").glob("*/mixing/*/*/**/*.json"))) == 1  # scores, and of runs results alone


def test_an_unknown_rung_is_one_line(tmp_path):
    done = launch("-m", "launch.recipes", f"--workdir={tmp_path}", "--rungs=mixing,none")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: --rungs: 'none' is none: take some")
    done = launch("-m", "launch.recipes", f"--workdir={tmp_path}", "--beside=nowhere.json")
    assert done.returncode == 1 and "error: --beside=nowhere.json is no file" in done.stderr
