import json
import sys
import types

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.errors import UserError
from ehr_scaling.training import tracking

OFF = {"tensorboard": False, "wandb": "", "profile": False}
CELL = {"id": "0123456789abcdef", "size": "3.5k", "tokens": 64_000, "seed": 1, "engine": {"folder": "/data/hospital"}}


def row(step, clock=0.0):
    return {"step": step, "tokens": 128 * step, "loss": 5.0 / step, "skipped": 0, "time": step + clock, "mfu": None}


def write(folder, steps, resume=0, clock=0.0, setting=OFF):
    with tracking.open_run(folder, CELL, setting, step=resume) as tracker:
        for step in steps:
            tracker.log(row(step, clock))


def without_clock(rows):
    return [{k: v for k, v in r.items() if k not in tracking.CLOCK} for r in rows]


@settings(deadline=None, max_examples=40)
@given(reached=st.integers(0, 6), saved=st.integers(0, 6), lost=st.integers(0, 60))
def test_a_killed_run_that_goes_on_leaves_the_file_of_an_undisturbed_one(tmp_path_factory, reached, saved, lost):
    """Killed at any byte after step `saved` was logged, and so before or after the step it goes on from was passed."""
    steps = [16 * i for i in range(1, 8)]
    reached, saved = max(reached, saved), min(reached, saved)
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    write(whole, steps)
    write(broken, steps[:reached])
    path = broken / tracking.FILE
    lines = path.read_bytes().splitlines(keepends=True)
    kept, rest = b"".join(lines[:saved]), b"".join(lines[saved:])
    path.write_bytes(kept + rest[: max(len(rest) - lost, 0)])
    write(broken, steps[saved:], resume=steps[saved - 1] if saved else 0, clock=100.0)
    found = tracking.read(broken)
    assert without_clock(found) == without_clock(tracking.read(whole))
    assert [r["time"] > 100 for r in found] == [i >= saved for i in range(7)]
    assert [p.name for p in broken.iterdir()] == [tracking.FILE]


def test_a_line_is_there_as_soon_as_it_is_logged_and_is_strict_json(tmp_path):
    tracker = tracking.open_run(tmp_path / "run", CELL, OFF)
    tracker.log({"step": 1, "loss": float("nan"), "gradient_norm": float("inf"), "mfu": None, "phase": "cooled"})
    (line,) = (tmp_path / "run" / tracking.FILE).read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "step": 1, "loss": None, "gradient_norm": None, "mfu": None, "phase": "cooled",
    }  # fmt: skip
    tracker.close()


def test_a_step_is_logged_once_and_a_branch_begins_where_its_trunk_was(tmp_path):
    with tracking.open_run(tmp_path, CELL, OFF, step=320) as tracker:
        with pytest.raises(ValueError, match="step 320 is logged after step 320"):
            tracker.log(row(320))
        tracker.log(row(336))
        with pytest.raises(ValueError, match="after step 336"):
            tracker.log(row(336))


def test_reading_passes_over_half_a_line_and_a_run_that_has_not_begun(tmp_path):
    assert tracking.read(tmp_path) == []
    (tmp_path / tracking.FILE).write_bytes(b'{"step": 16, "loss": 2.0}\n{"step": 32, "lo\xff')
    assert tracking.read(tmp_path) == [{"step": 16, "loss": 2.0}]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    write(tmp_path / "run", [16, 32], setting=OFF | {"tensorboard": True, "wandb": "p"})
    profile = tracking.Profile(tmp_path / "run", active=True)
    for _ in range(4):
        profile.after(jnp.zeros(1))
    profile.close()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("module", "setting"), [("tensorboardX", {"tensorboard": True}), ("wandb", {"wandb": "project"})]
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, module, setting):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[(tensorboard|wandb)\]'") as caught:
        tracking.open_run(tmp_path, CELL, OFF | setting)
    assert "\n" not in str(caught.value)


def test_tensorboard_gets_every_row_anew_after_a_restart(tmp_path, monkeypatch):
    seen = []

    class SummaryWriter:
        def __init__(self, folder):
            (tmp_path / f"events.out.tfevents.{len(seen)}").touch()
            seen.append([])

        def add_scalar(self, name, value, step):
            seen[-1].append((name, value, step))

        def close(self):
            seen[-1].append("closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    write(tmp_path, [16, 32, 48], setting=OFF | {"tensorboard": True})
    write(tmp_path, [48], resume=32, setting=OFF | {"tensorboard": True})
    assert seen[0] == seen[1] and seen[1][-1] == "closed"
    assert ("loss", 5.0 / 48, 48) in seen[1] and not any(name in ("step", "mfu") for name, *_ in seen[1][:-1])
    assert len(list(tmp_path.glob("events.*"))) == 1


def test_tensorboard_files_are_written_without_tensorflow(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    for heavy in ("tensorflow", "torch"):
        monkeypatch.setitem(sys.modules, heavy, None)  # to import it is an error
    write(tmp_path, [16, 32], setting=OFF | {"tensorboard": True})
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert events.stat().st_size > 100


def test_weights_and_biases_gets_one_run_a_cell_and_no_path(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finished")

    class Refused(Exception):
        pass

    def init(**arguments):
        calls.append(arguments)
        if arguments["project"] == "locked":
            raise Refused("No API key configured.\nA page of advice")
        return Run()

    fake = types.SimpleNamespace(init=init, Settings=dict, errors=types.SimpleNamespace(Error=Refused))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write(tmp_path, [16], setting=OFF | {"wandb": "laws"})
    begun, logged, finished = calls
    assert begun["id"] == CELL["id"] and begun["project"] == "laws" and begun["resume"] == "allow"
    assert begun["config"] == {k: v for k, v in CELL.items() if k != "engine"}
    assert begun["settings"]["console"] == "off" and begun["settings"]["x_disable_meta"] is True
    told = {"train/tokens": 2048, "train/loss": 5.0 / 16, "train/skipped": 0, "train/time": 16.0}
    assert logged == (16, told) and finished == "finished"
    with pytest.raises(UserError, match=r"wandb=locked \(No API key configured\.\): run `wandb login`") as caught:
        tracking.open_run(tmp_path, CELL, OFF | {"wandb": "locked"})
    assert "advice" not in str(caught.value)


def test_weights_and_biases_itself_takes_the_calls(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write(tmp_path, [16, 32], setting=OFF | {"wandb": "laws"})
    (kept,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"/data/hospital" not in kept.read_bytes()


def test_a_profile_holds_a_trace_is_made_once_and_is_missed_aloud(tmp_path, capsys):
    step = jax.jit(lambda x: jnp.tanh(x @ x))

    def run(folder, chunks, active=True):
        trace, x = tracking.Profile(folder, active=active), jnp.ones((8, 8))
        for _ in range(chunks):
            x = step(x)
            trace.after(x)
        trace.close()
        return sorted(folder.rglob("*.xplane.pb"))

    made = run(tmp_path / "long", 5)
    assert len(made) == 1 and capsys.readouterr().out == ""
    assert run(tmp_path / "long", 5) == made
    run(tmp_path / "short", 1)
    assert "--config.training.dispatch_sequences" in capsys.readouterr().out
    assert run(tmp_path / "none", 0) == run(tmp_path / "off", 5, active=False) == []
