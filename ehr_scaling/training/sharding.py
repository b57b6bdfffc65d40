"""Where arrays live: a mesh of data × fsdp × tensor axes, and which axis each array is cut along."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from ehr_scaling.errors import UserError
from ehr_scaling.processes import leading

AXES = ("data", "fsdp", "tensor")
# Smaller arrays are on every device: gathering them costs more than the memory they take.
WHOLE_BELOW = 1 << 20  # elements

# Which axis cuts which dimension of a parameter, by the names in its path; layers are stacked in front in `blocks`.
# Matrices that read the stream of width D are cut by fsdp along D, those that write it along their other side.
_RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    ("embedding", ("tensor", "fsdp")),  # (V, D)
    ("head", ("fsdp", "tensor")),  # (D, V)
    ("qkv", (None, "fsdp", None, "tensor", None)),  # (L, D, 3, H, K)
    ("out", (None, "tensor", "fsdp")),  # (L, H·K, D)
    ("gate_up", (None, "fsdp", None, "tensor")),  # (L, D, 2, F)
    ("down", (None, "tensor", "fsdp")),  # (L, F, D)
)


def sizes(setting: Mapping[str, int], devices: int) -> tuple[int, int, int]:
    """Devices along each axis; 0 along data stands for all that the others leave.

    Raises: UserError where they do not make up the devices there are.
    """
    data, fsdp, tensor = (int(setting[axis]) for axis in AXES)
    if fsdp < 1 or tensor < 1 or data < 0 or devices % (fsdp * tensor) or data not in (0, devices // (fsdp * tensor)):
        raise UserError(
            f"--config.training.mesh: {data} × {fsdp} × {tensor} (data × fsdp × tensor) does not make up the "
            f"{devices} devices there are: leave data at 0, and take fsdp and tensor whose product divides {devices}"
        )
    return devices // (fsdp * tensor), fsdp, tensor


def check(rows: int, tensor: int, *, size: str, heads: int, sequences: int) -> None:
    """Raises UserError where a mesh does not divide a model's heads, or the sequences that are processed at a time.

    Args: rows, devices along data and fsdp; tensor, devices along tensor.
    """
    if heads % tensor:
        raise UserError(
            f"--config.training.mesh.tensor={tensor} does not divide the {heads} heads of {size}: take a divisor of it"
        )
    if sequences % rows:
        raise UserError(
            f"{size}: the {rows} devices along data and fsdp do not divide {sequences} sequences at a time: raise "
            "--config.training.batch.sequences, or give --config.training.mesh.tensor a part of them"
        )


@cache
def mesh(data: int, fsdp: int, tensor: int) -> Mesh:
    """The first so many devices. The axes are Auto: Explicit ones turn sharding constraints into assertions."""
    devices = jax.devices()[: data * fsdp * tensor]
    return Mesh(arranged(devices, data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def arranged(devices: Sequence[Any], data: int, fsdp: int, tensor: int) -> np.ndarray:
    """Devices (data, fsdp, tensor), those that exchange most next to each other: along tensor in one host where it
    holds them, along tensor and fsdp in one slice, whose chips are wired together, and slices along data.

    Raises: UserError where the slices do not divide data.
    """
    slices: dict[int, list[Any]] = {}
    for device in devices:
        # On other platforms XLA counts hosts so
        number = getattr(device, "slice_index", 0) or 0 if device.platform == "tpu" else 0
        slices.setdefault(number, []).append(device)
    if data % len(slices):
        raise UserError(
            f"--config.training.mesh: the {len(slices)} slices do not divide {data} devices along data: what fsdp and "
            "tensor cut stays in one slice"
        )
    per_slice = data // len(slices)
    return np.concatenate([_in_slice(part, per_slice, fsdp, tensor) for _, part in sorted(slices.items())])


def to_ask(devices: Sequence[Any], data: int, tensor: int) -> np.ndarray:
    """The first devices (data, 1, tensor) of some that ask a model: in the order of their torus where they are
    all there are, and else in that in which they are given, since a part of a torus need not be one."""
    slices = {getattr(device, "slice_index", 0) or 0 for device in devices if device.platform == "tpu"}
    if data * tensor == jax.device_count() and data % max(1, len(slices)) == 0:
        return arranged(devices, data, 1, tensor)
    return np.array(devices[: data * tensor], dtype=object).reshape(data, 1, tensor)


def mesh_to_ask(devices: Sequence[jax.Device], data: int, tensor: int) -> Mesh:
    """The mesh (data, 1, tensor) on which a trained model answers: of the devices that `to_ask` takes, in its order."""
    return Mesh(to_ask(devices, data, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def _in_slice(devices: list[Any], data: int, fsdp: int, tensor: int) -> np.ndarray:
    # Split: an axis may take a part of a torus' axis, for else few shapes fit
    plain = mesh_utils.create_device_mesh((data, fsdp, tensor), devices, allow_split_physical_axes=True)
    hosts: dict[int, list[Any]] = {}
    for device in devices:
        hosts.setdefault(device.process_index, []).append(device)
    local = len(devices) // len(hosts)
    one_host_each = all(len({device.process_index for device in group}) == 1 for group in plain.reshape(-1, tensor))
    if one_host_each or local % tensor or any(len(part) != local for part in hosts.values()):
        return plain
    # Each host holds whole groups along tensor, then as much of fsdp, then of data, as it has devices for
    of_fsdp = math.gcd(fsdp, local // tensor)
    if data % (of_data := local // tensor // of_fsdp):
        return plain
    around = lambda device: (getattr(device, "coords", ()), device.id)  # noqa: E731
    parts = np.array([sorted(part, key=around) for _, part in sorted(hosts.items())], dtype=object)
    grid = parts.reshape(data // of_data, fsdp // of_fsdp, of_data, of_fsdp, tensor)
    return grid.transpose(0, 2, 1, 3, 4).reshape(data, fsdp, tensor)


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def apart(mesh: Mesh | AbstractMesh, members: int) -> bool:
    """Whether `members` models that train as one program are dealt out over the devices of one process, so many whole
    models to each, with the whole of their batches: devices then exchange nothing. So where the mesh has data alone,
    and its devices divide the members."""
    data = mesh.shape["data"]
    return members > 1 and members % data == 0 and mesh.size == data > 1 and jax.process_count() == 1


def members_apart(each: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Inside a program: `each(args, shared)`, on every device for its own members, where they are `apart`."""

    def apply(args: Any, shared: Any) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or not apart(mesh, len(jax.tree.leaves(args)[0])):
            return each(args, shared)
        specs = (PartitionSpec("data"), PartitionSpec())
        return jax.shard_map(each, in_specs=specs, out_specs=PartitionSpec("data"), check_vma=False)(args, shared)

    return apply


def summed_over_data(sums_of: Callable[..., Any]) -> Callable[..., Any]:
    """Inside a program: `sums_of(params, batch, key, …)`, each device for its share of the sequences.

    Left to itself, XLA would add up the gradients of all devices after every piece; here they meet once an update. On
    meshes that cut parameters it is left to itself: they have to be gathered for every piece anyway. Sequences are axis
    1 of the batch's arrays.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or mesh.size == 1 or mesh.size > mesh.shape["data"]:
        return sums_of

    def local(params: Any, batch: Any, key: jax.Array, *rest: jax.Array) -> Any:
        device_key = jax.random.fold_in(key, jax.lax.axis_index("data"))
        return jax.lax.psum(sums_of(params, batch, device_key, *rest), "data")

    def apply(params: Any, batch: Any, key: jax.Array, *rest: jax.Array) -> Any:
        specs = (PartitionSpec(), PartitionSpec(None, "data"), *(PartitionSpec(),) * (1 + len(rest)))
        share = jax.shard_map(local, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
        return share(params, batch, key, *rest)

    return apply


def held(state: Any) -> Any:
    """Inside a compiled program: the same `step.State`, each leaf constrained to the sharding that `of_state` gives it
    on the mesh that is set. Without a mesh it is returned as it is."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return state
    return jax.tree.map(jax.lax.with_sharding_constraint, state, of_state(mesh, state))


def of_state(mesh: Mesh | AbstractMesh, state: Any) -> Any:
    """A sharding for every leaf of a `step.State` (or its shapes); members, in front, are on their devices if `apart`.

    Moments of the optimizer have the path of their parameter, and lie where it lies. An axis that does not divide its
    dimension is left out of that leaf, which is then whole along it.
    """

    def leaf(path: Any, x: Any) -> NamedSharding:
        if apart(mesh, x.shape[0]):
            return NamedSharding(mesh, PartitionSpec("data"))
        names = {str(getattr(key, "key", getattr(key, "name", ""))) for key in path}
        for name, axes in _RULES:
            if name in names and math.prod(x.shape) >= WHOLE_BELOW and len(x.shape) == 1 + len(axes):
                fits = (
                    axis if axis and size % mesh.shape[axis] == 0 else None
                    for axis, size in zip(axes, x.shape[1:], strict=True)
                )
                return NamedSharding(mesh, PartitionSpec(None, *fits))
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(leaf, state)


def abstract_member(shapes: Any, shardings: Any) -> Any:
    """Shape, dtype and sharding of one member's leaves: those of (M, …) without the axis in front."""

    def leaf(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        member_sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
        return jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=member_sharding)

    return jax.tree.map(leaf, shapes, shardings)


def of_params(mesh: Mesh, params: Any) -> Any:
    """A sharding for every parameter of one model, which has no axis of members, as `of_state` has them."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), params)
    return jax.tree.map(lambda x: x.sharding, abstract_member(one, of_state(mesh, one)))


def devices_of(params: Any) -> int:
    """How many devices along tensor hold a model together, by where its parameters are."""
    where = getattr(jax.tree.leaves(params)[0], "sharding", None)
    return where.mesh.shape.get("tensor", 1) if isinstance(where, NamedSharding) else 1


def shared_by_processes(params: Any) -> Mesh | None:
    """The mesh of a model that is on devices of several processes, which ask it together; else None."""
    where = getattr(jax.tree.leaves(params)[0], "sharding", None)
    return where.mesh if isinstance(where, NamedSharding) and not where.is_fully_addressable else None  # type: ignore[return-value]


def everywhere(mesh: Mesh | None, arrays: Any) -> Any:
    """Host arrays that all processes have alike, on every device of a mesh; as they are, without one."""
    if mesh is None:
        return arrays
    where = replicated(mesh)

    def put(x: Any) -> jax.Array:
        x = np.asarray(x)
        x = x.astype(jax.dtypes.canonicalize_dtype(x.dtype))
        return jax.make_array_from_callback(x.shape, where, lambda index: x[index])

    return jax.tree.map(put, arrays)


@partial(jax.jit, static_argnames="mesh")
def _whole(arrays: Any, mesh: Mesh) -> Any:
    return jax.lax.with_sharding_constraint(arrays, replicated(mesh))


def on_host(mesh: Mesh | None, arrays: Any) -> Any:
    """Arrays as numpy has them: of those of a mesh of several processes all of each, in every process.

    Raises: Preempted as `leading.check` does, of such a mesh.
    """
    if mesh is not None:
        arrays = _whole(arrays, mesh)
        leading.wait(arrays)
    return jax.tree.map(np.asarray, arrays)


def of_batch(mesh: Mesh, axis: int) -> NamedSharding:
    """Sequences, which lie along `axis`, over the devices of data and fsdp together."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, ("data", "fsdp")))


@jax.jit
def _any(flags: jax.Array) -> jax.Array:
    return jnp.any(flags)


def anywhere(mesh: Mesh, flag: bool) -> bool | jax.Array:
    """Whether `flag` is set in any process, as an array that nobody waits for; all processes have to ask alike."""
    if jax.process_count() == 1:
        return flag
    flags = np.full(len(mesh.local_devices), flag)
    return _any(jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec(AXES)), flags))


class Shares(NamedTuple):
    """Which sequences of a batch this process loads. A batch is cut into `of` equal shares, in order; `numbers` are
    those that the devices of this process hold, from 0, ascending."""

    numbers: tuple[int, ...]
    of: int


@cache
def shares(mesh: Mesh, members: int = 1) -> Shares:
    """The shares of this process, by where the mesh has its devices; processes along one tensor axis have the same.

    Args: members, each with the whole of its batch where they are `apart`.
    """
    if apart(mesh, members):
        return Shares((0,), 1)
    count = mesh.shape["data"] * mesh.shape["fsdp"]
    places = of_batch(mesh, 0).addressable_devices_indices_map((count,))
    return Shares(tuple(sorted({place[0].start or 0 for place in places.values() if place})), count)


def place(mesh: Mesh, batch: dict[str, Any], axis: int, members: int = 1) -> dict[str, jax.Array]:
    """Host arrays of this process, its `shares` of the sequences along `axis` in order, as arrays of all processes.

    Args: members, in front of them, if they have devices of their own.
    """
    if apart(mesh, members):
        return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    sharding, (share_numbers, of) = of_batch(mesh, axis), shares(mesh)

    def whole(x: np.ndarray) -> jax.Array:
        size, left = divmod(x.shape[axis], len(share_numbers))
        assert not left, "shares are equal"

        def at(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            begin = share_numbers.index((index[axis].start or 0) // size) * size
            return x[(slice(None),) * axis + (slice(begin, begin + size),)]

        return jax.make_array_from_callback((*x.shape[:axis], of * size, *x.shape[axis + 1 :]), sharding, at)

    return {name: whole(x) for name, x in batch.items()} if jax.process_count() > 1 else jax.device_put(batch, sharding)
