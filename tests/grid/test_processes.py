"""Two processes of `jax.distributed` do the same units together, and end together."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from jobs import units

from ehr_scaling.processes import companions
from tests import forked

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path
from absl import flags
from ehr_scaling.processes import companions
from launch.common import common
common.define_process_flags()
companions.GRACE = 0.4
def main():
    common.join_processes()
    import jax
    from ehr_scaling.errors import UserError
    from ehr_scaling.grid import executors
    import errno
    if sys.argv[2].startswith(f"--fails={jax.process_index()}"):
        raise {"user": UserError("mend this"), "disk": OSError(errno.ENOSPC, "x"), "end": SystemExit(3),
               "key": KeyboardInterrupt(), "bug": ZeroDivisionError("x")}[sys.argv[2][9:]]
    from jobs import count_together, units
    workdir = Path(sys.argv[1].split("=")[1])
    print(executors.run(count_together, units(3, pause=0.02), workdir, workers=1, title="test"))
flags.DEFINE_string("to", None, "")
flags.DEFINE_string("fails", None, "")
common.run(main)
"""


def start(tmp_path, fails=""):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent)))}
    common = [
        sys.executable,
        "-c",
        PROGRAM,
        f"--to={tmp_path}",
        f"--fails={fails}",
        f"--coordinator=localhost:{port}",
        "--processes=2",
    ]
    popen = forked.Popen if fails else subprocess.Popen  # who is killed is an interpreter that was started
    return [
        popen(
            [*common, f"--process={i}"],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]


def at_work(tmp_path, processes):
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cell*-1")):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        time.sleep(0.01)


@pytest.mark.parametrize("victim", [0, 1])
def test_of_the_death_of_one_the_other_says_a_sentence_at_once(tmp_path, victim):
    processes = start(tmp_path)
    at_work(tmp_path, processes)
    processes[victim].kill()
    died = time.monotonic()
    _, error = processes[1 - victim].communicate(timeout=60)
    assert time.monotonic() - died < 30  # JAX' own heartbeats take two minutes and more
    sentence = f"error: process {victim} of 2 has ended before the others"
    assert any(line.startswith(sentence) for line in error.splitlines()), error
    if (
        victim == 0
    ):  # who kept JAX' own service: JAX aborts the others by itself, a tenth of a second after our sentence
        assert processes[1].returncode in (companions.STATUS, -signal.SIGABRT), error
    else:
        assert processes[0].returncode == companions.STATUS, error
        assert "Traceback" not in error and error.count("\n") <= 2
    processes[victim].wait()


def test_who_fails_alone_says_why_and_the_other_that_it_did(tmp_path):
    """All pairs at once: most of their time they wait for each other."""
    ends = {
        "user": (1, "error: mend this"),
        "disk": (1, "error: the disk is full: free some space"),
        "key": (130, "error: interrupted: finished work is kept"),
        "end": (3, ""),
        "bug": (70, "ZeroDivisionError: x"),
    }
    pairs = {fails: start(tmp_path, fails=f"1{fails}") for fails in ends}
    for fails, (status, expected) in ends.items():
        said = [process.communicate(timeout=60)[1] for process in pairs[fails]]
        assert [process.returncode for process in pairs[fails]] == [companions.STATUS, status], said
        assert (said[1].strip().splitlines() or [""])[-1].startswith(expected)
        assert "error: process 1 of 2 has ended before the others: see what it said" in said[0]


def test_strangers_at_the_port_change_nothing(monkeypatch):
    """What asks there before the companions, says something else or nothing, is sent away."""
    monkeypatch.setattr(companions, "_PATIENCE", 0.3)
    monkeypatch.setattr(companions, "_peers", {})
    server = socket.create_server(("127.0.0.1", 0))
    address = server.getsockname()
    accepting = threading.Thread(target=companions._accept, args=(server, 77, {1}), daemon=True)
    accepting.start()
    silent = socket.create_connection(address)
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"1\n", b"76 1\n", b"77 2\n", b""):
        with socket.create_connection(address) as stranger:
            stranger.sendall(said)
    with socket.create_connection(address) as companion:
        companion.sendall(b"77 1\n")
        accepting.join(20)
        assert not accepting.is_alive() and list(companions._peers) == [1]
        companion.sendall(companions._BYE)
    silent.close()


@pytest.mark.parametrize(
    ("said", "gone"), [(b"gone 2\n", 2), (b"gone 1", 0), (b"gone ", 0), (b"gone", 0), (b"gone x\n", 0), (b"", 0)]
)
def test_of_a_death_that_is_told_in_half_the_rest_is_heard(monkeypatch, said, gone):
    """Process 0 may end in the middle of its sentence about another."""
    ours, theirs = socket.socketpair()
    ended = []
    monkeypatch.setattr(companions, "_peers", {0: ours})
    monkeypatch.setattr(companions, "_gone", threading.Event())
    monkeypatch.setattr(companions, "_facts", {"gone": -1, "processes": 3})
    monkeypatch.setattr(companions, "end", ended.append)
    theirs.sendall(said)
    theirs.close()
    companions._hear(0, ours)
    assert [line.partition(" of 3")[0] for line in ended] == [f"error: process {gone}"]


def test_sigterm_to_one_stops_all_and_they_go_on_together(tmp_path):
    processes = start(tmp_path)
    at_work(tmp_path, processes)
    processes[1].terminate()  # not the one that claims
    for process in processes:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 75, error
        assert "error: interrupted by SIGTERM: saved" in error
    assert len(list(tmp_path.glob("cell*-0"))) < 3
    again = start(tmp_path)
    for i, process in enumerate(again):
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert out.strip().endswith(str([[i] * len(unit) for unit in units(3)]))
    counts = {path.name: len(path.read_text()) for path in tmp_path.glob("cell*-*")}
    assert counts == {f"{unit[0].id}-{i}": 20 for unit in units(3) for i in range(2)}
