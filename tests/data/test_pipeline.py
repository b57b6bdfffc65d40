"""From records to packed data: the same bytes whoever did the work, and however often it was killed."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from ehr_scaling import artifacts
from ehr_scaling.configs import base
from ehr_scaling.data import pipeline, shards
from ehr_scaling.data.sources.synthetic import patients
from ehr_scaling.data.timelines import timeline_units
from ehr_scaling.errors import UserError
from tests import forked

FLAGS = (
    "--source=synthetic",
    "--config.data.seed=0",
    "--config.data.patients=4010",  # two blocks of 2,000, and a part of one
    "--config.data.context=64",
    "--config.data.phases=2",
)


def config(**changes):
    c = base.get_config()
    c.data.patients, c.data.context, c.data.phases = 4_010, 64, 2
    c.update_from_flattened_dict(changes)
    return c


def digest(workdir: Path) -> dict[str, str]:
    """SHA-256 of every file that a study reads, by its path: not of the settings and the log, which lie in no folder.
    dataset_info.json holds the version of TFDS alone."""
    found = {}
    for path in sorted(workdir.rglob("*")):
        if path.is_file() and path.parent == workdir:
            continue
        assert not path.name.startswith("."), f"{path} is left over"
        if path.is_file():
            found[str(path.relative_to(workdir))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("here") / "work"
    pipeline.prepare(config().data, workdir, workers=1)
    return workdir


def test_processes_make_the_same_bytes(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_WORTH_A_PROCESS", 1)
    pipeline.prepare(config().data, tmp_path / "pool", workers=2)
    assert digest(tmp_path / "pool") == digest(undisturbed)


def test_beam_makes_the_same_bytes(tmp_path, monkeypatch):
    """By the engine that Beam has of its own; Dask below."""
    monkeypatch.setattr(patients, "BLOCK", 50)  # so that few patients are a unit and a part of one
    few = {"data.patients": 80, "data.phases": 1}
    ran, real = [], shards._beam
    monkeypatch.setattr(shards, "_beam", lambda function, *args: (ran.append(len(args[1])), real(function, *args)))
    pipeline.prepare(config(**few).data, tmp_path / "here", workers=1)
    assert not ran
    pipeline.prepare(config(**few, **{"data.beam": ("--runner=DirectRunner",)}).data, tmp_path / "beam")
    assert ran[0] == 2 and len(ran) >= 4  # patients, counts, tokens, rows
    assert digest(tmp_path / "beam") == digest(tmp_path / "here")


def test_shards_that_are_added_up_in_groups_make_the_same_bytes(tmp_path, monkeypatch):
    settings = config(**{"data.tokens.min_patients": 20}).data  # so that patients of bins are counted too
    pipeline.prepare(settings, tmp_path / "whole", workers=1, until="timelines")
    added = []
    add = timeline_units._add_up
    monkeypatch.setattr(timeline_units, "_AT_ONCE", 2)
    monkeypatch.setattr(
        timeline_units, "_add_up", lambda kind, *args: (added.append((kind, len(args[0]))), add(kind, *args))
    )
    pipeline.prepare(settings, tmp_path / "work", workers=1, until="timelines")
    assert digest(tmp_path / "work") == digest(tmp_path / "whole")
    assert added[:4] == [("count", 2), ("count", 1), ("bins-0", 2), ("bins-0", 1)]  # of three shards


def test_dask_makes_the_same_bytes_also_with_a_worker_killed(undisturbed, tmp_path):
    """Each of its workers is a process, of which one is killed as soon as there is something that was done, and while
    there is more to do."""
    distributed = pytest.importorskip("distributed", reason="needs Dask: pip install -e '.[dev]'")
    workdir, killed = tmp_path / "work", []
    # Each worker is replaced where it dies; no page to look at. Dask sets variables that Python and malloc read as they
    # start, and leaves them: nothing would be forked any more (tests/forked.py)
    cluster_of = partial(distributed.LocalCluster, n_workers=2, threads_per_worker=1, dashboard_address=None)
    with mock.patch.dict(os.environ), cluster_of() as cluster:

        def kill():
            until = time.monotonic() + 120
            while not list(workdir.rglob("block-*.json")) and time.monotonic() < until:
                time.sleep(0.01)
            os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
            # A unit was done, and the first stage, with the others of it, was not
            killed.append(bool(list(workdir.rglob("block-*.json"))) and not (workdir / "events").exists())

        killer = threading.Thread(target=kill)
        killer.start()
        beam = ("--runner=DaskRunner", f"--dask_client_address={cluster.scheduler_address}")
        pipeline.prepare(config(**{"data.beam": beam}).data, workdir)
        killer.join()
    assert killed == [True] and digest(workdir) == digest(undisturbed)
    assert forked.may_fork()


def test_a_runner_that_is_none_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^--runner: Unexpected pipeline runner: NoRunner"):
        pipeline.prepare(config(**{"data.beam": ("--runner=NoRunner",)}).data, tmp_path / "w")


def test_flags_of_a_pipeline_that_cannot_be_are_told(tmp_path):
    told = {
        ("--beam=--x=1",): "--beam has flags of a Beam pipeline, and without a runner there is none: give --runner",
        ("--runner=DirectRunner", "--beam='a"): "--beam='a: no closing quotation: quote it as a shell would",
    }
    command = [sys.executable, "-m", "launch.prepare", f"--workdir={tmp_path / 'w'}"]
    running = [forked.Popen([*command, *flags], stderr=subprocess.PIPE, text=True) for flags in told]
    for process, line in zip(running, told.values(), strict=True):
        assert process.communicate(timeout=60)[1] == f"error: {line}\n"


def refuse(*_):
    raise ZeroDivisionError("of a unit")


def test_a_runner_that_does_not_answer_is_one_line_and_our_mistakes_are_not(tmp_path, monkeypatch):
    beam = pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install -e '.[dev]'")
    runner, record = shards.Runner(beam=("--runner=DirectRunner",)), tmp_path / "a" / "0.json"

    def no_answer(self, *args):
        raise OSError("Timed out trying to connect to tcp://nowhere:1\nsecond line")

    with monkeypatch.context() as patch:
        patch.setattr(beam.Pipeline, "run", no_answer)
        with pytest.raises(UserError, match=r"^--runner: Timed out trying to connect to tcp://nowhere:1: see --beam"):
            shards.run(refuse, [()], [record], runner, "")
    with pytest.raises(Exception, match="of a unit") as told:
        shards.run(refuse, [()], [record], runner, "")
    assert not isinstance(told.value, UserError) and not list(record.parent.iterdir())


@pytest.mark.nightly
def test_killed_again_and_again_it_ends_as_if_undisturbed(undisturbed, tmp_path):
    workdir, kills = tmp_path / "work", 0
    command = [sys.executable, "-m", "launch.prepare", *FLAGS, f"--workdir={workdir}"]

    def files() -> int:
        return sum(len(names) for _, _, names in os.walk(workdir))

    while True:
        before = files()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and files() < before + 2 + 2 * kills:  # soon, and later each time
            time.sleep(0.002)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    assert process.returncode == 0
    assert kills >= 4
    assert digest(workdir) == digest(undisturbed)


def test_two_commands_on_one_folder(undisturbed, tmp_path):
    command = [sys.executable, "-m", "launch.prepare", *FLAGS, f"--workdir={tmp_path / 'work'}"]
    processes = [forked.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
    time.sleep(0.3)
    processes.append(forked.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    assert [process.wait() for process in processes] == [0, 0]
    assert digest(tmp_path / "work") == digest(undisturbed)


def test_only_the_owner_may_look(undisturbed):
    for folder in (undisturbed, undisturbed / "events", undisturbed / "timelines"):
        assert folder.stat().st_mode & 0o077 == 0


def test_stages_stop_where_they_are_told(tmp_path):
    pipeline.prepare(config(**{"data.patients": 100}).data, tmp_path / "w", until="events")
    assert [p.name for p in (tmp_path / "w").iterdir()] == ["events"]
    with pytest.raises(UserError, match="no stage 'tokens'"):
        pipeline.prepare(config().data, tmp_path / "w", until="tokens")


def test_all_patients_may_train(tmp_path):
    changes = {"data.patients": 100, "data.splits": (1.0, 0.0, 0.0)}
    record = pipeline.prepare(config(**changes).data, tmp_path / "w")
    assert record["summary"]["splits"]["train"]["patients"] == 100
    assert record["summary"]["splits"]["test"]["phases"] == []


def test_packed_data_say_what_a_loss_is_measured_on(undisturbed, tmp_path):
    timelines = artifacts.read_json(undisturbed / "timelines" / artifacts.RECORD)
    split = timelines["summary"]["validation"]
    workdir = shutil.copytree(undisturbed, tmp_path / "w")
    pipeline.prepare(config().data, workdir, fractions=(0.125,))
    for fraction in (1.0, 0.125):
        summary = pipeline.packed_record(config().data, workdir, fraction)["summary"]
        assert summary["measured_on"] == {
            "timelines_fingerprint": timelines["fingerprint"],
            "events_fingerprint": timelines["inputs"]["events"],
            **{name: split[name] for name in ("patients", "tokens", "events", "patient_days")},
        }
        assert summary["splits"]["validation"]["real_tokens"] == summary["measured_on"]["tokens"]


def test_fractions_lie_beside_the_whole(undisturbed, tmp_path):
    data = config().data
    workdir = shutil.copytree(undisturbed, tmp_path / "w")
    whole = pipeline.packed_record(data, workdir)
    assert pipeline.prepare(data, workdir, fractions=(0.5, 1, 0.125, 0.5)) == whole
    assert sorted(path.name for path in (workdir / "packed").iterdir()) == ["t64", "t64-f0.125", "t64-f0.5"]
    records = [pipeline.packed_record(data, workdir, fraction) for fraction in (0.125, 0.5, 1)]
    assert len({record["fingerprint"] for record in records}) == 3
    patients = [record["summary"]["splits"]["train"]["patients"] for record in records]
    assert patients[0] / patients[2] == pytest.approx(0.125, abs=0.02)
    assert patients[1] / patients[2] == pytest.approx(0.5, abs=0.03)
    assert len({record["summary"]["splits"]["validation"]["real_tokens"] for record in records}) == 1
    assert digest(workdir).items() >= digest(undisturbed).items()


def test_what_is_not_packed_is_told_beside_what_is(undisturbed):
    with pytest.raises(UserError, match=r"t64-f0\.25 is not there \(.* holds t64\).*0\.25 among --config\.grid"):
        pipeline.packed_record(config().data, undisturbed, 0.25)
    with pytest.raises(UserError, match=r"t128 is not there \(.* holds t64\): prepare.*--config\.data\.context=128$"):
        pipeline.packed_record(config(**{"data.context": 128}).data, undisturbed)


def test_a_bad_fraction_is_told_before_any_work(tmp_path):
    with pytest.raises(UserError, match=r"--config\.grid\.fractions=2"):
        pipeline.prepare(config().data, tmp_path / "w", fractions=(0.5, 2))
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data.layout": "omop"}, "layout"),
        ({"data.source": "meds", "data.layout": "mimic-iv"}, "layout"),
        ({"data.source": "mimic-iv"}, r"--raw=DIR.*--download"),
        ({"data.preset": "ethos"}, "preset"),
        ({"data.code_maps": "/nowhere"}, "/nowhere"),
    ],
)
def test_mistakes_are_told_before_any_work(tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        pipeline.prepare(config(**changes).data, tmp_path / "w")
    assert not (tmp_path / "w" / "events").exists()


def test_each_stage_tells_when_it_is_made_whenever_that_is(tmp_path, capsys, monkeypatch):
    """What a stage loses is told also where the one before was made by another command; and nothing where all is there,
    for which no folder is walked through either."""
    made = config(**{"data.preset": "ethos_ares", "data.patients": 400, "data.tokens.min_count": 20}).data

    def told(**more):
        pipeline.prepare(made, tmp_path / "w", **more)
        return [line.strip().partition(":")[0] for line in capsys.readouterr().out.splitlines()]

    assert told(until="events")[0] == "events"
    of_timelines = told(until="timelines")
    assert of_timelines[0] == "timelines" and "without a token" in of_timelines
    assert told() == ["packed"]
    assert told(fractions=(0.5,)) == ["packed"]

    def walked(folder):
        raise AssertionError(folder)

    monkeypatch.setattr(pipeline, "_size", walked)
    assert told(fractions=(0.5,)) == []


def test_what_makes_no_token_is_printed(tmp_path, capsys):
    """Of all splits together, beside what the source left out."""
    of_ares = config(**{"data.preset": "ethos_ares", "data.patients": 400, "data.tokens.min_count": 20})
    made = pipeline.prepare(of_ares.data, tmp_path / "w", until="timelines")["summary"]
    silent = {}
    for split in ("train", "validation", "test"):
        for what, many in made[split]["silent_events"].items():
            silent[what] = silent.get(what, 0) + many
    told = [line.strip() for line in capsys.readouterr().out.splitlines() if "without a token" in line]
    assert told and told == [f"without a token: {many:,}, {what}" for what, many in sorted(silent.items())]
