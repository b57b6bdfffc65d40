"""Prompts shared out over devices: each holds the whole model and takes some, or they work at each together."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ehr_scaling.models.transformer import Transformer
from ehr_scaling.processes import leading
from ehr_scaling.training import sharding


def placed(params: Any, devices: Sequence[jax.Device] | None = None) -> tuple[Mesh, Any]:
    """The mesh on which a model is asked, and its parameters there.

    Args: devices, which to use; None: all of this process. Of a model that they hold together (`sharding.devices_of`),
      the first so many. One on devices of several processes stays where it is.
    """
    if (shared := sharding.shared_by_processes(params)) is not None:
        return shared, params
    devices, tensor = devices or jax.local_devices(), sharding.devices_of(params)
    mesh = sharding.mesh_to_ask(devices, len(devices) if tensor == 1 else 1, tensor)  # see `shares`
    return mesh, jax.device_put(params, sharding.of_params(mesh, params))


def shares(mesh: Mesh) -> int:
    """Devices, or groups of them that hold the model together, that each take a share of the prompts."""
    # Not several groups of a few: loops that draw differ in their turns, and would wait for each other in each
    return mesh.shape["data"] if mesh.shape["tensor"] == 1 else 1


def divisible(mesh: Mesh, model: Transformer) -> Transformer:
    """The same model, to be read as a whole: where devices hold it together, by attention that XLA can cut, as it
    cannot a fused kernel."""
    return model if mesh.shape["tensor"] == 1 else model.clone(attention="blocked")


def split(mesh: Mesh, each: Callable[..., Any], params: Any, of_prompts: Any, *rest: Any) -> Any:
    """Inside a program: `each(params, of_prompts, *rest)`, by every device for its share of the prompts, which are the
    first axis of all arrays of `of_prompts` and of what comes back. What devices that hold a model together exchange is
    left to XLA."""
    everywhere = PartitionSpec()
    over = PartitionSpec("data") if mesh.shape["tensor"] == 1 else everywhere  # else all groups do the same
    return jax.shard_map(
        each,
        mesh=mesh,
        in_specs=(everywhere, over, *(everywhere,) * len(rest)),
        out_specs=over,
        axis_names={"data"} if mesh.shape["tensor"] > 1 else set(mesh.axis_names),
        check_vma=False,  # loops of devices may end after different numbers of turns
    )(params, of_prompts, *rest)


def by_batches(
    mesh: Mesh,
    most: int,
    program: Callable[..., Any],
    params: Any,
    of_prompts: Sequence[np.ndarray],
    *rest: Any,
) -> Any:
    """`program(params, of_prompts, *rest)` of all prompts, as numpy has it: `most` of them at a time on each device.

    The program is one that does `split`. Batches are filled up with prompts of PAD; a device takes `most` or a power of
    two, so that few sizes are compiled.
    Raises: Preempted after SIGTERM, where that was put off.
    """
    number = len(of_prompts[0])
    of_device = min(most, 2 ** math.ceil(math.log2(max(1, math.ceil(number / shares(mesh))))))
    batch = of_device * shares(mesh)
    shared = mesh if sharding.shared_by_processes(params) is not None else None
    rest = sharding.everywhere(shared, rest)
    parts = []
    for begin in range(0, max(1, number), batch):
        leading.check()
        some = [x[begin : begin + batch] for x in of_prompts]
        there = len(some[0])
        filled = tuple(np.pad(x, ((0, batch - there), *((0, 0),) * (x.ndim - 1))) for x in some)
        new = sharding.on_host(shared, program(params, sharding.everywhere(shared, filled), *rest))
        parts.append(jax.tree.map(lambda x, there=there: x[:there], new))
    return jax.tree.map(lambda *some: np.concatenate(some), *parts)
