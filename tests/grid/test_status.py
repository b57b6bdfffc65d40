"""The status of a sweep is read from its files, while it runs, without JAX."""

import json
import os
import subprocess
import sys
import time

import pytest

from ehr_scaling import artifacts
from ehr_scaling.errors import UserError
from ehr_scaling.grid import manifest, status
from ehr_scaling.grid.cell import units
from ehr_scaling.grid.executors import claims, slurm
from ehr_scaling.layout import FAILED
from tests import blank

STEPS, TOKENS = 100, 6400


def cell(name, unit=None, start=0, steps=STEPS, **changes):
    share, adds = steps / STEPS, (steps - start) / STEPS
    told = {"size": "25k", "steps": steps, "start": start, "tokens": TOKENS * share, "flops": 1e9 * share}
    told |= {"budget": 1e9, "fraction": 1.0, "N_body": 25_440, "unique_tokens": TOKENS, **changes}
    return blank.cell(name, unit=unit or name, **told, own_flops=1e9 * adds, own_tokens=TOKENS * adds)


def plan(workdir, *grid):
    (workdir / "grid").mkdir()
    manifest.write(workdir / "grid" / manifest.MANIFEST, grid)
    return units(list(grid))


def saved(workdir, cell, step, finished=False, loss=2.0):
    folder = workdir / "runs" / cell.id / str(step) / "metrics"
    folder.mkdir(parents=True)
    metrics = {"id": cell.id, "step": step, "finished": finished, "validation_loss": loss}
    (folder / "metrics").write_text(json.dumps(metrics))


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
    assert [line.split()[-2:] for line in lines[:2]] == [["token", "25k"], ["2.0000", "1/4"]]
    assert [line.split()[0] for line in lines[3:-1]] == ["running", "broken", "waiting"]
    assert "50/100" in lines[3]


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


def test_what_was_trained_with_one_that_diverged_goes_on(tmp_path):
    trunk, bad = (cell(name, unit="trunk", phase="hot") for name in ("trunk", "bad"))
    branches = [cell(f"of-{name}", unit="trunk", start=80, trunk=name) for name in ("trunk", "bad")]
    (unit,) = plan(tmp_path, trunk, bad, *branches)
    saved(tmp_path, trunk, STEPS, finished=True)
    saved(tmp_path, bad, 30)
    artifacts.write_sealed(tmp_path / "runs" / "bad" / "failed.json", {"reason": "cell bad: the loss was not finite"})
    row = status.of_unit(tmp_path, unit)
    assert row["state"] == "broken off" and row["flops_left"] == branches[0].own_flops
    text, over = status.text(tmp_path)
    assert not over and "failed: cell bad: the loss was not finite" in text and "--retry_failed" in text
    saved(tmp_path, branches[0], STEPS, finished=True)
    text, over = status.text(tmp_path)
    assert over and "1 failed of 1 units" in text


def test_a_damaged_result_is_told_with_what_to_do(tmp_path):
    """The sweep leaves it out until it is deleted."""
    grid = [cell(name) for name in ("done", "bad")]
    plan(tmp_path, *grid)
    for one in grid:
        saved(tmp_path, one, STEPS, finished=True)
    (tmp_path / "runs" / "bad" / str(STEPS) / "metrics" / "metrics").write_text('{"finished": tr')
    text, over = status.text(tmp_path)
    assert over and "1 failed, 1 finished of 2 units" in text and "retry_failed" not in text
    assert "damaged: " in text and f"delete {tmp_path}/runs/bad to train the cell again" in text


def test_what_slurm_has_requeued_is_queued(tmp_path, monkeypatch):
    """By a squeue that lists a task of this sweep, then none."""
    workdir, tools = tmp_path / "w", tmp_path / "bin"
    for folder in (workdir / "slurm", tools):
        folder.mkdir(parents=True)
    grid = [cell(name) for name in ("saved", "waiting")]
    plan(workdir, *grid)
    saved(workdir, grid[0], 30)
    (tools / "squeue").write_text(
        f'#!/bin/sh\ncase "$*" in *{slurm._name(workdir, "sweep")}*) cat {tools}/tasks;; esac\n'
    )
    (tools / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    (tools / "tasks").write_text("7_0 gpu sweep PD\n")
    assert "1 queued, 1 waiting of 2 units" in status.text(workdir)[0]
    (tools / "tasks").write_text("")
    assert "1 broken off, 1 waiting of 2 units" in status.text(workdir)[0]


def test_losses_stand_by_length_and_size_as_they_come(tmp_path):
    grid = [
        *(cell(f"a{k}", size="40k", N_body=40_120) for k in range(2)),
        *(cell(f"b{k}") for k in range(2)),
        cell("c", budget=None, fraction=0.5, unique_tokens=TOKENS / 4),
        cell("d", budget=1e8),
        cell("trunk", phase="stable", budget=3e9),
    ]
    every = plan(tmp_path, *grid)
    for name, loss in (("a0", 1.5), ("b0", 1.7), ("b1", 1.8), ("c", 3.0)):
        saved(tmp_path, next(cell for cell in grid if cell.id == name), STEPS, finished=True, loss=loss)
    with claims.claim(tmp_path, every[1]):
        sizes, entries = status.by_length_and_size(every, status.of_units(tmp_path, every))
        coloured, _ = status.text(tmp_path, colour=True)
    assert sizes == ["25k", "40k"]
    assert entries == {
        "1e+09 FLOPs": [status.Entry(2, [1.7, 1.8], False), status.Entry(2, [1.5], True)],
        "4 passes over 0.5 of the patients": [status.Entry(1, [3.0], False), status.Entry(0, [], False)],
        "1e+08 FLOPs": [status.Entry(1, [], False), status.Entry(0, [], False)],
    }
    assert entries["1e+09 FLOPs"][0].mean == 1.75
    assert "\x1b[1m1.5000\x1b[0m" in coloured and "\x1b[1m1.7500" not in coloured  # the best of its row
    text, _ = status.text(tmp_path)
    assert "\x1b" not in text and "1.5000 1/2" in text


def test_more_units_than_a_screen_holds_are_told_by_their_number(tmp_path):
    plan(tmp_path, *(cell(f"u{k}") for k in range(45)))
    lines = status.text(tmp_path)[0].splitlines()
    assert len(lines) == 43 and lines[-2] == "and 5 units more"


def test_a_low_terminal_shows_all_but_some_units(tmp_path):
    """Beside the table of losses and why something failed, which may take several lines of a narrow one."""
    done, failed, *_ = grid = [cell(f"u{k}") for k in range(45)]
    plan(tmp_path, *grid)
    saved(tmp_path, done, STEPS, finished=True)
    (tmp_path / "runs" / failed.id).mkdir()
    artifacts.write_json(tmp_path / "runs" / failed.id / FAILED, {"reason": "loss is not finite, " * 12})
    for height in (24, 60):
        lines = status.text(tmp_path, width=100, height=height)[0].splitlines()
        takes = sum(-(-len(line) // 100) for line in lines)
        units = sum(line.startswith("u") and "25k" in line for line in lines)
        assert takes == min(height - 1, 40 + takes - units) and f"and {44 - units} units more" in lines
        assert "43 waiting, 1 failed, 1 finished of 45 units" in lines and lines[-1].startswith("what failed")
    assert sum("waiting" in line for line in status.text(tmp_path, height=5)[0].splitlines()) == 3 + 1


def test_without_a_plan_it_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"run launch.study, or launch.sweep, to plan the grid first"):
        status.text(tmp_path)


def test_the_command_needs_no_jax(tmp_path):
    plan(tmp_path, cell("a"))
    program = f"""
import sys
sys.argv = ["sweep", "--workdir={tmp_path}", "--status"]
sys.modules["jax"] = None
from launch.common import common
from launch import sweep
common.run(sweep.main)
"""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 waiting of 1 units" in done.stdout
    assert time.monotonic() - started < 15
