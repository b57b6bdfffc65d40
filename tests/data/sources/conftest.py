"""A made-up mirror of PhysioNet that can misbehave in the ways the real one does."""

import base64
import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from ehr_scaling.data.sources import physionet


class _Handler(BaseHTTPRequestHandler):
    """Serves `server.folder`. `server.cut[path]` is how often a body breaks off half-way; `server.status[path]` is
    answered instead of the file; `server.ranges` False ignores Range; `server.slow` gives 200 KB/s;
    `server.stall[path]` is after how many bytes it falls silent; `server.account` is the "name:password" without which
    it answers 401, and 403 where `server.unsigned`; `server.redirect[path]` leads to another address. Requests are
    listed in `server.seen`, with what they showed in `server.shown`."""

    protocol_version = "HTTP/1.1"

    def _answer(self, body: bool) -> None:
        server = self.server
        name = self.path.rsplit("/", 1)[-1]
        wanted = self.headers.get("Range", "")
        server.seen.append((self.command, name, wanted, self.headers["User-Agent"]))
        shown = self.headers.get("Authorization")
        server.shown.append((name, shown and base64.b64decode(shown.removeprefix("Basic ")).decode()))
        file = server.folder / self.path.lstrip("/")
        status = server.status.get(name, 200 if file.is_file() else 404)
        if server.account and (server.unsigned or server.shown[-1][1] != server.account):
            status = 403 if server.unsigned and shown else 401
        if name in server.redirect:
            status = 302
        data = file.read_bytes() if status == 200 else b"<html>sorry</html>"
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if status == 200 and start:
            status = 206 if start < len(data) else 416
        data = data[start:]
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status == 302:
            self.send_header("Location", server.redirect[name])
        self.end_headers()
        if not body:
            return
        if server.cut.get(name, 0) and len(data) > 1:
            server.cut[name] -= 1
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        try:
            while server.slow and data:
                self.wfile.write(data[:1024])
                self.wfile.flush()
                data = data[1024:]
                time.sleep(0.005)
            while server.trickle and len(data) > 1_000 and not server.over.wait(server.trickle):
                self.wfile.write(data[:1])
                self.wfile.flush()
                data = data[1:]
            if status < 300 and name in server.stall:
                self.wfile.write(data[: server.stall[name]])
                self.wfile.flush()
                server.over.wait(30)
                return
            self.wfile.write(data)
        except OSError:  # the client left
            self.close_connection = True

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests has no account: theirs must not reach a test."""
    monkeypatch.delenv("PHYSIONET_USERNAME", raising=False)
    monkeypatch.delenv("PHYSIONET_PASSWORD", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr("sys.stdin", None)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """`.url`, `.server` (see _Handler), and `.publish({path: bytes}, release)`, by default demo/1.0 in `.root`."""
    monkeypatch.setattr(physionet, "_PAUSE", 0.0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.folder, server.cut, server.status, server.seen = tmp_path / "mirror", {}, {}, []
    server.ranges, server.slow, server.stall, server.trickle = True, False, {}, 0.0
    server.account, server.unsigned, server.redirect, server.shown = None, False, {}, []
    server.over = threading.Event()
    demo = server.folder / "files" / "demo" / "1.0"

    def publish(files: dict[str, bytes], release: str = "demo/1.0") -> None:
        root = server.folder / "files" / release
        lines = []
        for i, (name, data) in enumerate(files.items()):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
            lines.append(f"{hashlib.sha256(data).hexdigest()}{' ' * (1 + i % 2)}{name}\n")
        (root / physionet.MANIFEST).write_text("".join(lines))

    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", server=server, root=demo, publish=publish)
    server.over.set()
    server.shutdown()
    server.server_close()
