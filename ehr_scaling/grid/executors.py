"""Work on the cells of a grid: in this process on an accelerator, in one process for each core on a CPU."""

import multiprocessing as mp
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import jax
from tqdm import tqdm

from ehr_scaling.errors import DISK_FULL, UserError, is_disk_full

Cell = dict[str, Any]
# A job trains or evaluates one cell and reports tokens as it goes; it is a module-level function, so that a worker
# process can import it.
Job = Callable[[Cell, Path, Callable[[int], None]], Any]


def workers_for(setting: int) -> int:
    """Worker processes to use: `setting`, or for 0 one a core on a CPU and one (this process) on accelerators."""
    if setting > 0:
        return setting
    return len(os.sched_getaffinity(0)) if jax.default_backend() == "cpu" else 1


def use_compile_cache() -> None:
    """Keep compiled programs across processes and runs (JAX's persistent cache), for programs of any size."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ehr_scaling" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def run(job: Job, cells: list[Cell], workdir: Path, *, workers: int, title: str) -> list[Any]:
    """Do `job(cell, workdir, report)` for every cell, with a progress bar; results in the order of `cells`.

    One process a core beats one process with two threads by 15 to 75 % on models this small, so a CPU gets pinned
    worker processes. A worker keeps to the shapes it has compiled while there are any left.

    Raises: UserError of the first cell that fails, after the others have been stopped; their checkpoints remain.
    """
    bar = _Progress(title, cells)
    try:
        if workers == 1:
            use_compile_cache()
            return [bar.finish(cell, job(cell, workdir, partial(bar.advance, cell))) for cell in cells]
        return _run_in_processes(job, cells, workdir, min(workers, len(cells)), bar)
    finally:
        bar.close()


def _run_in_processes(job: Job, cells: list[Cell], workdir: Path, workers: int, bar: "_Progress") -> list[Any]:
    pending, results = list(range(len(cells))), [None] * len(cells)
    cores, context = sorted(os.sched_getaffinity(0)), mp.get_context("spawn")
    # glibc reads this before Python starts, so only a new process can have it: huge pages are 20 to 60 % on CPU.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    processes: dict[Connection, Any] = {}
    compiled: dict[Connection, set[str]] = {}
    doing: dict[Connection, int] = {}

    def hand_out(pipe: Connection) -> None:
        if not pending:
            pipe.send(None)
            return
        others = set().union(*(shapes for p, shapes in compiled.items() if p is not pipe))

        def preference(i: int) -> tuple[int, float]:
            size = cells[i]["size"]
            return (0 if size in compiled[pipe] else 1 if size not in others else 2, -cells[i]["flops"])

        i = min(pending, key=preference)
        pending.remove(i)
        compiled[pipe].add(cells[i]["size"])
        doing[pipe] = i
        pipe.send(cells[i])

    # Ctrl-C reaches every process of the terminal; only this one acts on it, then stops its workers. They inherit
    # the deafness, so that not even one that is just starting prints a trace.
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for w in range(workers):
            pipe, child = context.Pipe()
            process = context.Process(
                target=_work,
                args=(child, job, workdir, {cores[w % len(cores)]}),
                name=f"cell-worker-{w}",
                daemon=True,
            )
            process.start()
            child.close()
            processes[pipe], compiled[pipe] = process, set()
            hand_out(pipe)
        signal.signal(signal.SIGINT, heard)
        while processes:
            for ready in wait(list(processes)):
                pipe = cast(Connection, ready)
                try:
                    kind, value = pipe.recv()
                except EOFError:
                    process = processes.pop(pipe)
                    process.join()
                    if pipe in doing:
                        raise UserError(
                            f"a worker died (status {process.exitcode}) on cell {cells[doing[pipe]]['id']}, "
                            "perhaps for lack of memory: run again to resume it, with a smaller --config.workers"
                        ) from None
                    continue
                if kind == "advance":
                    bar.advance(cells[doing[pipe]], value)
                elif kind == "error":
                    raise UserError(value)
                else:
                    i = doing.pop(pipe)
                    results[i] = bar.finish(cells[i], value)
                    hand_out(pipe)
    finally:
        signal.signal(signal.SIGINT, heard)
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()
    return results


def _work(pipe: Connection, job: Job, workdir: Path, cores: set[int]) -> None:
    """A worker process: do the cells that come through the pipe until None comes."""
    os.sched_setaffinity(0, cores)
    from absl import logging

    logging.set_verbosity(logging.WARNING)  # Orbax reports about 40 lines a save
    use_compile_cache()
    while (cell := pipe.recv()) is not None:
        try:
            pipe.send(("done", job(cell, workdir, lambda tokens: pipe.send(("advance", tokens)))))
        except UserError as e:
            pipe.send(("error", str(e)))
        except Exception as e:
            if is_disk_full(e):
                pipe.send(("error", DISK_FULL))
                continue
            traceback.print_exc()
            pipe.send(
                ("error", f"cell {cell['id']} ({cell['size']}) failed with {type(e).__name__}; its trace is above")
            )


class _Progress:
    """Cells and tokens done, with rate and ETA by FLOPs; a bar on a terminal, a line every 15 s elsewhere."""

    def __init__(self, title: str, cells: list[Cell]):
        self.cells, self.done, self.tokens = len(cells), 0, 0
        self.flops, self.total = 0.0, sum(cell["flops"] for cell in cells)
        self.left = {cell["id"]: cell["tokens"] for cell in cells}
        self.title, self.started, self.printed = title, time.monotonic(), time.monotonic()
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        self.bar = tqdm(total=self.total, desc=title, bar_format=form, disable=None, mininterval=0.5)

    def advance(self, cell: Cell, tokens: int) -> None:
        tokens = min(tokens, self.left[cell["id"]])
        self.left[cell["id"]] -= tokens
        self.tokens += tokens
        self._add(cell["flops"] * tokens / cell["tokens"])

    def finish(self, cell: Cell, result: Any) -> Any:
        self.done += 1
        self.advance(cell, self.left[cell["id"]])
        return result

    def _add(self, flops: float) -> None:
        self.flops += flops
        rate = self.tokens / max(time.monotonic() - self.started, 1e-9)
        state = f"{self.done}/{self.cells} cells, {rate / 1e3:.0f} ktok/s"
        self.bar.set_postfix_str(state, refresh=False)
        self.bar.update(flops)
        if self.bar.disable and (time.monotonic() - self.printed > 15 or self.done == self.cells):
            self.printed = time.monotonic()
            elapsed = self.printed - self.started
            share = self.flops / self.total
            eta = elapsed * (1 - share) / max(share, 1e-9)
            print(f"{self.title}: {state}, {share:.0%}, ETA {eta:.0f} s", file=sys.stderr, flush=True)

    def close(self) -> None:
        self.bar.close()
