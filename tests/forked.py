"""Commands of this package in processes of their own that begin with the libraries imported.

`python -m launch.x` spends most of its two seconds on the imports of JAX, Orbax, PyArrow, SciPy, scikit-learn and
Matplotlib. Here a server has imported them once: `Popen` and `run` are those of `subprocess`, but what would be
[sys.executable, "-m" or "-c", …] is forked off the server, which takes a tenth of a second. What is forked has begun no
backend of JAX and has nothing of this package imported; its arguments, folder, environment, files and session are those
of the call, and in the end it waits for its threads, calls what is registered for the exit and flushes its output.

So are workers that a test itself starts by multiprocessing's "spawn" (`fork_workers`).

Anything else starts as ever: other programs, options of the interpreter, and environments of which a library reads
something while it is imported (_READ_EARLY). Not shown by what is forked, so tests of it call `subprocess`: which
modules are imported, and how long that takes; another seed of hashes in each process; and what an interpreter that is
taken apart at its end may print.
"""

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
import warnings
from multiprocessing import popen_spawn_posix, util
from pathlib import Path
from typing import Any

_LIBRARIES = """
absl.app ml_collections.config_flags numpy pyarrow.compute pyarrow.csv pyarrow.parquet requests rich.table tqdm psutil
yaml jax jax.numpy jax.experimental.multihost_utils jax.experimental.pallas flax.linen optax.contrib orbax.checkpoint
grain scipy.interpolate scipy.optimize scipy.sparse.csgraph scipy.spatial scipy.special scipy.stats sklearn.ensemble
sklearn.isotonic sklearn.linear_model sklearn.metrics sklearn.model_selection sklearn.pipeline sklearn.preprocessing
matplotlib.figure matplotlib.backends.backend_agg
"""
# How the names begin that a library, or Python itself, looks up when it starts
_READ_EARLY = (
    "JAX", "TF_", "OMP_", "OPENBLAS_", "MPL", "LD_", "MALLOC_", "GLIBC_", "ARROW_", "PYTHON", "TZ", "LC_", "LANG",
)  # fmt: skip


def _early(environment: Any) -> dict[str, str]:
    """What is read early; but for PYTHONPATH, which a forked process looks at again, and for what JAX itself sets where
    it is imported."""
    but = ("PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL")
    return {k: v for k, v in environment.items() if k.startswith(_READ_EARLY) and k not in but}


_ENVIRONMENT = dict(os.environ)  # before a test changes it


def may_fork() -> bool:
    """Whether what is started by the environment of this process, as it is now, is forked."""
    return _early(os.environ) == _early(_ENVIRONMENT)


class Popen(subprocess.Popen):
    """As `subprocess.Popen`. What is forked is no child of this process: its server tells how it ended."""

    _told: socket.socket | None = None  # says the forked process's number, then its exit status as `os.wait` has it

    def _execute_child(self, *given: Any) -> None:
        # In the order in which CPython 3.11 to 3.13 gives them
        args, executable, preexec_fn, _, pass_fds, cwd, env, _, _, shell = given[:10]
        pipes, rights, session, group = given[10:16], given[17:21], given[21], given[22]
        environment = dict(os.environ if env is None else env)
        other = executable or preexec_fn or shell or group != -1 or rights != (None, None, None, -1)
        other = other or not hasattr(os, "pidfd_open")  # Linux alone has it
        if other or not _is_python(args) or _early(environment) != _early(_ENVIRONMENT):
            super()._execute_child(*given)
            return
        job = {
            "argv": [os.fspath(a) for a in args[1:]],
            "cwd": os.fspath(Path.cwd() if cwd is None else cwd),
            "environment": environment,
            "session": session,
            "numbers": list(pass_fds),
            "deaf": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
            "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        }
        files = [own if fd == -1 else fd for own, fd in enumerate((pipes[0], pipes[3], pipes[5]))]
        self._told, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_server(), [b"+"], [*files, *pass_fds, theirs.fileno()])
        self._told.sendall(json.dumps(job).encode() + b"\n")
        self.pid = self._number()
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _number(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            byte = self._told.recv(1)
            assert byte, "the server, see tests/forked.py, has ended"
            line += byte
        return int(line)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._told is None:
            return super()._try_wait(wait_flags)
        if wait_flags & os.WNOHANG and not select.select([self._told], [], [], 0)[0]:
            return 0, 0
        status = self._number()
        self._told.close()
        return self.pid, status

    def _internal_poll(self, *args: Any, **more: Any) -> int | None:
        if self._told is None:
            return super()._internal_poll(*args, **more)
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


def run(args: Any, *, capture_output: bool = False, timeout: float | None = None, check: bool = False, **more: Any):
    """As `subprocess.run`, without `input`."""
    if capture_output:
        more |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(args, **more) as process:
        try:
            said = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(args, process.returncode, *said)
    if check:
        done.check_returncode()
    return done


_workers: dict[int, subprocess.Popen] = {}  # of multiprocessing here, by their numbers


def fork_workers() -> None:
    """Make the start method "spawn" of multiprocessing, in this process, fork workers off the server."""
    poll = popen_spawn_posix.Popen.poll

    def spawned(path: str, args: list[str], fds: list[int]) -> int:
        # What the tunables of glibc are for is speed
        environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        own = [argument for argument in args[1:] if argument != "-B"]  # as conftest.py has it
        process = Popen([sys.executable, *own], env=environment, pass_fds=sorted(fds))
        _workers[process.pid] = process
        return process.pid

    def polled(self: Any, flag: int = os.WNOHANG) -> int | None:
        if (process := _workers.get(self.pid)) is None:
            return poll(self, flag)
        if self.returncode is None:
            self.returncode = process.poll() if flag else process.wait()
        return self.returncode

    popen_spawn_posix.util = types.SimpleNamespace(**{**vars(util), "spawnv_passfds": spawned})
    popen_spawn_posix.Popen.poll = polled


def _is_python(args: Any) -> bool:
    return not isinstance(args, str) and len(args) > 2 and args[0] == sys.executable and args[1] in ("-m", "-c")


@functools.cache
def _server() -> socket.socket:
    """The way to the server of this process, with which it ends."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, __file__, str(theirs.fileno())]
        process = subprocess.Popen(
            command, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
        )
    atexit.register(lambda: (ours.close(), process.wait()))
    return ours


def _serve(channel: socket.socket) -> None:
    """Fork a process for each job that comes through `channel`, and tell how it ended, until `channel` is closed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # as launch/common/common.py does
    for name in _LIBRARIES.split():
        importlib.import_module(name)
    _keep_programs_of_all()
    gc.collect()
    gc.freeze()  # a collection in a forked process would write to all pages, which are copied then
    gc.set_threshold(50_000, 20, 50)  # as in conftest.py
    warnings.filterwarnings("ignore", r"os.fork\(\) was called", RuntimeWarning)  # of JAX: no threads are started yet
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for fd in select.select([channel, *running], [], [])[0]:
            if fd is channel:
                byte, files, _, _ = socket.recv_fds(channel, 1, 64)
                if not byte:
                    return
                told = socket.socket(fileno=files.pop())
                if (pid := os.fork()) == 0:
                    for other in (channel, *(other for _, other in running.values())):
                        other.close()
                    _become(told, files)
                for file in files:
                    os.close(file)
                running[os.pidfd_open(pid)] = pid, told
            else:
                pid, told = running.pop(fd)
                os.close(fd)
                with told, contextlib.suppress(OSError):  # who asked may be gone
                    told.sendall(b"%d\n" % os.waitpid(pid, 0)[1])


def _keep_programs_of_all() -> None:
    """Let each of several processes of one JAX keep what it compiled: JAX has the first alone write to its cache, where
    the others find nothing, since keys are of the devices of a process."""
    from jax._src import compiler

    if write := getattr(compiler, "_cache_write", None):  # JAX's own, and later versions may lack it
        first = types.SimpleNamespace(global_state=types.SimpleNamespace(process_id=0))
        compiler._cache_write = types.FunctionType(write.__code__, {**vars(compiler), "distributed": first})


def _become(told: socket.socket, files: list[int]) -> None:
    """Do the job that `told` gives, and exit."""
    with told.makefile("rb") as lines:
        job = json.loads(lines.readline())
    passed = [fcntl.fcntl(fd, fcntl.F_DUPFD, 1 + max(job["numbers"])) for fd in files[3:]]  # where none of them goes
    for fd in files[3:]:
        os.close(fd)
    for own, (fd, name) in enumerate(zip(files, ("stdin", "stdout", "stderr"), strict=False)):
        os.dup2(fd, own)
        os.close(fd)
        # Opened anew, since the old one goes by what the file was, such as seekable
        old, writes = getattr(sys, name), name != "stdin"
        file = open(own, "wb" if writes else "rb", 0 if writes and old.write_through else -1, closefd=False)  # noqa: SIM115
        how = {"line_buffering": old.line_buffering, "write_through": old.write_through}
        new = io.TextIOWrapper(file, old.encoding, old.errors, **how)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    if job["session"]:
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN if job["deaf"] else signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, job["blocked"])
    with told:
        told.sendall(b"%d\n" % os.getpid())
    for fd, number in zip(passed, job["numbers"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    sys.path[:] = sys.path[1 + len(_paths()) :]
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    option, what, *flags = job["argv"]
    sys.path[:] = [str(Path.cwd()) if option == "-m" else "", *_paths(), *sys.path]
    sys.argv, sys.orig_argv = [option, *flags], [sys.executable, *job["argv"]]
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    status = 1
    try:
        if option == "-m":
            runpy._run_module_as_main(what)
        else:
            exec(compile(what, "<string>", "exec"), main.__dict__)
        status = 0
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
        if e.code is not None and e.code != status:
            print(e.code, file=sys.stderr)
    except BaseException as e:
        e.__traceback__ = e.__traceback__.tb_next  # without this file
        sys.excepthook(type(e), e, e.__traceback__)
        status = -signal.SIGINT if isinstance(e, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        status = 120
    sys.stderr.flush()
    if status < 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 255)


def _paths() -> list[str]:
    return [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends with its client
    _serve(socket.socket(fileno=int(sys.argv[1])))
