"""A stage's result is whole and from these inputs, or it is not there."""

import signal
import subprocess
import sys

import pytest

from ehr_scaling import artifacts
from ehr_scaling.errors import UserError


def test_build_skips_what_is_there_and_refuses_other_inputs(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "x").write_text("1")
        return {"n": 1}

    first = artifacts.build(tmp_path / "a", {"seed": (1, 2), "data": {"t": 1}}, make)
    again = artifacts.build(tmp_path / "a", {"seed": (1, 2), "data": {"t": 1}}, make)
    assert first == again
    assert len(made) == 1
    assert (tmp_path / "a" / "x").exists()
    with pytest.raises(UserError, match=r"data\.t was 1, now 2.*--workdir"):
        artifacts.build(tmp_path / "a", {"seed": (1, 2), "data": {"t": 2}}, make)


def test_what_an_earlier_version_made_is_refused(tmp_path):
    first = artifacts.build(tmp_path / "a", {"seed": 1}, lambda folder: {})
    assert first["inputs"] == {"seed": 1}  # as of artifacts from before there were versions
    with pytest.raises(UserError, match=r"made_by_version was None, now 2.*--workdir"):
        artifacts.build(tmp_path / "a", {"seed": 1}, lambda folder: {}, version=2)
    second = artifacts.build(tmp_path / "b", {"seed": 1}, lambda folder: {}, version=2)
    assert second["fingerprint"] != first["fingerprint"]
    assert artifacts.build(tmp_path / "b", {"seed": 1}, lambda folder: {}, version=2) == second


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("x"), OSError(28, "No space left on device")])
def test_a_broken_build_leaves_nothing(tmp_path, error):
    def make(folder):
        (folder / "half").write_text("1")
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        artifacts.build(tmp_path / "a", {}, make)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_build_is_made_anew(tmp_path):
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "left_over").write_text("1")
    artifacts.build(tmp_path / "a", {}, lambda folder: {})
    assert [p.name for p in (tmp_path / "a").iterdir()] == [artifacts.RECORD]


def test_a_damaged_record_names_the_remedy(tmp_path):
    artifacts.build(tmp_path / "a", {}, lambda folder: {})
    (tmp_path / "a" / artifacts.RECORD).write_text('{"inputs": ')
    with pytest.raises(UserError, match=r"artifact\.json is damaged.*delete"):
        artifacts.build(tmp_path / "a", {}, lambda folder: {})


def test_fingerprints_of_files_see_both_ends(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(b"a" * (3 << 20))
    before = artifacts.fingerprint_files([path], tmp_path)
    path.write_bytes(b"a" * ((3 << 20) - 1) + b"b")
    assert artifacts.fingerprint_files([path], tmp_path) != before


def test_a_resumable_build_finds_what_it_left(tmp_path):
    def make(folder):
        (folder / ".parts").mkdir(exist_ok=True)
        seen.append(sorted(p.name for p in (folder / ".parts").iterdir()))
        (folder / ".parts" / str(len(seen))).write_text("1")
        (folder / "whole").write_text("1")
        if len(seen) < 3:
            raise KeyboardInterrupt
        return {}

    seen: list[list[str]] = []
    for inputs in ({"a": 1}, {"a": 1}):
        with pytest.raises(KeyboardInterrupt):
            artifacts.build(tmp_path / "x", inputs, make, resume=True)
    assert seen == [[], ["1"]]
    artifacts.build(tmp_path / "x", {"a": 2}, make, resume=True)  # of other inputs: begun anew
    assert seen[2] == []
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == [artifacts.RECORD, "whole"]  # no scratch is left


def test_two_processes_make_one_artifact(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from ehr_scaling import artifacts\n"
        "def make(folder):\n"
        "    with Path(sys.argv[1], 'made').open('a') as f: f.write('x')\n"
        "    time.sleep(0.5); (folder / 'y').write_text('1'); return {}\n"
        "artifacts.build(Path(sys.argv[1], 'a'), {}, make, resume=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert (tmp_path / "made").read_text() == "x"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "made"]


def test_a_crash_leaves_no_lock(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from ehr_scaling import artifacts\n"
        "artifacts.build(Path(sys.argv[1], 'a'), {}, lambda f: os.kill(os.getpid(), signal.SIGKILL), resume=True)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -signal.SIGKILL
    assert artifacts.build(tmp_path / "a", {}, lambda folder: {"n": 1}, resume=True)["summary"] == {"n": 1}


def test_patients_data_is_for_its_owner(tmp_path):
    artifacts.work_directory(tmp_path / "deep" / "work")
    artifacts.build(tmp_path / "deep" / "work" / "a", {}, lambda folder: {})
    for folder in (tmp_path / "deep" / "work", tmp_path / "deep" / "work" / "a"):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.json"
    with artifacts.writing(path) as first, artifacts.writing(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert not path.exists()
    assert path.read_text() == "first"  # the outer block ends last
    with pytest.raises(KeyError), artifacts.writing(path) as partial:
        partial.write_text("half")
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "first"


def test_a_long_list_is_told_by_its_number():
    few, many = [{"budget": 1e9, "size": "2k"}], [{"budget": 1e9, "size": "2k", "seed": seed} for seed in range(148)]
    assert artifacts.differences({"points": few, "a": {"b": 1}}, {"points": many, "a": {"b": 2}}) == [
        "a.b was 1, now 2",
        f"points was {few!r}, now 148 entries",
    ]
