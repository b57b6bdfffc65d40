"""The wheel as somebody has it who has no checkout: its commands, its configs, and no other names beside its own."""

import ast
import importlib
import os
import pydoc
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import ehr_scaling
import launch.console
from ehr_scaling.launch import console
from ehr_scaling.launch.common import common

ROOT = Path(__file__).parents[1]


def ehr_scaling_(site, folder, *arguments):
    """The command of the wheel, run elsewhere."""
    return subprocess.run(
        [sys.executable, "-m", "ehr_scaling.launch.console", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_has_no_names_but_its_own_and_all_of_its_files(site):
    assert {path.name.split("-")[0] for path in site.iterdir()} == {"ehr_scaling"}
    for part, folder in (("", "ehr_scaling"), ("launch", "launch"), ("configs", "configs")):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert files
        for path in files:
            assert (site / "ehr_scaling" / part / path.relative_to(ROOT / folder)).is_file(), path
    tables = sorted((ROOT / "studies").glob("*/runs.csv"))
    assert tables and all((site / "ehr_scaling" / path.relative_to(ROOT)).is_file() for path in tables)
    assert f"\nVersion: {ehr_scaling.__version__}\n" in next(site.glob("*.dist-info/METADATA")).read_text()
    assert (
        "ehr-scaling = ehr_scaling.launch.console:main" in next(site.glob("*.dist-info/entry_points.txt")).read_text()
    )


def test_an_image_is_built_of_all_that_the_wheel_is():
    """What the links in the package lead to; a link into nothing is passed over there without a word."""
    let_in = set(re.findall("^!(.*)$", (ROOT / ".dockerignore").read_text(), re.M))
    links = {str(path.resolve().relative_to(ROOT)) for path in (ROOT / "ehr_scaling").iterdir() if path.is_symlink()}
    assert links >= {"launch", "configs", "studies"} and links <= let_in


def test_it_prepares_and_plans_without_a_checkout(site, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from ehr_scaling.configs import quickstart\nsweep = quickstart.sweep\n"
        "def get_config():\n    c = quickstart.get_config()\n    c.data.patients = 300\n    return c\n"
    )
    done = ehr_scaling_(site, tmp_path, "prepare", "--config=mine.py", "--workdir=W")
    assert done.returncode == 0, done.stderr
    done = ehr_scaling_(site, tmp_path, "sweep", "--config=mine.py", "--workdir=W", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "FLOPs of training in all" in done.stdout


def test_every_config_is_had_without_a_checkout(site, tmp_path):
    """By its name, and as published:<name>."""
    code = """
import ehr_scaling
from ehr_scaling import api, configs
for name in configs.NAMES:
    name += ":meds" * (name == "records")
    api._config(name, None)
    assert api._config(f"published:{name}", None)[0].title.endswith("published recipe")
print(ehr_scaling.__file__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith(str(site)), done.stderr
    done = ehr_scaling_(site, tmp_path, "sweep", "--config=published:challenge_2012", "--print_config")
    assert done.returncode == 0 and "* training.optimizer = 'adamw'" in done.stdout, done.stderr


def test_the_first_word_is_a_command(site, tmp_path):
    done = ehr_scaling_(site, tmp_path)
    assert done.returncode == 0
    for command in console.COMMANDS:
        assert f"\n  {command} " in done.stdout
    assert "launch." not in done.stdout and "`ehr-scaling bench data|" in done.stdout
    assert ehr_scaling_(site, tmp_path, "--version").stdout == f"{ehr_scaling.__version__}\n"
    done = ehr_scaling_(site, tmp_path, "swep")
    assert (done.returncode, done.stderr) == (2, "error: ehr-scaling has no command 'swep': did you mean sweep?\n")
    done = ehr_scaling_(site, tmp_path, "fetch-maps", "--help")
    assert (done.returncode, done.stderr) == (0, "") and "--kinds" in done.stdout
    assert "\n  ehr-scaling fetch_maps --dest=maps\n" in done.stdout
    done = ehr_scaling_(site, tmp_path, "plan", "--flops=1")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1


def test_help_shows_what_can_be_typed_without_a_checkout():
    """Where nothing is called `launch`: all but the name is as in a checkout."""
    for command in console.COMMANDS:
        text = ast.get_docstring(ast.parse((ROOT / "launch" / f"{command}.py").read_text(encoding="utf-8")))
        told = console.own_names(text)
        assert "launch." not in told and "python -m" not in told
        assert told.count("ehr-scaling ") >= max(1, text.count("python -m launch."))
    assert "python -m launch." not in pydoc.plain(pydoc.render_doc(ehr_scaling.api))
    assert launch.console.own_names("python -m launch.study") == "python -m launch.study"


def test_no_message_leads_to_a_page_that_the_wheel_lacks():
    for path in [*(ROOT / "ehr_scaling").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "docs/" in text else ():
            assert not isinstance(node, ast.Raise) or "docs/" not in ast.unparse(node), path


def test_benchmarks_start_what_the_wheel_has(site, tmp_path):
    """Without duckdb, whose row says that it is left out."""
    (tmp_path / "duckdb.py").write_text("raise ImportError")
    code = "import sys; from absl import flags; from ehr_scaling.launch.benchmarks import data, training as t\n"
    code += "flags.FLAGS([sys.argv[0], '--fraction=0.0002', '--keep=kept'])\n"
    code += "for row in data._generated(data.Path('made')): print(row['name'])\n"
    code += "print(t.OURS[2], t._launch('sweep')[2])"
    (tmp_path / "made").mkdir()  # and both folders are relative ones
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{site}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *_, duckdb, spawned = done.stdout.splitlines()
    assert duckdb == "  compare: left out, for duckdb is not installed: see the extra bench"
    assert spawned == "ehr_scaling.launch.benchmarks.training ehr_scaling.launch.sweep"


def test_every_module_that_runs_is_a_command():
    ends = re.compile(r'^if __name__ == "__main__":\n    (common\.)?run\(', re.MULTILINE)
    running = {path.stem for path in (ROOT / "launch").glob("*.py") if ends.search(path.read_text())}
    assert running == set(console.COMMANDS)
    for command in console.COMMANDS:
        assert console._about(command).endswith((".", ":"))


@pytest.mark.parametrize(
    "given", ["mimic_iv", "mimic_iv.py", "configs/mimic_iv.py", "recipes:tied", "nowhere", "a/mimic_iv"]
)
def test_a_config_is_known_by_its_name(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, colon, argument = given.partition(":")
    ours = {"nowhere": None, "a/mimic_iv": None}.get(path, common.CONFIGS / f"{Path(path).stem}.py")
    expected = given if ours is None else f"{ours}{colon}{argument}"
    assert common.config_file(given) == expected
    assert common._configs_found(["x", "--config", given, f"--config={given}", "--config.a=b", given]) == [
        *("x", "--config", expected, f"--config={expected}", "--config.a=b", given)
    ]


def test_a_citation_has_the_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(cited["version"]) == ehr_scaling.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["license"], cited["authors"]) == (project["license"], project["authors"])


def test_a_file_of_the_users_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mimic_iv.py").touch()
    assert common.config_file("mimic_iv.py") == "mimic_iv.py"
    assert importlib.util.find_spec("ehr_scaling.configs.mimic_iv")
