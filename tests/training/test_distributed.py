"""Two processes under jax.distributed are one run; its checkpoints go on wherever they are read."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from ehr_scaling.training import run, tracking
from tests import small

WORKER = """
import json, sys
from pathlib import Path
import jax
cell, workdir, address, count, index = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), *sys.argv[3:]
if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(index))
from ehr_scaling.errors import Preempted
from ehr_scaling.training import loop, preemption
assert jax.process_count() == int(count)
with preemption.deferred():
    try:
        (metrics,) = loop.job([cell], workdir, lambda tokens, before=False: None)
    except Preempted:
        sys.exit(75)
print(json.dumps(metrics))
"""


def start(tmp_path, workdir, cell, *, processes, devices, engine=()):
    """Processes with so many devices each; returns them."""
    path = tmp_path / f"cell-{time.monotonic_ns()}.json"
    path.write_text(json.dumps({**cell, "engine": {**cell["engine"], **dict(engine)}}))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    command = [sys.executable, "-c", WORKER, str(path), str(workdir), address, str(processes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen([*command, str(i)], env=environment, **pipes) for i in range(processes)]


def finish(processes):
    """Their exit codes, and the metrics of the first."""
    ends = [process.communicate(timeout=240) for process in processes]
    codes = [process.returncode for process in processes]
    assert set(codes) <= {0, 75}, ends[0][1][-2000:] + ends[-1][1][-2000:]
    return codes, json.loads(ends[0][0].splitlines()[-1]) if codes[0] == 0 else None


def wait_for(lines, workdir, cell, processes):
    deadline = time.monotonic() + 120
    while len(tracking.read(run.folder_of(workdir, cell))) < lines:
        assert time.monotonic() < deadline and all(p.poll() is None for p in processes)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory):
    """A cell of batches that 8 devices can share, and its metrics on one device."""
    cell = small.cell(prepared[1], {"training.batch.sequences": 8, "training.batch.exponent": 0.0}, budget=2.4e9)
    cell["engine"]["microbatch"] = 8
    tmp = tmp_path_factory.mktemp("alone")
    (tmp / "packed").symlink_to(prepared[0] / "packed")
    return cell, finish(start(tmp, tmp, cell, processes=1, devices=1))[1]


def test_two_processes_train_stop_and_resume_as_one(alone, prepared, tmp_path):
    cell, metrics = alone
    (tmp_path / "packed").symlink_to(prepared[0] / "packed")
    two = start(tmp_path, tmp_path, cell, processes=2, devices=2, engine={"mesh": {"data": 0, "fsdp": 2, "tensor": 1}})
    wait_for(3, tmp_path, cell, two)
    two[1].send_signal(signal.SIGTERM)  # one of them is asked to go: both save, at the same step
    codes, _ = finish(two)
    assert codes == [75, 75]
    codes, resumed = finish(start(tmp_path, tmp_path, cell, processes=2, devices=2))
    assert codes == [0, 0]
    assert [step for step, _ in resumed["curve"]] == [step for step, _ in metrics["curve"]]
    assert [loss for _, loss in resumed["curve"]] == pytest.approx([loss for _, loss in metrics["curve"]], abs=1e-3)
    assert resumed["validation_loss"] == pytest.approx(metrics["validation_loss"], abs=2e-3)
    assert resumed["real_tokens"] == metrics["real_tokens"]  # both hosts together read the rows that one reads


def test_a_checkpoint_of_eight_devices_goes_on_on_four_on_one_and_on_another_mesh(alone, prepared, tmp_path):
    cell, metrics = alone
    first = tmp_path / "eight"
    first.mkdir()
    (first / "packed").symlink_to(prepared[0] / "packed")
    mesh = {"data": 0, "fsdp": 4, "tensor": 1}
    eight = start(tmp_path, first, cell, processes=1, devices=8, engine={"mesh": mesh, "checkpoint_seconds": 0.0})
    wait_for(4, first, cell, eight)
    eight[0].send_signal(signal.SIGTERM)
    assert finish(eight)[0] == [75]
    for devices, fsdp in ((4, 2), (1, 1), (8, 2)):
        there = tmp_path / f"on{devices}-{fsdp}"
        subprocess.run(["cp", "-r", str(first), str(there)], check=True)
        mesh = {"data": 0, "fsdp": fsdp, "tensor": 1}
        codes, resumed = finish(start(tmp_path, there, cell, processes=1, devices=devices, engine={"mesh": mesh}))
        assert codes == [0]
        assert resumed["validation_loss"] == pytest.approx(metrics["validation_loss"], abs=2e-3)
        first4 = [[loss for _, loss in m["curve"][:4]] for m in (resumed, metrics)]
        assert first4[0] == pytest.approx(first4[1], abs=1e-4)
