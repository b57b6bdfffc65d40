"""Parts of what a model says: kept over an interruption, shared by processes and machines, the same as in one piece."""

import dataclasses
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from ehr_scaling import artifacts, storage
from ehr_scaling.errors import UserError
from ehr_scaling.grid.executors import claims
from ehr_scaling.outcomes import evaluate, parts, scoring
from ehr_scaling.outcomes.asking import prepared, questions
from ehr_scaling.outcomes.asking.tasks.tasks import Task
from ehr_scaling.outcomes.sampler import simulate, two_tokens
from ehr_scaling.storage import leases
from ehr_scaling.storage.bucket import Bucket
from tests import buckets, forked, nightly, small
from tests.outcomes.scored import KIND, OPTIONS, TOGETHER, alone, check_predictions, drawn, same


class Way(NamedTuple):
    """How tasks are answered: by what is computed of a part of the stays."""

    task: Task
    beside: Task  # answered by the same
    method: dict[str, str]
    module: ModuleType
    name: str
    compute: Callable[..., Any]
    each: int = 1  # what a stay is reported as

    def put(self, monkeypatch, compute):
        """Instead of what computes a part."""
        monkeypatch.setattr(self.module, self.name, compute)

    def alone(self, workdir, tmp_path):
        return alone(workdir, tmp_path, self.task, **self.method)


AGAIN = dataclasses.replace(KIND, name="kind_again")
WAYS = {
    "futures": Way(TOGETHER[0], TOGETHER[1], {}, simulate, "simulate", drawn, 3 * 24),
    "sums": Way(TOGETHER[0], TOGETHER[1], {"method": "exact"}, two_tokens, "decide", two_tokens.decide),
    "next tokens": Way(KIND, AGAIN, {}, simulate, "next_token", simulate.next_token),
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def many(args):
    """Stays of a part, by the arguments of what computes it."""
    return len(getattr(args[2], "ids", args[2]))


def test_what_was_interrupted_goes_on(trained, tmp_path, monkeypatch, way):
    """Killed after the first part, and after the last one before any score: the same numbers, nothing computed twice.

    A task that is asked in between changes the group, and parts of another group would be those of other stays.
    """
    workdir, cell, _ = trained
    whole, other = (way.alone(workdir, tmp_path / name) for name in ("whole", "other"))
    way.put(monkeypatch, way.compute)
    questions.prepare(whole, way.beside, **OPTIONS, **way.method)
    expected = evaluate.job([cell], whole, small.silent)[0]

    monkeypatch.setattr(parts, "AT_ONCE", 32)
    sizes = []

    def counted(stop, *args, **options):
        if len(sizes) == stop:
            raise KeyboardInterrupt
        sizes.append(many(args))
        return way.compute(*args, **options)

    way.put(monkeypatch, partial(counted, 1))
    with pytest.raises(KeyboardInterrupt):
        evaluate.job([cell], other, small.silent)
    (scratch,) = (other / "outcomes").glob(".*/*")
    assert sizes == [32] and [path.name for path in scratch.glob("*.npz")] == ["0.npz"]

    reported = []
    way.put(monkeypatch, partial(counted, None))
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        for judge in ("_judge", "_of_next_tokens"):
            broken.setattr(scoring, judge, lambda *args: 1 / 0)
        evaluate.job([cell], other, lambda tokens, before=False: reported.append((tokens, before)))
    assert sizes == [32, 18] and reported == [(32 * way.each, True), (18 * way.each, False)]

    questions.prepare(other, way.beside, **OPTIONS, **way.method)
    found = evaluate.job([cell], other, small.silent)[0]
    assert set(found) == set(expected) and all(same(score, expected[name]) for name, score in found.items())
    for name in expected:
        check_predictions(cell, name, other, whole)
    assert not list((other / "outcomes").glob(".*"))
    way.put(monkeypatch, partial(counted, len(sizes)))
    later, how = (TOGETHER[0], {"method": "exact"}) if way.task is KIND else (KIND, {})
    questions.prepare(other, later, **OPTIONS, **how)
    assert set(evaluate.job([cell], other, small.silent)[0]) == {*expected, later.name}


# What is asked to end, or killed, while it computes the second part
ENDED = """
import os, sys
from pathlib import Path
from ehr_scaling.processes import preemption
from ehr_scaling.errors import Preempted
from ehr_scaling.grid import manifest
from ehr_scaling.outcomes import evaluate, parts
from ehr_scaling.outcomes.sampler import simulate, two_tokens
from tests import small
workdir, name, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
parts.AT_ONCE, module, begun = 20, two_tokens if name == "decide" else simulate, []
compute = getattr(module, name)
def ended(*args, **options):
    begun.append(args)
    if len(begun) == 2:
        os.kill(os.getpid(), number)
    return compute(*args, **options)
setattr(module, name, ended)
with preemption.deferred():
    try:
        evaluate.job(manifest.read(workdir / "grid"), workdir, small.silent)
    except Preempted:
        sys.exit(75)
"""


@pytest.mark.parametrize("by", nightly.but(signal.SIGKILL, of=(signal.SIGKILL, signal.SIGTERM)), ids=lambda by: by.name)
@pytest.mark.parametrize("way", ["sums", "next tokens"], indirect=True)
def test_a_process_that_is_ended_has_kept_its_parts(trained, tmp_path, monkeypatch, way, by):
    workdir, cell, _ = trained
    whole, other = (way.alone(workdir, tmp_path / name) for name in ("whole", "other"))
    expected = evaluate.job([cell], whole, small.silent)[0]
    ended = forked.run(
        [sys.executable, "-c", ENDED, str(other), way.name, str(int(by))], capture_output=True, text=True
    )
    assert ended.returncode == (-signal.SIGKILL if by == signal.SIGKILL else 75), ended.stderr[-2000:]
    sizes = []
    way.put(monkeypatch, lambda *args, **options: sizes.append(many(args)) or way.compute(*args, **options))
    monkeypatch.setattr(parts, "AT_ONCE", 20)
    assert same(evaluate.job([cell], other, small.silent)[0], expected)
    assert sizes == [20, 10]
    check_predictions(cell, way.task.name, other, whole)


def test_another_process_computes_parts_of_a_model_that_is_being_scored(trained, tmp_path, monkeypatch, way):
    """At the first part, and at the last: the scores are those of one process, and nothing is computed twice."""
    workdir, cell, _ = trained
    whole, other = (way.alone(workdir, tmp_path / name) for name in ("whole", "other"))
    way.put(monkeypatch, way.compute)
    expected = evaluate.job([cell], whole, small.silent)[0]
    assert not evaluate.help_out([cell], other, small.silent)  # nobody is at it
    assert evaluate.finished([cell], other) is None

    monkeypatch.setattr(parts, "AT_ONCE", 20)
    sizes, helps, reported = [], [], []

    def beside(*args, **options):
        sizes.append(many(args))
        if len(sizes) != 2:  # while the helper is at it, it is not called anew
            helps.append(evaluate.help_out([cell], other, lambda tokens: None))
        return way.compute(*args, **options)

    way.put(monkeypatch, beside)
    found = evaluate.job([cell], other, lambda tokens, before=False: reported.append((tokens, before)))[0]
    assert all(same(score, expected[name]) for name, score in found.items())
    assert evaluate.finished([cell], other) == [found]
    # The helper took two parts of three, and found none while it was at the last of them
    assert sizes == [20, 20, 10] and helps == [False, True]
    assert reported == [(20 * way.each, False)]  # the helper reports the others
    assert not evaluate.help_out([cell], other, small.silent)  # all is judged


@pytest.fixture
def machines(request, trained, tmp_path, monkeypatch, way):
    """The mirrors of two machines of one bucket, with a model and a task that it is to be asked; and the bucket."""
    url, mirrors = buckets.url(getattr(request, "param", "file"), tmp_path), []
    for number in range(2):
        monkeypatch.setenv("EHR_SCALING_MIRRORS", str(tmp_path / f"machine{number}"))
        mirrors.append(storage.local(url))
        for name in ("events", "timelines", "packed", "runs", "grid"):
            (mirrors[-1] / name).symlink_to(trained[0] / name)
        questions.prepare(mirrors[-1], way.task, **OPTIONS, **way.method)
    monkeypatch.setattr(parts, "AT_ONCE", 20)
    for name in ("POLL", "POLL_BUCKET"):
        monkeypatch.setattr(claims, name, 0.02)
    return [*mirrors, Bucket(url)]


def in_bucket(bucket):
    """Names of what it has of parts, and of leases of them."""
    return {key.rsplit("/", 1)[-1] for key in bucket.list("") if "outcomes/." in key}


@pytest.mark.parametrize("machines", nightly.but("file", of=("file", "s3", "gs")), indirect=True)
def test_machines_of_a_bucket_share_a_model_by_parts(trained, tmp_path, machines, monkeypatch, way):
    """Nothing is computed twice, a machine has the parts of the others, and none are left where all is judged."""
    workdir, cell, _ = trained
    one, two, bucket = machines
    way.put(monkeypatch, way.compute)
    expected = evaluate.job([cell], way.alone(workdir, tmp_path), small.silent)[0]
    assert not evaluate.help_out([cell], two, small.silent)  # nobody is at it
    by, seen = [], []

    def beside(*args, **options):
        by.append(many(args))
        if len(by) == 1:  # the other machine computes the two parts that are left, and finds none any more
            helped = [evaluate.help_out([cell], two, small.silent) for _ in range(2)]
            seen.append((helped, in_bucket(bucket)))
        return way.compute(*args, **options)

    way.put(monkeypatch, beside)
    found = evaluate.job([cell], one, small.silent)[0]
    assert all(same(score, expected[name]) for name, score in found.items())
    assert by == [20, 20, 10]
    ((helped, there),) = seen
    assert helped == [True, False] and {"0.part", "20.part", "40.part", "20.npz", "40.npz"} <= there
    assert in_bucket(bucket) == set() and not list((one / "outcomes").glob(".*"))
    assert evaluate.job([cell], two, small.silent)[0] == found and not list((two / "outcomes").glob(".*"))
    assert not evaluate.help_out([cell], two, small.silent)


def test_parts_of_a_machine_that_died_are_used_and_what_it_held_is_taken_over(
    trained, tmp_path, machines, monkeypatch, way
):
    """It had the first part, and was at the second: another one does the last, waits, and does the second."""
    workdir, cell, _ = trained
    one, two, bucket = machines
    way.put(monkeypatch, way.compute)
    expected = evaluate.job([cell], way.alone(workdir, tmp_path), small.silent)[0]
    monkeypatch.setattr(leases, "TTL", 1.0)
    sizes, times = [], []

    def timed(*args, **options):
        sizes.append(many(args))
        times.append(time.monotonic())
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return way.compute(*args, **options)

    way.put(monkeypatch, timed)
    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(leases.Lease, "release", lambda self: self._stop.set())  # it does not come to more
        evaluate.job([cell], one, small.silent)
    assert {"0.npz", "20.part"} <= in_bucket(bucket) and "20.npz" not in in_bucket(bucket)
    reported = []
    found = evaluate.job([cell], two, lambda tokens, before=False: reported.append((tokens, before)))[0]
    assert all(same(score, expected[name]) for name, score in found.items())
    assert sizes == [20, 20, 10, 20] and times[3] - times[2] > 0.9
    assert reported == [(n * way.each, before) for n, before in ((20, True), (10, False), (20, False))]
    assert in_bucket(bucket) == set()


@pytest.mark.parametrize("why", ["lost", "judged"])
def test_a_part_that_another_has_made_meanwhile_is_not_handed_over(trained, machines, monkeypatch, way, why):
    """Of who slept too long, and whose lease another took; and where all was judged without waiting for it."""
    _, cell, _ = trained
    one, two, bucket = machines
    theirs, ours = (evaluate._scratch(cell, there, prepared.asked_in(there)) for there in (one, two))
    sizes = []

    def meanwhile(*args, **options):
        sizes.append(many(args))
        if why == "lost":
            storage.lease(ours / "40").lost = True
        else:
            storage.forget(theirs)
        return way.compute(*args, **options)

    way.put(monkeypatch, meanwhile)
    artifacts.work_directory(theirs)
    (theirs / "40.part").write_text("to be computed")
    storage.store(theirs)
    assert evaluate.help_out([cell], two, small.silent) and sizes == [10]
    assert not any(key.endswith("40.npz") for key in bucket.list(""))


def test_a_helper_that_hangs_is_not_waited_for_for_ever(trained, tmp_path, monkeypatch):
    """It holds a part that it never brings: the one who waits draws it too, and only then."""
    workdir, cell, _ = trained
    whole, other = (alone(workdir, tmp_path / name, TOGETHER[0]) for name in ("whole", "other"))
    monkeypatch.setattr(simulate, "simulate", drawn)
    expected = evaluate.job([cell], whole, small.silent)[0]
    monkeypatch.setattr(parts, "AT_ONCE", 20)
    monkeypatch.setattr(parts, "PATIENCE", 1.0)
    monkeypatch.setattr(claims, "POLL", 0.01)
    scratch = evaluate._scratch(cell, other, prepared.asked_in(other))
    scratch.mkdir(parents=True)
    (scratch / "20.part").touch()
    times = []

    def timed(*args, **options):
        times.append((time.monotonic(), args[2].ids[:1].tolist()))
        return drawn(*args, **options)

    monkeypatch.setattr(simulate, "simulate", timed)
    with claims.locked(scratch / "20.part") as handle:
        assert handle is not None
        found = evaluate.job([cell], other, small.silent)[0]
    assert all(same(score, expected[name]) for name, score in found.items())
    assert len(times) == 3 and len({ids[0] for _, ids in times}) == 3
    assert times[2][0] - times[1][0] > 1.0


def test_a_folder_that_goes_is_no_error_of_the_helper_and_one_of_who_waits_for_it(trained, tmp_path, monkeypatch):
    workdir, cell, _ = trained
    other = alone(workdir, tmp_path, TOGETHER[0])
    monkeypatch.setattr(parts, "AT_ONCE", 30)
    scratch = evaluate._scratch(cell, other, prepared.asked_in(other))
    monkeypatch.setattr(claims, "POLL", 0.01)

    def gone(*args, **options):
        shutil.rmtree(scratch)
        return drawn(*args, **options)

    scratch.mkdir(parents=True)
    (scratch / "0.part").touch()
    monkeypatch.setattr(simulate, "simulate", gone)
    assert not evaluate.help_out([cell], other, small.silent) and not scratch.exists()
    with pytest.raises(UserError, match="has gone, in which parts of what a model says are kept"):
        evaluate.job([cell], other, small.silent)


def test_a_damaged_part_is_named(trained, tmp_path):
    workdir, cell, _ = trained
    other = alone(workdir, tmp_path, TOGETHER[0])
    scratch = evaluate._scratch(cell, other, prepared.asked_in(other))
    scratch.mkdir(parents=True)
    (scratch / "0.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UserError, match=r"0\.npz is damaged \(\w+\): delete it and run again"):
        evaluate.job([cell], other, small.silent)
    assert not list((other / "outcomes").glob(f"*/*{cell.id}*"))


def test_parts_of_another_way_or_version_are_not_gone_on_with(trained, tmp_path, monkeypatch):
    workdir, cell, _ = trained
    others = [way.alone(workdir, tmp_path / name) for name, way in WAYS.items()]
    names = {evaluate._scratch(cell, other, prepared.asked_in(other)) for other in others}
    assert len({name.name for name in names}) == len(WAYS)
    other, group = others[0], prepared.asked_in(others[0])
    for module, name in ((parts, "AT_ONCE"), (scoring, "ANSWERS")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, 7)
            names.add(evaluate._scratch(cell, other, group))
    assert len(names) == len(WAYS) + 2
