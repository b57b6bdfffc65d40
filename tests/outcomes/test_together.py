"""Several tasks in one pass: each is answered as if alone, by any method, on one device or by several processes."""

import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_scaling import artifacts
from ehr_scaling.data.inspection import inspection
from ehr_scaling.data.timelines import timelines
from ehr_scaling.errors import UserError
from ehr_scaling.grid.executors import slurm
from ehr_scaling.layout import Layout
from ehr_scaling.outcomes import evaluate, scoring, together
from ehr_scaling.outcomes.asking import prepared, questions
from ehr_scaling.outcomes.asking.tasks.tasks import Task
from ehr_scaling.outcomes.exchange import predictions
from ehr_scaling.outcomes.judging import estimators
from ehr_scaling.outcomes.pages import fan, show
from ehr_scaling.outcomes.sampler import simulate, two_tokens
from ehr_scaling.training.setup import restored_params
from tests import forked, small
from tests.outcomes.scored import KIND, OPTIONS, OWN, TOGETHER, alone, check_predictions, drawn, same


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
    suppress = asked.request.suppress
    assert suppress == (method == "reach")
    futures = asked.run(*restored_params(cell, Layout(other).run(cell.id)), np.arange(len(asked.request.ids)))
    icu = asked.vocabulary.index["ICU_ADMISSION"]
    assert (futures.tokens == icu).any() != suppress
    own = prepared.union_of(group).rows[group.index(next(q for q in group if q.task.name == task.name))]
    k = [q.task.name for q in group].index(task.name)
    p = getattr(estimators, method)(futures.take(own), k).probability
    weights = questions.load(other / "outcomes" / task.name).weights
    unknown = int(np.isnan(p).sum())
    assert (unknown > 0) == (method == "monte_carlo")
    p, base = estimators.filled(p, weights)
    assert score["unknown"] == {"stays": unknown, "probability": pytest.approx(base, rel=1e-6)}
    p = p.astype(np.float32)
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
    request = together.of_group(other, groups[0], union).request
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


# One of two processes where a device has so much memory; even small arrays are cut. It says the shapes of an embedding,
# whole and on a device, and what share a device has of what is computed of the stays
PROCESS = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
from ehr_scaling.processes import leading
from ehr_scaling.grid import manifest
from ehr_scaling.outcomes import evaluate, following, parts
from ehr_scaling.training import setup, sharding
from tests import small
sharding.WHOLE_BELOW, setup._memory, parts.AT_ONCE = 0, lambda: float(sys.argv[4]), 30
on_host, shares = sharding.on_host, set()
def seen(mesh, arrays):
    shares.update(len(x.addressable_shards[0].data) / len(x) for x in jax.tree.leaves(arrays))
    return on_host(mesh, arrays)
sharding.on_host = seen
restored = setup.restored_params
def cut(*args):
    model, params = restored(*args)
    print([x.shape for x in (params["embedding"], params["embedding"].addressable_shards[0].data)])
    return model, params
evaluate.restored_params = following.restored_params = cut
workdir = Path(sys.argv[1])
score = lambda: evaluate.job(manifest.read(workdir / "grid"), workdir, small.silent)
leading.run(score, lambda: following.steps(workdir))
print(shares)
"""


@pytest.mark.parametrize("memory", [0.0, 1e9], ids=["cut", "held"])
def test_two_processes_score_a_model_together_as_one_device_does(trained, tmp_path, memory):
    """Two tokens summed up, futures drawn, and the next token, in parts; process 0 alone writes. Devices that each hold
    the model have half of the stays, those that it is cut over all of them."""
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
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROCESS, str(two), address]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [forked.Popen([*command, str(i), str(memory)], env=environment, **pipes) for i in range(2)]
    try:
        told = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (said, error) in zip(processes, told, strict=True):
        assert process.returncode == 0, error[-2000:]
        rows, share = (cell.padded_vocab, 0.5) if memory else (cell.padded_vocab // 2, 1.0)
        assert said.splitlines()[-2:] == [f"[({cell.padded_vocab}, 32), ({rows}, 32)]", str({share})]
    for name, place in places.items():
        assert same(artifacts.read_json(two / "outcomes" / name / f"{cell.id}.json"), expected[name])
        check_predictions(cell, name, two, place)
    assert not list((two / "outcomes").glob(".*"))


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
