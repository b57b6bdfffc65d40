"""What a grid will cost before anything runs: FLOPs (counted), memory and wall time (predicted, and from what)."""

import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ehr_scaling import hardware
from ehr_scaling.grid import executors, status
from ehr_scaling.grid.cell import Cell, ensembles, units
from ehr_scaling.grid.executors import processes, tpus
from ehr_scaling.grid.rules import sequences_at_a_time
from ehr_scaling.layout import Layout
from ehr_scaling.models import attention, loss

COMPILE = 4.0  # seconds a size and process, where nothing has been measured
# Factors by which the time may be off: runs of this size are there; of another size; none at all
MEASURED, NEIGHBOUR, ASSUMED = 1.3, 2.0, 3.0
# Floats that XLA keeps of a layer for the backward pass, for each token: of the width, the MLP's inner width, and the
# keys a query meets. Fitted to XLA's own account of train_chunk (0.10.2, CPU), which they meet within 1.3 ×.
OF_WIDTH, OF_FF, OF_KEYS, OF_LOGITS = 15, 5, 3, 3
MEMORY_OFF = 2.0  # factor by which the memory may be more
KEPT_GRADIENTS = 2.5  # copies of the parameters: sums of gradients, those of a piece, and what the update needs
_BLOCK = 128  # keys that the blocked attention meets at a time


@dataclass(frozen=True)
class Machine:
    """What the cells are to be trained on."""

    platform: str
    kind: str
    devices: int  # of one process
    memory: float  # bytes of one device, or of a process's share of the host's; inf: not known

    @classmethod
    def here(cls, workers: int) -> "Machine":
        if workers > 1 and (chip := tpus.here()[0]):  # whose chips this process must not take
            return cls.of_chip(chip)
        if workers > 1:  # which have the memory of GPUs, of which this process would take most
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        device = jax.devices()[0]
        if device.platform == "cpu":
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / workers
        else:
            memory = float((device.memory_stats() or {}).get("bytes_limit", math.inf))
        return cls(device.platform, device.device_kind, max(1, jax.device_count() // workers), memory)

    @classmethod
    def of_chip(cls, chip: tpus.Chip) -> "Machine":
        return cls("tpu", chip.kind, 1, chip.memory)


def _one_of_several() -> tuple[Machine | None, int]:
    """A GPU or TPU chip as a process would have it by itself, and how many there are: found without JAX, which would
    take them, or their memory, for this process."""
    if cards := processes.gpus():
        return Machine("gpu", "", 1, processes.gpu_memory()), len(cards)
    chip, chips = tpus.here()
    return (None, 0) if chip is None or tpus.taken() else (Machine.of_chip(chip), len(chips))


def workers(setting: int, cells: list[Cell]) -> int:
    """Processes that are to train or score `cells`, for --config.workers: as `executors.workers_for` has it, but on
    several GPUs or TPU chips one on each, where all that is trained at once fits on one: small models do not need them
    all. Not where there are fewer units than devices, nor under `jax.distributed`.
    """
    one, many = _one_of_several() if setting == 0 and not jax.distributed.is_initialized() else (None, 0)
    if one is None or many < 2 or len(units(cells)) < many:
        return executors.workers_for(setting)
    return many if misfit(cells, one) is None else 1


def misfit(cells: list[Cell], machine: Machine) -> str | None:
    """Why not all that is trained at once of `cells` has room on `machine`, with the factor by which the prediction may
    be off; None where it has."""
    for cell in cells:
        taken = math.prod(n for n in cell.engine.mesh.values() if n)
        if machine.devices % taken:
            return f"{cell.size} is cut over {taken} devices (--config.training.mesh)"
    needs, size = _most(cells, machine)
    if MEMORY_OFF * needs < machine.memory:
        return None
    return f"{_of_room(size, needs, machine)}, which may be off by a factor of {MEMORY_OFF:g}"


def _of_room(size: str, needs: float, machine: Machine) -> str:
    return f"{size} takes {_size(needs)} of the {_size(machine.memory)} of {machine.kind or 'a device'} by prediction"


def _most(cells: list[Cell], machine: Machine) -> tuple[float, str]:
    """Bytes of one device for what takes most of all that is trained at once of `cells`, and its size's name."""
    each = [members for unit in units(cells) for members in ensembles(unit)]
    return max((sum(memory(members, machine).values()), members[0].size) for members in each)


def place(cells: list[Cell], one: Machine, devices: int) -> tuple[str, str]:
    """What trains a unit of `cells`, and why, on hosts of so many devices, of which each is as `one`: "device", one of
    them, where it fits and the units are enough for those of a host; else "host", one of them; "all" together, where it
    does not fit."""
    host = replace(one, devices=devices)
    few = len(units(cells)) < devices
    too_large = misfit(cells, one)
    if too_large is None and not few:
        needs, size = _most(cells, one)
        return "device", f"of the largest cells, {_of_room(size, needs, one)}"
    if (why := misfit(cells, host)) is None:
        return "host", too_large or f"{len(units(cells))} units are fewer than its devices"
    return "all", why


def mesh(cell: Cell, devices: int) -> dict[str, int]:
    """Devices along each axis, with the 0 of the setting filled in."""
    setting = cell.engine.mesh
    taken = math.prod(n for n in setting.values() if n)
    return {axis: n or max(1, devices // taken) for axis, n in setting.items()}


def memory(members: list[Cell], machine: Machine) -> dict[str, float]:
    """Bytes of one device to train `members` together, by what they hold: parameters, optimizer, gradients, batch,
    activations, logits."""
    cell, m = members[0], len(members)
    engine, axes = cell.engine, mesh(cell, machine.devices)
    body, outside = cell.N_body, cell.N_head + cell.N_embedding
    parts, rows = axes["fsdp"] * axes["tensor"], axes["data"] * axes["fsdp"]
    # Muon keeps one moment of a matrix, AdamW two of everything.
    moments = 8 * (body + outside) if cell.optimizer == "adamw" else 4 * body + 8 * outside
    micro = sequences_at_a_time(cell, rows, machine.platform == "cpu")
    # A CPU trains members one after another, and has logits of so many tokens at a time.
    on_cpu = machine.platform == "cpu"
    tokens = (1 if on_cpu else m) * cell.context * max(1.0, micro / rows)
    with_logits = min(tokens, loss.with_logits(cell.padded_vocab)) if on_cpu else tokens
    # A CPU computes bfloat16 in float32.
    item = 2 if cell.dtype == "bfloat16" and machine.platform != "cpu" else 4
    sent = max(engine.dispatch_sequences, cell.batch_sequences)
    return {
        "parameters": m * 4 * (body + outside) / parts,
        "optimizer": m * moments / parts,
        "gradients": m * KEPT_GRADIENTS * 4 * (body + outside) / parts,
        "batch": m * sent * (9 * cell.context + 8) / rows,
        "activations": tokens * item * _kept(cell, m, machine) / axes["tensor"],
        "logits": with_logits * OF_LOGITS * 4 * cell.padded_vocab / axes["tensor"],
    }


def _kept(cell: Cell, members: int, machine: Machine) -> float:
    """Numbers kept of each token, all layers together."""
    width, ff, layers, context = cell.width, cell.ff, cell.layers, cell.context
    kernel = attention.choose(
        cell.engine.attention,
        platform=machine.platform,
        dtype=jnp.dtype(cell.dtype),
        head=width // cell.heads,
        context=context,
        members=members,
    )
    layer = float(OF_WIDTH * width + OF_FF * ff)
    # The whole square of a layer; of one layer at a time a row of blocks, beside sums; nothing but sums
    keys = {"xla": cell.heads * context, "blocked": cell.heads * min(_BLOCK, context)}.get(kernel, 0)
    layer += OF_KEYS * keys if kernel == "xla" else 6 * width
    once = OF_KEYS * keys if kernel == "blocked" else 0.0
    match cell.engine.remat:
        case "full":
            return layers * width + layer + once
        case "dots":
            return layers * (6 * width + 2 * ff) + layer + once
    return layers * layer + once


class Speed:
    """How fast cells will be trained, FLOP/s of one process, and where that number comes from."""

    def __init__(self, cells: list[Cell], workdir: Path | None, machine: Machine, workers: int):
        self.measured: dict[str, list[float]] = {}
        self.bodies: dict[str, int] = {}
        for unit in units(cells) if workdir else []:
            for members in ensembles(unit):
                for cell in members:
                    run = status.newest(Layout(workdir).run(cell.id), cell.steps) if workdir else None
                    if run and run.get("finished") and run.get("wall_seconds"):
                        # wall_seconds of a branch has its trunk's, and members share theirs
                        rate = len(members) * run["flops"] / run["wall_seconds"]
                        self.measured.setdefault(cell.size, []).append(rate)
                        self.bodies[cell.size] = cell.N_body
        self.machine, self.dtype = machine, cells[0].dtype
        if self.measured:
            n = sum(map(len, self.measured.values()))
            self.basis = f"from {n} finished runs of this folder, with what they were set to"
            return
        peak = hardware.peak_flops(machine.kind, self.dtype)
        name = f"the peak of {machine.kind}, {(peak or 0) / 1e12:.0f} TFLOP/s in {self.dtype}"
        if peak is None:
            peak = _matmul_flops(self.dtype, 512 if machine.platform == "cpu" else 4096)
            name = f"{peak / 1e9:,.0f} GFLOP/s, which a matrix product reaches here"
        self.peak = peak * machine.devices / (workers if machine.platform == "cpu" else 1)
        shares = sorted({f"{_efficiency(cell, machine.platform):.0%}" for cell in cells}, key=lambda x: int(x[:-1]))
        span = shares[0] if len(shares) == 1 else f"{shares[0]} to {shares[-1]} by size"
        self.basis = f"assumed, {span} of {name}; no run of this folder is finished"

    def seconds(self, members: list[Cell]) -> tuple[float, float]:
        """Wall time to train `members` together, and the factor by which it may be more or less."""
        flops, size = sum(c.own_flops for c in members), members[0].size
        if size in self.measured:
            return flops / median(self.measured[size]), MEASURED
        if self.measured:
            near = min(self.bodies, key=lambda name: abs(math.log(self.bodies[name] / members[0].N_body)))
            return flops / median(self.measured[near]), NEIGHBOUR
        return COMPILE + flops / (self.peak * _efficiency(members[0], self.machine.platform)), ASSUMED


def _efficiency(cell: Cell, platform: str) -> float:
    """Share of the peak that training is assumed to reach.

    CPU: what this code reached with vocabularies of 73 to 4,096 on 2 cores. Accelerators: by body parameters, what
    public code reports from 100 M up (35 to 46 %), and less below, where each step is short.
    """
    if platform == "cpu":
        return 0.5 * min(1.0, cell.width / 96)
    return float(
        np.interp(math.log10(cell.N_body), [4, 5, 6, 6.8, 7.4, 8, 8.5], [0.005, 0.03, 0.1, 0.2, 0.3, 0.4, 0.45])
    )


def _matmul_flops(dtype: str, n: int) -> float:
    """FLOP/s of one process's n × n matrix products, the best of several; takes well under a second."""
    x = jnp.ones((n, n), dtype)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    best, begun = math.inf, time.perf_counter()
    while time.perf_counter() - begun < 0.3:
        start = time.perf_counter()
        product(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def table(cells: list[Cell], *, workdir: Path | None, workers: int, machine: Machine | None = None) -> str:
    """The grid as a text table, one line for what is alike but for seed, rate and weight decay, then the sums.

    Args:
      workdir: of the study, whose finished runs tell the speed and are left out of the time; None: nothing is there.
      workers: processes that train at the same time, as `workers` gives.
    """
    machine = machine or Machine.here(workers)
    speed = Speed(cells, workdir, machine, workers)
    seconds: dict[str, float] = {}  # of a cell; a process trains an ensemble in the sum of its cells' times
    bytes_of: dict[str, float] = {}
    times, finished, factor = [], 0, 1.0
    for unit in units(cells):
        unit_seconds = 0.0
        for members in ensembles(unit):
            needed, off = speed.seconds(members)
            bytes_ = sum(memory(members, machine).values())
            for cell in members:
                seconds[cell.id], bytes_of[cell.id] = needed / len(members), bytes_
            runs = [status.newest(Layout(workdir).run(cell.id), cell.steps) if workdir else None for cell in members]
            if all(run and run.get("finished") for run in runs):
                finished += len(members)
            else:
                unit_seconds, factor = unit_seconds + needed, max(factor, off)
        times.append(unit_seconds)
    lines = [
        f"{'budget':>9} {'size':>6} {'N body':>13} {'tokens D':>15} {'passes':>7} {'steps':>9} {'batch':>9} "
        f"{'FLOPs':>9} {'added':>9} {'time':>6} {'memory':>8} cells"
    ]
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        key = (cell.size, cell.steps, cell.batch_tokens, cell.fraction, cell.phase, cell.start)
        groups.setdefault(key, []).append(cell)
    for same in groups.values():
        cell = same[0]
        needs = max(bytes_of[c.id] for c in same)
        notes = [
            "trunk" if cell.phase == "hot" else "",
            f"{cell.fraction:g} of patients" if cell.fraction != 1 else "",
            f"rules not explored for this {cell.edge}" if cell.edge else "",
            "MORE MEMORY THAN THERE IS" if needs > machine.memory else "",
        ]
        budget = "-" if cell.budget is None else f"{cell.budget:.2e}"
        lines.append(
            f"{budget:>9} {cell.size:>6} {cell.N_body:13,} {cell.tokens:15,} "
            f"{cell.tokens / cell.unique_tokens:7.2f} {cell.steps:9,} {cell.batch_tokens:9,} "
            f"{cell.flops:9.2e} {cell.own_flops:9.2e} {status.duration(seconds[cell.id]):>6} "
            f"{_size(needs):>8} {len(same):5}{'  ' if any(notes) else ''}{'; '.join(filter(None, notes))}"
        )
    added = sum(c.own_flops for c in cells)
    alone = sum(cell.flops for cell in cells if cell.phase != "hot")
    each = "" if math.isclose(alone, added) else f" ({added / alone:.0%} of {alone:.3g} for each cell on its own)"
    lines.append(f"{len(cells)} cells, {added:.3g} FLOPs of training in all{each}")
    total = max([*times, sum(times) / workers])
    done = f"; {finished} cells are finished" if finished else ""
    low, high = status.duration(total / factor), status.duration(total * factor)
    lines.append(
        f"about {status.duration(total)} ({low} to {high}) in {workers} process{'es' * (workers > 1)}{done}. "
        f"Speed: {speed.basis}."
    )
    lines.append(
        f"memory: of the arrays on one device ({machine.kind}), predicted within a factor of {MEMORY_OFF:g}; "
        "Python and JAX add about 0.5 GB."
    )
    return "\n".join(lines)


def _size(bytes_: float) -> str:
    return f"{bytes_ / 1e9:.1f} GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.0f} MB"
