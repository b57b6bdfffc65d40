"""What tests/forked.py forks is as if it had been started."""

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from tests import forked

PROGRAMS = {
    "where": "import os, sys; print(__name__, sys.argv, sys.path[:2], os.getcwd(), os.environ['OURS'], len(os.environ))",  # noqa: E501
    "modules": "import sys; print([m for m in sys.modules if m.startswith(('ehr_scaling', 'launch', 'tests'))])\n"
    "print(globals().get('__file__'))",
    "files": "import os; print(os.listdir('/proc/self/fd'), len(os.listdir('/proc/self/task')))",
    "signals": "import signal as s; print([s.getsignal(n) for n in (s.SIGINT, s.SIGTERM, s.SIGPIPE, s.SIGCHLD)])",
    "streams": "import sys; sys.stdout.reconfigure(errors='replace'); sys.stderr.reconfigure(errors='replace')\n"
    "print(sys.stdin.read(), sys.stdout.encoding, sys.stdout.errors)\n"
    "print('told', sys.stderr.line_buffering, file=sys.stderr)",
    "status": "import sys; sys.exit(3)",
    "words": "raise SystemExit('why not')",
    "interrupt": "raise KeyboardInterrupt",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "exit": "import atexit, threading, time; atexit.register(print, 'bye')\n"
    "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()",
    "spawned": "import multiprocessing as m; p = m.get_context('spawn').Process(target=print, args=('here',))\n"
    "p.start(); p.join(); print(p.exitcode)",
    "again": "import os, sys; print(sys.orig_argv[1:], flush=True)\n"
    "if 'AGAIN' not in os.environ: os.environ['AGAIN'] = '1'; os.execv(sys.executable, sys.orig_argv)",
    "flags": "import os; os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=3'; import jax; "
    "print(len(jax.devices()))",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_does_what_a_started_one_does(tmp_path, name):
    environment = {"OURS": "1", "PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), **forked._early(os.environ)}
    command = [sys.executable, "-c", PROGRAMS[name], "--flag", "x y"]
    done = [
        run(command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        for run in (forked.run, subprocess.run)
    ]
    assert done[0].returncode == done[1].returncode
    assert done[0].stdout == done[1].stdout and done[0].stderr.splitlines()[-1:] == done[1].stderr.splitlines()[-1:]


def test_what_is_set_by_what_tests_import_is_no_reason_against_it():
    for name in ("jax", "ehr_scaling.outcomes", "launch.common.common"):
        importlib.import_module(name)
    assert forked.may_fork()


def bits(number):
    """Whether a signal is blocked and whether it is ignored, of this process."""
    of = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    return [bool(int(of[name], 16) >> number - 1 & 1) for name in ("SigBlk", "SigIgn")]


def tell(pipe, numbers):
    pipe.send((os.getppid(), os.environ["OURS"], [bits(number) for number in numbers]))
    pipe.recv()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux has it")
def test_workers_that_a_test_spawns_are_forked(monkeypatch):
    """They have the environment, deafness and blocked signals of the moment, come and go as others do."""
    server = forked.run([sys.executable, "-c", "import os; print(os.getppid())"], capture_output=True, text=True)
    monkeypatch.setenv("OURS", "of now")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    context, workers = multiprocessing.get_context("spawn"), []
    resource_tracker.ensure_running()  # which, when it starts, ends the block below
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        for _ in range(2):
            ours, theirs = context.Pipe()
            workers.append((context.Process(target=tell, args=(theirs, (signal.SIGINT, signal.SIGTERM))), ours))
            workers[-1][0].start()
    finally:
        signal.signal(signal.SIGINT, heard)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for _, ours in workers:
        assert ours.recv() == (int(server.stdout), "of now", [[False, True], [True, False]])
    (ended, pipe), (killed, _) = workers
    assert ended.exitcode is None
    pipe.send("go on")
    killed.kill()
    for worker, _ in workers:
        worker.join(60)
    assert (ended.exitcode, killed.exitcode) == (0, -signal.SIGKILL)


def test_a_module_is_run_from_where_it_is_asked_for(tmp_path):
    """And a mistake has no trace of the server."""
    (tmp_path / "ours.py").write_text("import sys\nprint(__name__, __spec__.name, sys.argv, sys.path[0])\n1 / 0\n")
    command = [sys.executable, "-m", "ours", "--flag"]
    done = [run(command, cwd=tmp_path, capture_output=True, text=True) for run in (forked.run, subprocess.run)]
    assert done[0].stdout == done[1].stdout != "" and done[0].returncode == done[1].returncode == 1
    assert done[0].stderr.splitlines()[-3:] == done[1].stderr.splitlines()[-3:]
    assert "forked.py" not in done[0].stderr


def test_what_is_read_early_is_read(monkeypatch):
    code = "import jax; print(jax.config.jax_enable_x64)"
    said = lambda **more: forked.run([sys.executable, "-c", code], capture_output=True, text=True, **more).stdout  # noqa: E731
    assert said() == "False\n" and said(env={**os.environ, "JAX_ENABLE_X64": "1"}) == "True\n"
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    assert said() == "True\n"


def test_a_group_of_its_own_is_interrupted_alone_and_waited_for():
    code = "import os, time; print(os.getpgid(0) == os.getpid(), flush=True); time.sleep(60)"
    process = forked.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "True\n" and process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == process.poll() == -signal.SIGINT
    with process:
        pass


def test_several_run_at_once(tmp_path):
    """The first ends when the second has come."""
    code = (
        f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'come')!r}).exists(): time.sleep(0.01)\nprint(1)"
    )
    first = forked.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        forked.run([sys.executable, "-c", code], timeout=0.1)  # is killed
    (tmp_path / "come").touch()
    assert first.communicate()[0] == b"1\n"
    with pytest.raises(subprocess.CalledProcessError):
        forked.run([sys.executable, "-c", "import sys; sys.exit(2)"], check=True)


def test_other_programs_are_started():
    assert forked.run(["sh", "-c", "echo $0 $1", "a"], capture_output=True, text=True).stdout == "a\n"
    assert forked.run("echo shell", shell=True, capture_output=True, text=True).stdout == "shell\n"
    code = "import sys; print('numpy' in sys.modules)"
    done = forked.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n"
