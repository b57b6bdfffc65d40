"""How cells are trained on the machine at hand: kernels, mesh, sizes of pieces, and states in their places."""

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ehr_scaling import storage
from ehr_scaling.errors import RunFailed, UserError
from ehr_scaling.grid.cell import Cell
from ehr_scaling.grid.rules import sequences_at_a_time
from ehr_scaling.models import attention, sizes
from ehr_scaling.models.transformer import Transformer
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
    where one does not hold it.

    Raises: UserError where the run is not finished.
    """
    storage.fetch(folder)
    if checkpoint.result(folder) is None:
        raise RunFailed(f"{folder} holds no finished run: train cell {cell.id} ({cell.size}) first")
    model = model_of(cell)
    # Shapes are all that a restore needs: nothing is initialised or compiled for them.
    one = states(program_of(cell, model), sharding.mesh(1, 1, _to_hold(cell)), 1).member
    return model, checkpoint.restore_last(folder, one).params


def _to_hold(cell: Cell) -> int:
    """Devices of this process that a model is cut over to be asked: one, where its parameters take half of its memory
    at most, as they are and in the dtype of the activations, or it does not tell how much it has (a CPU); else as many
    as its heads can be shared between."""
    devices = jax.local_devices()
    memory = (devices[0].memory_stats() or {}).get("bytes_limit", math.inf)
    need = 2 * 4 * (cell.N_body + cell.N_embedding + cell.N_head)  # bytes
    return 1 if need <= memory / 2 else math.gcd(cell.heads, len(devices))


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
