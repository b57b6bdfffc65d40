"""One model on any mesh of devices is one model; a mesh that cannot be is refused."""

import json
import os
import sys
from dataclasses import replace

import pytest

from ehr_scaling.errors import UserError
from ehr_scaling.models import sizes
from ehr_scaling.training import setup, sharding
from tests import forked, small

# Every way to share 8 devices out between the three axes
MESHES = [(d, f, 8 // d // f) for d in (8, 4, 2, 1) for f in (8, 4, 2, 1) if d * f <= 8]
ALONE = (1, 1, 1)  # takes the first device
# XLA simulates the devices; what it is asked for is the same program on each mesh, not a fast one
FLAGS = "{} --xla_force_host_platform_device_count={}"

LOSSES = """
import json, sys
import jax, numpy as np
from ehr_scaling.models.sizes import Shape
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.training import sharding
from ehr_scaling.training.step import Hyper, Program, init, train_chunk
from functools import partial

sharding.WHOLE_BELOW = 0  # cut everything, small as it is
program = Program(Transformer(Shape("test", 32, 2, 8, 48), 60, 64, mixing=sys.argv[4]), sys.argv[2])
rng = np.random.default_rng(0)
host = {
    "tokens": rng.integers(1, 60, (1, 4, 16, 13)).astype(np.int32),
    "segments": np.sort(rng.integers(1, 4, (1, 4, 16, 13)), axis=-1).astype(np.int32),
    "mask": rng.random((1, 4, 16, 12)) < 0.8,
}
members = int(sys.argv[3])
host = {name: np.repeat(x, members, axis=0) for name, x in host.items()}
hyper = Hyper(*(np.full(members, x, np.float32) for x in (0.01, 100, 2, 0, 0.1, 0.1)))
seeds = np.arange(3, 3 + members, dtype=np.int32)
build = partial(init, program)
fresh = jax.device_get(jax.jit(build)(seeds))
found = {}
for shape in json.loads(sys.argv[1]):
    mesh = sharding.mesh(*shape)
    with jax.set_mesh(mesh):
        where = sharding.of_state(mesh, fresh)
        state = jax.device_put(fresh, where)
        kernel = state.params["blocks"]["qkv"]["kernel"]
        parts = len({str(s.index) for s in kernel.addressable_shards})
        losses = []
        for _ in range(3):
            batch = sharding.place(mesh, host, axis=2, members=members)
            state, sums = train_chunk(program, state, batch, hyper, seeds, np.int32(2), np.int32(2))
            losses += (np.asarray(sums["loss_sum"]) / np.asarray(sums["targets"])).tolist()
        norm = sum(float((np.asarray(x, float) ** 2).sum()) for x in jax.tree.leaves(state.params))
        pairs = zip(jax.tree.leaves(state), jax.tree.leaves(where), strict=True)
        still = all(x.sharding.is_equivalent_to(s, x.ndim) for x, s in pairs)
        found[str(tuple(shape))] = {"losses": losses, "norm": norm, "parts": parts, "still": still}
print(json.dumps(found))
"""


# The loss of two rows, a device each, and of the same rows the other way round
DROPPED = """
import jax, json, numpy as np
from ehr_scaling.models.sizes import Shape
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.training import sharding
from ehr_scaling.training.step import Hyper, Program, init, train_chunk

program = Program(Transformer(Shape("test", 32, 2, 8, 48), 60, 64, dropout=0.5))
rng = np.random.default_rng(0)
rows = {"tokens": rng.integers(1, 60, (1, 1, 2, 13)).astype(np.int32)}
rows |= {"segments": np.ones((1, 1, 2, 13), np.int32), "mask": np.ones((1, 1, 2, 12), bool)}
hyper = Hyper(*(np.full(1, x, np.float32) for x in (0, 100, 2, 0, 0.1, 0)))
state = jax.device_get(init(program, np.zeros(1, np.int32)))
# As it is initialised a layer adds next to nothing, whatever is dropped
params = jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(x.dtype), state.params)
found = []
mesh = sharding.mesh(2, 1, 1)
with jax.set_mesh(mesh):
    for order in ([0, 1], [1, 0]):
        batch = sharding.place(mesh, {name: x[:, :, order] for name, x in rows.items()}, axis=2)
        here = jax.device_put(state._replace(params=params), sharding.replicated(mesh))
        _, sums = train_chunk(program, here, batch, hyper, np.zeros(1, np.int32), np.int32(1), np.int32(1))
        found.append(float(sums["loss_sum"][0]))
print(json.dumps(found))
"""


def on_devices(devices, script, *arguments):
    environment = {**os.environ, "XLA_FLAGS": FLAGS.format(os.environ["XLA_FLAGS"], devices)}
    command = [sys.executable, "-c", script, *arguments]
    done = forked.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def losses(meshes, devices, optimizer="adamw", members=1, mixing="none"):
    return on_devices(devices, LOSSES, json.dumps(meshes), optimizer, str(members), mixing)


@pytest.mark.parametrize(
    ("meshes", "mixing"),
    [pytest.param(MESHES, "none", marks=pytest.mark.nightly), ([(8, 1, 1), (2, 2, 2)], "conv")],
)
def test_every_mesh_of_eight_devices_gives_the_same_losses(meshes, mixing):
    found = losses([ALONE, *meshes], 8, mixing=mixing)
    alone = found.pop(str(ALONE))
    assert len(found) == len(meshes)
    for shape, own in found.items():
        assert own["losses"] == pytest.approx(alone["losses"], abs=1e-5), shape
        assert own["norm"] == pytest.approx(alone["norm"], rel=1e-5), shape
        _, fsdp, tensor = eval(shape)
        assert own["parts"] == fsdp * tensor, shape  # the matrix really is cut
        assert own["still"], shape  # and stays so from step to step


def test_members_have_devices_of_their_own():
    """Four on two devices: each trains two of them, as one device trains all four."""
    alone, own = losses([ALONE, (2, 1, 1)], 2, members=4, mixing="conv").values()
    assert own["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert len(set(alone["losses"][-4:])) == 4  # of four seeds
    assert own["still"]


def test_every_device_is_dropped_out_in_its_own_way():
    """Were it the same on both, it would not matter which of them has which row."""
    one, other = on_devices(2, DROPPED)
    assert one > 0 and abs(one - other) > 1e-3


@pytest.mark.nightly
def test_muon_too():
    alone, own = losses([ALONE, (2, 2, 2)], 8, "muon", mixing="conv").values()
    assert own["losses"] == pytest.approx(alone["losses"], abs=1e-5)


@pytest.mark.parametrize(
    ("setting", "devices", "match"),
    [
        ((0, 3, 1), 8, "0 × 3 × 1 .* does not make up the 8 devices there are"),
        ((8, 1, 1), 4, "8 × 1 × 1 .* does not make up the 4 devices"),
        ((0, 0, 1), 8, "does not make up"),
        ((0, 1, 8), 8, "mesh.tensor=8 does not divide the 4 heads of 0.8m"),
        ((0, 1, 1), 8, "the 8 devices along data and fsdp do not divide 6 sequences"),
        ((2, 4, 1), 8, "the 8 devices along data and fsdp do not divide 6 sequences"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(setting, devices, match):
    with pytest.raises(UserError, match=match):
        data, fsdp, tensor = sharding.sizes(dict(zip(sharding.AXES, setting, strict=True)), devices)
        sharding.check(data * fsdp, tensor, size="0.8m", heads=4, sequences=6)


def test_data_takes_the_devices_that_are_left():
    assert sharding.sizes({"data": 0, "fsdp": 2, "tensor": 2}, 8) == (2, 2, 2)
    assert sharding.sizes({"data": 0, "fsdp": 1, "tensor": 1}, 1) == (1, 1, 1)


@pytest.mark.parametrize(
    ("size", "devices", "processes", "tensor"),
    [
        ("85m", 8, 1, 4),  # of 12 heads; 6 would divide them, but not the inner width
        ("85m", 6, 1, 4),
        ("85m", 16, 8, 4),  # each group twice over
        ("85m", 16, 16, 4),
        ("127m", 16, 16, 16),
        ("127m", 3, 3, 1),  # 2 would leave one process out
        ("85m", 3, 3, 3),
    ],
)
def test_devices_that_hold_a_model_together(prepared, size, devices, processes, tensor):
    shape = sizes.get(size)
    cell = replace(small.cell(prepared[1]), size=size, heads=shape.heads)
    model = setup.model_of(cell)
    assert setup._to_hold(cell, model, devices, 1e6, processes) == tensor
    assert setup._to_hold(cell, model, devices, 2 * setup._bytes(cell, model, 1), processes) == 1
    assert setup._bytes(cell, model, 1) > 8 * 6 * shape.layers * shape.width**2
