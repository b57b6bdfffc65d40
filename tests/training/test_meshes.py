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


@pytest.mark.parametrize("name", PODS)
def test_any_number_of_devices_may_ask_a_model(name, monkeypatch):
    """A part of a torus need not be one, and what holds a model together may lie in several slices."""
    devices = PODS[name]
    monkeypatch.setattr(jax, "device_count", lambda: len(devices))
    every = [(1, n) for n in range(1, len(devices) + 1)]
    every += [(len(devices) // n, n) for n in range(1, len(devices) + 1) if len(devices) % n == 0]
    for data, tensor in every:
        found = sharding.to_ask(devices, data, tensor)
        assert found.shape == (data, 1, tensor) and len({d.id for d in found.ravel()}) == data * tensor
    local = sum(d.process_index == 0 for d in devices)
    whole = sharding.to_ask(devices, len(devices) // local, local)
    assert all(len({d.process_index for d in group}) == 1 for group in whole.reshape(-1, local))


def test_a_device_tells_its_memory_or_holds_all(monkeypatch):
    for told, memory in ((None, math.inf), ({"bytes_limit": 1_600}, 1_600)):
        monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: told)])  # noqa: B023
        assert setup._memory() == memory
