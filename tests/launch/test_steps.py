"""What a command says while it works."""

import json
import re
import subprocess
import sys
import time

import pytest

from ehr_scaling import study
from ehr_scaling.analysis.compare import comparable
from ehr_scaling.analysis.isoflop import isoflop
from ehr_scaling.analysis.joint.joint_laws import AUTO, FORMS
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.plan import next_runs, plan_words
from launch.steps import Steps


def test_a_step_that_lasts_is_said_again(capsys, monkeypatch):
    monkeypatch.setattr(Steps, "EVERY", 0.4)
    with Steps() as steps:
        time.sleep(1.2)
        assert capsys.readouterr().out == ""  # before the first step other stages have the terminal
        steps.say("fitting")
        time.sleep(1.2)
        steps.say("drawing")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[   0 s] fitting" and lines[-1] == "[   1 s] drawing"
    assert len(lines) > 2 and all(re.fullmatch(r"\[   [01] s\] still fitting", line) for line in lines[1:-1])


def test_an_error_ends_the_thread():
    with pytest.raises(KeyError), Steps() as steps:
        steps.say("reading")
        raise KeyError
    assert not steps._thread.is_alive()


def test_the_report_of_a_study_says_its_steps(monkeypatch):
    """Through all stages to the analysis, which is told whom to tell."""
    for stage in ("prepare", "plan", "train", "score"):
        monkeypatch.setattr(study, stage, lambda *_, **__: None)
    monkeypatch.setattr(study.cost, "table", lambda *_, **__: "")
    monkeypatch.setattr(study.cost, "workers", lambda *_: 1)
    monkeypatch.setattr(study, "write_report", lambda config, workdir, asked, say: say("fitting"))
    said = []

    class Config:
        workers = 1

    study.run(Config(), [], None, said.append)
    assert said == ["fitting"]


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
    code = f"""
import runpy, sys
def told(event, args):
    if event == "import" and args[0] in ("numpy", "jax"):
        print("imports", args[0], flush=True)
sys.addaudithook(told)
sys.argv = {["launch", *given[command]]}
runpy.run_module("launch.{command}", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
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
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
