"""A work directory in a bucket: what one machine hands over another finds, whole; one at a time works on a thing."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec.asyn
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_scaling import artifacts, storage, study
from ehr_scaling.data.inspection import inspection
from ehr_scaling.errors import RunFailed, UserError
from ehr_scaling.grid import status
from ehr_scaling.grid.executors import claims, local, slurm
from ehr_scaling.layout import FAILED, RESULTS, Layout
from ehr_scaling.outcomes.pages import fan
from ehr_scaling.storage import bucket as storage_bucket
from ehr_scaling.storage import leases, mirror
from ehr_scaling.storage.bucket import Bucket
from ehr_scaling.training import checkpoint, loop, tracking
from tests import blank, buckets, forked, nightly, small


@pytest.fixture(params=["file", "s3", "gs"])
def bucket(request, tmp_path):
    return buckets.url(request.param, tmp_path)


@pytest.fixture(autouse=True)
def nothing_is_held():
    """What one test held, as one that died would, is not renewed in the next."""
    yield
    for lease in leases._holding:
        lease._stop.set()
    leases._holding.clear()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """The folder in which a machine of that number works for a bucket."""

    def mirror(url, number):
        monkeypatch.setenv("EHR_SCALING_MIRRORS", str(tmp_path / f"machine{number}"))
        return storage.local(url)

    return mirror


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_what_one_stores_another_fetches(bucket, machine):
    one, two = machine(bucket, 1), machine(bucket, 2)
    assert one != two and storage.in_bucket(one / "runs" / "a") and not storage.in_bucket(one.parent)
    write(one / "runs" / "a" / "10" / "metrics" / "metrics", "1")
    write(one / "runs" / "a" / "10" / "state" / "big", "2" * 1000)
    write(one / "runs" / "a" / "20" / "metrics" / "metrics", "never finished")
    write(one / "runs" / "a" / "10" / "files.json", "{}")
    write(one / "runs" / ".claims" / "a.lock", "here alone")
    storage.store(one / "runs")
    storage.fetch(two / "runs", "*metrics/metrics")
    assert files(two / "runs") == {"a/10/metrics/metrics": "1"}
    storage.fetch(two / "runs")  # but for a checkpoint without its record
    assert files(two / "runs") == {"a/10/metrics/metrics": "1", "a/10/state/big": "2" * 1000, "a/10/files.json": "{}"}
    assert storage.names(one.parent / "machine3" / one.name / "runs") == set()
    assert storage.names(two / "runs" / "a") == {"10", "20"}
    write(two / "runs" / "a" / "10" / "metrics" / "metrics", "3")  # as long as it was
    storage.store(two / "runs" / "a" / "10" / "metrics" / "metrics")
    storage.fetch(one / "runs")
    assert files(one / "runs" / "a")["10/metrics/metrics"] == "3"
    for step in ("10", "20"):
        storage.forget(one / "runs" / "a" / step)
    assert (one / "runs" / "a" / "10").exists() and storage.names(machine(bucket, 3) / "runs") == set()


def test_an_artifact_that_is_not_whole_in_the_bucket_is_made(tmp_path, machine):
    """Another machine died while it handed it over: its files are there, its record is not."""
    url = buckets.url("file", tmp_path)
    one, two = machine(url, 1), machine(url, 2)
    made = []

    def make(folder):
        made.append(folder)
        write(folder / "x", "1")
        return {}

    record = artifacts.build(one / "events", {"a": 1}, make)
    storage.forget(one / "events" / artifacts.RECORD)
    assert artifacts.build(two / "events", {"a": 1}, make) == record and len(made) == 2
    three = machine(url, 3)
    assert artifacts.build(three / "events", {"a": 1}, make) == record and len(made) == 2
    assert set(files(three / "events")) == {"x", artifacts.RECORD}
    with pytest.raises(UserError, match="was made from other inputs"):
        artifacts.build(three / "events", {"a": 2}, make)


def test_what_a_dead_machine_left_of_an_artifact_is_none_of_the_one_that_is_made(tmp_path, machine):
    """It was handing over what it made of other inputs; a third had brought that already."""
    url = buckets.url("file", tmp_path)
    one, two, three = (machine(url, k) for k in (1, 2, 3))

    def make(name):
        return lambda folder: write(folder / name, name) or {}

    artifacts.build(one / "events", {"a": 1}, make("data/x"))
    storage.forget(one / "events" / artifacts.RECORD)
    storage.fetch(three / "events")
    assert set(files(three / "events")) == {"data/x"}
    artifacts.build(two / "events", {"a": 2}, make("data/y"))
    for root in (three, machine(url, 4)):
        artifacts.verify(root / "events", alone=True)
        assert set(files(root / "events")) == {"data/y", artifacts.RECORD}
    write(three / "events" / "mine", "")
    with pytest.raises(UserError, match="mine is none of the files of"):
        artifacts.verify(three / "events", alone=True)


def test_an_artifact_whose_hand_over_was_broken_off_goes_the_next_time_alone(tmp_path, machine, monkeypatch):
    """It was made beside what a dead machine had left, and its own machine died on the way too."""
    url = buckets.url("file", tmp_path)
    one, two, three = (machine(url, k) for k in (1, 2, 3))

    def make(name):
        return lambda folder: write(folder / name, name) or {}

    def end(path, **how):
        raise KeyboardInterrupt

    artifacts.build(one / "events", {"a": 1}, make("data/x"))
    storage.forget(one / "events" / artifacts.RECORD)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(storage, "store", end)
        artifacts.build(two / "events", {"a": 2}, make("data/y"))
    artifacts.build(two / "events", {"a": 2}, make("data/z"))
    artifacts.verify(three / "events", alone=True)
    assert set(files(three / "events")) == {"data/y", artifacts.RECORD}


def test_what_one_machine_could_not_hand_over_gives_way_to_what_another_has(tmp_path, machine, monkeypatch):
    """It made it of other inputs since, of more files: nothing of it is written over, and none of the two is mixed."""
    url = buckets.url("file", tmp_path)
    one, two = machine(url, 1), machine(url, 2)

    def make(*names):
        return lambda folder: [write(folder / name, name) for name in names] and {}

    with monkeypatch.context() as unseen:
        unseen.setattr(storage, "store", lambda path, **how: None)
        artifacts.build(one / "events", {"a": 1}, make("x", "y"))
    record = artifacts.build(two / "events", {"a": 2}, make("x", "z"))
    there = Bucket(url).list("events")
    for _ in range(2):
        with pytest.raises(UserError, match="was made from other inputs"):
            artifacts.build(one / "events", {"a": 1}, make("x", "y"))
        assert files(one / "events") == files(two / "events")
    assert artifacts.build(one / "events", {"a": 2}, make("x", "y")) == record
    assert Bucket(url).list("events") == there


def test_what_another_hands_over_while_one_waits_for_its_turn_stays(tmp_path, machine, monkeypatch):
    url = buckets.url("file", tmp_path)
    one, two = machine(url, 1), machine(url, 2)
    make = lambda folder: write(folder / "x", "1") or {}  # noqa: E731
    with monkeypatch.context() as unseen:
        unseen.setattr(storage, "store", lambda path, **how: None)
        artifacts.build(one / "events", {"a": 1}, make)
    there, turn = [], storage.turn

    @contextlib.contextmanager
    def late(path):
        monkeypatch.setattr(storage, "turn", turn)
        artifacts.build(two / "events", {"a": 1}, make)
        there.append(Bucket(url).list("events"))
        yield

    monkeypatch.setattr(storage, "turn", late)
    artifacts.build(one / "events", {"a": 1}, make)
    assert there == [Bucket(url).list("events")]


def test_whose_records_they_are_is_known_on_a_machine_that_has_nothing_yet(tmp_path, machine):
    """As `launch.evaluate --show` asks, before anything else is brought."""
    url = buckets.url("file", tmp_path)
    one, two = machine(url, 1), machine(url, 2)

    def make(folder):
        (folder / "metadata").mkdir(parents=True)
        codes = {"code": ["LAB//1"], "description": ["Sodium"]}
        pq.write_table(pa.table(codes), folder / "metadata" / "codes.parquet")
        return {"name": "generated patients", "generated": True}

    artifacts.build(Layout(one).events, {"a": 1}, make)
    fan.check_open(inspection.events_record(two))
    assert inspection.labels(Layout(two).events) == {"LAB//1": "Sodium"}


def test_what_is_there_is_not_sent_again(bucket, machine, monkeypatch):
    one = machine(bucket, 1)
    write(one / "events" / "x", "1")
    storage.store(one / "events")
    sent = []
    monkeypatch.setattr(Bucket, "put", lambda self, key, file: sent.append(key))
    monkeypatch.setattr(Bucket, "get", lambda self, key, to, size: sent.append(key))
    storage.store(one / "events")
    storage.fetch(one / "events")
    assert sent == []


def test_records_come_last_and_go_first(tmp_path, machine, monkeypatch):
    url = buckets.url("file", tmp_path)
    one, two, seen = machine(url, 1), machine(url, 2), []
    for name in ("a/artifact.json", "a/z", "b/files.json", "b/state/z", "b/metrics/z"):
        write(one / name, "1")

    def noted(name):
        do = getattr(Bucket, name)

        def wrapped(self, key, *rest):
            time.sleep(0.05 if key.endswith("z") else 0)
            result = do(self, key, *rest)
            seen.append(key)
            return result

        monkeypatch.setattr(Bucket, name, wrapped)

    for name in ("put", "get", "remove"):
        noted(name)
    for do, order in ((storage.store, 1), (storage.fetch, 1), (storage.forget, -1)):
        seen.clear()
        for folder in ("a", "b"):
            do((two if do is storage.fetch else one) / folder)
        a, b = seen[:2], seen[2:]
        assert a[::order] == ["a/z", "a/artifact.json"] and b[::order][-1] == "b/files.json"


def test_what_was_written_here_is_not_lost_to_what_was_there_before(tmp_path, machine):
    """A log that goes on here is longer than what was handed over; whoever works on it alone takes the bucket's."""
    url = buckets.url("file", tmp_path)
    one = machine(url, 1)
    log = one / "runs" / "a" / "metrics.jsonl"
    write(log, "1\n")
    storage.store(log)
    write(log, "1\n2\n")
    storage.fetch(one / "runs", "*metrics.jsonl")
    assert log.read_text() == "1\n2\n"
    storage.fetch(one / "runs", overwrite=True)
    assert log.read_text() == "1\n"


def test_what_has_gone_from_the_bucket_goes_here_too(tmp_path, machine):
    url = buckets.url("file", tmp_path)
    kept = [machine(url, k) / "runs" / "a" / "failed.json" for k in (1, 2)]
    write(kept[0], "{}")
    storage.fetch(kept[0])
    assert kept[0].exists()  # it was never there
    storage.store(kept[0])
    storage.fetch(kept[1])
    storage.forget(kept[1])
    storage.fetch(kept[0])
    assert not kept[0].exists()


def test_what_others_take_away_goes_here_by_its_pattern(tmp_path, machine):
    """As where a run that failed is tried again on another machine."""
    url = buckets.url("file", tmp_path)
    one, two = (machine(url, k) / "runs" for k in (1, 2))
    for cell in ("a", "b", "c"):
        write(one / cell / "failed.json", "{}")
    write(one / "a" / "metrics.jsonl", "{}")
    storage.store(one)
    storage.fetch(two, "*/failed.json")
    for cell in ("a", "b"):
        storage.forget(two / cell / "failed.json")
    storage.forget(two / "a" / "metrics.jsonl")
    write(one / "b" / "failed.json", "it has failed again")
    storage.fetch(one, "*/failed.json", gone=True)
    assert set(files(one)) == {"a/metrics.jsonl", "b/failed.json", "c/failed.json"}


def test_a_finished_run_that_could_not_be_handed_over_is_the_next_time(tmp_path, machine):
    url = buckets.url("file", tmp_path)
    one, two = machine(url, 1), machine(url, 2)
    folder = Layout(one).run("a") / "10"
    (folder / "metrics").mkdir(parents=True)
    artifacts.write_sealed(folder / "metrics" / "metrics", {"finished": True})
    write(folder / "files.json", "{}")
    assert loop.finished([blank.cell("a")], two) is None
    assert loop.finished([blank.cell("a")], one) == loop.finished([blank.cell("a")], two) == [{"finished": True}]


def test_a_machine_that_lost_its_run_sends_nothing_of_it_again(tmp_path, machine):
    """It was killed, another one finished the run, and the same command is started on it anew."""
    url = buckets.url("file", tmp_path)
    one, two = (Layout(machine(url, k)).run("a") for k in (1, 2))
    checkpoint.Saver(one).close()  # what it imports and makes
    for file in ("10/metrics/metrics", "10/files.json", "metrics.jsonl", "failed.json"):
        write(one / file, "1\n")
    storage.store(one)
    storage.fetch(two)
    write(one / "metrics.jsonl", "1\n2\n")  # beyond its last checkpoint
    write(one / "20.orbax-checkpoint-tmp" / "metrics", "")
    write(two / "metrics.jsonl", "1\n2\n3\n4\n")
    (two / "40" / "metrics").mkdir(parents=True)
    artifacts.write_sealed(two / "40" / "metrics" / "metrics", {"finished": True})
    write(two / "40" / "files.json", "{}")
    storage.store(two)
    for gone in ("10", "failed.json"):
        storage.forget(two / gone)
    there = Bucket(url).list("")
    assert len(there) == 3
    assert loop.finished([blank.cell("a")], one.parent.parent) == [{"finished": True}]
    checkpoint.Saver(one).close()  # who reads it hands nothing over
    assert Bucket(url).list("") == there


def test_what_is_written_after_the_last_save_goes_too(tmp_path, machine):
    url = buckets.url("file", tmp_path)
    folder = Layout(machine(url, 1)).run("a")
    saver = checkpoint.Saver(folder)
    saver.save(10, {"w": np.zeros(3)}, {"finished": False})
    write(folder / "metrics.jsonl", "1\n2\n")  # a log that is flushed when it is closed
    assert "runs/a/metrics.jsonl" not in Bucket(url).list("")
    saver.close()
    assert "runs/a/metrics.jsonl" in Bucket(url).list("")


def test_a_checkpoint_that_was_never_handed_over_leaves_no_hole_in_the_log(tmp_path, machine, monkeypatch):
    """Killed after Orbax had written it; the bucket's log, which is taken up, ends before it."""
    url = buckets.url("file", tmp_path)
    folder = Layout(machine(url, 1)).run("a")

    def log(*steps):
        with tracking.open_run(folder, {}, {"tensorboard": False, "wandb": ""}, steps[0] - 10) as tracker:
            for step in steps:
                tracker.log({"step": step})

    saver = checkpoint.Saver(folder)
    log(10)
    saver.save(10, {"w": np.zeros(3)}, {"finished": False})

    def end(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(storage, "store", end)
        log(20)
        saver.save(20, {"w": np.ones(3)}, {"finished": False})
    saver._manager.close()
    assert checkpoint.Saver(folder).steps() == [10, 20]
    storage.fetch(folder, overwrite=True)
    saver = checkpoint.Saver(folder)
    assert saver.steps() == [10]
    log(20, 30)
    assert [row["step"] for row in tracking.read(folder)] == [10, 20, 30]
    saver.save(20, {"w": np.ones(3)}, {"finished": False})
    saver.close()
    assert {"runs/a/10/files.json", "runs/a/20/files.json"} <= set(Bucket(url).list("runs"))


def test_a_result_over_a_recovery_checkpoint_of_its_step_is_whole_or_not_there(tmp_path, machine, monkeypatch):
    """The state was saved before a long evaluation; the machine dies while it hands the result over."""
    url = buckets.url("file", tmp_path)
    one, two = machine(url, 1), machine(url, 2)
    folder = Layout(one).run("a")
    saver = checkpoint.Saver(folder)
    saver.save(10, {"w": np.zeros(3)}, {"finished": False})
    record, put = f"runs/a/10/{checkpoint.FILES}", Bucket.put
    assert record in Bucket(url).list("runs")

    def die(bucket, key, file):
        if key == record:
            raise KeyboardInterrupt
        return put(bucket, key, file)

    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(Bucket, "put", die)
        saver.save(10, {"w": np.ones(3)}, {"finished": True})
    saver._manager.close()
    assert loop.finished([blank.cell("a")], two) is None
    # Started again it sends what it has, which is whole
    for workdir in (one, two):
        assert loop.finished([blank.cell("a")], workdir) == [{"finished": True}]
    storage.fetch(Layout(two).run("a"))
    restored = checkpoint.restore_last(Layout(two).run("a"), {"w": np.zeros(3)})
    assert restored["w"].tolist() == [1.0, 1.0, 1.0]


def test_what_is_written_in_the_background_goes_when_it_is_there(tmp_path, machine, monkeypatch):
    """As on accelerators: not as late as the next save."""
    url = buckets.url("file", tmp_path)
    folder = Layout(machine(url, 1)).run("a")
    monkeypatch.setattr(checkpoint.jax, "default_backend", lambda: "gpu")
    saver = checkpoint.Saver(folder)
    writing, may_end = checkpoint._Manager.is_saving_in_progress, threading.Event()
    monkeypatch.setattr(checkpoint._Manager, "is_saving_in_progress", lambda of: not may_end.is_set() or writing(of))
    saver.save(10, {"w": np.zeros(3)}, {"finished": False})
    saver.settle()  # while it is being written
    assert not Bucket(url).list("runs")
    may_end.set()
    until = time.monotonic() + 60
    while not Bucket(url).list("runs") and time.monotonic() < until:
        saver.settle()
    assert f"runs/a/10/{checkpoint.FILES}" in Bucket(url).list("runs")
    saver.close()


def test_the_metrics_of_a_checkpoint_go_when_it_has_gone(tmp_path, machine):
    """A finished run has no recovery checkpoint any more, on whichever machine one looks."""
    url = buckets.url("file", tmp_path)
    one, two = (machine(url, k) / "runs" for k in (1, 2))
    for name in ("a", "b"):
        for file in ("metrics/metrics", "state/big", "files.json"):
            write(one / name / "10" / file, "1")
    storage.store(one)
    storage.fetch(two, RESULTS)
    storage.fetch(two / "b")
    write(two / "a" / "30" / "metrics" / "metrics", "written here, and not handed over yet")
    assert not checkpoint.over(two / "a", ())
    for name in ("a", "b"):
        for file in ("metrics/metrics", "state/big", "files.json"):
            write(one / name / "20" / file, "1")
        storage.store(one / name)
        storage.forget(one / name / "10")
    for folder in (two, two / "a"):
        storage.fetch(folder, RESULTS)
        assert {p.name for p in (two / "a").iterdir()} == {"20", "30"}
    assert set(files(two / "b" / "10")) == {"metrics/metrics", "state/big", "files.json"}  # whole, so not by this


def test_a_look_at_many_runs_takes_one_listing(tmp_path, machine, monkeypatch):
    """And what is asked of each is still told: results, failures, and who holds it."""
    url = buckets.url("file", tmp_path)
    one, two, three = (machine(url, k) for k in (1, 2, 3))
    cells = [blank.cell(name) for name in ("a", "a-b", "c", "d", "e")]
    for cell in cells[:3]:
        folder = Layout(one).run(cell.id) / "10"
        (folder / "metrics").mkdir(parents=True)
        artifacts.write_sealed(folder / "metrics" / "metrics", {"finished": True, "of": cell.id})
        write(folder / "files.json", "{}")
    Layout(one).run("d").mkdir()
    artifacts.write_sealed(Layout(one).run("d") / "failed.json", {"reason": "of one"})
    storage.store(Layout(one).runs)
    lease = storage.lease(Layout(one).claim("e").with_suffix(""))
    assert lease.take()
    asked, request = [], Bucket._request

    def counted(self, do, *args, **options):
        asked.append(do)
        return request(self, do, *args, **options)

    def look(root):
        for cell in cells:
            try:
                yield loop.finished([cell], root)
            except RunFailed as e:
                yield str(e)
        yield [claims.holder(root, [cell]) is not None for cell in cells]

    monkeypatch.setattr(Bucket, "_request", counted)
    alone, requests = list(look(two)), len(asked)
    asked.clear()
    with storage.listed(Layout(three).runs):
        assert list(look(three)) == alone
    assert alone == [[{"finished": True, "of": name}] for name in ("a", "a-b", "c")] + [
        "of one", None, [False, False, False, False, True],
    ]  # fmt: skip
    assert len(asked) == 2 + 4 + 1  # listings of runs and of leases, what came of four runs, a lease
    assert requests == 20
    lease.release()


def test_a_status_asks_no_more_of_many_cells(tmp_path, machine, monkeypatch):
    url = buckets.url("file", tmp_path)
    one = machine(url, 1)
    cells = [blank.cell(name, steps=10, phase="trunk") for name in "abcdef"]
    for cell in cells:
        folder = Layout(one).run(cell.id) / "10"
        (folder / "metrics").mkdir(parents=True)
        artifacts.write_sealed(folder / "metrics" / "metrics", {"finished": True, "step": 10})
        write(folder / "files.json", "{}")
        with claims.claim(one, [cell]):
            pass
    storage.store(Layout(one).runs)
    asked, request = [], Bucket._request
    monkeypatch.setattr(Bucket, "_request", lambda *args, **options: asked.append(args) or request(*args, **options))
    monkeypatch.setattr(status.manifest, "read", lambda grid: cells)
    told, all_of_them = status.text(one)
    assert told.splitlines()[-1] == "6 finished of 6 units" and all_of_them and len(asked) == 1
    asked.clear()
    units = [[cell] for cell in cells]
    options = {"workers": 2, "title": "", "costs": [claims.Cost(1.0, 1.0)] * 6}
    results = local.run(None, units, one, done=loop.finished, **options)
    assert results == [loop.finished(unit, one) for unit in units]
    assert len(asked) == 1 + 2 * len(cells)  # the look at the beginning; those of the line above
    asked.clear()
    assert slurm.submit(None, units, one, title="", time="5", parallel=1, done=loop.finished) == []
    assert len(asked) == 1
    asked.clear()
    loop.retry(cells, one)
    assert len(asked) == 1
    failed = Layout(one).run("c") / FAILED
    write(failed, "{}")
    storage.store(failed)
    loop.retry(cells, one)
    assert not failed.exists() and "runs/c/failed.json" not in Bucket(url).list("runs")
    asked.clear()
    local.run(None, units, one, done=lambda unit, workdir: [], **options)  # of another kind, which asks for no runs
    assert not asked


def test_a_cell_may_be_named_by_digits_alone(tmp_path, machine):
    url = buckets.url("file", tmp_path)
    one, two = machine(url, 1), machine(url, 2)
    name = one / "runs" / "1234567890123456"
    for file in ("metrics.jsonl", "7/files.json", "7/metrics/metrics"):
        write(name / file, "1")
    storage.store(one / "runs")
    storage.fetch(two / "runs")
    assert len(files(two / "runs")) == 3


def test_a_lease_is_held_by_one_and_taken_over_from_the_dead(bucket, monkeypatch):
    monkeypatch.setattr(leases, "TTL", 1.0)
    store = Bucket(bucket)
    first, second = (storage.Lease(store, "runs/.claims/c") for _ in range(2))
    assert first.holder() is None and first.take() and not second.take()
    assert second.holder().pid == os.getpid()
    time.sleep(1.2)  # longer than it lasts
    assert not second.take()  # it has been renewed
    first._stop.set()  # as where its process was killed
    monkeypatch.setattr(leases, "TTL", 0.2)
    take_over(second)
    assert len(store.list("runs/.claims/c")) == 1
    second.release()
    assert second.holder() is None and first.take()
    first.release()


@pytest.mark.parametrize("trouble", ["no answer", "slow"])
def test_an_outage_of_the_store_is_no_silence_of_who_holds_a_lease(tmp_path, monkeypatch, trouble):
    """Its holder could not renew it either: it has TTL again from the end of the outage."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(storage_bucket, "TRIES", 1)
    store = Bucket(f"file://{tmp_path}/b")
    ours, theirs = (storage.Lease(store, "runs/.claims/c") for _ in range(2))
    assert ours.take() and not theirs.take()
    ours._stop.set()
    find = store._fs.find

    def fails(*args, **options):
        now[0] += 100.0
        if trouble == "no answer":
            raise ConnectionError("no route to host")
        return find(*args, **options)

    with monkeypatch.context() as outage:
        outage.setattr(store._fs, "find", fails)
        with contextlib.suppress(UserError):
            store.list("")
    for seconds, taken in ((1.0, False), (leases.TTL - 2.0, False), (2.0, True)):
        now[0] += seconds
        assert theirs.take() is taken, seconds
    # One try that failed, and came through the next time, is none
    theirs._stop.set()
    assert not ours.take()
    failed = []

    def once(*args, **options):
        if not failed:
            failed.append(1)
            raise ConnectionError("too many requests")
        return find(*args, **options)

    now[0] += leases.TTL
    with monkeypatch.context() as busy:
        busy.setattr(storage_bucket, "TRIES", 2)
        busy.setattr(storage_bucket.time, "sleep", lambda seconds: None)
        busy.setattr(store._fs, "find", once)
        assert failed or ours.take()
    assert failed


def test_of_many_who_want_a_lease_one_gets_it(bucket, monkeypatch):
    together = threading.Barrier(6)

    def take(lease):
        together.wait()
        return lease.take()

    with buckets.keeping_conditions(monkeypatch) if bucket.startswith("gs:") else contextlib.nullcontext([]) as refused:
        for name in map(str, range(40 if bucket.startswith("file:") else 1)):  # where two once won, now and then
            wanted = [storage.Lease(Bucket(bucket), name) for _ in range(together.parties)]
            with ThreadPoolExecutor(len(wanted)) as pool:
                taken = list(pool.map(take, wanted))
            assert sum(taken) == 1
            wanted[taken.index(True)].release()
    assert bucket.startswith("gs:") == bool(refused)


def test_a_store_in_which_two_may_hold_a_lease_is_warned_of(bucket, machine, monkeypatch, capfd):
    """The emulator of GCS is one. It is asked once by each machine; one who may only read cannot ask."""
    first = machine(bucket, 1)
    said = capfd.readouterr().err
    assert said.startswith(f"warning: {bucket} is in a store that") == bucket.startswith("gs:") == bool(said)
    assert Bucket(bucket).list("") == {}
    with monkeypatch.context() as silent:
        silent.setattr(Bucket, "create", blank.cell)  # it is known
        assert machine(bucket, 1) == first and capfd.readouterr().err == said

    def refuse(*args, **options):
        raise PermissionError("403")

    with monkeypatch.context() as reader:
        reader.setattr(Bucket, "create", lambda self, key, content: self._request(refuse))
        machine(bucket, 2)
        assert capfd.readouterr().err == ""
    if bucket.startswith("gs:"):
        with buckets.keeping_conditions(monkeypatch):
            machine(bucket, 2)
            assert capfd.readouterr().err == ""


def test_who_slept_too_long_stores_nothing(tmp_path, machine, monkeypatch):
    monkeypatch.setattr(leases, "TTL", 0.3)
    url = buckets.url("file", tmp_path)
    one, store = machine(url, 1), Bucket(url)
    sleeper, other = storage.Lease(store, "c"), storage.Lease(store, "c")
    monkeypatch.setattr(sleeper, "_keep", lambda *_: None)
    write(one / "runs" / "a" / "10" / "files.json", "{}")
    storage.store(one / "runs")
    assert sleeper.take()
    take_over(other)
    there = store.list("runs")
    write(one / "runs" / "a" / "20" / "files.json", "{}")
    for do in (storage.store, storage.forget):  # it wakes, and its thread that renews had no turn yet
        sleeper.lost = False
        with pytest.raises(UserError, match="another has taken its work over"):
            do(one / "runs" / "a")
        assert sleeper.lost
    assert store.list("runs") == there
    sleeper.release()
    other.release()
    storage.store(one / "runs")
    assert len(store.list("runs")) == 2


def test_a_renewal_on_its_way_does_not_take_a_release_back(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "TTL", 0.3)
    store = Bucket(f"file://{tmp_path}")
    lease, begun, write = storage.Lease(store, "c"), threading.Event(), Bucket.write

    def slowly(self, key, content, patience=0.0):
        if json.loads(content)["held"]:
            begun.set()
            time.sleep(0.3)
        write(self, key, content)

    monkeypatch.setattr(Bucket, "write", slowly)
    assert lease.take() and begun.wait(20)
    lease.release()
    time.sleep(0.4)
    assert lease.holder() is None and storage.Lease(store, "c").take()


def take_over(lease):
    until = time.monotonic() + 20
    while not lease.take():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_who_sleeps_while_it_stores_goes_no_further(tmp_path, machine, monkeypatch):
    """Between two of many objects; the clock that counts the sleep may be that of the day alone."""
    url = buckets.url("file", tmp_path)
    one, store = machine(url, 1), Bucket(url)
    sleeper, put = storage.Lease(store, "c"), Bucket.put
    monkeypatch.setattr(sleeper, "_keep", lambda *_: None)
    assert sleeper.take()
    slept, now = [0.0], leases._now

    def put_and_sleep(self, key, file):
        store.create("c/2", sleeper._content(held=True))
        slept[0] = leases.TTL
        return put(self, key, file)

    monkeypatch.setattr(leases, "_now", lambda: (now()[0], now()[1] + slept[0]))
    monkeypatch.setattr(Bucket, "put", put_and_sleep)
    for name in ("x", "artifact.json"):
        write(one / "events" / name, "1")
    with pytest.raises(UserError, match="another has taken its work over"):
        storage.store(one / "events")
    assert set(store.list("events")) == {"events/x"}
    sleeper.release()


def test_whose_the_work_is_has_to_be_known_to_store(tmp_path, machine, monkeypatch):
    """A holder asks where it has not renewed for long, and only then; without an answer it stores nothing."""
    url = buckets.url("file", tmp_path)
    one = machine(url, 1)
    lease = storage.Lease(Bucket(url), "c")
    monkeypatch.setattr(lease, "_keep", lambda *_: None)
    assert lease.take()
    write(one / "events" / "x", "1")
    asked = []

    def silent(self, key, content, patience=0.0):
        asked.append(key)
        raise UserError("cannot be reached")

    monkeypatch.setattr(Bucket, "write", silent)
    storage.store(one / "events")
    assert asked == []
    monkeypatch.setattr(leases, "TTL", 1e-6)
    write(one / "events" / "y", "1")
    with pytest.raises(UserError, match="cannot be reached"):
        storage.store(one / "events")
    assert asked == ["c/1"] and set(Bucket(url).list("events")) == {"events/x"}
    monkeypatch.undo()
    lease.release()


def test_what_no_bucket_is_is_told_in_one_line(tmp_path, monkeypatch):
    assert storage.local(str(tmp_path)) == tmp_path
    with pytest.raises(UserError, match=r"--workdir=file://bucket: give a folder in the bucket too"):
        storage.local("file://bucket/")
    with pytest.raises(UserError, match=r"--workdir=hdfs://x/y: take a folder, or a bucket of gs://, s3://"):
        storage.local("hdfs://x/y")
    with pytest.raises(UserError, match=r"--x=GCS://x/y: take a folder"):
        storage.local("GCS://x/y", "--x")
    monkeypatch.setenv("EHR_SCALING_MIRRORS", str(tmp_path / "machine"))
    assert storage.local(f"FILE://{tmp_path}/Study") == storage.local(f"file://{tmp_path}/Study")

    def missing(url, **options):
        raise ImportError("gcsfs")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(
        UserError, match=r"gs:// needs gcsfs, which is not installed: take the extra, pip install .*\[cloud\]"
    ):
        storage.local("gs://b/none")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_bucket_that_is_not_there_is_told(scheme, tmp_path):
    buckets.url(scheme, tmp_path)
    with pytest.raises(UserError, match="there is no bucket none-of-mine, or you may not see it"):
        storage.local(f"{scheme}://none-of-mine/study")


def test_locks_of_file_systems_in_user_space_are_doubted(tmp_path):
    mounts, there = tmp_path / "mounts", tmp_path / "a b" / "study"
    escaped = str(tmp_path / "a b").replace(" ", "\\040")
    mounts.write_text(f"overlay / overlay rw 0 0\nbkt {escaped} fuse.gcsfuse rw 0 0\nbad line\n")
    assert storage.doubtful_locks(there, mounts) == "fuse.gcsfuse"
    assert storage.doubtful_locks(tmp_path / "c", mounts) is None
    mounts.write_text(f"bkt {escaped} fuse.gcsfuse rw 0 0\nhost:/x {escaped}/study nfs4 rw 0 0\n")
    assert storage.doubtful_locks(there / "runs", mounts) is None
    assert storage.doubtful_locks(there, tmp_path / "none") is None


def test_a_store_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_bucket, "TIMEOUT", 0.05)
    store, tried = Bucket(f"file://{tmp_path}"), []

    def slow(*args, **kwargs):
        tried.append(1)
        threading.Event().wait(0.3)

    monkeypatch.setattr(store._fs, "find", slow)
    monkeypatch.setattr(storage_bucket.time, "sleep", lambda seconds: None)  # between two tries
    with pytest.raises(UserError, match=r"cannot be reached \(no answer in 0.05 s\)"):
        store.list("")
    assert len(tried) == storage_bucket.TRIES


HANGS = """
import sys, threading
from ehr_scaling.errors import UserError
from ehr_scaling.processes import endings
from ehr_scaling.storage import bucket
bucket.TIMEOUT, bucket.time.sleep = 0.05, lambda seconds: None
store = bucket.Bucket(sys.argv[1])
store._fs.find = lambda *args, **options: threading.Event().wait()
try:
    store.list("")
except UserError as e:
    endings.fail(e)
"""


def test_a_process_that_gave_a_request_up_ends(tmp_path):
    """Nothing waits for the threads in which it hangs."""
    call = [sys.executable, "-c", HANGS, f"file://{tmp_path}"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1 and "(no answer in 0.05 s)" in done.stderr


def test_requests_that_hang_delay_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_bucket, "TIMEOUT", 0.01)
    monkeypatch.setattr(storage_bucket.time, "sleep", lambda seconds: None)
    store, file, over = Bucket(f"file://{tmp_path}"), tmp_path / "file", threading.Event()
    file.write_text("x")
    monkeypatch.setattr(store._fs, "put_file", lambda *args: over.wait(60))
    with ThreadPoolExecutor(storage_bucket.AT_ONCE) as pool:
        for put in [pool.submit(store.put, str(k), file) for k in range(storage_bucket.AT_ONCE)]:
            with pytest.raises(UserError, match="no answer"):
                put.result()
    monkeypatch.setattr(storage_bucket, "TIMEOUT", 10.0)
    assert set(store.list("")) == {"file"}
    over.set()


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_leases_have_connections_of_their_own(scheme, tmp_path, machine):
    root = machine(buckets.url(scheme, tmp_path), 1)
    lease, other = (storage.lease(root / "runs" / ".claims" / name) for name in "ab")
    transfers = mirror._mirror(root)[0]
    assert lease._bucket._fs is other._bucket._fs is not transfers._fs
    assert lease._bucket._fs.async_impl  # so that requests can be cancelled


class Slow(fsspec.asyn.AsyncFileSystem):
    """A store whose first answer takes long."""

    protocol = "slow"

    def __init__(self, **options):
        super().__init__(**options)
        self.tried, self.holds = 0, {}

    async def _pipe_file(self, path, value, mode="overwrite", **options):
        self.tried += 1
        await asyncio.sleep(1.0 if self.tried == 1 else 0.0)
        self.holds[path] = value


def test_a_try_that_was_given_up_writes_nothing_later(monkeypatch):
    monkeypatch.setattr(storage_bucket, "TIMEOUT", 0.2)
    fsspec.register_implementation("slow", Slow, clobber=True)
    store = Bucket("slow://bucket/study")
    store.write("a", b"old")
    store.write("a", b"new")
    path = store._path("a")
    assert store._fs.tried == 3 and store._fs.holds == {path: b"new"}
    store._fs.holds.clear()
    time.sleep(1.2)  # when the first try would have written
    assert store._fs.holds == {}


PROGRAM = """
import sys
from pathlib import Path
from ehr_scaling import artifacts, storage, study
from ehr_scaling.storage import leases
from tests import small
leases.TTL = 3.0
config = small.config(**{"grid.seeds": (0, 1), "training.checkpoint_seconds": 0.05})
config.training.dispatch_sequences = 4
workdir = storage.local(sys.argv[1])
study.train(config, workdir)
"""


def sweep(url, folder):
    environment = os.environ | {"EHR_SCALING_MIRRORS": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    return forked.Popen([sys.executable, "-c", PROGRAM, url], env=environment, stderr=subprocess.PIPE, text=True)


def plain(row):
    return {name: value for name, value in row.items() if name not in tracking.CLOCK}


@pytest.mark.nightly  # the leases by which they share are tested above
@pytest.mark.parametrize("bucket", ("file", "s3", "gs"), indirect=True)
def test_two_machines_share_a_sweep_and_one_takes_over_from_the_killed_one(bucket, machine, tmp_path):
    """Prepared by a third; what comes of it is what comes of one machine without a bucket."""
    config = small.config(**{"grid.seeds": (0, 1)})
    points = [{"budget": 1.2e9, "size": "3.5k", "seed": seed} for seed in (0, 1)]
    alone = tmp_path / "alone"
    for workdir in (alone, machine(bucket, 0)):
        study.prepare(config, workdir)
        planned = study.plan(config, points, workdir)
    assert (process := sweep(str(alone), tmp_path)).wait(timeout=240) == 0, process.communicate()[1]
    killed, other = (sweep(bucket, tmp_path / f"machine{k}") for k in (1, 2))
    where = machine(bucket, 1)
    until = time.monotonic() + 120
    while not (kept := [p for p in Layout(where).runs.glob("*/*/files.json") if p.is_file()]):
        assert time.monotonic() < until and killed.poll() is None, killed.communicate()[1]
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert other.wait(timeout=240) == 0, other.communicate()[1]
    assert kept
    there = {key: about["version"] for key, about in Bucket(bucket).list("runs").items()}
    again = sweep(bucket, tmp_path / "machine1")
    assert again.wait(timeout=240) == 0, again.communicate()[1]
    assert {key: about["version"] for key, about in Bucket(bucket).list("runs").items()} == there
    here = machine(bucket, 3)
    storage.fetch(Layout(here).runs)
    for cell in planned:
        of_one, of_all = (checkpoint.result(Layout(w).run(cell.id)) for w in (alone, here))
        assert of_one["curve"][-1][0] == of_all["curve"][-1][0]
        assert of_all["validation_loss"] == of_one["validation_loss"]
        log_of_one, log_of_all = (tracking.read(Layout(w).run(cell.id)) for w in (alone, here))
        assert [plain(row) for row in log_of_all] == [plain(row) for row in log_of_one]
        steps = [p.name for p in Layout(here).run(cell.id).iterdir() if p.name.isdecimal()]
        assert steps == [str(cell.steps)]  # checkpoints that are not kept are not kept in the bucket


@pytest.mark.parametrize("bucket", nightly.but("file", of=("file", "s3", "gs")), indirect=True)
def test_a_whole_study_in_a_bucket(bucket, tmp_path):
    """By the command, then its report from another machine, which has nothing of it."""
    flags = [
        *("--config.data.patients=600", "--config.data.context=64", "--config.data.block=4", "--config.workers=1"),
        *("--config.grid.budgets=(1.2e9,)", "--config.grid.sizes=('3.5k',)", "--config.grid.seeds=(0,)"),
        *("--config.training.min_steps=8", "--config.validation.sequences=32", "--config.validation.batch=16"),
        *("--config.outcome.copies=2", "--config.outcome.new_tokens=16", "--config.outcome.samples=20"),
        *("--config.analysis.draws=20", f"--workdir={bucket}"),
    ]

    def command(name, number, *more):
        environment = os.environ | {"EHR_SCALING_MIRRORS": str(tmp_path / f"m{number}")}
        call = [sys.executable, "-c", small.FEW_TREES, f"launch.{name}", *more]
        return forked.run(call, env=environment, capture_output=True, text=True, check=False, timeout=300)

    done = command("study", 1, *flags)
    assert done.returncode == 0, done.stderr
    again = command("study", 2, *flags)
    assert again.returncode == 0, again.stderr
    first, second = (next((tmp_path / f"m{k}").glob("*/report/laws.json")) for k in (1, 2))
    for path in (first, second):
        assert json.loads(path.read_text())["data"]["runs"] == 1
    status = command("sweep", 3, f"--workdir={bucket}", "--status")
    assert "1 finished of 1 units" in status.stdout, status.stderr
    assert not any(p.name.endswith(":") for p in tmp_path.rglob("*"))


@pytest.mark.parametrize("missed", [1, 2 * storage_bucket.TRIES])
def test_an_object_that_is_not_listed_at_once_is_looked_for_again(tmp_path, monkeypatch, missed):
    monkeypatch.setattr(storage_bucket.time, "sleep", lambda seconds: None)
    store, file = Bucket(f"file://{tmp_path / 'bucket'}"), tmp_path / "file"
    file.write_text("x")
    listings = [{}] * missed + [{"key": {"version": "7"}}]
    monkeypatch.setattr(store, "list", lambda key: listings.pop(0))
    if missed == 1:
        assert store.put("key", file) == "7"
    else:
        with pytest.raises(UserError, match="gone while it was written"):
            store.put("key", file)
