"""The status of a sweep is read from its files, while it runs, without JAX."""

import json
import subprocess
import sys
import time

import pytest

from ehr_scaling import artifacts
from ehr_scaling.errors import UserError
from ehr_scaling.grid import manifest, status
from ehr_scaling.grid.cell import units
from ehr_scaling.grid.executors import claims
from tests import blank

STEPS, TOKENS = 100, 6400


def cell(name, unit=None, start=0, steps=STEPS):
    share, adds = steps / STEPS, (steps - start) / STEPS
    told = {"size": "25k", "steps": steps, "start": start, "tokens": TOKENS * share, "flops": 1e9 * share}
    return blank.cell(name, unit=unit or name, **told, own_flops=1e9 * adds, own_tokens=TOKENS * adds)


def plan(workdir, *grid):
    (workdir / "grid").mkdir()
    manifest.write(workdir / "grid" / manifest.MANIFEST, grid)
    return units(list(grid))


def saved(workdir, cell, step, finished=False):
    folder = workdir / "runs" / cell.id / str(step) / "metrics"
    folder.mkdir(parents=True)
    (folder / "metrics").write_text(json.dumps({"id": cell.id, "step": step, "finished": finished}))


def logged(workdir, cell, *steps):
    folder = workdir / "runs" / cell.id
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"step": s, "loss": 5 - s / 100, "tokens_per_second": 320.0, "time": s} for s in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')


def test_every_state_is_told(tmp_path):
    done, running, broken, _ = grid = [cell(name) for name in ("done", "running", "broken", "waiting")]
    units = plan(tmp_path, *grid)
    saved(tmp_path, done, STEPS, finished=True)
    saved(tmp_path, running, 25)
    logged(tmp_path, running, 25, 50)
    saved(tmp_path, broken, 30)
    with claims.claim(tmp_path, [running]):
        rows = [status.of_unit(tmp_path, unit) for unit in units]
        text, finished = status.text(tmp_path)
    assert [row["state"] for row in rows] == ["finished", "running", "broken off", "waiting"]
    assert (rows[1]["step"], rows[1]["loss"], rows[1]["eta"]) == (50, 4.5, 10.0)  # 3,200 tokens at 320 a second
    assert rows[2]["step"] == 30
    assert not finished
    assert "1 running, 1 broken off, 1 waiting, 1 finished of 4 units" in text
    # 50 + 70 + 100 steps' worth at the one rate there is: 14,080 tokens
    assert "about 44s left" in text
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["running", "broken", "waiting", "done"]
    assert "50/100" in lines[1]


def test_a_unit_goes_cell_by_cell_but_members_side_by_side(tmp_path):
    trunk = cell("trunk", unit="u", steps=80)
    branches = [cell(f"b{i}", unit="u", start=80) for i in range(2)]  # two seeds' cooldowns, trained together
    (unit,) = plan(tmp_path, trunk, *branches)
    saved(tmp_path, trunk, 80, finished=True)
    logged(tmp_path, branches[0], 90)
    logged(tmp_path, branches[1], 90)
    with claims.claim(tmp_path, unit):
        row = status.of_unit(tmp_path, unit)
    assert (row["state"], row["done"], row["step"], row["steps"]) == ("running", 1, 90, 100)
    assert row["eta"] == pytest.approx(640 / 320)
    assert status.of_unit(tmp_path, unit)["state"] == "broken off"


def test_what_diverged_is_failed_with_its_reason(tmp_path):
    grid = [cell(name) for name in ("done", "bad")]
    plan(tmp_path, *grid)
    saved(tmp_path, grid[0], STEPS, finished=True)
    saved(tmp_path, grid[1], 30)
    artifacts.write_sealed(tmp_path / "runs" / "bad" / "failed.json", {"reason": "cell bad: the loss was not finite"})
    text, over = status.text(tmp_path)
    assert over and "1 failed, 1 finished of 2 units" in text
    assert "failed: cell bad: the loss was not finite" in text and "--retry_failed" in text


def test_without_a_plan_it_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"run launch.study, or launch.sweep, to plan the grid first"):
        status.text(tmp_path)


def test_the_command_needs_no_jax(tmp_path):
    plan(tmp_path, cell("a"))
    program = f"""
import sys
sys.argv = ["sweep", "--workdir={tmp_path}", "--status"]
sys.modules["jax"] = None
from launch import common, sweep
common.run(sweep.main)
"""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 waiting of 1 units" in done.stdout
    assert time.monotonic() - started < 15
