"""Several tasks in one pass: each is answered as if alone, by any method, and an interruption changes nothing."""

import os
import shutil
import socket
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_scaling import artifacts, storage, study
from ehr_scaling.data import inspection, timelines
from ehr_scaling.errors import UserError
from ehr_scaling.grid import manifest
from ehr_scaling.grid.executors import claims, slurm
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import evaluate, parts, scoring, together
from ehr_scaling.outcomes.asking import prepared, questions, tasks
from ehr_scaling.outcomes.asking.tasks import Task
from ehr_scaling.outcomes.exchange import predictions
from ehr_scaling.outcomes.judging import estimators
from ehr_scaling.outcomes.pages import fan, show
from ehr_scaling.outcomes.sampler import simulate, two_tokens
from ehr_scaling.storage import leases
from ehr_scaling.storage.bucket import Bucket
from ehr_scaling.training import loop
from ehr_scaling.training.setup import restored_params
from tests import buckets, nightly, small

OWN = tasks.load()
KIND = Task(
    "kind_of_admission", "", anchor=("HOSPITAL_ADMISSION",), tokens=0, kind="class", classes=("ADMISSION_TYPE",)
)
TOGETHER = [OWN["icu_admission"], OWN["prolonged_stay"], OWN["length_of_stay"]]
OPTIONS = {
    "context": 64,
    "copies": 3,
    "new_tokens": 24,
    "max_samples": 50,
    "positive_share": 0.4,
    "train_samples": 100,
    "draws": 20,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work directory with a finished cell, tasks that share their prompts and one that does not; cell and scores."""
    workdir = tmp_path_factory.mktemp("study")
    packed = study.prepare(small.config(**{"data.patients": 400}), workdir)
    cell = small.cell(packed, size="25k")  # of two heads
    loop.job([cell], workdir, small.silent)
    (workdir / "grid").mkdir()
    manifest.write(workdir / "grid" / manifest.MANIFEST, [cell])
    for task in (*TOGETHER, KIND):
        questions.prepare(workdir, task, **OPTIONS)
    return workdir, cell, evaluate.job([cell], workdir, small.silent)[0]


def alone(workdir, tmp_path, task, **options):
    """A work directory of the same model in which one task is prepared."""
    other = tmp_path / "alone"
    other.mkdir(parents=True, exist_ok=True)
    for name in ("events", "timelines", "packed", "runs", "grid"):
        (other / name).symlink_to(workdir / name)
    questions.prepare(other, task, **{**OPTIONS, **options})
    return other


def same(one, other):
    """Whether two scores are, but for rounding and for how long they took."""
    if isinstance(one, dict):
        return set(one) == set(other) and all(
            same(one[k], other[k]) for k in one if k not in ("seconds", "generated_tokens", "fingerprint", "answers")
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == (pytest.approx(other, rel=1e-4, abs=1e-6) if isinstance(other, float) else other)


def test_tasks_share_their_futures(trained):
    workdir, _, scores = trained
    asked = prepared.asked_in(workdir)
    assert [[q.task.name for q in group] for group in prepared.groups(asked)] == [
        ["icu_admission", "length_of_stay", "prolonged_stay"],
        ["kind_of_admission"],
    ]
    assert {name: score["kind"] for name, score in scores.items()} == {
        "icu_admission": "binary",
        "prolonged_stay": "binary",
        "length_of_stay": "days",
        "kind_of_admission": "class",
    }
    assert not list((workdir / "outcomes").glob(".*"))
    for group in prepared.groups(asked):
        union = prepared.union_of(group)
        ids = np.concatenate([samples.ids for samples in union.samples])[union.first]
        assert len(set(ids.tolist())) == len(ids)
        for samples, rows in zip(union.samples, union.rows, strict=True):
            np.testing.assert_array_equal(ids[rows], samples.ids)


@pytest.mark.parametrize("task", TOGETHER[1:], ids=lambda task: task.name)
def test_a_task_scores_the_same_alone(trained, tmp_path, task):
    workdir, cell, scores = trained
    other = alone(workdir, tmp_path, task)
    assert same(evaluate.job([cell], other, small.silent)[0][task.name], scores[task.name])
    one, together = (
        pq.read_table(folder / "outcomes" / task.name / f"{cell.id}.parquet") for folder in (other, workdir)
    )
    assert one.select(one.column_names[:3]) == together.select(one.column_names[:3])
    # Of probabilities near 1e-37 float32 has no five digits: what they are made of is below its smallest normal number.
    np.testing.assert_allclose(one.columns[-1].to_numpy(), together.columns[-1].to_numpy(), rtol=1e-5, atol=1e-36)


def test_scores_of_days_and_of_classes(trained):
    workdir, cell, scores = trained
    days = questions.load(workdir / "outcomes" / "length_of_stay").stays.labels
    table = pq.read_table(workdir / "outcomes" / "length_of_stay" / f"{cell.id}.parquet")
    assert table.schema == predictions.VALUES
    predicted = table["predicted_float_value"].to_numpy()
    np.testing.assert_array_equal(table["float_value"].to_numpy(), days)
    assert (predicted >= 0).all() and len(set(predicted.tolist())) > 5
    expected = np.abs(predicted.astype(float) - days).mean()
    assert scores["length_of_stay"]["mae"]["value"] == pytest.approx(expected, rel=1e-5)

    table = pq.read_table(workdir / "outcomes" / KIND.name / f"{cell.id}.parquet")
    assert table.schema == predictions.CLASSES
    right = np.equal(table["categorical_value"].to_pylist(), table["predicted_categorical_value"].to_pylist())
    score = scores[KIND.name]
    assert score["top1"]["value"] == pytest.approx(right.mean(), abs=0.021)  # ties share
    assert 0 < score["names_a_class"] <= 1 and score["n"] == len(right)


def test_small_groups_are_told_nowhere(trained):
    """50 stays: no band of age has 11 patients of both kinds, and what is written says nothing of it."""
    workdir, cell, _ = trained
    for name in ("icu_admission", "prolonged_stay"):
        written = artifacts.read_json(workdir / "outcomes" / name / f"{cell.id}.json")
        samples = questions.load(workdir / "outcomes" / name)
        for attribute in ("sex", "age", "race", "unit"):
            for group, score in written["subgroups"][attribute].items():
                rows = np.isin(getattr(samples, attribute), [group, *group.split(" or ")])
                counts = [
                    len(np.unique(samples.stays.patients[rows & (samples.stays.labels == kind)]))
                    for kind in (True, False)
                ]
                assert rows.any()
                if min(counts) < 11:
                    assert set(score) == {"suppressed"}
                else:
                    assert "suppressed" in score or score["n"] == rows.sum()
        hidden = [s for groups in written["subgroups"].values() for s in groups.values() if "suppressed" in s]
        assert hidden


@pytest.mark.parametrize("method", ["monte_carlo", "reach"])
def test_other_methods(trained, tmp_path, method):
    workdir, cell, scores = trained
    task = OWN["icu_admission"]
    other = alone(workdir, tmp_path, task, method=method)
    for beside in TOGETHER[1:] if method == "monte_carlo" else TOGETHER[2:]:  # as many as are compiled already
        questions.prepare(other, beside, **OPTIONS, method=method)
    groups = prepared.groups(prepared.asked_in(other))
    assert len(groups) == (2 if method == "reach" else 1)
    found = evaluate.job([cell], other, small.silent)[0]
    # Days are counted to tokens that REACH would suppress: they are those of ordinary futures.
    assert same(found["length_of_stay"], scores["length_of_stay"])
    score = found[task.name]
    assert score["method"].startswith(f"zero-shot: {scoring.METHODS[method]}")
    (group,) = [group for group in groups if group[0].task.name == task.name]
    asked = together.of_group(other, group, prepared.union_of(group))
    suppress = asked.asked.suppress
    assert suppress == (method == "reach")
    futures = asked.run(*restored_params(cell, Layout(other).run(cell.id)), np.arange(len(asked.asked.ids)))
    icu = asked.vocabulary.index["ICU_ADMISSION"]
    assert (futures.tokens == icu).any() != suppress
    own = prepared.union_of(group).rows[group.index(next(q for q in group if q.task.name == task.name))]
    k = [q.task.name for q in group].index(task.name)
    p = getattr(estimators, method)(futures.take(own), k).probability
    weights = questions.load(other / "outcomes" / task.name).weights
    p = estimators.filled(p, weights)[0].astype(np.float32)
    table = pq.read_table(other / "outcomes" / task.name / f"{cell.id}.parquet")
    np.testing.assert_allclose(table["predicted_boolean_probability"].to_numpy(), p, rtol=1e-6)


def test_what_two_tokens_decide(trained, tmp_path):
    """Yes-or-no tasks without a future drawn; days by ordinary ones, beside them."""
    workdir, cell, scores = trained
    other = alone(workdir, tmp_path, TOGETHER[0], method="exact")
    for task in TOGETHER[1:]:
        questions.prepare(other, task, **OPTIONS, method="exact")
    groups = prepared.groups(prepared.asked_in(other))
    names = [[question.task.name for question in group] for group in groups]
    assert names == [["icu_admission", "prolonged_stay"], ["length_of_stay"]]
    exact = evaluate.job([cell], other, small.silent)[0]
    assert same(exact["length_of_stay"], scores["length_of_stay"])
    union = prepared.union_of(groups[0])
    request = together.of_group(other, groups[0], union).asked
    decided = two_tokens.decide(*restored_params(cell, Layout(other).run(cell.id)), request)
    for k, (name, rows) in enumerate(zip(names[0], union.rows, strict=True)):
        score = exact[name]
        assert score["method"].startswith("zero-shot: P(outcome) / (P(outcome) + P(its opposite)) by the next two")
        assert {"copies", "generated_tokens", "monte_carlo_auroc"}.isdisjoint(score)
        lost = score["open"] + score["bounded"]
        assert score["undetermined"] == lost > 0.01 and score["median_error"] == 0
        task_decided = decided.take(rows)
        assert lost == pytest.approx(1 - (task_decided.positive + task_decided.negative)[:, k].mean(), abs=1e-6)
        p = estimators.exact(task_decided, k).probability.astype(np.float32)
        table = pq.read_table(other / "outcomes" / name / f"{cell.id}.parquet")
        np.testing.assert_allclose(table["predicted_boolean_probability"].to_numpy(), p, rtol=1e-5)
    (cost,) = evaluate.costs(other, [[cell]])
    of_days = len(prepared.union_of(groups[1]).first) * OPTIONS["copies"] * OPTIONS["new_tokens"]
    assert cost.tokens == of_days + len(union.first)


# One of two processes, of which neither holds the model; even small arrays are cut
PROCESS = """
import sys
from pathlib import Path
import jax
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
from ehr_scaling import leading
from ehr_scaling.grid import manifest
from ehr_scaling.outcomes import evaluate, following
from ehr_scaling.training import setup, sharding
from tests import small
sharding.WHOLE_BELOW, setup._memory = 0, lambda: 0.0
restored = setup.restored_params
def cut(*args):
    model, params = restored(*args)
    print([x.shape for x in (params["embedding"], params["embedding"].addressable_shards[0].data)])
    return model, params
evaluate.restored_params = following.restored_params = cut
workdir = Path(sys.argv[1])
score = lambda: evaluate.job(manifest.read(workdir / "grid"), workdir, small.silent)
leading.run(score, lambda: following.steps(workdir))
"""


def test_two_processes_that_hold_a_model_together_score_it_as_one_device_does(trained, tmp_path):
    """Two tokens summed up, futures drawn, and the next token; process 0 alone writes."""
    workdir, cell, scores = trained
    one, two = (alone(workdir, tmp_path / name, TOGETHER[0], method="exact") for name in ("one", "two"))
    expected = evaluate.job([cell], one, small.silent)[0]
    places = dict.fromkeys(expected, one)
    for task in (TOGETHER[2], KIND):
        questions.prepare(two, task, **OPTIONS)
        expected[task.name], places[task.name] = scores[task.name], workdir
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    command = [sys.executable, "-c", PROCESS, str(two), address]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(i)], env=environment, **pipes) for i in range(2)]
    try:
        told = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (said, error) in zip(processes, told, strict=True):
        assert process.returncode == 0, error[-2000:]
        assert said.splitlines()[-1] == f"[({cell.padded_vocab}, 32), ({cell.padded_vocab // 2}, 32)]"
    for name, place in places.items():
        folders = [there / "outcomes" / name for there in (two, place)]
        assert same(artifacts.read_json(folders[0] / f"{cell.id}.json"), expected[name])
        ours, theirs = (pq.read_table(folder / f"{cell.id}.parquet") for folder in folders)
        assert ours.select(ours.column_names[:-1]) == theirs.select(ours.column_names[:-1])
        np.testing.assert_allclose(ours.columns[-1].to_numpy(), theirs.columns[-1].to_numpy(), rtol=1e-4, atol=1e-7)
    assert not list((two / "outcomes").glob(".*"))


def drawn(model, params, asked, report=small.silent):
    """Futures that tell which sample and outcome they are of, without a model."""
    ids, stops, copies, new_tokens = asked.ids, asked.stops, asked.copies, asked.new_tokens
    report(len(ids) * copies * new_tokens)
    outcome = np.arange(1, len(stops.at_horizon) + 1)
    share = np.broadcast_to(
        (ids[:, None] % np.uint64(1_009) / 1_009)[:, None] / outcome, (len(ids), copies, len(outcome))
    )
    share = share.astype(np.float32)
    ended = np.where(share > 0.3, simulate.POSITIVE, simulate.NEGATIVE).astype(np.int8)
    tokens = np.ones((len(ids), copies, new_tokens), np.int32)
    return simulate.Futures(
        *(tokens, tokens.sum(axis=2), ended, ended < 0, 24 * share, share, 1 - share, np.log1p(-share)),
        np.zeros_like(share),
    )


def test_an_interrupted_simulation_goes_on(trained, tmp_path, monkeypatch):
    """Killed after the first part, and after the last one before any score: the same numbers, nothing drawn twice.

    A task that is asked in between changes the group, and parts of another group would be those of other stays.
    """
    workdir, cell, _ = trained
    whole, other = (alone(workdir, tmp_path / name, TOGETHER[0]) for name in ("whole", "other"))
    monkeypatch.setattr(simulate, "simulate", drawn)
    questions.prepare(whole, TOGETHER[1], **OPTIONS)
    expected = evaluate.job([cell], whole, small.silent)[0]

    monkeypatch.setattr(parts, "AT_ONCE", 32)
    sizes = []

    def counted(stop, *args, **options):
        if len(sizes) == stop:
            raise KeyboardInterrupt
        sizes.append(len(args[2].ids))
        return drawn(*args, **options)

    monkeypatch.setattr(simulate, "simulate", partial(counted, 1))
    with pytest.raises(KeyboardInterrupt):
        evaluate.job([cell], other, small.silent)
    (scratch,) = (other / "outcomes").glob(".*/*")
    assert sizes == [32] and [path.name for path in scratch.glob("*.npz")] == ["0.npz"]

    reported = []
    monkeypatch.setattr(simulate, "simulate", partial(counted, None))
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr(scoring, "_judge", lambda *args: 1 / 0)
        evaluate.job([cell], other, lambda tokens, before=False: reported.append((tokens, before)))
    assert sizes == [32, 18] and reported == [(32 * 3 * 24, True), (18 * 3 * 24, False)]

    questions.prepare(other, TOGETHER[1], **OPTIONS)
    found = evaluate.job([cell], other, small.silent)[0]
    assert set(found) == set(expected) and all(same(score, expected[name]) for name, score in found.items())
    assert not list((other / "outcomes").glob(".*"))
    monkeypatch.setattr(simulate, "simulate", partial(counted, len(sizes)))
    questions.prepare(other, KIND, **OPTIONS)
    assert set(evaluate.job([cell], other, small.silent)[0]) == {*expected, KIND.name}


def test_another_process_draws_parts_of_a_model_that_is_being_scored(trained, tmp_path, monkeypatch):
    """While the first part is drawn, and the last: the scores are those of one process, and nothing is drawn twice."""
    workdir, cell, _ = trained
    whole, other = (alone(workdir, tmp_path / name, TOGETHER[0]) for name in ("whole", "other"))
    monkeypatch.setattr(simulate, "simulate", drawn)
    expected = evaluate.job([cell], whole, small.silent)[0]
    assert not evaluate.help_out([cell], other, small.silent)  # nobody is at it
    assert evaluate.finished([cell], other) is None

    monkeypatch.setattr(parts, "AT_ONCE", 20)
    sizes, helps, reported = [], [], []

    def beside(*args, **options):
        sizes.append(len(args[2].ids))
        if len(sizes) != 2:  # while the helper draws, it is not called anew
            helps.append(evaluate.help_out([cell], other, lambda tokens: None))
        return drawn(*args, **options)

    monkeypatch.setattr(simulate, "simulate", beside)
    found = evaluate.job([cell], other, lambda tokens, before=False: reported.append((tokens, before)))[0]
    assert all(same(score, expected[name]) for name, score in found.items())
    assert evaluate.finished([cell], other) == [found]
    # The helper took two parts of three, and found none while it drew the last of them
    assert sizes == [20, 20, 10] and helps == [False, True]
    assert reported == [(20 * 3 * 24, False)]  # the helper reports the others
    assert not evaluate.help_out([cell], other, small.silent)  # all is judged


@pytest.fixture
def machines(request, trained, tmp_path, monkeypatch):
    """The mirrors of two machines of one bucket, with a model and a task that it is to be asked; and the bucket."""
    url, mirrors = buckets.url(getattr(request, "param", "file"), tmp_path), []
    for number in range(2):
        monkeypatch.setenv("EHR_SCALING_MIRRORS", str(tmp_path / f"machine{number}"))
        mirrors.append(storage.local(url))
        for name in ("events", "timelines", "packed", "runs", "grid"):
            (mirrors[-1] / name).symlink_to(trained[0] / name)
        questions.prepare(mirrors[-1], TOGETHER[0], **OPTIONS)
    monkeypatch.setattr(parts, "AT_ONCE", 20)
    for name in ("POLL", "POLL_BUCKET"):
        monkeypatch.setattr(claims, name, 0.02)
    return [*mirrors, Bucket(url)]


def in_bucket(bucket):
    """Names of what it has of parts, and of leases of them."""
    return {key.rsplit("/", 1)[-1] for key in bucket.list("") if "outcomes/." in key}


@pytest.mark.parametrize("machines", nightly.but("file", of=("file", "s3", "gs")), indirect=True)
def test_machines_of_a_bucket_share_a_model_by_parts(trained, tmp_path, machines, monkeypatch):
    """Nothing is drawn twice, a machine has the parts of the others, and none are left where all is judged."""
    workdir, cell, _ = trained
    one, two, bucket = machines
    monkeypatch.setattr(simulate, "simulate", drawn)
    expected = evaluate.job([cell], alone(workdir, tmp_path, TOGETHER[0]), small.silent)[0]
    assert not evaluate.help_out([cell], two, small.silent)  # nobody is at it
    by, seen = [], []

    def beside(*args, **options):
        by.append(len(args[2].ids))
        if len(by) == 1:  # the other machine draws the two parts that are left, and finds none any more
            helped = [evaluate.help_out([cell], two, small.silent) for _ in range(2)]
            seen.append((helped, in_bucket(bucket)))
        return drawn(*args, **options)

    monkeypatch.setattr(simulate, "simulate", beside)
    found = evaluate.job([cell], one, small.silent)[0]
    assert all(same(score, expected[name]) for name, score in found.items())
    assert by == [20, 20, 10]
    ((helped, there),) = seen
    assert helped == [True, False] and {"0.part", "20.part", "40.part", "20.npz", "40.npz"} <= there
    assert in_bucket(bucket) == set() and not list((one / "outcomes").glob(".*"))
    assert evaluate.job([cell], two, small.silent)[0] == found and not list((two / "outcomes").glob(".*"))
    assert not evaluate.help_out([cell], two, small.silent)


def test_parts_of_a_machine_that_died_are_used_and_what_it_held_is_taken_over(trained, tmp_path, machines, monkeypatch):
    """It had drawn the first part, and was at the second: another one draws the last, waits, and draws the second."""
    workdir, cell, _ = trained
    one, two, bucket = machines
    monkeypatch.setattr(simulate, "simulate", drawn)
    expected = evaluate.job([cell], alone(workdir, tmp_path, TOGETHER[0]), small.silent)[0]
    monkeypatch.setattr(leases, "TTL", 1.0)
    sizes, times = [], []

    def timed(*args, **options):
        sizes.append(len(args[2].ids))
        times.append(time.monotonic())
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return drawn(*args, **options)

    monkeypatch.setattr(simulate, "simulate", timed)
    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(leases.Lease, "release", lambda self: self._stop.set())  # it does not come to more
        evaluate.job([cell], one, small.silent)
    assert {"0.npz", "20.part"} <= in_bucket(bucket) and "20.npz" not in in_bucket(bucket)
    reported = []
    found = evaluate.job([cell], two, lambda tokens, before=False: reported.append((tokens, before)))[0]
    assert all(same(score, expected[name]) for name, score in found.items())
    assert sizes == [20, 20, 10, 20] and times[3] - times[2] > 0.9
    assert reported == [(n * 3 * 24, before) for n, before in ((20, True), (10, False), (20, False))]
    assert in_bucket(bucket) == set()


@pytest.mark.parametrize("why", ["lost", "judged"])
def test_a_part_that_another_has_drawn_meanwhile_is_not_handed_over(trained, machines, monkeypatch, why):
    """Of who slept too long, and whose lease another took; and where all was judged without waiting for it."""
    _, cell, _ = trained
    one, two, bucket = machines
    theirs, ours = (evaluate._scratch(cell, there, prepared.asked_in(there)) for there in (one, two))
    drew = []

    def meanwhile(*args, **options):
        drew.append(len(args[2].ids))
        if why == "lost":
            storage.lease(ours / "40").lost = True
        else:
            storage.forget(theirs)
        return drawn(*args, **options)

    monkeypatch.setattr(simulate, "simulate", meanwhile)
    artifacts.work_directory(theirs)
    (theirs / "40.part").write_text("to be drawn")
    storage.store(theirs)
    assert evaluate.help_out([cell], two, small.silent) and drew == [10]
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


@pytest.mark.nightly
def test_a_model_is_scored_in_the_queue(trained, tmp_path, monkeypatch):
    workdir, cell, _ = trained
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    other = alone(workdir, tmp_path, TOGETHER[0])
    costs = evaluate.costs(other, [[cell]])
    how = {"title": "x", "time": "5", "parallel": 1, "done": evaluate.finished, "costs": costs, "kind": "score"}
    (queued,) = slurm.submit(evaluate.job, [[cell]], other, cluster="local", **how)
    queued.wait()
    assert queued.exception() is None, queued.stderr()
    assert evaluate.finished([cell], other) is not None and "stays/s" in queued.stderr()
    assert slurm.submit(evaluate.job, [[cell]], other, cluster="local", **how) == []


def test_a_damaged_part_is_named(trained, tmp_path):
    workdir, cell, _ = trained
    other = alone(workdir, tmp_path, TOGETHER[0])
    scratch = evaluate._scratch(cell, other, prepared.asked_in(other))
    scratch.mkdir(parents=True)
    (scratch / "0.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UserError, match=r"0\.npz is damaged \(\w+\): delete it and run again"):
        evaluate.job([cell], other, small.silent)
    assert not list((other / "outcomes").glob(f"*/*{cell.id}*"))


def test_the_page_and_the_trajectories(trained, tmp_path, monkeypatch):
    """Futures for them are ordinary ones, for REACH too; a folder is filled once."""
    workdir, _, _ = trained
    other = alone(workdir, tmp_path, TOGETHER[0], method="reach")
    for place, sort in ((workdir, ["icu_admission", "length_of_stay", "prolonged_stay"]), (other, ["icu_admission"])):
        asked = {}

        def recorded(*args, asked=asked, **options):
            asked.update(args[2]._asdict(), stays=len(args[2].ids))
            return drawn(*args, **options)

        def described(events, place=place):
            assert (events / "metadata" / "codes.parquet").is_file() and events.parent == place
            return dict.fromkeys(timelines.vocabulary(place).tokens, "what the source says of it")

        monkeypatch.setattr(simulate, "simulate", recorded)
        monkeypatch.setattr(inspection, "labels", described)
        text = show.page(place, 2, copies=3).read_text()
        assert (asked["stays"], asked["copies"], asked["suppress"]) == (2, 3, False)
        assert "what the source says of it" in text
        assert "Timeline 2" in text and "Timeline 3" not in text
        assert all(OWN[name].description in text for name in sort)
        # Days are told as days, not as a risk.
        assert ("mean ± standard error" in text) == ("length_of_stay" in sort)
        ids = questions.load(place / "outcomes" / sort[0]).stays.subject_ids
        assert not any(f">{i}<" in text for i in ids.tolist())
    counts = show.write_trajectories(other, tmp_path / "futures")
    assert asked["suppress"] is False
    assert counts["trajectories"] == 50 * 3 and counts["repeated"] == 0
    assert len(list((tmp_path / "futures" / "held_out").iterdir())) == 3
    with pytest.raises(UserError, match="holds trajectories already"):
        show.write_trajectories(other, tmp_path / "futures")


def test_what_cannot_be_shown_is_told_before_anything_is_simulated(trained, tmp_path):
    workdir, cell, _ = trained
    with pytest.raises(UserError, match="--cell is for --show and --trajectories"):
        show.check(workdir, None, None, cell.id)
    with pytest.raises(UserError, match="--cell=nix is not in"):
        show.check(workdir, 1, None, "nix")
    (tmp_path / "a file").write_text("")
    with pytest.raises(UserError, match="a file is no folder"):
        show.check(workdir, None, tmp_path / "a file", None)
    show.check(workdir, 1, tmp_path / "new", cell.id)
    show.check(workdir, None, None, None)
    closed = tmp_path / "closed"
    shutil.copytree(workdir / "events", closed / "events", ignore=shutil.ignore_patterns("data"))
    record = artifacts.read_json(closed / "events" / artifacts.RECORD)
    about = {**record["summary"], "generated": False, "name": "MIMIC-IV", "license": "credentialed"}
    artifacts.write_sealed(closed / "events" / artifacts.RECORD, {**record, "summary": about})
    with pytest.raises(UserError) as told:
        show.check(closed, 1, None, None)
    with pytest.raises(UserError) as known:
        fan.check_open(artifacts.read_json(closed / "events" / artifacts.RECORD))
    assert str(told.value) == str(known.value)


def test_labels_that_cannot_be_scored(trained, tmp_path):
    """Without values, or of test patients only, on whom no baseline can be fitted: nothing is left of the task."""
    workdir, cell, _ = trained
    table = pq.read_table(workdir / "outcomes" / "icu_admission" / f"{cell.id}.parquet")
    named = {name: table[name] for name in ("subject_id", "prediction_time", "boolean_value")}
    task = Task("mine", "", labels=str(tmp_path / "labels.parquet"), positive=("ICU_ADMISSION",), at_end="negative")
    for columns, message in ((2, "labels of the task mine have no boolean_value"), (3, "of the train split: 50 whose")):
        pq.write_table(pa.table(dict(list(named.items())[:columns])), tmp_path / "labels.parquet")
        with pytest.raises(UserError, match=message):
            alone(workdir, tmp_path / str(columns), task)
        assert not list((tmp_path / str(columns)).glob("alone/outcomes/*"))


def test_a_folder_that_is_not_complete_is_named(trained, tmp_path):
    workdir, _, _ = trained
    (tmp_path / "alone" / "outcomes" / "icu_admission").mkdir(parents=True)
    with pytest.raises(UserError, match="icu_admission is not complete: delete it and run again"):
        alone(workdir, tmp_path, TOGETHER[0])


def test_parts_of_another_version_are_not_gone_on_with(trained, tmp_path, monkeypatch):
    workdir, cell, _ = trained
    other = alone(workdir, tmp_path, TOGETHER[0])
    group = prepared.asked_in(other)
    names = {evaluate._scratch(cell, other, group)}
    for module, name in ((parts, "AT_ONCE"), (scoring, "ANSWERS")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, 7)
            names.add(evaluate._scratch(cell, other, group))
    assert len(names) == 3
