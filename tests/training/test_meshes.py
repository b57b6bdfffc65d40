"""Where the devices of pods, slices and nodes of GPUs go in a mesh, by their places as they would tell them."""

import itertools
import math
from dataclasses import dataclass
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ehr_scaling.errors import UserError
from ehr_scaling.training import setup, sharding
from tests import blank


@dataclass(frozen=True)
class Device:
    id: int
    process_index: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    coords: tuple[int, ...] = ()
    core_on_chip: int = 0
    slice_index: int = 0


def pod(kind, chips, host=(2, 2, 1), slices=1):
    """Slices of x × y × z chips, of which each host has a block."""
    blocks, found = [-(-n // h) for n, h in zip(chips, host, strict=True)], []
    for s in range(slices):
        for z, y, x in itertools.product(*(range(n) for n in reversed(chips))):
            at = x // host[0] + blocks[0] * (y // host[1] + blocks[1] * (z // host[2]))
            found.append(Device(len(found), at + s * math.prod(blocks), "tpu", kind, (x, y, z), 0, s))
    return found


def gpus(hosts, each=8):
    return [Device(i, i // each, "gpu", "NVIDIA H100 80GB HBM3", (), 0, i // each) for i in range(hosts * each)]


PODS = {
    "v5e 4x4": pod("TPU v5 lite", (4, 4, 1)),
    "v5e 16x16": pod("TPU v5 lite", (16, 16, 1)),
    "v5p 2x2x4": pod("TPU v5p", (2, 2, 4)),
    "v5p 4x4x4": pod("TPU v5p", (4, 4, 4)),
    "v6e 2x4, one host": pod("TPU v6 lite", (2, 4, 1), host=(2, 4, 1)),
    "v6e 4x4": pod("TPU v6 lite", (4, 4, 1)),
    "two slices of v5e 4x4": pod("TPU v5 lite", (4, 4, 1), slices=2),
    "four slices of v6e 4x4": pod("TPU v6 lite", (4, 4, 1), slices=4),
    "8 H100": gpus(1),
    "4 × 8 H100": gpus(4),
}


@pytest.mark.parametrize("name", PODS)
def test_every_mesh_of_powers_of_two(name):
    """All devices are there once; a group along tensor is in one host where that holds it, what fsdp and tensor cut in
    one slice."""
    devices = PODS[name]
    slices = len({d.slice_index for d in devices if d.platform == "tpu"}) or 1
    local = sum(d.process_index == 0 for d in devices)
    powers = [2**k for k in range(int(math.log2(len(devices) // slices)) + 1)]
    shapes = [(len(devices) // f // t, f, t) for f in powers for t in powers if f * t <= len(devices) // slices]
    assert len(shapes) > 9
    for shape in shapes:
        found = sharding.arranged(devices, *shape)
        assert found.shape == shape and {d.id for d in found.ravel()} == {d.id for d in devices}
        if shape[2] <= local:
            assert all(len({d.process_index for d in group}) == 1 for group in found.reshape(-1, shape[2])), shape
        for part in found:
            assert len({d.slice_index for d in part.ravel() if d.platform == "tpu"}) <= 1


def test_slices_divide_data():
    with pytest.raises(UserError, match="the 2 slices do not divide 1 devices along data"):
        sharding.arranged(PODS["two slices of v5e 4x4"], 1, 8, 4)


def test_devices_here_stay_in_their_order():
    devices = jax.devices()
    np.testing.assert_array_equal(sharding.arranged(devices, len(devices), 1, 1).ravel(), np.array(devices))
    assert sharding.mesh(1, 1, 1).axis_names == sharding.AXES


@pytest.mark.parametrize(
    ("memory", "heads", "devices"),
    [({"bytes_limit": 1_600}, 12, 1), ({"bytes_limit": 1_599}, 12, 4), ({"bytes_limit": 1_599}, 6, 2), (None, 12, 1)],
)
def test_a_model_is_cut_to_be_asked_where_a_device_does_not_hold_it(monkeypatch, memory, heads, devices):
    """100 parameters are 800 bytes, in float32 and as they are read."""
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: memory)] * 8)
    cell = blank.cell("a", N_body=60, N_embedding=30, N_head=10, heads=heads)
    assert setup._to_hold(cell) == devices
