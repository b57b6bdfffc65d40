"""Two processes of `jax.distributed` do the same units together, and end together."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from jobs import units

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path
from absl import flags
from launch import common
common.define_process_flags()
def main():
    common.join_processes()
    from ehr_scaling.grid import executors
    from jobs import count_together, units
    workdir = Path(sys.argv[1].split("=")[1])
    print(executors.run(count_together, units(3, pause=0.03), workdir, workers=1, title="test"))
flags.DEFINE_string("to", None, "")
common.run(main)
"""


def start(tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent)))}
    common = [sys.executable, "-c", PROGRAM, f"--to={tmp_path}", f"--coordinator=localhost:{port}", "--processes=2"]
    return [
        subprocess.Popen(
            [*common, f"--process={i}"],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]


def test_sigterm_to_one_stops_all_and_they_go_on_together(tmp_path):
    processes = start(tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cell*-1")):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        time.sleep(0.01)
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
