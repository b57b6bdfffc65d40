"""The download of public code maps, from a made-up server that can misbehave."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ehr_scaling.data.codes import download as downloads
from ehr_scaling.data.codes import maps
from ehr_scaling.data.codes.download import PUBLIC, canonical, download
from ehr_scaling.errors import UserError

TEXTS = {
    "icd9cm": "8052  S22019A 10000\r\n25000 E119    10000\r\nE849  NoDx    11000\r\n8052  S22009A 10000\r\n",
    "icd9pcs": "0001  6A750Z4 10000\n0001  6A751Z4 10000\n",
    "titles": "\n".join(
        f"{number:05d} {code:<7} 0 {long[:60]:<60} {long}"
        for number, (code, long) in enumerate(
            [("F32", "Major depressive disorder, single episode"), ("F320", "Mild"), ("A00", "Cholera")], 1
        )
    ),
}
EXPECTED = {
    "icd9cm": "source,target,flag\n25000,E119,10000\n8052,S22009A,10000\n8052,S22019A,10000\nE849,NoDx,11000\n",
    "icd9pcs": "source,target,flag\n0001,6A750Z4,10000\n0001,6A751Z4,10000\n",
    "titles": 'code,long\nA00,Cholera\nF32,"Major depressive disorder, single episode"\n',
}


def pack(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch):
    """A mirror of CMS with little maps, whose checksums this program is told. `bodies` and `answers` by path."""
    folders = {"icd9cm": "2018_I9gem.txt", "icd9pcs": "docs/gem_i9pcs.txt", "titles": "x/icd10cm_order_2021.txt"}
    for kind, public in PUBLIC.items():
        sha256 = hashlib.sha256(EXPECTED[kind].encode()).hexdigest()
        monkeypatch.setitem(PUBLIC, kind, public._replace(sha256=sha256))
    monkeypatch.setattr(downloads, "_PAUSE", 0.01)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.seen.append(self.path)
            status = next(self.server.answers, 200)
            body = self.server.bodies.get(self.path)
            self.send_response(404 if body is None else status)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write((body or b"")[: self.server.cut])

        def log_message(self, *_):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.seen, made.answers, made.cut = [], iter(()), None
    made.bodies = {
        PUBLIC[kind].path: pack({"readme.pdf": "x", "2018_I10gem.txt": "y", "gem_pcsi9.txt": "z", name: TEXTS[kind]})
        for kind, name in folders.items()
    }
    made.url = f"http://127.0.0.1:{made.server_port}/"
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_maps_are_fetched_verified_read_and_not_fetched_again(server, tmp_path):
    dest = download(tmp_path / "maps", base_url=server.url)
    assert {path.name: path.read_text() for path in dest.iterdir()} == {PUBLIC[k].name: EXPECTED[k] for k in PUBLIC}
    found = maps.load(dest)
    assert found.icd9cm == {"25000": ("E119",), "8052": ("S22009A", "S22019A")}
    assert found.icd9pcs == {"0001": ("6A750Z4", "6A751Z4")}
    assert found.titles == {"A00": "Cholera", "F32": "Major depressive disorder, single episode"}
    assert len(server.seen) == 3
    download(dest, base_url=server.url)
    assert len(server.seen) == 3


def test_one_kind_alone(server, tmp_path):
    download(tmp_path, ["icd9pcs"], base_url=server.url)
    assert [path.name for path in tmp_path.iterdir()] == [PUBLIC["icd9pcs"].name]


@pytest.mark.parametrize("kind", PUBLIC)
def test_what_is_kept_does_not_depend_on_order_repetition_or_line_ends(kind):
    lines = TEXTS[kind].splitlines()
    assert canonical(kind, "\n".join([*reversed(lines), lines[0], ""]), "here") == EXPECTED[kind]


def test_a_server_that_is_busy_is_asked_again(server, tmp_path):
    server.answers = iter([503, 429])
    download(tmp_path, ["icd9cm"], base_url=server.url)
    assert len(server.seen) == 3


def _alter(server, kind, text):
    server.bodies[PUBLIC[kind].path] = pack({PUBLIC[kind].member: text})


BAD = {
    "not there": (lambda s: s.bodies.clear(), "answers 404"),
    "forbidden": (lambda s: setattr(s, "answers", iter([403])), "answers 403"),
    "always busy": (lambda s: setattr(s, "answers", iter([503] * 99)), "cannot fetch"),
    "cut off": (lambda s: setattr(s, "cut", 50), "cannot fetch"),
    "a web page": (lambda s: s.bodies.update({PUBLIC["icd9cm"].path: b"<html>sorry</html>"}), "no zip"),
    "half a zip": (lambda s: s.bodies.update({PUBLIC["icd9cm"].path: s.bodies[PUBLIC["icd9cm"].path][:99]}), "no zip"),
    "another zip": (lambda s: s.bodies.update({PUBLIC["icd9cm"].path: pack({"a.txt": "b"})}), "does not hold one file"),
    "another row": (lambda s: _alter(s, "icd9cm", TEXTS["icd9cm"].replace("E119", "E118")), "other content"),
    "a row less": (lambda s: _alter(s, "icd9cm", TEXTS["icd9cm"].splitlines()[0]), "other content"),
    "another form": (lambda s: _alter(s, "icd9cm", "a,b,c"), "row 1: not in the form"),
}


@pytest.mark.parametrize("case", BAD)
def test_nothing_is_written_of_what_is_not_the_release(server, tmp_path, case):
    spoil, expected = BAD[case]
    spoil(server)
    with pytest.raises(UserError, match=expected) as e:
        download(tmp_path, ["icd9cm"], base_url=server.url)
    assert "\n" not in str(e.value)
    assert not list(tmp_path.iterdir())


def test_a_zip_that_grows_without_end_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_LARGEST", 40)
    with pytest.raises(UserError, match="larger than a code map"):
        download(tmp_path, ["icd9cm"], base_url=server.url)


def test_nobody_listens_an_address_that_is_none_and_an_unknown_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_PAUSE", 0.01)
    with pytest.raises(UserError, match="cannot fetch"):
        download(tmp_path, ["icd9cm"], base_url="http://127.0.0.1:9")
    with pytest.raises(UserError, match="no address"):
        download(tmp_path, ["icd9cm"], base_url="cms")
    with pytest.raises(UserError, match="choose from icd9cm, icd9pcs, titles"):
        download(tmp_path, ["atc"])


def test_a_map_that_was_changed_is_not_trusted(server, tmp_path):
    (tmp_path / PUBLIC["titles"].name).write_text(EXPECTED["titles"].replace("Cholera", "Plague"))
    with pytest.raises(UserError, match="take it away"):
        download(tmp_path, base_url=server.url)
