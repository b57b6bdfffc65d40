"""Whom a name and password reach, on the loopback."""

import logging
import pickle
import signal
import subprocess
import sys
import time

import pytest

from ehr_scaling.data.sources import credentials, physionet
from ehr_scaling.errors import UserError

RELEASE = {"a.txt": b"made up", "hosp/b.txt": b"made up too"}
NAME, WORD = "zoë", "pass:wörd"
ACCOUNT = f"{NAME}:{WORD}"


@pytest.fixture
def account(monkeypatch):
    monkeypatch.setenv(credentials.USERNAME, NAME)
    monkeypatch.setenv(credentials.PASSWORD, WORD)


@pytest.fixture
def closed(mirror):
    """A mirror that gives nothing to strangers."""
    mirror.publish(RELEASE)
    mirror.server.account = ACCOUNT
    return mirror


def bring(mirror, dest, **options):
    return physionet.download("demo", "1.0", dest, base_url=mirror.url, **options)


def test_they_are_shown_when_the_server_asks(closed, account, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    dest = bring(closed, tmp_path / "raw")
    assert (dest / "hosp/b.txt").read_bytes() == RELEASE["hosp/b.txt"]
    assert closed.server.shown[0] == ("SHA256SUMS.txt", None)
    assert {shown for _, shown in closed.server.shown[1:]} == {ACCOUNT}
    assert WORD not in caplog.text
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and "wörd" in p.read_bytes().decode(errors="replace")]


def test_and_to_nobody_who_does_not(mirror, account, tmp_path):
    mirror.publish(RELEASE)
    bring(mirror, tmp_path)
    assert {shown for _, shown in mirror.server.shown} == {None}


def test_a_release_known_to_want_them_gets_them_at_once(closed, account, tmp_path):
    bring(closed, tmp_path, credentialed=True)
    assert {shown for _, shown in closed.server.shown} == {ACCOUNT}


def test_a_manifest_for_all_with_files_for_some(closed, account, tmp_path):
    closed.server.account = None
    bring(closed, tmp_path, files=["a.txt"])
    closed.server.account = ACCOUNT
    bring(closed, tmp_path, files=["a.txt", "hosp/b.txt"])
    assert (tmp_path / "hosp/b.txt").is_file()


@pytest.mark.parametrize(("host", "brought"), [("127.0.0.1", True), ("example.org", False), ("default", False)])
def test_netrc(closed, tmp_path, host, brought):
    machine = host if host == "default" else f"machine {host}"
    (tmp_path / "netrc").write_text(f'{machine} login {NAME} password "{WORD}"\n', encoding="utf-8")
    if brought:
        bring(closed, tmp_path / "raw")
        assert (tmp_path / "raw" / "a.txt").is_file()
    else:
        with pytest.raises(UserError, match=r"wants credentials: set PHYSIONET_USERNAME.*netrc"):
            bring(closed, tmp_path / "raw")


def test_the_users_netrc_is_not_shown_unasked(mirror, tmp_path):
    mirror.publish(RELEASE)
    (tmp_path / "netrc").write_text(f'machine 127.0.0.1 login {NAME} password "{WORD}"\n', encoding="utf-8")
    bring(mirror, tmp_path / "raw")
    assert {shown for _, shown in mirror.server.shown} == {None}


def test_a_damaged_netrc_is_not_quoted(closed, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 password secret login\nsecret2 secret3\n")
    with pytest.raises(UserError, match=r"is no netrc file: mend it") as e:
        bring(closed, tmp_path / "raw")
    assert "secret" not in str(e.value) and "\n" not in str(e.value)


def test_a_terminal_is_asked_once(closed, tmp_path, monkeypatch, capsys):
    class Terminal:
        def isatty(self):
            return True

    asked = []
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stderr", type("T", (), {"isatty": lambda s: True, "write": len, "flush": int})())
    monkeypatch.setattr("builtins.input", lambda prompt: NAME)
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or WORD)
    bring(closed, tmp_path)
    assert len(asked) == 1 and WORD not in asked[0]
    assert WORD not in "".join(capsys.readouterr())


def test_wrong_or_unsigned(closed, account, monkeypatch, tmp_path):
    closed.server.unsigned = True
    with pytest.raises(UserError, match=r"answers 403 to your credentials.*not signed: see .*/content/demo/1\.0/$"):
        bring(closed, tmp_path)
    closed.server.unsigned = False
    monkeypatch.setenv(credentials.PASSWORD, "wrong-word")
    with pytest.raises(UserError, match=r"answers 401 to your credentials: the password is wrong") as e:
        bring(closed, tmp_path)
    assert "wrong-word" not in str(e.value) and "\n" not in str(e.value)
    assert closed.server.shown[-2:] == [("SHA256SUMS.txt", None), ("SHA256SUMS.txt", f"{NAME}:wrong-word")]


def test_no_other_host_sees_them(closed, account, tmp_path):
    """Another name of this machine is another host; it has a netrc entry too, which nobody asked for."""
    (tmp_path / "netrc").write_text("machine localhost login other password other\n")
    closed.server.redirect["a.txt"] = f"http://localhost:{closed.server.server_port}/files/demo/1.0/hosp/b.txt"
    with pytest.raises(UserError, match=r"a\.txt answers 401"):
        bring(closed, tmp_path / "raw")
    elsewhere = [shown for name, shown in closed.server.shown if name == "b.txt"]
    assert set(elsewhere[:1]) == {None} and "other:other" not in elsewhere


def test_redirects_at_home_are_followed(closed, account, tmp_path):
    (closed.root / "a.txt").rename(closed.root / "moved.txt")
    closed.server.redirect["a.txt"] = "moved.txt"
    bring(closed, tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == RELEASE["a.txt"]
    closed.server.redirect["loop.txt"] = "loop.txt"
    with pytest.raises(UserError, match="redirects without end"):
        physionet._Server(closed.url, "").answer("GET", f"{closed.url}/loop.txt")


def test_they_do_not_go_in_the_clear(account, tmp_path):
    with pytest.raises(UserError, match=r"example\.org wants credentials, which are not sent over http"):
        credentials.find("http://example.org/files")
    assert credentials.find("https://example.org/files") is not None
    with pytest.raises(UserError, match=r"--physionet_url holds a name or password") as e:
        physionet.download("demo", "1.0", tmp_path, base_url="https://me:hush@example.org")
    assert "hush" not in str(e.value)


def test_they_are_not_printed_or_kept(account):
    found = credentials.find("https://example.org")
    assert WORD not in repr(found) + str(found)
    with pytest.raises(TypeError, match="not written to a file"):
        pickle.dumps(found)


def test_ctrl_c_does_not_wait_for_a_silent_server(mirror, tmp_path):
    big = bytes(100_000)
    mirror.publish({"big.bin": big, "other.bin": big})
    mirror.server.stall = {"big.bin": 50_000, "other.bin": 40_000}
    program = (
        "import sys; from pathlib import Path; from ehr_scaling.data.sources import physionet\n"
        "try: physionet.download('demo', '1.0', Path(sys.argv[2]), base_url=sys.argv[1])\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, mirror.url, str(tmp_path / "raw")])
    partial = [tmp_path / "raw" / f"{name}.partial" for name in mirror.server.stall]
    deadline = time.monotonic() + 20
    while not all(p.exists() and p.stat().st_size > 30_000 for p in partial) and time.monotonic() < deadline:
        time.sleep(0.02)
    begin = time.monotonic()
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 130
    assert time.monotonic() - begin < 2.5
    assert [p.stat().st_size for p in partial] == [3 * physionet._PIECE, 2 * physionet._PIECE]
    mirror.server.stall = {}
    bring(mirror, tmp_path / "raw")
    assert (tmp_path / "raw/big.bin").read_bytes() == big
    assert ("GET", "big.bin", f"bytes={3 * physionet._PIECE}-") in [seen[:3] for seen in mirror.server.seen]
