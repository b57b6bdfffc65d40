"""The training engine: tokens/s beside PyTorch, with mixing and without, models together, and where the wall time of a
grid goes.

Each side of a comparison is a process of its own, with the allocator's setting in its environment; they take turns, so
that what else the machine does meets both.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ehr_scaling import artifacts, flops, hardware
from ehr_scaling.layout import Layout
from ehr_scaling.models import sizes
from ehr_scaling.training import tracking

from . import COMMANDS
from .flags import CONTEXTS, GRID, MIXED, REPEATS, SECONDS, SIZES, TORCH
from .rows import Row, row

VOCAB, PADDED, BATCH_TOKENS = 4091, 4096, 8192
UPDATES = 2  # of a dispatch
HUGE_PAGES = "glibc.malloc.hugetlb=1"
# Of PyTorch: fused AdamW, torch.compile as it comes, SDPA. Whole batches are never the best of it.
TORCH_SETTINGS = ({"processes": 1, "threads": 2, "pieces": 4}, {"processes": 2, "threads": 1, "pieces": 4})
# The same function as ours takes a mask of patients; without one SDPA is faster, and they see each other.
TORCH_MASKS = {"segments": "patients apart, as ours", "causal": "patients of a row see each other"}


class Peer:
    """A process that compiles, and then answers every line, a number of seconds, by its rate over so long a run."""

    def __init__(self, command: list[str], spec: dict[str, Any], huge_pages: bool) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        if huge_pages:
            environment["GLIBC_TUNABLES"] = HUGE_PAGES
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # a GPU is shared by the sides
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([*command, json.dumps(spec)], env=environment, **pipes)

    def ready(self) -> float:
        """Seconds it took to compile and make its first steps; waits for them."""
        return float(json.loads(self._line())["ready"])

    def _line(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"a side of the comparison ended with status {self._process.wait()}")
        return line

    def rate(self, seconds: float) -> float:
        """Tokens a second."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return float(json.loads(self._line())["tokens_per_second"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def rates(peers: list[Peer]) -> list[float]:
    """Median rates, tokens a second, of --repeats turns each."""
    turns = [[peer.rate(SECONDS.value) for peer in peers] for _ in range(REPEATS.value)]
    return [statistics.median(peer_rates) for peer_rates in zip(*turns, strict=True)]


def rows() -> Iterator[Row]:
    yield from _beside_torch()
    yield from _mixing()
    yield from _together()
    yield from _interrupted()
    if GRID.value:
        yield from _grid()


OURS = [sys.executable, "-m", f"{__package__}.training"]


def torch_version() -> str:
    """Of the interpreter --torch_python; "" where it has none."""
    command = [TORCH.value, "-c", "import torch; print(torch.__version__)"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def torch_command() -> list[str]:
    return [TORCH.value, "-P", str(Path(__file__).with_name("torch_peer.py"))]


def _beside_torch() -> Iterator[Row]:
    version = torch_version()
    has_torch = bool(version)
    if not has_torch:
        yield row(f"compare: left out, for {TORCH.value} has no torch: see --torch_python", float("nan"), "")
    for context in map(int, CONTEXTS.value):
        for size in SIZES.value:
            shape = sizes.get(size)
            spec = {"size": size, "context": context, "padded": PADDED, "vocab": VOCAB, "batch_tokens": BATCH_TOKENS}
            spec |= {"width": shape.width, "layers": shape.layers, "heads": shape.heads, "ff": shape.ff}
            cost = flops.training(width=shape.width, layers=shape.layers, ff=shape.ff, vocab=PADDED, context=context)
            for huge in (True, False):
                theirs = {mask: [{**spec, "mask": mask, **config} for config in TORCH_SETTINGS] for mask in TORCH_MASKS}
                peers = [Peer(OURS, spec, huge)]
                compiled = peers[0].ready()
                if has_torch:
                    peers += [Peer(torch_command(), variant, huge) for specs in theirs.values() for variant in specs]
                    for each in peers[1:]:
                        each.ready()
                ours, *others = rates(peers)
                for each in peers:
                    each.close()
                yield row(f"{size}, T = {context}, {'huge pages' if huge else 'default malloc'}", ours / 1e3, "ktok/s")
                yield row("  the same", ours * cost / context / 1e9, "GFLOP/s")
                yield row("  compiled, with first steps", compiled, "s")
                tried = len(TORCH_SETTINGS)
                for i, about in enumerate(TORCH_MASKS.values() if has_torch else ()):
                    torch_rates = others[i * tried : (i + 1) * tried]
                    best = max(range(tried), key=torch_rates.__getitem__)
                    setting = ", ".join(f"{k} {v}" for k, v in TORCH_SETTINGS[best].items())
                    name = f"  compare: PyTorch {version} compiled, {about}; best of {tried} ({setting})"
                    yield row(name, torch_rates[best] / 1e3, "ktok/s")
                    yield row("  ratio", ours / torch_rates[best], "×", 1.0)


def _mixing() -> Iterator[Row]:
    """The vocabulary and context of the quickstart, where the body, and so the mixing, is most of a step."""
    for size in MIXED.value:
        spec = {"size": size, "context": 128, "padded": 320, "vocab": 315, "batch_tokens": 2048}
        peers = [Peer(OURS, {**spec, "mixing": mixing}, True) for mixing in flops.MIXED]
        for each in peers:
            each.ready()
        without, conv = rates(peers)
        for each in peers:
            each.close()
        yield row(f"{size}, T = 128, V = 320, without mixing", without / 1e3, "ktok/s")
        yield row("  with mixing", conv / 1e3, "ktok/s")
        yield row("  ratio", conv / without, "×", 0.9)


def _together() -> Iterator[Row]:
    """Four seeds of 0.1 M parameters as one program, and one of them, both on all cores; batches of the quickstart."""
    spec = {"size": "101k", "context": 128, "padded": 320, "vocab": 315, "batch_tokens": 512}
    peers = [Peer(OURS, {**spec, "members": members}, True) for members in (1, 4)]
    for each in peers:
        each.ready()
    one, four = rates(peers)
    for each in peers:
        each.close()
    yield row("101k, one seed, 512 tokens a step", one / 1e3, "ktok/s")
    yield row("  four seeds together", four / 1e3, "ktok/s")
    yield row("  their cost", 4 * one / four, "× one seed", 3.0, False)


def engine(spec: dict[str, Any]) -> Callable[[int], tuple[float, float]]:
    """Our side: the training program of this project on a CPU's cores, a device each, or on an accelerator.

    Returns: what makes so many dispatches of UPDATES updates, and says (seconds, loss of the last).
    """
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen=false {os.environ.get('XLA_FLAGS', '')}"
    import jax
    import numpy as np

    from ehr_scaling.configs import base
    from ehr_scaling.grid import cells
    from ehr_scaling.training import sharding
    from ehr_scaling.training.setup import setup, states
    from ehr_scaling.training.step import Hyper, train_chunk

    jax.config.update("jax_num_cpu_devices", len(hardware.cores()))
    config = base.get_config()
    config.model.tied, config.model.vocab_multiple = True, spec["padded"]
    config.model.dtype = spec.get("dtype", "float32")
    config.model.attention = spec.get("attention", "auto")
    config.model.mixing = spec.get("mixing", "none")
    config.training.optimizer = "adamw"  # as PyTorch's side has it
    config.training.batch.sequences = spec["batch_tokens"] // spec["context"]
    config.training.microbatch = spec.get("microbatch", 0)
    config.training.batch.exponent, config.training.min_steps = 0.0, 1
    config.training.dispatch_sequences = UPDATES * config.training.batch.sequences
    train = {"real_tokens": 1, "patients": 1, "phases": [{"sequences": 1000 * config.training.batch.sequences}]}
    summary = {"vocab_size": spec["vocab"], "context": spec["context"], "splits": {"train": train}}
    members = spec.get("members", 1)
    same = [
        cells.solve(
            config,
            {"passes": 1.0, "size": spec["size"], "seed": seed},
            {"fingerprint": "", "summary": summary},
            {"data": "random tokens", "generated": True},
        )
        for seed in range(members)
    ]
    parts = setup(same)
    rng = np.random.default_rng(0)
    shape = (members, parts.updates * parts.pieces, parts.microbatch, spec["context"])
    host = {
        "tokens": rng.integers(1, spec["vocab"], (*shape[:3], shape[3] + 1)).astype(np.int32),
        "segments": np.ones((*shape[:3], shape[3] + 1), np.int32),
        "mask": np.ones(shape, bool),
    }
    hyper = Hyper(*(np.array([getattr(cell, name) for cell in same], np.float32) for name in Hyper._fields))
    counts = np.int32(parts.updates), np.int32(parts.pieces)
    seeds: Any = np.arange(members, dtype=np.int32)
    with jax.set_mesh(parts.mesh):
        state = states(parts.program, parts.mesh, members).fresh(seeds)

    def run(dispatches: int) -> tuple[float, float]:
        nonlocal state
        sums: Any
        with jax.set_mesh(parts.mesh):
            started, sums = time.perf_counter(), None
            for _ in range(dispatches):
                batch, before = sharding.place(parts.mesh, host, axis=2, members=members), sums
                state, sums = train_chunk(parts.program, state, batch, hyper, seeds, *counts)
                # Two under way at most, as in training: the 33rd of a CPU device blocks a thread of XLA's pool until
                # one is over, and of a pool of two none is left for the device that the first one waits for.
                jax.block_until_ready(before)
            loss = float(jax.block_until_ready(sums["loss_sum"])[0] / sums["targets"][0])
            return time.perf_counter() - started, loss

    return run


def serve(spec: dict[str, Any]) -> None:
    """Answers the lines of `Peer`."""
    started, run = time.perf_counter(), engine(spec)
    run(1)
    print(json.dumps({"ready": time.perf_counter() - started}), flush=True)
    one, _ = run(1)
    for line in sys.stdin:
        dispatches = max(1, round(float(line) / one))
        taken, loss = run(dispatches)
        one = taken / dispatches
        tokens = spec.get("members", 1) * UPDATES * spec["batch_tokens"]
        print(json.dumps({"tokens_per_second": tokens / one, "loss": loss}), flush=True)


def _launch(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"{COMMANDS}.{script}", *arguments]


def _steps(run: Path) -> list[int]:
    """Of the checkpoints there are, ascending."""
    return sorted(int(path.name) for path in run.glob("[0-9]*") if path.name.isdecimal())


def _last(run: Path) -> int:
    """The last step that is logged."""
    lines = tracking.read(run)
    return int(lines[-1]["step"]) if lines else 0


def _interrupted() -> Iterator[Row]:
    """A cell of half a minute, undisturbed and killed half-way: what its end costs beyond the steps that were lost."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "w"
        settings = (
            f"--workdir={work}",
            "--config.data.patients=3000",
            "--config.grid.budgets=(1e12,)",
            "--config.grid.sizes=('25k',)",
            "--config.grid.seeds=(1,)",
            "--config.training.checkpoint_seconds=5.0",
        )
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        for script in ("prepare", "sweep"):
            plan = ("--dry_run",) if script == "sweep" else ()
            subprocess.run(_launch(script, *settings, *plan), check=True, **quiet)
        cell = json.loads((Layout(work).grid / "manifest.jsonl").read_text().splitlines()[0])
        command, run = _launch("train", f"--workdir={work}", f"--cell={cell['id']}"), Layout(work).run(cell["id"])
        subprocess.run(command, check=True, **quiet)  # compiles
        seconds = artifacts.read_json(run / str(cell["steps"]) / "metrics" / "metrics")["seconds"]
        a_step = seconds["steps"] / cell["steps"]
        shutil.rmtree(Layout(work).runs)
        process = subprocess.Popen(command, start_new_session=True, **quiet)
        # Just after a checkpoint there is little to do again, whose time would have to be taken off.
        while not (kept := _steps(run)) or tracking.read(run)[-1]["step"] < cell["steps"] / 2 or kept[-1] < _last(run):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reached, saved = _last(run), _steps(run)[-1]
        if reached >= cell["steps"]:
            raise RuntimeError("the run was over before a checkpoint in its second half")
        started = time.perf_counter()
        process = subprocess.Popen(command, start_new_session=True, **quiet)
        while _last(run) <= reached:
            time.sleep(0.02)
        taken, further = time.perf_counter() - started, _last(run)
        process.wait()
        lost = taken - (further - saved) * a_step
        yield row("a run of 25k killed half-way: back at work, beyond the steps done again", lost, "s", 5.0, False)
        every_5 = seconds["checkpoint"] / (seconds["wall"] - seconds["compile"])
        yield row("  checkpoints every 5 s", every_5, "of the wall time")
        yield row("  at one a minute, as configs have it, that is", every_5 * 5 / 60, "of the wall time", 0.03, False)


def _grid() -> Iterator[Row]:
    """The quickstart's grid with nothing compiled before: worker seconds in training steps, of all that there were."""
    with tempfile.TemporaryDirectory() as folder:
        work, cores = Path(folder) / "w", len(hardware.cores())
        environment = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache"}
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(_launch("prepare", f"--workdir={work}"), check=True, **quiet)
        started = time.perf_counter()
        subprocess.run(_launch("sweep", f"--workdir={work}"), check=True, env=environment, **quiet)
        wall = time.perf_counter() - started
        spent: dict[str, float] = {}
        for path in Layout(work).runs.glob("*/*/metrics/metrics"):
            for part, seconds in json.loads(path.read_text())["seconds"].items():
                spent[part] = spent.get(part, 0.0) + seconds
        yield row("the quickstart's grid, wall", wall, "s")
        yield row("  in training steps", spent["steps"] / (wall * cores), "of the wall time", 0.7)
        for part in ("start", "compile", "data", "checkpoint", "evaluate"):
            yield row(f"  {part}", spent[part] / (wall * cores), "of the wall time")


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
