"""Object stores on the loopback interface, for tests: started when first asked for, ended with the tests."""

import atexit
import importlib.util
import os
import socket
import subprocess
import sys
import time
import uuid
from functools import cache

import pytest

NEEDS = {"s3": ("s3fs", "moto", "flask"), "gs": ("gcsfs", "gcp_storage_emulator"), "file": ()}


def url(scheme, folder):
    """A new bucket of that scheme; skips the test where its packages are not installed."""
    if missing := [name for name in NEEDS[scheme] if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{scheme}:// needs {' and '.join(missing)}: pip install -e '.[dev]'")
    if scheme == "file":
        return f"file://{folder}/bucket/study"
    name = f"b{uuid.uuid4().hex[:12]}"
    os.environ.update(_started(scheme))
    import fsspec

    fsspec.filesystem(scheme, skip_instance_cache=True).mkdir(name)
    return f"{scheme}://{name}/study"


@cache
def _started(scheme):
    """The environment in which a store of that scheme is found."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    program = {
        "s3": [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        "gs": [sys.executable, "-m", "gcp_storage_emulator", "start", f"--port={port}", "--in-memory"],
    }[scheme]
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    process = subprocess.Popen(program, env=os.environ | keys, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(process.kill)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    address = f"http://127.0.0.1:{port}"
    if scheme == "s3":
        return keys | {"AWS_ENDPOINT_URL": address}
    return {"STORAGE_EMULATOR_HOST": address, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
