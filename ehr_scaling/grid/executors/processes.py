"""Worker processes on this machine, each with its core, GPU or TPU chip, that claim units until all are finished."""

import contextlib
import importlib.util
import multiprocessing as mp
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import MutableSequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

from ehr_scaling import hardware
from ehr_scaling.errors import Preempted, RunFailed, TakenOver, Unavailable, UserError, ends_all, may_pass, of_system
from ehr_scaling.grid.cell import Unit
from ehr_scaling.grid.executors import tpus
from ehr_scaling.grid.executors.claims import NOBODY
from ehr_scaling.grid.executors.job import Report, Work, held_elsewhere, leave
from ehr_scaling.grid.executors.progress import Progress
from ehr_scaling.processes import preemption

GRACE = 5.0  # seconds for workers to end by themselves once one has failed or Ctrl-C was pressed


def use_compile_cache() -> None:
    """Keep compiled programs across processes and runs (JAX's persistent cache), for programs of any size.

    In $JAX_COMPILATION_CACHE_DIR where that is set.
    """
    import jax

    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ehr_scaling" / "xla"
    if not jax.config.values.get("jax_compilation_cache_dir"):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        tidy_programs(folder)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def tidy_programs(folder: Path, oldest: float = 0.0) -> None:
    """Take away compiled programs that are older than `oldest` (Unix time), or that a process that was killed wrote a
    part of: JAX would warn of it for ever. Looks at those that have come since the last time."""
    from jax._src.compilation_cache import decompress_executable

    last = folder / ".looked_at"
    since = last.stat().st_mtime if last.exists() else 0.0
    for path in folder.glob("*-cache"):
        with contextlib.suppress(OSError):  # another process is at it
            written, good = path.stat().st_mtime, True
            if written >= since:
                try:
                    decompress_executable(path.read_bytes())
                except Exception:  # whatever its decompressor raises
                    good = False
            if not good or written < oldest:
                path.unlink()
    if folder.is_dir():
        last.touch()


def gpus() -> list[str]:
    """NVIDIA GPUs that JAX would use, found without JAX: it would take their memory for this process."""
    if os.environ.get("JAX_PLATFORMS", "cuda").split(",")[0] not in ("cuda", "gpu") or not _knows_cuda():
        return []
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    if shutil.which("nvidia-smi") is None:
        return []
    return _told_by_driver("index")


def _knows_cuda() -> bool:
    """Whether JAX has what it needs for NVIDIA's GPUs."""
    return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


def gpu_memory() -> float:
    """Bytes of the smallest of `gpus`; 0 where the driver does not tell."""
    if shutil.which("nvidia-smi") is None:
        return 0.0
    return min((float(mebibytes) * 2**20 for mebibytes in _told_by_driver("memory.total", gpus())), default=0.0)


def _told_by_driver(what: str, cards: list[str] | None = None) -> list[str]:
    these = [f"--id={','.join(cards)}"] if cards else []
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", *these]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return told.stdout.split() if told.returncode == 0 else []


def _places(workers: int, cores: list[int], gpus: list[str], chips: list[str]) -> list[tuple[set[int], dict[str, str]]]:
    """Cores and environment of each worker: a core each on a CPU, else a GPU, or a TPU chip that it alone has, and its
    share of the cores."""
    if chips:
        return [(set(cores[w::workers]) or set(cores), tpus.alone_with(chips[w])) for w in range(workers)]
    if not gpus:
        return [({cores[w % len(cores)]}, {}) for w in range(workers)]
    share = 0.9 / -(-workers // len(gpus))  # of a GPU's memory: JAX takes .75 at once, and two workers more than all
    return [
        (
            set(cores[w % len(cores) :: workers]),
            {
                "CUDA_VISIBLE_DEVICES": gpus[w % len(gpus)],
                "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{share:.2f}",
                "XLA_PYTHON_CLIENT_PREALLOCATE": "true",
            },
        )
        for w in range(workers)
    ]


def run(work: Work, results: list[Any], failures: dict[int, str], workers: int, bar: Progress) -> None:
    context = mp.get_context("spawn")
    owners = context.Array("i", [NOBODY] * len(results))
    finished = context.Array("i", [int(result is not None or i in failures) for i, result in enumerate(results)])
    environment_here = dict(os.environ)
    # glibc reads this before Python starts, so only a new process can have it: huge pages are 20 to 60 % on CPU.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    cards = gpus()
    chips = [] if cards else tpus.here()[1]
    if not cards and not chips:
        # A quarter off the time to compile, which is a fifth of a small grid's; its programs are as fast.
        os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=1 {os.environ.get('XLA_FLAGS', '')}"
    processes: dict[Connection, Any] = {}
    doing: dict[Connection, int] = {}
    # Ctrl-C reaches every process of the terminal; only this one acts on it, then stops its workers. They inherit
    # the deafness, so that not even one that is just starting prints a trace. SIGTERM, which one that is starting
    # must not lose, waits until it has its handler.
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        for w, (cores, environment) in enumerate(_places(workers, hardware.cores(), cards, chips)):
            pipe, child = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(child, work, w, owners, finished, cores, environment),
                name=f"cell-worker-{w}",
                daemon=True,
            )
            process.start()
            child.close()
            processes[pipe] = process
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, heard)
        _restore(environment_here)
        passed_on = False
        while processes:
            if preemption.requested() and not passed_on:
                passed_on = True
                for process in processes.values():
                    process.terminate()
            for ready in wait(list(processes), timeout=0.5):
                pipe = cast(Connection, ready)
                try:
                    kind, value = pipe.recv()
                except EOFError:
                    process = processes.pop(pipe)
                    process.join()
                    # SIGTERM may find one that has saved and is on its way out, without its handler.
                    left = preemption.requested() or pipe not in doing
                    if process.exitcode not in (0, Preempted.status) and not (
                        left and process.exitcode == -signal.SIGTERM
                    ):
                        kind_of = Unavailable if (process.exitcode or 0) < 0 else UserError  # killed, as for memory
                        raise kind_of(_death(process.exitcode, work.units, doing.get(pipe))) from None
                    continue
                if kind == "begin":
                    doing[pipe] = value
                elif kind == "advance":
                    bar.advance(*value)
                elif kind == "wait":
                    bar.say(value)
                elif kind == "error":
                    raise value
                else:
                    i = doing.pop(pipe)
                    if kind == "left":  # it comes again, once another machine is through with it
                        continue
                    if kind == "failed":
                        failures[i] = value
                    else:
                        results[i] = value
                    bar.finish(i)
    finally:
        _restore(environment_here)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, heard)
        for process in processes.values():
            process.terminate()
        until = time.monotonic() + GRACE
        for process in processes.values():
            process.join(max(0.0, until - time.monotonic()))
        for process in processes.values():
            process.kill()
            process.join()


def _restore(environment: dict[str, str]) -> None:
    """What was meant for workers is for nobody that this process starts later."""
    for name in ("GLIBC_TUNABLES", "XLA_FLAGS"):
        if name in environment:
            os.environ[name] = environment[name]
        else:
            os.environ.pop(name, None)


def _death(status: int, units: list[Unit], doing: int | None) -> str:
    on = "as it started, or helped" if doing is None else f"on cell {units[doing][0].id}"
    return (
        f"a worker died (status {status}) {on}, perhaps for lack of memory: run again to resume it, with a smaller "
        "--config.workers"
    )


def _serve(
    pipe: Connection,
    work: Work,
    me: int,
    owners: MutableSequence[int],
    finished: MutableSequence[int],
    cores: set[int],
    environment: dict[str, str],
) -> None:
    """A worker process: do what can be claimed until all is finished. Exits with 75 when SIGTERM has come."""
    hardware.pin(cores)
    os.environ.update(environment)
    from absl import logging

    logging.set_verbosity(logging.WARNING)  # Orbax reports about 40 lines a save
    use_compile_cache()

    began: list[int] = []

    def report(i: int) -> Report:
        began[:] = [i]
        return lambda tokens, before=False: pipe.send(("advance", (i, tokens, before)))

    signal.signal(signal.SIGTERM, lambda *_: None)  # after the block below: it has been heard
    try:
        with work.on_sigterm():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            with contextlib.closing(work.in_turn(me, owners, finished, report)) as turns:
                for i in turns:
                    if i is None:
                        if me == 0:
                            pipe.send(("wait", held_elsewhere(owners, finished)))
                        continue
                    pipe.send(("begin", i))
                    try:
                        pipe.send(("done", work.job(work.units[i], work.workdir, report(i))))
                    except RunFailed as e:
                        pipe.send(("failed", str(e)))
                    except TakenOver:
                        leave(work.units[i], i, owners)
                        pipe.send(("left", None))
            if preemption.requested():
                sys.exit(Preempted.status)
    except Preempted:
        os._exit(Preempted.status)  # without waiting for what a device is in the middle of
    except (BrokenPipeError, ConnectionResetError):  # the sweep was killed: nobody listens
        os._exit(1)
    except Exception as e:
        told = e if isinstance(e, UserError) else of_system(e)
        if told is None:
            traceback.print_exc()
            on = f"cell {work.units[began[-1]][0].id} ({work.units[began[-1]][0].size})" if began else "a worker"
            kind = Unavailable if may_pass(e) else UserError
            told = kind(f"{on} failed with {type(e).__name__}; its trace is above")
        pipe.send(("error", ends_all(told)))
