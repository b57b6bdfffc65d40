"""Units of work: each once, whatever ran before, in one process, in several, or on Beam."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ehr_scaling import artifacts
from ehr_scaling.data import shards
from ehr_scaling.data.shards import Runner, once, run
from ehr_scaling.errors import UserError

RUNNERS = [Runner(), Runner(2), Runner(beam=("--runner=DirectRunner",))]


def square(path: str, x: int) -> None:
    folder = Path(path)

    def make() -> dict:
        with (folder / f"{x}.log").open("a") as f:
            f.write("made\n")
        if x < 0:
            raise UserError(f"row {x} is bad: mend it")
        return {"y": x * x, "pid": os.getpid()}

    once(folder / f"{x}.json", make)


def call(folder: Path, numbers: list[int], runner: Runner) -> list[dict]:
    return run(square, [(folder, x) for x in numbers], [folder / f"{x}.json" for x in numbers], runner, "square")


@pytest.mark.parametrize("runner", RUNNERS, ids=["here", "pool", "beam"])
def test_every_unit_once_and_in_order(tmp_path, runner):
    first = call(tmp_path, [3, 1, 2], runner)
    assert [r["y"] for r in first] == [9, 1, 4]
    again = call(tmp_path, [3, 1, 2, 5], runner)
    assert again[:3] == first
    assert again[3]["y"] == 25
    assert all((tmp_path / f"{x}.log").read_text() == "made\n" for x in (1, 2, 3, 5))


@pytest.mark.parametrize("runner", RUNNERS, ids=["here", "pool", "beam"])
def test_a_users_mistake_is_one_line_and_costs_no_finished_work(tmp_path, runner):
    with pytest.raises(UserError, match=r"^row -1 is bad: mend it$"):
        call(tmp_path, [2, -1], runner)
    if runner.workers == 1:
        assert json.loads((tmp_path / "2.json").read_text())["y"] == 4
    assert not (tmp_path / "-1.json").exists()


def echo(record: str, *arguments) -> None:
    once(Path(record), lambda: {"got": arguments, "kinds": [type(a).__name__ for a in arguments]})


@pytest.mark.parametrize("runner", RUNNERS, ids=["here", "pool", "beam"])
def test_arguments_are_plain_data_whoever_runs_them(tmp_path, runner):
    """As the file of units keeps them, which goes when they are done."""
    given = (("a", 1), {"é": 0.1}, None, Path("x") / "y")
    records = [tmp_path / "r" / f"{k}.json" for k in range(3)]
    found = run(echo, [(record, k, *given) for k, record in enumerate(records)], records, runner, "echo")
    assert [r["got"] for r in found] == [[k, ["a", 1], {"é": 0.1}, None, "x/y"] for k in range(3)]
    assert found[0]["kinds"] == ["int", "list", "dict", "NoneType", "str"]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["0.json", "1.json", "2.json"]


class NotPlain:
    pass


def test_what_is_no_plain_data_is_no_argument(tmp_path):
    with pytest.raises(TypeError, match="NotPlain"):
        run(echo, [(tmp_path / "0.json", NotPlain())], [tmp_path / "0.json"], Runner(), "echo")
    assert not list(tmp_path.iterdir())


def described(monkeypatch, folder: Path, units: int) -> bytes:
    """The pipeline as it goes to a runner."""
    beam = pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install -e '.[dev]'")
    said = []

    def taken(self, *args):
        said.append(self.to_runner_api().SerializeToString())
        raise OSError("taken")

    monkeypatch.setattr(beam.Pipeline, "run", taken)
    records = [folder / f"{k}.json" for k in range(units)]
    with pytest.raises(UserError, match="taken"):
        run(echo, [(record, "an argument" * 9) for record in records], records, RUNNERS[2], "echo")
    return said[0]


def test_a_pipeline_carries_a_number_a_unit_and_no_list(tmp_path, monkeypatch):
    few, many = (described(monkeypatch, tmp_path, units) for units in (10, 2_000))
    assert len(many) - len(few) < 12 * 1_990
    assert b"an argument" not in many and b"1999.json" not in many


def test_an_attempt_that_comes_after_the_end_makes_nothing(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install -e '.[dev]'")
    attempts, attempt = [], shards._attempt
    monkeypatch.setattr(shards, "_beam", lambda function, units, places, *_: attempts.append((function, units, places)))
    records = [tmp_path / "r" / "0.json", tmp_path / "r" / "1.json"]
    with pytest.raises(UserError, match="missing"):
        run(echo, [(record,) for record in records], records, RUNNERS[2], "echo")
    ((function, units, places),) = attempts
    attempt(function, str(units), places[1])
    assert not list((tmp_path / "r").iterdir())


def test_workers_that_do_not_share_the_folder_are_told(tmp_path, monkeypatch):
    """They find no list, so that they do nothing."""
    beam = pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install -e '.[dev]'")

    class Ended:
        def wait_until_finish(self):
            pass

    monkeypatch.setattr(beam.Pipeline, "run", lambda self, *_: Ended())
    with pytest.raises(UserError, match=r"^--runner: 2 of 2 units left nothing in .*: all workers must share that fol"):
        call(tmp_path, [1, 2], RUNNERS[2])


def test_processes_share_the_work(tmp_path):
    assert os.getpid() not in {r["pid"] for r in call(tmp_path, list(range(8)), Runner(2))}
    (tmp_path / "x").mkdir()
    assert {r["pid"] for r in call(tmp_path / "x", [1], Runner(2))} == {os.getpid()}  # one unit is worth no process


def test_a_script_without_a_guard_is_told_of_it(tmp_path):
    """Its processes import it again, and would start processes in turn."""
    (tmp_path / "script.py").write_text(
        "from pathlib import Path\nfrom ehr_scaling.data.shards import Runner, run\n"
        "from ehr_scaling.errors import UserError\n"
        "try:\n    run(abs, [(1,), (2,)], [Path('1'), Path('2')], Runner(2), 'numbers')\n"
        "except UserError as e:\n    print(e)\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 'if __name__ == "__main__":' in done.stdout and "--config.workers=1" in done.stdout


def test_small_inputs_get_no_processes():
    assert Runner(8).for_bytes(10_000) == Runner(1)
    assert Runner(8).for_bytes(200 << 20) == Runner(4)
    assert Runner(2).for_bytes(1 << 40) == Runner(2)


def test_a_killed_run_goes_on(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from ehr_scaling.data.shards import Runner, once, run\n"
        "folder = Path(sys.argv[1])\n"
        "def slow(x):\n"
        "    once(folder / f'{x}.json', lambda: time.sleep(0 if x < 3 else 60) or {'y': x})\n"
        "run(slow, [(x,) for x in range(6)], [folder / f'{x}.json' for x in range(6)], Runner(), 'slow')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL)
    while not (tmp_path / "2.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.json")}
    assert sorted(p.stem for p in done) == ["0", "1", "2"]
    for x in range(6):
        once(tmp_path / f"{x}.json", lambda x=x: {"y": x})
    assert all(p.stat().st_mtime_ns == at for p, at in done.items())


def test_a_mistake_of_an_earlier_command_is_not_told_again(tmp_path):
    pytest.importorskip("apache_beam")
    record = tmp_path / "0.json"
    (tmp_path / "1.json.error").write_text("of units that are mended")
    assert shards.run(_made, [(str(record),)], [record], shards.Runner(1, ("--runner=DirectRunner",)), "x")
    assert not (tmp_path / "1.json.error").exists()


def _made(record):
    artifacts.write_json(Path(record), {"done": True})
