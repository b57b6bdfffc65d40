"""launch.plan as a user runs it, on what laws.json holds of plain and of recorded runs."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
import simulated

from ehr_scaling.analysis.forecast import extrapolation
from ehr_scaling.analysis.options import Options
from ehr_scaling.analysis.plain import plain
from ehr_scaling.analysis.plan import plan_basis
from tests import forked

RECORDED = {"patients": 800, "unique_tokens": 2e6, "batch": 2048, "lr": 0.004}


def launch(report, *flags):
    command = [sys.executable, "-m", "launch.plan", f"--report={report}", *flags]
    return forked.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Folders of a table of N, D, C and loss alone, and of one with patients."""
    folders = {}
    for name, extra in (("plain", {}), ("recorded", RECORDED)):
        table = simulated.table(budgets=5, decades=2.0, noise=0.003, extra=extra)
        known = plan_basis.planner(extrapolation.forecaster(table, Options(draws=60)), table)
        folders[name] = tmp_path_factory.mktemp(name)
        record = {"data": {"description": name}, "planner": plan_basis.to_json(known)}
        (folders[name] / "laws.json").write_text(json.dumps(plain(record)))
    return folders


def test_a_plain_table_is_planned_from_without_a_limit(reports):
    done = launch(reports["plain"], "--flops=1e13")
    assert done.returncode == 0 and "no limit of data" in done.stdout and "patients" not in done.stdout
    assert "supported" in launch(reports["plain"], "--flops=3e12").stdout
    some = launch(reports["plain"], "--flops=3e12", "--unique_tokens=1e6")
    assert "1 M unique tokens, any number of passes" in some.stdout.replace("\xa0", " ")
    assert "do not say how often" in some.stdout
    done = launch(reports["plain"], "--flops=1e13", "--patients=30")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "--unique_tokens" in done.stderr


def test_what_patients_would_do_is_not_told_by_runs_on_the_same(reports):
    done = launch(reports["recorded"], "--flops=1e13", "--patients=8e5")
    assert done.returncode == 0 and "is not told" in done.stdout and "would not help" not in done.stdout
    assert "limit this plan" in launch(reports["recorded"], "--flops=1e13", "--patients=80").stdout
    for flag in ("--patients=inf", "--unique_tokens=inf"):
        assert "no limit of data" in launch(reports["recorded"], "--flops=1e13", flag).stdout
