"""How cells are trained on the machine at hand: kernels, mesh, sizes of pieces, and states in their places."""

import math
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh

from ehr_scaling import storage
from ehr_scaling.errors import RunFailed, UserError
from ehr_scaling.grid.cell import Cell
from ehr_scaling.grid.rules import sequences_at_a_time
from ehr_scaling.models import attention, sizes
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.processes import leading
from ehr_scaling.training import checkpoint, sharding
from ehr_scaling.training.step import Program, State, init


class Setup(NamedTuple):
    """How an ensemble of M cells is trained here."""

    program: Program
    mesh: Mesh
    microbatch: int  # b, sequences of a piece, over all devices
    pieces: int  # of an update
    updates: int  # K, of a dispatch at most


def model_of(cell: Cell, members: int = 1) -> Transformer:
    """The decoder a cell trains, with the kernels of this machine."""
    dtype = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[cell.dtype]
    shape = sizes.get(cell.size)
    kernel = attention.choose(
        cell.engine.attention,
        platform=jax.default_backend(),
        dtype=dtype,
        head=shape.width // shape.heads,
        context=cell.context,
        members=members,
    )
    return Transformer(
        shape,
        cell.vocab,
        cell.padded_vocab,
        cell.tied,
        dtype,
        attention=kernel,
        remat=cell.engine.remat,
        dropout=cell.dropout,
        parametrization=cell.parametrization,
        base=(cell.base_width, 2),
        mixing=cell.mixing,
        # The copies take a fifth of a GPU's time; on a CPU the loop is the faster one.
        unroll=jax.default_backend() != "cpu",
    )


def program_of(cell: Cell, model: Transformer) -> Program:
    return Program(model, cell.optimizer, cell.schedule, cell.clip, cell.b1, cell.b2)


def setup(cells: list[Cell]) -> Setup:
    """Kernels, mesh and sizes for cells that differ in seed, rate and weight decay alone.

    Raises: UserError, before anything is compiled, for what cannot be: a mesh that does not divide the batch or the
      heads, a kernel of another platform.
    """
    cell, engine = cells[0], cells[0].engine
    batch, devices, on_cpu = cell.batch_sequences, jax.device_count(), jax.default_backend() == "cpu"
    data, fsdp, tensor = sharding.sizes(engine.mesh, devices)
    # Cores stand in for devices, and a small batch may leave some of them idle.
    if on_cpu and jax.process_count() == 1 and engine.mesh["data"] == 0:
        data = data if len(cells) % data == 0 else math.gcd(data, batch)
    mesh = sharding.mesh(data, fsdp, tensor)
    rows = 1 if sharding.apart(mesh, len(cells)) else data * fsdp
    microbatch = sequences_at_a_time(cell, rows, on_cpu)
    if batch % microbatch:
        raise UserError(f"--config.training.microbatch={microbatch} does not divide a batch of {batch} sequences")
    sharding.check(rows, tensor, size=cell.size, heads=cell.heads, sequences=microbatch)
    model = model_of(cell, len(cells))
    if not on_cpu:
        _check_kernel(model.attention, model.dtype, model.shape.width // model.shape.heads, cell.context)
    return Setup(
        program_of(cell, model), mesh, microbatch, batch // microbatch, max(1, engine.dispatch_sequences // batch)
    )


@cache
def _check_kernel(kernel: str, dtype: Any, head: int, context: int) -> None:
    # Some fused kernels take segment ids and leave them out in one version or another: patients would see each other.
    if not (deviation := attention.honours_segments(kernel, dtype, head, context)) <= 1:
        raise UserError(
            f"the {kernel} attention of this device mixes the patients of a row ({deviation:.3g} times the tolerance): "
            "take --config.model.attention=blocked"
        )


def restored_params(cell: Cell, folder: Path) -> tuple[Transformer, Any]:
    """The model of a finished run and its parameters (no member axis), on one device, or on several of this process
    where one does not hold it; on those of all processes, where this one leads the others (`leading`).

    Raises: RunFailed where the run is not finished, or damaged: others can be asked. In all processes that ask it as
      one, whichever of them saw it.
    """

    def there() -> None:
        storage.fetch(folder)
        if checkpoint.result(folder, cell.steps) is None:
            raise RunFailed(f"{folder} holds no finished run: train cell {cell.id} ({cell.size}) first")

    if not leading.follows():
        there()
    leading.call("restore", cell=cell.to_json())
    with leading.agreed():
        if leading.follows():
            there()
    model = model_of(cell)
    # Shapes are all that a restore needs: nothing is initialised or compiled for them.
    one = states(program_of(cell, model), _mesh_to_ask(cell, model), 1).member
    with leading.agreed():
        params = checkpoint.restore_last(folder, one).params
    leading.holds(params)
    return model, params


def _mesh_to_ask(cell: Cell, model: Transformer) -> Mesh:
    """The devices that a model is on to be asked: one; as many as hold it together; or, where processes ask it as one,
    devices of all of them, which share what is asked where each holds the model."""
    local, memory = jax.local_devices(), _memory()
    alone = _to_hold(cell, model, len(local), memory)
    if not leading.on():
        return sharding.mesh_to_ask(local, 1, alone)
    devices, processes = jax.devices(), jax.process_count()
    # All processes have to choose the same, whatever each has
    memory = float(multihost_utils.process_allgather(np.asarray(memory, np.float32)).min())
    tensor = _to_hold(cell, model, len(devices), memory, processes)
    data = len(devices) if tensor == 1 else max(1, processes // tensor)
    if leading.leads():
        _tell(cell, tensor, len(devices), _bytes(cell, model, alone) <= memory / 2)
    # The first of each process, then the second: none is left out
    numbers = [sum(other.process_index == d.process_index for other in devices[:i]) for i, d in enumerate(devices)]
    in_turn = sorted(range(len(devices)), key=lambda i: (numbers[i], devices[i].process_index))
    return sharding.mesh_to_ask([devices[i] for i in sorted(in_turn[: data * tensor])], data, tensor)


def _tell(cell: Cell, tensor: int, devices: int, held_by_one: bool) -> None:
    """Say, once of each size, where processes that ask a model as one are more than it takes, or than it can use."""
    if held_by_one:
        _say(
            f"{cell.size}: one process holds this model: several that ask it as one (--distributed, --slurm_nodes) "
            "are not needed, and share out who is asked about; each by itself would ask models of its own"
        )
    elif tensor < devices:
        _say(
            f"{cell.size}: its {cell.heads} heads can be shared between {tensor} of the {devices} devices: another "
            "number of processes may use more"
        )


@cache
def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _memory() -> float:
    """Bytes of a device here; inf where it does not tell (a CPU)."""
    return float((jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", math.inf))


def _to_hold(cell: Cell, model: Transformer, most: int, memory: float, processes: int = 1) -> int:
    """Devices that a model is cut over to be asked: one, where its parameters take half of its memory at most, as they
    are and in the dtype of the activations; else as many of `most` as leave the least on each.

    They share out its heads, and all processes have some of them, or equally many have the same.
    """
    if memory == math.inf or _bytes(cell, model, 1) <= memory / 2:
        return 1
    numbers = [n for n in range(1, most + 1) if cell.heads % n == 0 and (n >= processes or processes % n == 0)]
    return min(numbers, key=lambda n: _bytes(cell, model, n))


def _bytes(cell: Cell, model: Transformer, tensor: int) -> int:
    """What parameters take of each of so many devices, as they are and in the dtype of the activations."""
    shapes = _shapes(program_of(cell, model)).params
    where = sharding.of_state(AbstractMesh((1, 1, tensor), sharding.AXES), shapes)
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(where), strict=True)
    return 2 * 4 * sum(math.prod(where.shard_shape(x.shape)) for x, where in leaves)


@cache
def _shapes(program: Program) -> State:
    """Shapes and dtypes of the state of one member, which has its axis."""
    return jax.eval_shape(partial(init, program), np.zeros(1, np.int32))


class States(NamedTuple):
    """How states of one program come to be on one mesh."""

    member: Any  # shapes, dtypes and shardings of one member's, without the axis of members
    fresh: Callable[[jax.Array], State]  # of seeds (M,): step 0
    stack: Callable[[list[State]], State]  # of members' states


@cache
def states(program: Program, mesh: Mesh, members: int) -> States:
    """Made once for all cells of a shape, so that nothing is traced twice."""
    build = partial(init, program)
    shapes = jax.eval_shape(build, np.zeros(members, np.int32))
    where = sharding.of_state(mesh, shapes)
    # It runs once: what LLVM could do for it takes longer than it does.
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    return States(
        sharding.abstract_member(shapes, where),
        jax.jit(build, out_shardings=where, compiler_options=fast),
        jax.jit(lambda parts: jax.tree.map(lambda *x: jnp.stack(x), *parts), out_shardings=where),
    )


@jax.jit
def member(state: State, number: jax.Array) -> State:
    return jax.tree.map(lambda x: x[number], state)
