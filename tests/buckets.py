"""Object stores on the loopback interface, for tests: started when first asked for, ended with the tests."""

import atexit
import contextlib
import http.server
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
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


@contextlib.contextmanager
def keeping_conditions(monkeypatch):
    """The emulator of GCS, which puts an object whatever the condition on its generation, behind one that answers 412
    where an object is to be made that is there, as Google's own store does. Gives what it refused, by paths."""
    emulator, one_at_a_time, refused = os.environ["STORAGE_EMULATOR_HOST"], threading.Lock(), []

    class Between(http.server.BaseHTTPRequestHandler):
        def pass_on(self, method, path, body=None):
            given = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
            request = urllib.request.Request(emulator + path, body, given, method=method)
            try:
                with urllib.request.urlopen(request) as answer:
                    return answer.status, dict(answer.headers), answer.read()
            except urllib.error.HTTPError as e:
                return e.code, dict(e.headers), e.read()

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
            url = urllib.parse.urlsplit(self.path)
            if urllib.parse.parse_qs(url.query).get("ifGenerationMatch") == ["0"]:
                name = json.loads(body.split(b"\n\n")[1].split(b"\n--")[0])["name"]  # of the first of its parts
                there = f"{url.path.removeprefix('/upload')}/{urllib.parse.quote(name, safe='')}"
                with one_at_a_time:
                    if self.pass_on("GET", there)[0] == 200:
                        refused.append(there)
                        status, headers, content = 412, {}, b"{}"
                    else:
                        status, headers, content = self.pass_on(self.command, self.path, body)
            else:
                status, headers, content = self.pass_on(self.command, self.path, body)
            self.send_response(status)
            for name in ("Content-Type", "Location"):
                if name in headers:
                    self.send_header(name, headers[name])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Between) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        yield refused
        server.shutdown()
