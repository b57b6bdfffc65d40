"""Processes under jax.distributed are one run, whatever their mesh; its checkpoints go on wherever they are read."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from ehr_scaling import storage
from ehr_scaling.layout import Layout
from ehr_scaling.training import loop, sharding
from ehr_scaling.training.setup import restored_params
from tests import buckets, forked, nightly, small

COUNTED = ("real_tokens", "validation_tokens", "validation_patients")
# Trains one run after the other; of those that are to stop, one process is asked to go after a few dispatches, or, at
# the latest, when the last one is under way
WORKER = """
import json, signal, sys
from pathlib import Path
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jobs, address, count, index = json.loads(Path(sys.argv[1]).read_text()), *sys.argv[2:]
if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(index))
from ehr_scaling import storage
from ehr_scaling.processes import preemption
from ehr_scaling.errors import Preempted, RunFailed
from ehr_scaling.grid.cell import of_json
from ehr_scaling.training import checkpoint, loop, sharding
saved, result = checkpoint.Saver.saved, checkpoint.result
assert jax.process_count() == int(count)
for job in jobs:
    sharding.WHOLE_BELOW = job["whole_below"]
    dispatches, cell = [], of_json(job["cell"])
    left = [cell.tokens]
    def broken(saver, step):
        raise ValueError("its files are not those that were saved")
    checkpoint.Saver.saved = broken if job["blind"] == int(index) else saved
    def damaged(folder, steps):
        raise RunFailed("its result is damaged")
    checkpoint.result = damaged if job["fails"] == int(index) else result
    def report(tokens, before=False):
        left[0] -= tokens
        dispatches.extend([] if before else [tokens])
        if job["asked"] == int(index) and (len(dispatches) == job["after"] or not left[0]):
            signal.raise_signal(signal.SIGTERM)
    with preemption.deferred():
        try:
            workdir, unit = storage.local(job["workdir"]), [cell]
            loop.verify([unit], workdir)
            (metrics,) = loop.job(unit, workdir, report)
            assert job["asked"] is None
        except Preempted:
            assert job["asked"] is not None
            continue
        except RunFailed as e:
            here = job["fails"] == int(index)
            assert str(e).startswith("its result" if here else f"process {job['fails']} cannot go on"), e
            continue
    print(json.dumps(metrics))
"""


def job(workdir, cell, asked=None, whole_below=1 << 20, blind=None, fails=None, after=4, **engine):
    """What a worker trains; asked, the process that is asked to go after so many dispatches, so that all of them save
    what they have; blind, the one that cannot read its checkpoints; fails, the one that finds its result damaged.

    engine: settings that differ from the cell's.
    """
    cell = replace(cell, engine=replace(cell.engine, **engine))
    about = {"cell": cell.to_json(), "workdir": str(workdir)}
    return {**about, "asked": asked, "after": after, "whole_below": whole_below, "blind": blind, "fails": fails}


def trained(tmp_path, jobs, *, processes, devices, mirrors=None):
    """The metrics of each run that is not to stop; processes, with so many devices each, train all of them together.

    mirrors: of each process, where it works for a bucket; None: they share what they have.
    """
    said = together(WORKER, tmp_path, jobs, processes=processes, devices=devices, mirrors=mirrors)
    return [json.loads(line) for line in said[0].splitlines() if line.startswith("{")]


def together(code, tmp_path, jobs, *, processes, devices, mirrors=None):
    """What each of the processes prints that do as a program says."""
    path = tmp_path / f"jobs-{time.monotonic_ns()}.json"
    path.write_text(json.dumps(jobs))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environments = [{**os.environ, "XLA_FLAGS": flags} for _ in range(processes)]
    for environment, mirror in zip(environments, mirrors or [], strict=False):
        environment["EHR_SCALING_MIRRORS"] = str(mirror)
    command = [sys.executable, "-c", code, str(path), address, str(processes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    all_of_them = [forked.Popen([*command, str(i)], env=env, **pipes) for i, env in enumerate(environments)]
    ends = [process.communicate(timeout=600) for process in all_of_them]
    assert not any(process.returncode for process in all_of_them), ends[0][1][-2000:] + ends[-1][1][-2000:]
    return [said for said, _ in ends]


def at(folder, prepared):
    """A work directory of its own on the prepared data."""
    folder.mkdir()
    (folder / "packed").symlink_to(prepared[0] / "packed")
    return folder


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory):
    """A cell of batches that 8 devices can share, and its metrics on one device, which this process has."""
    cell = small.cell(prepared[1], {"training.batch.sequences": 8, "training.batch.exponent": 0.0}, budget=1.0803e9)
    cell = replace(cell, engine=replace(cell.engine, microbatch=8))
    tmp = tmp_path_factory.mktemp("alone")
    (tmp / "packed").symlink_to(prepared[0] / "packed")
    return cell, loop.job([cell], tmp, small.silent)[0]


@pytest.mark.nightly
def test_two_processes_train_stop_and_resume_as_one(alone, prepared, tmp_path):
    cell, metrics = alone
    (tmp_path / "packed").symlink_to(prepared[0] / "packed")
    mesh = {"data": 0, "fsdp": 2, "tensor": 1}
    # The one that says nothing is asked to go: both save, at the same step. Then again, in the middle of the evaluation
    jobs = [
        job(tmp_path, cell, asked=1, mesh=mesh),
        job(tmp_path, cell, asked=1, after=None),
        job(tmp_path, cell, mesh=mesh),
    ]
    (resumed,) = trained(tmp_path, jobs, processes=2, devices=2)
    places = [(place["processes"], place["data"], place["fsdp"]) for place in resumed["places"]]
    assert places == [(2, 2, 2), (2, 4, 1), (2, 2, 2)] and resumed["places"][2]["step"] == cell.steps
    assert [step for step, _ in resumed["curve"]] == [step for step, _ in metrics["curve"]]
    assert [loss for _, loss in resumed["curve"]] == pytest.approx([loss for _, loss in metrics["curve"]], abs=1e-3)
    assert resumed["validation_loss"] == pytest.approx(metrics["validation_loss"], abs=2e-3)
    assert resumed["real_tokens"] == metrics["real_tokens"]  # both hosts together read the rows that one reads


@pytest.mark.nightly
def test_what_one_process_cannot_read_all_of_them_pass_over(alone, prepared, tmp_path):
    cell, metrics = alone
    (tmp_path / "packed").symlink_to(prepared[0] / "packed")
    # What one of them alone finds wrong with a run leaves it out in all, which then train the next
    jobs = [job(tmp_path, cell, fails=1), job(tmp_path, cell, asked=0), job(tmp_path, cell, blind=1)]
    (again,) = trained(tmp_path, jobs, processes=2, devices=1)
    assert [place["step"] for place in again["places"]] == [0]
    assert again["validation_loss"] == pytest.approx(metrics["validation_loss"], abs=2e-3)


@pytest.mark.parametrize("of_each", nightly.but(True, of=[True, False]), ids=["a mirror each", "one mirror"])
def test_processes_train_in_a_bucket_as_one(alone, prepared, tmp_path, monkeypatch, of_each):
    """Of two hosts with a mirror each, and of two processes of one: stopped, and gone on with on another mesh, from
    what the bucket has; it is then a run like any other."""
    cell, metrics = alone
    url = buckets.url("file", tmp_path)
    monkeypatch.setenv("EHR_SCALING_MIRRORS", str(tmp_path / "plans"))
    plans = storage.local(url)
    shutil.copytree(prepared[0] / "packed", plans / "packed")
    storage.store(plans / "packed")
    mirrors = [tmp_path / "host0", tmp_path / ("host1" if of_each else "host0")]
    mesh = {"data": 0, "fsdp": 2, "tensor": 1}
    stops = job(url, cell, asked=1, whole_below=0, mesh=mesh, checkpoint_seconds=0.0)
    trained(tmp_path, [stops], processes=2, devices=2, mirrors=mirrors)
    stopped = Layout(plans).run(cell.id)
    steps = sorted(int(name) for name in storage.names(stopped) if name.isdecimal())
    # As if process 0 had been ended after it had saved the last one, and before it had handed it over
    storage.forget(stopped / str(steps[-1]))
    mesh = {"data": 0, "fsdp": 4, "tensor": 1}
    goes_on = job(url, cell, whole_below=0, mesh=mesh)
    (resumed,) = trained(tmp_path, [goes_on], processes=2, devices=2, mirrors=mirrors)
    assert [place["step"] for place in resumed["places"]] == [0, steps[-2]]
    assert [loss for _, loss in resumed["curve"]] == pytest.approx([loss for _, loss in metrics["curve"]], abs=1e-3)
    assert resumed["validation_loss"] == pytest.approx(metrics["validation_loss"], abs=2e-3)
    # Another machine finds the result alone, and whole
    monkeypatch.setenv("EHR_SCALING_MIRRORS", str(tmp_path / "reads"))
    folder = Layout(storage.local(url)).run(cell.id)
    assert {name for name in storage.names(folder) if name.isdecimal()} == {str(cell.steps)}
    _, params = restored_params(cell, folder)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.nightly
def test_a_checkpoint_of_eight_devices_goes_on_on_four_on_one_and_on_another_mesh(alone, prepared, tmp_path):
    cell, metrics = alone
    first = tmp_path / "eight"
    first.mkdir()
    (first / "packed").symlink_to(prepared[0] / "packed")
    mesh = {"data": 0, "fsdp": 4, "tensor": 1}
    trained(tmp_path, [job(first, cell, asked=0, mesh=mesh, checkpoint_seconds=0.0)], processes=1, devices=8)
    for devices, fsdp in ((4, 2), (1, 1), (8, 2)):
        there = tmp_path / f"on{devices}-{fsdp}"
        subprocess.run(["cp", "-r", str(first), str(there)], check=True)
        mesh = {"data": 0, "fsdp": fsdp, "tensor": 1}
        (resumed,) = trained(tmp_path, [job(there, cell, mesh=mesh)], processes=1, devices=devices)
        assert resumed["validation_loss"] == pytest.approx(metrics["validation_loss"], abs=2e-3)
        first4 = [[loss for _, loss in m["curve"][:4]] for m in (resumed, metrics)]
        assert first4[0] == pytest.approx(first4[1], abs=1e-4)


def meshes(processes, devices):
    """Every data × fsdp × tensor of so many devices that 4 heads and 16 rows allow."""
    all_of_them, along = processes * devices, range(1, 17)
    return [
        (data, fsdp, tensor)
        for tensor in (1, 2, 4)
        for fsdp in along
        for data in along
        if data * fsdp * tensor == all_of_them and 16 % (data * fsdp) == 0
    ]


# (processes, devices of each): meshes. All of them share the rows of a step, and where an axis goes over processes
# these must read the same rows, or others, by the mesh and not by their number. Each goes on on the mesh before it
LAYOUTS = {(p, d): meshes(p, d) for p in (1, 2, 4) for d in (1, 2, 4) if p * d > 1}


def name(layout):
    return "{0[0]}x{0[1]}-{1}".format(layout[0], len(layout[1]))


TWO = (2, 1), [(1, 1, 2)]  # which read the same rows; those above, by the bucket, read others
FOUR = (4, 1), [(1, 2, 2)]  # with two axes over processes


@pytest.fixture(scope="module")
def four_heads(prepared, tmp_path_factory):
    """A cell that any mesh here divides, and its metrics on one device."""
    changes = {"training.batch.sequences": 16, "training.batch.exponent": 0.0, "training.optimizer": "adamw"}
    cell = small.cell(prepared[1], changes, size="101k", budget=1.1664e10)
    cell = replace(cell, engine=replace(cell.engine, microbatch=16))
    tmp = tmp_path_factory.mktemp("four")
    (tmp / "packed").symlink_to(prepared[0] / "packed")
    return cell, loop.job([cell], tmp, small.silent)[0]


# Rows of a batch, by number, as the processes load them for each mesh and the devices then have them
ROWS = """
import json, sys
from pathlib import Path
import jax, numpy as np
jax.config.update("jax_cpu_collectives_implementation", "gloo")
meshes, address, count, index = json.loads(Path(sys.argv[1]).read_text()), *sys.argv[2:]
jax.distributed.initialize(address, int(count), int(index))
from ehr_scaling.training import sharding
for shape in meshes:
    mesh = sharding.mesh(*shape)
    own, of = sharding.shares(mesh)
    placed = sharding.place(mesh, {"rows": np.arange(16).reshape(1, of, -1)[:, list(own)].reshape(1, -1)}, axis=1)
    for shard in placed["rows"].addressable_shards:
        np.testing.assert_array_equal(shard.data, np.arange(16)[None][shard.index])
    print(json.dumps([own, of]))
"""


def test_each_process_loads_the_rows_that_its_devices_hold(tmp_path):
    """On every mesh of four processes: with one axis over them, or two, or parts of one."""
    every = LAYOUTS[4, 1]
    said = together(ROWS, tmp_path, every, processes=4, devices=1)
    for (data, fsdp, _), *shares in zip(every, *map(str.splitlines, said), strict=True):
        own, of = zip(*map(json.loads, shares), strict=True)
        assert set(of) == {data * fsdp} and set().union(*own) == {*range(of[0])}
        assert {len(numbers) for numbers in own} == {1}


@pytest.fixture(scope="module")
def told():
    """Takes what runs differ by; with EHR_SCALING_MESHES=FILE the table of it is written there (docs/training.md)."""
    differences = {}
    yield differences
    if path := os.environ.get("EHR_SCALING_MESHES"):
        Path(path).write_text(table(differences))


def table(differences):
    """Millionths of a nat, by mesh and processes: of the first and the last training loss, and of the validation loss.

    Args: differences, of (loss, processes, mesh).
    """
    lines = ["| data × fsdp × tensor | 1 process | 2 processes | 4 processes |", "|---|---|---|---|"]
    rows = sorted({mesh for *_, mesh in differences}, key=lambda mesh: (np.prod(mesh), mesh[2], mesh[1]))
    for mesh in rows:
        cells = []
        for processes in (1, 2, 4):
            of_cell = [differences.get((loss, processes, mesh)) for loss in ("first", "last", "validation")]
            cells.append(" / ".join(f"{1e6 * x:z.1f}".replace("-", "−") for x in of_cell if x is not None))
        lines.append(f"| {' × '.join(map(str, mesh))} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def same_run(metrics, expected):
    """That a run is the one of one device; gives by how much its first, last and validation loss differ."""
    losses, of_one = ([loss for _, loss in of["curve"]] for of in (metrics, expected))
    assert losses == pytest.approx(of_one, abs=1e-4)
    assert metrics["validation_loss"] == pytest.approx(expected["validation_loss"], abs=1e-4)
    assert metrics["validation_loss_se"] == pytest.approx(expected["validation_loss_se"], abs=1e-5)
    assert [metrics[name] for name in COUNTED] == [expected[name] for name in COUNTED]
    return losses[0] - of_one[0], losses[-1] - of_one[-1], metrics["validation_loss"] - expected["validation_loss"]


@pytest.mark.parametrize("layout", [TWO, *nightly.but(of=[FOUR, *LAYOUTS.items()])], ids=name)
def test_every_mesh_over_processes_is_one_run(four_heads, prepared, tmp_path, told, layout):
    """Stopped after the first steps on one mesh and finished on the next: training, checkpoints and evaluation."""
    cell, metrics = four_heads
    (processes, devices), all_meshes = layout
    settings = [dict(zip(sharding.AXES, mesh, strict=True)) for mesh in all_meshes]
    jobs = []
    for k, mesh in enumerate(settings):
        workdir = at(tmp_path / str(k), prepared)
        jobs.append(job(workdir, cell, asked=0, whole_below=0, mesh=mesh))
        jobs.append(job(workdir, cell, whole_below=0, mesh=settings[k - 1]))
    found = trained(tmp_path, jobs, processes=processes, devices=devices)
    assert len(found) == len(settings)
    for k, run in enumerate(found):
        places = [{axis: place[axis] for axis in sharding.AXES} for place in run["places"]]
        assert places == ([settings[k], settings[k - 1]] if len(settings) > 1 else settings)
        first, last, validation = same_run(run, metrics)
        told["first", processes, all_meshes[k]] = first
        ended = processes, all_meshes[k - 1]
        told["last", *ended], told["validation", *ended] = last, validation


@pytest.mark.nightly
def test_begun_on_four_processes_it_goes_on_on_two_and_ends_on_one(four_heads, prepared, tmp_path):
    cell, metrics = four_heads
    workdir = at(tmp_path / "w", prepared)
    for processes, devices, mesh in ((4, 1, (1, 2, 2)), (2, 2, (2, 2, 1)), (1, 2, (1, 1, 2))):
        asked = processes - 1 if processes > 1 else None
        where = dict(zip(sharding.AXES, mesh, strict=True))
        stage = job(workdir, cell, asked=asked, after=2, whole_below=0, mesh=where)
        found = trained(tmp_path, [stage], processes=processes, devices=devices)
    (run,) = found
    places = [(place["processes"], *(place[axis] for axis in sharding.AXES)) for place in run["places"]]
    assert places == [(4, 1, 2, 2), (2, 2, 2, 1), (1, 1, 1, 2)]
    begun = [place["step"] for place in run["places"]]
    assert 0 == begun[0] < begun[1] < begun[2] < cell.steps
    same_run(run, metrics)
