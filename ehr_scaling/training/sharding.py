"""Where arrays live: the batch is split over the mesh's data axis, parameters are on every device."""

from functools import cache
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")


@cache
def mesh() -> Mesh:
    """All devices along `data`. The axes are Auto: Explicit ones turn sharding constraints into assertions."""
    return jax.make_mesh((jax.device_count(), 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)


def replicated() -> NamedSharding:
    return NamedSharding(mesh(), PartitionSpec())


def shard(batch: dict[str, Any], axis: int = 0) -> dict[str, jax.Array]:
    """Host arrays to the devices, split along `axis` where the number of devices divides it, else replicated."""
    devices = mesh().shape["data"]
    even = all(x.shape[axis] % devices == 0 for x in batch.values())
    spec = PartitionSpec(*(None,) * axis, "data") if even else PartitionSpec()
    return jax.device_put(batch, NamedSharding(mesh(), spec))
