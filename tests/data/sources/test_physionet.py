import hashlib
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from ehr_scaling.data.sources import fetch, physionet
from ehr_scaling.errors import UserError

BIG = random.Random(0).randbytes(1_000_000)
RELEASE = {"a.txt": b"made up", "hosp/big.csv.gz": BIG, "LICENSE.txt": b"free"}


def gets(mirror, name):
    return [wanted for command, n, wanted, _ in mirror.server.seen if command == "GET" and n == name]


def bring(mirror, dest, **options):
    return physionet.download("demo", "1.0", dest, base_url=mirror.url, **options)


def test_brings_the_wanted_files_under_their_paths(mirror, tmp_path):
    mirror.publish(RELEASE)
    dest = bring(mirror, tmp_path / "raw", files=["a.txt", "hosp/big.csv.gz"])
    assert (dest / "hosp/big.csv.gz").read_bytes() == BIG
    assert sorted(p.name for p in dest.rglob("*") if p.is_file()) == ["SHA256SUMS.txt", "a.txt", "big.csv.gz"]
    assert all(agent.startswith("Wget/1.21") for *_, agent in mirror.server.seen)


def test_a_predicate_or_nothing_selects(mirror, tmp_path):
    mirror.publish(RELEASE)
    bring(mirror, tmp_path / "some", files=lambda name: name.startswith("hosp/"))
    assert not (tmp_path / "some" / "a.txt").exists()
    bring(mirror, tmp_path / "all")
    assert (tmp_path / "all" / "LICENSE.txt").read_bytes() == b"free"


def test_what_is_there_is_not_asked_for_again(mirror, tmp_path):
    mirror.publish(RELEASE)
    bring(mirror, tmp_path)
    mirror.server.seen.clear()
    bring(mirror, tmp_path)
    assert mirror.server.seen == []


@pytest.mark.parametrize("ranges", [True, False])
def test_dropped_connections_are_resumed(mirror, tmp_path, ranges):
    mirror.publish(RELEASE)
    mirror.server.cut["big.csv.gz"], mirror.server.ranges = 3, ranges
    bring(mirror, tmp_path)
    assert (tmp_path / "hosp/big.csv.gz").read_bytes() == BIG
    starts = [int(r.removeprefix("bytes=").rstrip("-") or 0) for r in gets(mirror, "big.csv.gz")]
    assert len(starts) == 4
    if ranges:
        cuts = np.array([0, 500_000, 750_000, 875_000])  # half of the rest each time, less what was on its way
        assert (cuts >= starts).all() and (cuts - starts < 2 * physionet._PIECE).all()


def test_a_partial_file_of_an_earlier_run_is_gone_on_with(mirror, tmp_path):
    mirror.publish(RELEASE)
    (tmp_path / "hosp").mkdir()
    (tmp_path / "hosp/big.csv.gz.partial").write_bytes(BIG[:400_000])
    bring(mirror, tmp_path)
    assert gets(mirror, "big.csv.gz") == ["bytes=400000-"]
    assert (tmp_path / "hosp/big.csv.gz").read_bytes() == BIG
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("stale", [b"x" * 10, b"x" * len(BIG), b"x" * 2_000_000])
def test_a_foreign_partial_file_is_replaced(mirror, tmp_path, stale):
    mirror.publish(RELEASE)
    (tmp_path / "hosp").mkdir()
    (tmp_path / "hosp/big.csv.gz.partial").write_bytes(stale)
    bring(mirror, tmp_path)
    assert (tmp_path / "hosp/big.csv.gz").read_bytes() == BIG


def test_a_connection_that_never_holds_leaves_only_a_partial_file(mirror, tmp_path):
    mirror.publish(RELEASE)
    mirror.server.cut["big.csv.gz"] = 10_000
    mirror.server.ranges = False
    with pytest.raises(UserError, match=r"big\.csv\.gz is truncated.*byte 4\d{5},.*run again"):
        bring(mirror, tmp_path)
    assert [p.name for p in (tmp_path / "hosp").iterdir()] == ["big.csv.gz.partial"]


def test_a_wrong_checksum_leaves_nothing(mirror, tmp_path):
    mirror.publish(RELEASE)
    (mirror.root / "hosp/big.csv.gz").write_bytes(BIG[::-1])
    with pytest.raises(UserError, match=r"big\.csv\.gz does not match SHA256SUMS.txt.*run again"):
        bring(mirror, tmp_path)
    assert not list((tmp_path / "hosp").iterdir())


def test_a_changed_file_is_not_taken_for_the_releases(mirror, tmp_path):
    mirror.publish(RELEASE)
    bring(mirror, tmp_path)
    (tmp_path / "a.txt").write_bytes(b"made uq")
    with pytest.raises(UserError, match=r"a\.txt does not match SHA256SUMS.txt: delete it"):
        bring(mirror, tmp_path)
    with pytest.raises(UserError, match=r"a\.txt does not match"):
        physionet.verify(tmp_path, ["a.txt"])


def test_a_missing_file_is_named_before_anything_is_fetched(mirror, tmp_path):
    mirror.publish(RELEASE)
    (mirror.root / "a.txt").unlink()
    with pytest.raises(UserError, match=r"/files/demo/1\.0/a\.txt is not there \(404\).*--raw=DIR"):
        bring(mirror, tmp_path)
    assert not gets(mirror, "big.csv.gz")


def test_a_server_in_trouble(mirror, tmp_path):
    mirror.publish(RELEASE)
    mirror.server.status["a.txt"] = 503
    with pytest.raises(UserError, match=r"a\.txt answers 503"):
        bring(mirror, tmp_path)


def test_nobody_listens(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}"
    with pytest.raises(UserError, match=rf"cannot connect to {url}/files/.*--raw=DIR.*--physionet_url"):
        physionet.download("demo", "1.0", tmp_path, base_url=url)
    with pytest.raises(UserError, match="no address to download from"):
        physionet.download("demo", "1.0", tmp_path, base_url="nonsense")


def test_a_file_that_the_manifest_lacks(mirror, tmp_path):
    mirror.publish(RELEASE)
    with pytest.raises(UserError, match=r"does not list b\.txt"):
        bring(mirror, tmp_path, files=["b.txt"])


@pytest.mark.parametrize(
    "line", ["<html>", "abc  a.txt", f"{'0' * 64}", f"{'0' * 64}  ../a.txt", f"{'0' * 64}  /etc/passwd"]
)
def test_a_manifest_that_is_none(mirror, tmp_path, line):
    mirror.publish(RELEASE)
    (mirror.root / "SHA256SUMS.txt").write_text(f"{'1' * 64} fine.txt\n{line}\n")
    with pytest.raises(UserError, match=r"SHA256SUMS\.txt, row 2: not '<SHA-256> <path>'"):
        bring(mirror, tmp_path)
    assert not list(tmp_path.glob("*.txt"))


def test_ctrl_c_leaves_only_partial_files(mirror, tmp_path):
    mirror.publish(RELEASE)
    mirror.server.slow = True
    program = (
        "import sys; from pathlib import Path; from ehr_scaling.data.sources import physionet\n"
        "try: physionet.download('demo', '1.0', Path(sys.argv[2]), base_url=sys.argv[1])\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    dest = tmp_path / "raw"
    child = subprocess.Popen([sys.executable, "-c", program, mirror.url, str(dest)])
    partial = dest / "hosp/big.csv.gz.partial"
    deadline = time.monotonic() + 20
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 130
    assert [p.name for p in (dest / "hosp").iterdir()] == ["big.csv.gz.partial"]
    mirror.server.slow = False
    bring(mirror, dest)
    assert (dest / "hosp/big.csv.gz").read_bytes() == BIG
    assert gets(mirror, "big.csv.gz")[1].startswith("bytes=")  # it went on, it did not begin again


@pytest.mark.parametrize("length", ["abc", "-1", "1e3", "²"])
def test_a_length_that_is_no_number_is_none(mirror, tmp_path, monkeypatch, length):
    mirror.publish(RELEASE)
    answer = physionet._Server.answer

    def changed(*args, **options):
        response = answer(*args, **options)
        response.headers["Content-Length"] = length
        return response

    monkeypatch.setattr(physionet._Server, "answer", changed)
    bring(mirror, tmp_path / "raw")
    assert (tmp_path / "raw" / "hosp/big.csv.gz").read_bytes() == BIG


@pytest.mark.parametrize("location", ["http://[half/", "//[half/x", "http://a:b/"])
def test_an_address_that_is_none_is_one_line(mirror, tmp_path, location):
    mirror.publish(RELEASE)
    mirror.server.redirect["a.txt"] = location
    with pytest.raises(UserError, match="no address"):
        bring(mirror, tmp_path / "raw")


def test_verify(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"made up")
    physionet.verify(tmp_path, ["a.txt"])  # a folder without a manifest can only be looked at
    with pytest.raises(UserError, match=r"b\.txt is missing"):
        physionet.verify(tmp_path, ["a.txt", "b.txt"])
    (tmp_path / "SHA256SUMS.txt").write_text(f"{hashlib.sha256(b'made up').hexdigest()}  a.txt\n")
    physionet.verify(tmp_path, ["a.txt"])


def test_releases_and_their_versions(mirror, tmp_path):
    with pytest.raises(UserError, match="'meds' has no release to download"):
        fetch("meds", tmp_path)
    with pytest.raises(UserError, match=r"mimic-iv has no version '4\.0' here: take one of 3\.1"):
        fetch("mimic-iv", tmp_path, version="4.0")
    mirror.publish({"ed/edstays.csv.gz": b"made up", "index.html": b"no"}, "mimic-iv-ed/2.2")
    fetch("mimic-iv-ed", tmp_path / "ed", base_url=mirror.url)
    assert sorted(p.name for p in (tmp_path / "ed").rglob("*.*")) == ["SHA256SUMS.txt", "edstays.csv.gz"]


def test_a_credentialed_download_is_its_owners_alone(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(physionet._Server, "find_credentials", lambda *_: None)
    mirror.publish(RELEASE)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw").chmod(0o755)
    bring(mirror, tmp_path / "raw", credentialed=True)
    assert (tmp_path / "raw").stat().st_mode & 0o777 == 0o700


def test_a_server_that_trickles_is_given_up(mirror, tmp_path, monkeypatch):
    """Each byte comes in time, so that no timeout of the socket ends it: but a piece as a whole does not."""
    monkeypatch.setattr(physionet, "_PATIENCE", 0.5)
    mirror.publish(RELEASE)
    mirror.server.trickle = 0.05
    began = time.monotonic()
    with pytest.raises(UserError, match=r"big\.csv\.gz comes at less than [\d,]+ bytes a second: run .*--raw"):
        bring(mirror, tmp_path, files=["hosp/big.csv.gz"])
    assert time.monotonic() - began < 10
    mirror.server.trickle = 0
    bring(mirror, tmp_path, files=["hosp/big.csv.gz"])
    assert (tmp_path / "hosp/big.csv.gz").read_bytes() == BIG
