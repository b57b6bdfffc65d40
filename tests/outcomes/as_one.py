"""A command of this package by several processes on this machine that work as one."""

import os
import socket
import subprocess
import sys

# Where a device has so much memory, of which it takes the first argument; even small arrays are cut
WITH_MEMORY = """
import runpy, sys
from ehr_scaling.training import setup, sharding
sharding.WHOLE_BELOW, memory = 0, float(sys.argv[1])
setup._memory = lambda: memory
del sys.argv[1]
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def start(*command, processes=2, popen=subprocess.Popen):
    """So many processes of `python command --coordinator=… --processes=… --process=…`."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    command = [sys.executable, *map(str, command), f"--coordinator={address}", f"--processes={processes}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return [popen([*command, f"--process={i}"], env=environment, **pipes) for i in range(processes)]


def ends(started):
    """Of each its status, and what it printed to stdout and to stderr."""
    try:
        said = [process.communicate(timeout=200) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *both) for process, both in zip(started, said, strict=True)]
