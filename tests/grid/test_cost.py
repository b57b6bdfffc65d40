"""What a grid is said to cost is what XLA, and runs that are finished, say."""

import json
import os
import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
import small

from ehr_scaling.grid import cells, cost, executors
from ehr_scaling.grid.executors import processes
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.training.setup import model_of, program_of
from ehr_scaling.training.step import Hyper, init, train_chunk

HERE = cost.Machine("cpu", "cpu", 1, 8e9)


def packed(context=128, vocab=250):
    phases = [{"sequences": 8_000}]
    splits = {"train": {"real_tokens": 1_000_000, "patients": 5_000, "phases": phases}}
    return {"fingerprint": "0123456789abcdef", "summary": {"vocab_size": vocab, "context": context, "splits": splits}}


def cell(size="25k", budget=1e12, seed=0, record=None, **changes):
    config = small.config(**changes)
    return cells.solve(config, {"budget": budget, "size": size, "seed": seed}, record or packed(), small.ABOUT)


def of_xla(members, microbatch, pieces):
    """Bytes that the compiled training program takes, by XLA's own account."""
    one, m = members[0], len(members)
    program = program_of(one, model_of(one, m))
    assert isinstance(program.model, Transformer)
    column = jax.ShapeDtypeStruct((m,), jnp.float32)
    seeds, count = jax.ShapeDtypeStruct((m,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    rows = (m, pieces, microbatch, one.context)
    tokens = jax.ShapeDtypeStruct((*rows[:3], rows[3] + 1), jnp.int32)
    batch = {"tokens": tokens, "segments": tokens, "mask": jax.ShapeDtypeStruct(rows, jnp.bool_)}
    state = jax.eval_shape(partial(init, program), seeds)
    hyper = Hyper(*(column for _ in Hyper._fields))
    lowered = train_chunk.lower(program, state, batch, hyper, seeds, count, count)
    told = lowered.compile({"xla_backend_optimization_level": 0}).memory_analysis()  # of the code, not of its buffers
    return told.argument_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes + told.temp_size_in_bytes


@pytest.mark.parametrize(
    ("size", "microbatch", "members", "changes"),
    [
        ("25k", 8, 1, {"model.attention": "xla"}),
        ("101k", 4, 2, {"model.attention": "blocked", "model.vocab_multiple": 2048, "model.remat": "full"}),
    ],
)
def test_memory_is_that_of_the_compiled_program_within_a_factor_of_two(size, microbatch, members, changes):
    changes = {"training.microbatch": microbatch, "training.dispatch_sequences": 64, **changes}
    same = [cell(size, seed=seed, **{"training.batch.sequences": 8, **changes}) for seed in range(members)]
    predicted = sum(cost.memory(same, HERE).values())
    assert 0.5 < predicted / of_xla(same, microbatch, 64 // microbatch) < 2


def test_devices_share_the_memory():
    alone = cost.memory([cell()], cost.Machine("gpu", "x", 1, 8e9))
    cut = cell(**{"training.mesh.fsdp": 2, "training.mesh.tensor": 2, "training.mesh.data": 1})
    shared = cost.memory([cut], cost.Machine("gpu", "x", 4, 8e9))
    for name in ("parameters", "optimizer", "gradients"):
        assert shared[name] == alone[name] / 4
    assert shared["activations"] == pytest.approx(alone["activations"] / 4)
    assert shared["batch"] == alone["batch"] / 2
    assert cost.mesh(cell(), 8) == {"data": 8, "fsdp": 1, "tensor": 1}


def test_the_table_counts_what_is_added(tmp_path):
    config = small.config(**{"training.trunk": True, "training.schedule": "wsd"})
    points = [{"budget": c, "size": "25k", "seed": s} for c in (1e11, 2e11, 4e11) for s in (0, 1)]
    grid, _ = cells.grid(config, points, {1.0: packed()}, small.ABOUT)
    told = cost.table(grid, workdir=tmp_path, workers=2, machine=HERE)
    assert told.count("trunk") == 1  # of both seeds
    added = sum(c.own_flops for c in grid)
    alone = sum(c.flops for c in grid if c.phase == "cooled")
    assert f"8 cells, {added:.3g} FLOPs of training in all ({added / alone:.0%} of {alone:.3g}" in told
    assert "Speed: assumed, 17% of" in told
    assert "no run of this folder is finished" in told


def test_finished_runs_tell_the_speed_and_take_no_more_time(tmp_path):
    grid = [cell(size, seed=seed) for size in ("25k", "101k") for seed in (0, 1)]
    folder = tmp_path / "runs" / grid[0].id / str(grid[0].steps) / "metrics"
    folder.mkdir(parents=True)
    done = {**grid[0].to_json(), "finished": True, "wall_seconds": 100.0, "step": 1}
    (folder / "metrics").write_text(json.dumps(done))
    told = cost.table(grid, workdir=tmp_path, workers=1, machine=HERE)
    assert "from 1 finished runs of this folder" in told
    assert "about 5m00 (2m30 to 10m00)" in told  # three are left, of equal FLOPs
    assert "1 cells are finished" in told
    rows = [line for line in told.splitlines() if re.search(r"\b(25k|101k)\b", line)]
    assert len(rows) == 2
    assert all("1m40" in row for row in rows)


def test_what_does_not_fit_is_said_before_it_runs():
    told = cost.table([cell("101k")], workdir=None, workers=1, machine=cost.Machine("cpu", "cpu", 1, 1e6))
    assert "MORE MEMORY THAN THERE IS" in told
    known = cost.Machine("gpu", "NVIDIA H100 80GB HBM3", 1, 8e10)
    told = cost.table([cell("101k", **{"model.dtype": "bfloat16"})], workdir=None, workers=1, machine=known)
    assert "assumed, 3% of the peak of NVIDIA H100 80GB HBM3, 989 TFLOP/s in bfloat16" in told
    assert "MORE MEMORY" not in told
    assert told.splitlines()[-1].startswith("memory: of the arrays on one device (NVIDIA H100 80GB HBM3), predicted")


def test_small_models_get_a_gpu_each_and_large_ones_all(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(processes, "_knows_cuda", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    driver = tmp_path / "nvidia-smi"
    small_one, large = cell("25k"), cell("14m", budget=1e14)
    need = cost.MEMORY_OFF * sum(cost.memory([large], cost.Machine("gpu", "", 1, 1e12)).values())

    def workers(mebibytes, cells, setting=0):
        driver.write_text(f"#!/bin/sh\nprintf '99999999\\n{mebibytes}\\n99999999\\n'\n")
        driver.chmod(0o755)
        return cost.workers(setting, cells)

    room = int(need / 2**20)
    small_ones = [small_one, cell("25k", seed=1), cell("25k", seed=2)]
    assert workers(room + 2, [*small_ones, large]) == 3
    assert workers(room - 2, [*small_ones, large]) == 1 and workers(room - 2, small_ones) == 3
    assert workers(room + 2, small_ones, setting=2) == 2
    assert workers(room, [*small_ones, cell("25k", **{"training.mesh.tensor": 2})]) == 1
    alone = executors.workers_for(0)
    assert workers(room, small_ones[:2]) == alone  # fewer than GPUs
    with monkeypatch.context() as joined:
        joined.setattr(jax.distributed, "is_initialized", lambda: True)
        assert workers(room, small_ones) == alone
    with monkeypatch.context() as without:
        without.setattr(processes, "_knows_cuda", lambda: False)
        assert workers(room, small_ones) == alone
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert workers(room, small_ones) == alone
