"""The command by several processes that hold a model together: it scores as one device does, and each can end it."""

import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace

import jax
import pyarrow.parquet as pq
import pytest

from ehr_scaling import artifacts, study
from ehr_scaling.errors import RunFailed, Unavailable, UserError
from ehr_scaling.grid import manifest
from ehr_scaling.grid.executors import slurm
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import evaluate, following
from ehr_scaling.processes import companions, leading
from ehr_scaling.training import setup, sharding
from tests import forked, nightly, small
from tests.outcomes import as_one
from tests.outcomes.as_one import ends
from tests.outcomes.scored import same

pytestmark = pytest.mark.usefixtures("few_trees")
KIND = """
kind_of_admission:
  description: The kind of the admission.
  anchor: [HOSPITAL_ADMISSION]
  tokens: 0
  kind: class
  classes: [ADMISSION_TYPE]
"""
# The command where a device has so much memory, and even small arrays are cut; process 1 sees nothing of one model
SCORE = """
import runpy, sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
from ehr_scaling.training import checkpoint, setup, sharding
sharding.WHOLE_BELOW, memory, unseen, seen = 0, float(sys.argv.pop(1)), sys.argv.pop(1), checkpoint.result
setup._memory = lambda: memory
if "--process=1" in sys.argv:
    checkpoint.result = lambda folder, steps: None if folder.name == unseen else seen(folder, steps)
runpy.run_module("launch.evaluate", run_name="__main__", alter_sys=True)
"""
# Process 0 lets the other add up numbers for a while, which goes by all devices
ADD = """
import sys, time
from pathlib import Path
import jax, numpy as np
jax.config.update("jax_cpu_collectives_implementation", "gloo")
from jax.sharding import NamedSharding, PartitionSpec
from absl import flags
from ehr_scaling.processes import companions, leading
from ehr_scaling.errors import UserError
from ehr_scaling.training import sharding
from launch.common import common
common.define_process_flags()
END = flags.DEFINE_string("end", "", "")
TO = flags.DEFINE_string("to", "", "")
companions.GRACE = 1.0
@jax.jit
def endless(x):  # with so many numbers that it is not waited for as it is called
    many = jax.numpy.tile(x, (1, 4096))
    return jax.lax.while_loop(lambda x: x[0, 0] < 1e9, lambda x: 0.5 * x + 1, many)[:, :3]
def add(values):
    mesh = sharding.mesh(jax.device_count(), 1, 1)
    whole = jax.make_array_from_callback(
        (jax.device_count(), 3), NamedSharding(mesh, PartitionSpec("data")), lambda index: values["x"][None])
    if values["more"] == -1:
        whole = endless(whole)
        (Path(TO.value) / f"at it {flags.FLAGS.process}").touch()
    return sharding.on_host(mesh, whole).sum() + values["more"]
def lead():
    print(flags.FLAGS.process, flush=True)
    x = np.array([2**40, 1, 2], np.uint64)
    for step in range(10_000):
        leading.call("add", x=x, more=step)
        assert add({"x": (x % 100).astype(np.float32), "more": step}) == jax.device_count() * (2**40 % 100 + 3) + step
        (Path(TO.value) / "begun").touch()
        if END.value == "endless":
            leading.call("add", x=x, more=-1)
            add({"x": np.zeros(3, np.float32), "more": -1})
        if END.value == "error":
            raise UserError("mend this")
        if END.value == "done" and step == 2:
            return
        time.sleep(0.02)
def main():
    common.join_processes()
    def added(values):
        assert values["x"].tolist() == [2**40, 1, 2]
        add({**values, "x": (values["x"] % 100).astype(np.float32)})
    leading.run(lead, lambda: {"add": added})
common.run(main)
"""


def start(code, *flags, processes=2):
    """So many processes that run a program as one."""
    return as_one.start("-c", code, *flags, processes=processes, popen=forked.Popen)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A work directory with a finished model of two heads that is asked in three ways; cell, and its scores."""
    workdir = tmp_path_factory.mktemp("study")
    (workdir / "kind.yaml").write_text(KIND)
    changes = {
        "data.patients": 400,
        "grid.sizes": ("25k",),
        "outcome.file": str(workdir / "kind.yaml"),
        "outcome.tasks": ("icu_admission", "length_of_stay", "kind_of_admission"),
        "outcome.method": "exact",
        "outcome.copies": 3,
        "outcome.new_tokens": 24,
        "outcome.samples": 50,
        "analysis.draws": 20,
    }
    config = small.config(**changes)
    study.prepare(config, workdir)
    (cell,) = study.plan(config, [{"budget": 1.2e9, "size": "25k", "seed": 0}], workdir)
    study.train(config, workdir)
    assert study.ask(config, workdir)[1]
    unscored = tmp_path_factory.mktemp("unscored")
    shutil.copytree(workdir, unscored, dirs_exist_ok=True)
    return workdir, unscored, cell, evaluate.job([cell], workdir, small.silent)[0]


def check(scored, workdir):
    """That predictions and scores in a work directory are those of one device."""
    alone, _, cell, expected = scored
    assert set(expected) == {"icu_admission", "length_of_stay", "kind_of_admission"}
    for name, score in expected.items():
        folder, other = workdir / "outcomes" / name, alone / "outcomes" / name
        assert same(artifacts.read_json(folder / f"{cell.id}.json"), score)
        one, two = (pq.read_table(f / f"{cell.id}.parquet") for f in (folder, other))
        assert one.select(one.column_names[:3]) == two.select(two.column_names[:3])
    assert not list((workdir / "outcomes").glob(".*"))


# Processes, memory of a device, and what is said of it. Two cut the model between them; four do so twice over; where
# each device holds the model, they share the stays
WAYS = {
    "cut": (2, 0.0, None),
    "twice": (4, 0.0, "25k: its 2 heads can be shared between 2 of the 4 devices"),
    "held": (2, 1e9, "25k: one process holds this model: several that ask it as one"),
}


@pytest.mark.nightly  # tests/outcomes/test_together.py has the first way, without the command
@pytest.mark.parametrize("way", WAYS)
def test_processes_that_hold_a_model_together_score_it_as_one_device_does(scored, tmp_path, way):
    """Two tokens summed up, futures drawn, and the next token: the same predictions, which process 0 alone writes."""
    processes, memory, said = WAYS[way]
    shutil.copytree(scored[1], tmp_path / "w")
    started = start(SCORE, str(memory), "", f"--workdir={tmp_path / 'w'}", processes=processes)
    (status, told, error), *others = ends(started)
    assert status == 0, error[-2000:]
    check(scored, tmp_path / "w")
    assert "icu_admission: " in told and (said is None) == ("heads" not in error and "are not needed" not in error)
    assert said is None or error.count(said) == 1
    assert [(status, "icu_admission: " in told + error) for status, told, error in others] == [(0, False)] * len(others)


@pytest.mark.nightly
def test_a_model_that_cannot_be_restored_is_named_and_the_next_one_scored(scored, tmp_path):
    """Two are tried before the whole one: of one a file is damaged, of the other one process sees no finished run."""
    (workdir, cell), whole = (tmp_path / "w", scored[2]), scored[1]
    shutil.copytree(whole, workdir)
    damaged, unseen = (replace(cell, id=name) for name in ("damaged", "unseen"))
    for other in (damaged, unseen):
        shutil.copytree(Layout(whole).run(cell.id), Layout(workdir).run(other.id))
    file = max((f for f in Layout(workdir).run("damaged").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    manifest.write(Layout(workdir).grid / manifest.MANIFEST, [damaged, unseen, cell])
    (status, _, error), other = ends(start(SCORE, "0.0", "unseen", f"--workdir={workdir}"))
    assert (status, other[0]) == (0, 0), error[-2000:] + other[2][-2000:]
    assert f"left out: {file} is damaged" in error
    assert f"left out: process 1: {Layout(workdir).run('unseen')} holds no finished run" in error
    check(scored, workdir)
    assert "Traceback" not in error + other[2]


def test_what_one_process_meets_and_the_others_wait_in_ends_all(monkeypatch):
    """Not in silence, nor as a failure of one model, after which the others would not follow."""

    class Store(dict):
        key_value_set = dict.__setitem__

        def blocking_key_value_get(self, key, milliseconds):
            if key not in self:
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")
            return self[key]

    store = Store()
    monkeypatch.setattr(leading, "_store", lambda: store)
    monkeypatch.setattr(leading, "_here", {**leading._here, "role": "leads"})
    monkeypatch.setattr(leading, "_PATIENCE", 0.01)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="not to be read") as told, leading.agreed():
        raise RunFailed("not to be read")
    assert type(told.value) is UserError
    with pytest.raises(Unavailable, match="no answer"), leading.agreed():
        raise Unavailable("no answer")
    # An outage of one says nothing of the model, which is not left out for it
    for said, kind in ((["no answer", 69], Unavailable), (["not whole", 1], RunFailed)):
        store[f"{leading._AGREED}/{leading._here['agreed'] + 1}/1"] = json.dumps(said)
        with pytest.raises(UserError, match=f"^process 1: {said[0]}") as told, leading.agreed():
            pass
        assert type(told.value) is kind


def test_the_end_of_process_0_may_pass(monkeypatch):
    class Gone:
        def blocking_key_value_get(self, key, milliseconds):
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: socket closed")

    monkeypatch.setattr(leading, "_store", Gone)
    monkeypatch.setattr(companions, "GRACE", 0.0)
    with pytest.raises(Unavailable, match="process 0, which leads, has ended before this one"):
        leading._told("any")


def cut():
    sharding.WHOLE_BELOW, setup._memory = 0, lambda: 0.0


def job_of_cut(unit, workdir, report):
    cut()
    return evaluate.job(unit, workdir, report)


def steps_of_cut(workdir):
    cut()
    return following.steps(workdir)


@pytest.mark.nightly
def test_nodes_of_a_task_of_slurm_score_a_model_together(scored, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("JAX_CPU_COLLECTIVES_IMPLEMENTATION", "gloo")
    shutil.copytree(scored[1], tmp_path / "w")
    how = {"title": "x", "time": "5", "parallel": 1, "done": evaluate.finished, "kind": "score", "steps": steps_of_cut}
    (queued,) = slurm.submit(job_of_cut, [[scored[2]]], tmp_path / "w", cluster="local", nodes=2, **how)
    queued.wait()
    said = [path.read_text() for path in (tmp_path / "w" / "slurm").glob("*_log.err")]
    assert queued.exception() is None and len(said) == 2, said
    check(scored, tmp_path / "w")


def begun(mark, processes):
    until = time.monotonic() + 60
    while not mark.exists():
        if time.monotonic() > until or any(process.poll() is not None for process in processes):
            for process in processes:
                process.kill()
            pytest.fail(f"{mark.name}: it did not come to that")
        time.sleep(0.02)


@pytest.mark.parametrize("asked", nightly.but(1, of=(0, 1)))
def test_sigterm_to_one_ends_all(tmp_path, asked):
    """At once, also where the one that is asked follows, and in the middle of what devices take for ever."""
    processes = start(ADD, f"--to={tmp_path}", "--end=endless")
    for process in range(2):
        begun(tmp_path / f"at it {process}", processes)
    processes[asked].terminate()
    for status, _, error in ends(processes):
        assert status == 75 and "error: interrupted by SIGTERM: saved" in error and "Fatal" not in error, error


@pytest.mark.parametrize("end", nightly.but("killed 0", of=("error", "killed 0", "killed 1", "done")))
def test_how_one_ends_the_others_end(tmp_path, end):
    processes = start(ADD, f"--to={tmp_path}", f"--end={end}")
    begun(tmp_path / "begun", processes)
    if end.startswith("killed"):
        processes[int(end[-1])].kill()
    (first, _, said), (second, _, others) = ends(processes)
    ended = "error: process {} of 2 has ended before the others"
    assert (first, second) == {
        "error": (1, companions.STATUS),
        "killed 0": (-signal.SIGKILL, companions.STATUS),
        "killed 1": (companions.STATUS, -signal.SIGKILL),
        "done": (0, 0),
    }[end], said + others
    if end in ("error", "killed 0"):
        assert ended.format(0) in others and ("error: mend this" in said) == (end == "error")
    if end == "killed 1":
        assert ended.format(1) in said
    assert "Traceback" not in said + others
