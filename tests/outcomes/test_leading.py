"""Processes that hold a model together score it as one device does; each of them can end it for all."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from ehr_scaling import artifacts, companions, study
from ehr_scaling.outcomes import evaluate
from tests import small
from tests.outcomes.test_together import same

pytestmark = pytest.mark.usefixtures("few_trees")
KIND = """
kind_of_admission:
  description: The kind of the admission.
  anchor: [HOSPITAL_ADMISSION]
  tokens: 0
  kind: class
  classes: [ADMISSION_TYPE]
"""
# The command where no device holds any model, and even small arrays are cut
SCORE = """
import runpy
from ehr_scaling.training import setup, sharding
sharding.WHOLE_BELOW = 0
setup._memory = lambda: 0.0
runpy.run_module("launch.evaluate", run_name="__main__", alter_sys=True)
"""
# Process 0 lets the other add up numbers for a while, which goes by all devices
ADD = """
import sys, time
from pathlib import Path
import jax, numpy as np
from absl import flags
from ehr_scaling import companions, leading
from ehr_scaling.errors import UserError
from ehr_scaling.training import sharding
from launch import common
common.define_process_flags()
END = flags.DEFINE_string("end", "", "")
TO = flags.DEFINE_string("to", "", "")
companions.GRACE = 1.0
def add(values):
    mesh = sharding.mesh(jax.device_count(), 1, 1)
    whole = jax.make_array_from_callback(
        (jax.device_count(), 3), jax.NamedSharding(mesh, jax.P("data")), lambda index: values["x"][None])
    return sharding.on_host(mesh, whole).sum() + values["more"]
def lead():
    print(flags.FLAGS.process, flush=True)
    x = np.array([2**40, 1, 2], np.uint64)
    for step in range(10_000):
        leading.call("add", x=x, more=step)
        assert add({"x": (x % 100).astype(np.float32), "more": step}) == jax.device_count() * (2**40 % 100 + 3) + step
        (Path(TO.value) / "begun").touch()
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
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    command = [sys.executable, "-c", code, *flags, f"--coordinator={address}", f"--processes={processes}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen([*command, f"--process={i}"], env=environment, **pipes) for i in range(processes)]


def ends(processes):
    """Of each its status, and what it printed to stdout and to stderr."""
    said = [process.communicate(timeout=60) for process in processes]
    return [(process.returncode, *both) for process, both in zip(processes, said, strict=True)]


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
    shutil.copytree(workdir, workdir / "copy")
    return workdir / "copy", cell, evaluate.job([cell], workdir, small.silent)[0], workdir


def test_two_processes_that_hold_a_model_together_score_it_as_one_device_does(scored):
    """Two tokens summed up, futures drawn, and the next token: the same predictions, which process 0 writes."""
    workdir, cell, expected, alone = scored
    first, second = ends(start(SCORE, f"--workdir={workdir}"))
    assert (first[0], second[0]) == (0, 0), first[2][-2000:] + second[2][-2000:]
    assert set(expected) == {"icu_admission", "length_of_stay", "kind_of_admission"}
    for name, score in expected.items():
        folder, other = workdir / "outcomes" / name, alone / "outcomes" / name
        assert same(artifacts.read_json(folder / f"{cell.id}.json"), score)
        one, two = (pq.read_table(f / f"{cell.id}.parquet") for f in (folder, other))
        assert one.select(one.column_names[:3]) == two.select(two.column_names[:3])
    print(first[1:], second[1:])


def begun(tmp_path, processes):
    until = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < until and all(process.poll() is None for process in processes)
        time.sleep(0.02)


@pytest.mark.parametrize("asked", [0, 1])
def test_sigterm_to_one_ends_all(tmp_path, asked):
    """At once, also where the one that is asked follows, and what is shared would wait for it."""
    processes = start(ADD, f"--to={tmp_path}")
    begun(tmp_path, processes)
    processes[asked].terminate()
    for status, _, error in ends(processes):
        assert status == 75 and "error: interrupted by SIGTERM: saved" in error and "Fatal" not in error, error


@pytest.mark.parametrize("end", ["error", "killed 0", "killed 1", "done"])
def test_how_one_ends_the_others_end(tmp_path, end):
    processes = start(ADD, f"--to={tmp_path}", f"--end={end}")
    begun(tmp_path, processes)
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
