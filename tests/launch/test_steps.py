"""What a command says while it works."""

import json
import subprocess
import sys

import pytest

from ehr_scaling import study
from ehr_scaling.analysis.compare import comparable
from ehr_scaling.analysis.isoflop import isoflop
from ehr_scaling.analysis.joint.joint_laws import AUTO, FORMS
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.plan import next_runs, plan_words
from ehr_scaling.outcomes import evaluate
from tests import forked, small


def test_the_report_of_a_study_says_its_steps(monkeypatch):
    """Through all stages to the analysis, which is told whom to tell."""
    for stage in ("prepare", "plan", "train", "score"):
        monkeypatch.setattr(study, stage, lambda *_, **__: None)
    monkeypatch.setattr(study.cost, "table", lambda *_, **__: "")
    monkeypatch.setattr(study.cost, "workers", lambda *_: 1)
    monkeypatch.setattr(study, "score", lambda config, workdir, say: say("asking"))
    monkeypatch.setattr(study, "write_report", lambda config, workdir, asked, say: say("fitting"))
    said = []

    class Config:
        workers = 1

    study.run(Config(), [], None, said.append)
    assert said == ["asking", "fitting"]


def test_baselines_are_fitted_aloud(monkeypatch, tmp_path):
    """Half a minute for each task; what simulates has a progress bar."""
    config, said = small.config(), []
    monkeypatch.setattr(study.questions, "prepare", lambda *_, **__: said.append("prepared"))
    monkeypatch.setattr(study.prepared, "recalibrate_by", lambda *_: None)
    monkeypatch.setattr(study.storage, "fetch", lambda *_: None)
    monkeypatch.setattr(study.artifacts, "read_json", lambda *_: {"description": "death"})
    monkeypatch.setattr(evaluate, "baseline", lambda *_: said.append("fitted"))
    assert study.ask(config, tmp_path, said.append) == ("death", True)
    (task,) = config.outcome.tasks
    assert said == [f"{task}: looking for stays to ask about", "prepared", f"{task}: fitting baselines", "fitted", ""]


@pytest.mark.parametrize(
    ("command", "flags", "first"),
    [
        ("ask", ["--workdir={0}", "--questions={0}/sheet.yaml"], "asking models of {0}"),
        ("bench", ["accelerator"], "measuring accelerator"),
        ("fetch_maps", ["--dest={0}", "--kinds=none"], "fetching code maps into {0}"),
        ("predict", ["--model={0}", "--labels={0}", "--split=test", "--out={0}/out"], "predicting with a model of {0}"),
        ("publish", ["--workdir={0}", "--claims={0}/c.yaml", "--out={0}/out"], "publishing the study {0}"),
        ("recipes", [], "recipes, one change at a time"),
        ("train", ["--workdir={0}", "--cell=0"], "training cell 0 of {0}"),
    ],
)
def test_the_first_line_waits_for_no_jax(tmp_path, command, flags, first):
    done = told_imports(command, [flag.format(tmp_path) for flag in flags])
    lines = done.stdout.splitlines()
    assert lines[0] == first.format(tmp_path) and lines.count(lines[0]) == 1, done.stderr


def told_imports(command, flags):
    """A command run to its end, that prints which of the slow packages it imports as it does."""
    code = f"""
import runpy, sys
def told(event, args):
    if event == "import" and args[0] in ("numpy", "jax"):
        print("imports", args[0], flush=True)
sys.addaudithook(told)
sys.argv = {["launch", *flags]}
runpy.run_module("launch.{command}", run_name="__main__", alter_sys=True)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["analyze", "compare", "plan"])
def test_the_first_line_waits_for_nothing_that_fits(tmp_path, command):
    """Imports take seconds where a disk is slow."""
    table = f"--runs={tmp_path / 'absent.csv'}"
    out = f"--out={tmp_path / 'out'}"
    given = {
        "analyze": [table, out],
        "compare": [table, table, out],
        "plan": [f"--report={tmp_path / 'absent'}", "--flops=1e15"],
    }
    done = told_imports(command, given[command])
    assert "absent" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("[   0 s] reading ") and "imports numpy" in lines and "imports jax" not in lines


def test_flags_name_every_choice_and_default():
    """They stand in the commands so that a first line need not wait for what fits."""
    code = """
import json
from launch.analyze import LAWS, METHODS, flags
names = ("draws", "bootstrap_seed", "isoflop", "near", "window", "law")
print(json.dumps([LAWS, METHODS, [flags.FLAGS[name].default for name in names]]))
"""
    own = Options()
    defaults = [own.draws, own.seed, own.isoflop, own.near, own.window, own.law]
    assert printed(code) == [[AUTO, *FORMS], [*isoflop.METHODS], defaults]
    code = """
import json
from launch.compare import UNITS, flags
print(json.dumps([UNITS, [flags.FLAGS[name].default for name in ("draws", "bootstrap_seed", "unit")]]))
"""
    units = [comparable.AUTO, comparable.TOKEN, *comparable.UNITS]
    assert printed(code) == [units, [own.draws, own.seed, comparable.AUTO]]
    code = """
import json
from launch.plan import TARGETS, flags
print(json.dumps([TARGETS, flags.FLAGS["tolerance"].default]))
"""
    assert printed(code) == [[*next_runs.TARGETS], plan_words.TOLERANCE]


def printed(code):
    return json.loads(forked.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
