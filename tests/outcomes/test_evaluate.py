"""From a trained cell to its score: written whole, in the schema others read, and never from other data."""

import dataclasses
import os
import shutil
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_scaling import artifacts, study
from ehr_scaling.data import parquet
from ehr_scaling.data.timelines import timelines
from ehr_scaling.errors import Preempted, UserError
from ehr_scaling.models.transformer import PAD
from ehr_scaling.outcomes import evaluate, probabilities, scoring
from ehr_scaling.outcomes.asking import cohort, prepared, questions, stays
from ehr_scaling.outcomes.asking.prepared import asked_in
from ehr_scaling.outcomes.asking.tasks import tasks
from ehr_scaling.outcomes.exchange import predictions
from ehr_scaling.outcomes.judging.metrics import calibration, metrics, subgroups
from ehr_scaling.outcomes.sampler import simulate
from ehr_scaling.processes import preemption
from ehr_scaling.training import loop
from tests import small

pytestmark = pytest.mark.usefixtures("few_trees")
TASK = dataclasses.replace(tasks.load()["in_hospital_death_24h"], name="death_12h", hours=12.0)
OPTIONS = {
    "context": 64,
    "copies": 2,
    "new_tokens": 24,
    "max_samples": 60,
    "positive_share": 0.3,
    "train_samples": 400,
    "draws": 100,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work directory with a finished cell and a prepared task, and the cell."""
    workdir = tmp_path_factory.mktemp("study")
    packed = study.prepare(small.config(**{"data.patients": 2000}), workdir)
    cell = small.cell(packed)
    loop.job([cell], workdir, small.silent)
    questions.prepare(workdir, TASK, **OPTIONS)
    return workdir, cell


@pytest.fixture
def study_of(trained, tmp_path):
    """A copy of it, without scores, that a test may change."""
    workdir = tmp_path / "copy"
    shutil.copytree(trained[0], workdir)
    for score in (workdir / "outcomes").glob(f"*/*{trained[1].id}*"):
        score.unlink()
    for baseline in (workdir / "outcomes").glob("*/baseline.*"):
        baseline.unlink()
    return workdir, trained[1]


def test_what_is_asked(trained):
    workdir, _ = trained
    folder = workdir / "outcomes" / TASK.name
    samples, about = questions.load(folder), artifacts.read_json(folder / "task.json")
    assert samples.prompts.shape == (60, 40)
    assert about["stays"] == 60 and about["positives"] == samples.stays.labels.sum() > 0
    every = cohort.stays(workdir, "test", TASK)
    assert about["available_positives"] == every.labels.sum()
    assert "drawn by outcome" in about["description"] and about["kind"] == "binary"
    wider = stays.prompts(workdir, "test", samples.stays, 41)  # has a token more where the prompt left some out
    assert about["shortened"] == ((wider != PAD).sum(1) > (samples.prompts != PAD).sum(1)).sum() > 0
    assert f"Of {about['shortened']} a model reads the last" in about["description"]
    np.testing.assert_array_equal(samples.prompts, stays.prompts(workdir, "test", samples.stays, 40))
    # Made once; with other options it is another question.
    assert questions.prepare(workdir, TASK, **OPTIONS)["summary"]["stays"] == 60
    with pytest.raises(UserError, match="copies was 2, now 3"):
        questions.prepare(workdir, TASK, **{**OPTIONS, "copies": 3})


def test_the_unit_is_the_last_before_the_prediction(trained):
    workdir, _ = trained
    samples, vocabulary = questions.load(workdir / "outcomes" / TASK.name), timelines.vocabulary(workdir)
    seen = set()
    for part, rows, owners in stays.by_part(workdir, "test", samples.stays):
        for row, owner in zip(rows, owners, strict=True):
            begin = part.offsets[owner]
            known = [vocabulary.tokens[t] for t in part.tokens[begin : begin + samples.stays.known[row]]]
            units = [token for token in known if token.startswith("ICU_TYPE//")]
            expected = units[-1][len("ICU_TYPE//") :].lower().replace("_", " ") if units else "none"
            assert samples.unit[row] == expected
            seen.add(expected)
    assert "none" in seen and len(seen) > 1


def test_a_score_and_its_predictions(trained, monkeypatch):
    workdir, cell = trained
    (cost,) = evaluate.costs(workdir, [[cell]])
    assert (cost.tokens, cost.stays) == (60 * 2 * 24, 60)
    seen = []
    score = evaluate.job([cell], workdir, seen.append)[0][TASK.name]
    assert sum(seen) == cost.tokens
    folder = workdir / "outcomes" / TASK.name
    assert artifacts.read_json(folder / f"{cell.id}.json") == score
    assert {"cell", "task", "auroc", "low", "high", "n", "positives", "copies", "undetermined", "generated_tokens",
            "method"} <= set(score)  # fmt: skip
    assert (score["cell"], score["task"], score["n"], score["copies"]) == (cell.id, TASK.name, 60, 2)
    assert 0 < score["generated_tokens"] <= 60 * 2 * 24 and 0 <= score["undetermined"] <= 1

    table = pq.read_table(folder / f"{cell.id}.parquet")
    assert [(f.name, f.type) for f in table.schema] == [
        ("subject_id", pa.int64()),
        ("prediction_time", pa.timestamp("us")),
        ("boolean_value", pa.bool_()),
        ("predicted_boolean_value", pa.bool_()),
        ("predicted_boolean_probability", pa.float32()),
    ]
    asked = questions.load(folder).stays
    columns = [table[name].to_numpy() for name in table.column_names]
    np.testing.assert_array_equal(columns[0], asked.subject_ids)
    np.testing.assert_array_equal(columns[1].astype(np.int64), asked.times)
    np.testing.assert_array_equal(columns[2], asked.labels)
    np.testing.assert_array_equal(columns[3], columns[4] >= 0.5)
    assert ((columns[4] > 0) & (columns[4] < 1)).all()
    assert score["auroc"] == pytest.approx(metrics.auroc(asked.labels, columns[4].astype(float)), abs=1e-6)

    # It is not made again, and is the same when it is.
    monkeypatch.setattr(evaluate, "restored_params", lambda *args: pytest.fail("scored again"))
    assert evaluate.job([cell], workdir, seen.append)[0][TASK.name] == score
    monkeypatch.undo()
    (folder / f"{cell.id}.json").unlink()
    again = evaluate.job([cell], workdir, seen.append)[0][TASK.name]
    assert {**again, "seconds": 0} == {**score, "seconds": 0}


def test_risks_are_recalibrated_on_patients_of_the_validation_split(study_of, monkeypatch):
    workdir, cell = study_of
    plain = evaluate.job([cell], workdir, small.silent)[0][TASK.name]
    questions.prepare(workdir, TASK, **OPTIONS, split=questions.TUNING, seed=1)  # stays on which the slope is positive
    scores = evaluate.job([cell], workdir, small.silent)[0]
    assert set(scores) == {TASK.name, f"{TASK.name}/validation"}
    score, moved = scores[TASK.name], scores[TASK.name]["recalibrated"]
    # Nothing but that is added, and what is scored is still the test split alone.
    differ = ("recalibrated", "fingerprint", "decision", "calibration_curve")
    assert {k: v for k, v in score.items() if k not in differ} == {k: v for k, v in plain.items() if k not in differ}
    folders = [workdir / "outcomes" / TASK.name, workdir / "outcomes" / TASK.name / "validation"]
    said = [probabilities.answers(folder / f"{cell.id}.parquet") for folder in folders]
    assert not set(said[0].subject_ids) & set(said[1].subject_ids)
    samples, asked = (questions.load(folder) for folder in folders)
    line = calibration.line(said[1].labels, said[1].probabilities.astype(float), asked.weights)
    assert moved["method"] == "line"
    assert (moved["intercept"], moved["slope"]) == line and moved["stays"] == len(said[1].labels)
    own = calibration.moved(said[0].probabilities.astype(float), *line)

    def brier(p):
        return pytest.approx(np.average((p - samples.stays.labels) ** 2, weights=samples.weights), abs=1e-6)

    assert moved["brier"]["value"] == brier(own) and "auroc" not in moved
    monkeypatch.setattr(evaluate, "restored_params", lambda *args: pytest.fail("scored again"))
    assert evaluate.job([cell], workdir, small.silent)[0] == scores
    # Another recalibration is fitted to the predictions that are there.
    prepared.recalibrate_by("isotonic", folders[0])
    assert evaluate.finished([cell], workdir) is None
    again = evaluate.job([cell], workdir, small.silent)[0][TASK.name]
    steps = calibration.isotonic(said[1].labels, said[1].probabilities.astype(float), asked.weights)
    assert again["recalibrated"]["method"] == "isotonic" and "slope" not in again["recalibrated"]
    assert again["recalibrated"]["brier"]["value"] == brier(steps.moved(said[0].probabilities.astype(float)))
    assert again["recalibrated"]["auroc"] == pytest.approx(
        metrics.auroc(samples.stays.labels, steps.moved(said[0].probabilities.astype(float)))
    )
    assert {k: v for k, v in again.items() if k not in ("recalibrated", "fingerprint")} == {
        k: v for k, v in score.items() if k not in ("recalibrated", "fingerprint")
    }
    prepared.recalibrate_by("line", folders[0])
    decide, seen = probabilities._decision, []
    with monkeypatch.context() as patch:
        patch.setattr(probabilities, "_decision", lambda *asked: (seen.append(asked[2:]), decide(*asked))[1])
        assert evaluate.job([cell], workdir, small.silent)[0] == scores
    # Thresholds of the risks that are to be acted on are told first, the others as far as they leave room
    (first,), (_, beside) = (asked for asked in seen if np.isin(len(asked[0]), len(own)))
    np.testing.assert_allclose(first, own)
    assert beside == (first, moved["decision"])
    # None is another one too: the stays of the last lie there still
    prepared.recalibrate_by("none", folders[0])
    assert evaluate.finished([cell], workdir) is None
    assert evaluate.job([cell], workdir, small.silent)[0] == {TASK.name: plain}
    prepared.recalibrate_by("line", folders[0])
    assert evaluate.job([cell], workdir, small.silent)[0] == scores


def test_a_baseline_that_comes_later_or_anew_is_compared_without_simulating_again(study_of, monkeypatch):
    workdir, cell = study_of
    folder = workdir / "outcomes" / TASK.name
    before = evaluate.job([cell], workdir, small.silent)[0][TASK.name]
    assert "against_baseline" not in before
    monkeypatch.setattr(evaluate, "restored_params", lambda *args: pytest.fail("simulated again"))
    evaluate.baseline(workdir, TASK)
    assert evaluate.finished([cell], workdir) is None
    after = evaluate.job([cell], workdir, small.silent)[0][TASK.name]
    assert {k: v for k, v in after.items() if k not in ("against_baseline", "net_benefit_against", "fingerprint")} == {
        k: v for k, v in before.items() if k != "fingerprint"
    }
    baseline = artifacts.read_json(folder / "baseline.json")
    others = {name: score for name, score in baseline["others"].items() if name != "prevalence"}
    assert set(after["net_benefit_against"]) == {baseline["name"], *others} and "prevalence" in baseline["others"]
    for name, beside in {baseline["name"]: baseline, **others}.items():
        told = {of["threshold"]: of["net_benefit"]["value"] for of in beside["decision"]["curve"]}
        ours = {of["threshold"]: of["net_benefit"]["value"] for of in after["decision"]["curve"]}
        less = {part["threshold"]: part["value"] for part in after["net_benefit_against"][name]}
        assert less == pytest.approx({t: ours[t] - told[t] for t in told if t in ours}) and less
    # Another one: its predictions, and the fingerprint of what it was fitted to
    table = pq.read_table(folder / "baseline.parquet")
    turned = pa.array(1 - table["predicted_boolean_probability"].to_numpy(), pa.float32())
    parquet.write(folder / "baseline.parquet", table.set_column(4, table.schema.field(4), turned))
    artifacts.write_sealed(
        folder / "baseline.json", artifacts.read_json(folder / "baseline.json") | {"fingerprint": "of more features"}
    )
    again = evaluate.job([cell], workdir, small.silent)[0][TASK.name]
    one, other = (score["against_baseline"]["auroc"]["first"] for score in (after, again))
    assert other == pytest.approx(1 - one)
    assert evaluate.finished([cell], workdir) == [{TASK.name: again}]


def test_stays_whose_records_fill_the_prompt_are_scored_apart(trained, monkeypatch):
    samples = questions.load(trained[0] / "outcomes" / TASK.name)
    monkeypatch.setattr(subgroups, "SMALLEST", 1)
    groups = probabilities._by_attribute(samples, lambda rows: {"rows": rows.tolist()})[probabilities.RECORD]
    filled = (samples.prompts != PAD).all(axis=1)
    assert 5 < filled.sum() < len(filled) - 5
    assert groups["fills the prompt"]["rows"] == np.flatnonzero(filled).tolist()
    assert groups["read whole"]["rows"] == np.flatnonzero(~filled).tolist()
    # Where all are of one kind there is nothing to compare
    padded = np.pad(samples.prompts, ((0, 0), (1, 0)), constant_values=PAD)
    assert probabilities.RECORD not in probabilities._by_attribute(samples._replace(prompts=padded), lambda rows: {})


def test_a_sample_of_one_outcome_ends_its_task_and_not_the_study(study_of):
    workdir, _ = study_of
    few = dataclasses.replace(TASK, name="of_two")
    with pytest.raises(
        tasks.Unanswerable, match=r"sample of stays of the test split for of_two has none with .*take m"
    ):
        questions.prepare(workdir, few, **OPTIONS | {"max_samples": 2, "positive_share": None})
    assert not (workdir / "outcomes" / few.name).exists()
    config = small.config(**{"data.patients": 2000, "outcome.samples": 2, "outcome.train_samples": 400})
    lines, any_asked = study.ask(config, workdir)
    assert "no outcome is scored: the sample of stays" in lines and not any_asked


def test_sigterm_is_heard_between_two_tasks_that_are_judged(study_of, monkeypatch):
    workdir, cell = study_of
    questions.prepare(workdir, dataclasses.replace(TASK, name="death_again"), **OPTIONS)
    (group,) = prepared.groups(asked_in(workdir))
    judged = []

    def asked_to_end(*args):
        judged.append(args)
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    monkeypatch.setattr(scoring, "_judge", asked_to_end)
    with preemption.deferred(), pytest.raises(Preempted):
        evaluate.job([cell], workdir, small.silent)
    assert len(group) == 2 and len(judged) == 1
    monkeypatch.undo()
    monkeypatch.setattr(simulate, "simulate", lambda *args, **kwargs: pytest.fail("drawn again"))
    assert set(evaluate.job([cell], workdir, small.silent)[0]) == {TASK.name, "death_again"}
    for path in (workdir / "outcomes").glob(f"*/{cell.id}.json"):
        artifacts.write_sealed(path, artifacts.read_json(path) | {"fingerprint": "of an earlier version"})

    def asked_to_end_again(cell, question, score):
        judged.append(question)
        return asked_to_end() or score

    monkeypatch.setattr(scoring, "judged_again", asked_to_end_again)
    with preemption.deferred(), pytest.raises(Preempted):
        evaluate.job([cell], workdir, small.silent)
    assert len(judged) == 3


def test_scores_of_an_earlier_version_are_made_anew_of_the_predictions_there(study_of, monkeypatch):
    workdir, cell = study_of
    path = workdir / "outcomes" / TASK.name / f"{cell.id}.json"
    score = evaluate.job([cell], workdir, small.silent)[0][TASK.name]
    question = asked_in(workdir)[0]
    of_then = {"samples": question.record["fingerprint"], "cell": cell.id, "version": 3}
    old = {k: v for k, v in score.items() if k not in ("decision", "answers")} | {
        "fingerprint": artifacts.fingerprint(of_then),
        "auroc": 0.1,
    }
    artifacts.write_sealed(path, old)
    monkeypatch.setattr(evaluate, "restored_params", lambda *args: pytest.fail("simulated again"))
    assert evaluate.job([cell], workdir, small.silent)[0][TASK.name] == score == artifacts.read_json(path)
    # Predictions of other samples, or of a version that predicted otherwise, are not taken.
    artifacts.write_sealed(path, old | {"fingerprint": artifacts.fingerprint(of_then | {"version": 2})})
    assert evaluate._scored(cell, workdir).unanswered == [question]
    artifacts.write_sealed(path, score | {"answers": "of others", "fingerprint": "of others"})
    assert evaluate._scored(cell, workdir).unanswered == [question]
    # Nor those of other stays under this name
    artifacts.write_sealed(path, old)
    table = pq.read_table(path.with_suffix(".parquet"))
    parquet.write(path.with_suffix(".parquet"), table.take(list(range(len(table)))[::-1]))
    with pytest.raises(UserError, match="about other stays than were asked"):
        evaluate.job([cell], workdir, small.silent)


def test_which_recalibration_is_asked_for_may_change(study_of):
    workdir, _ = study_of
    asked = {"outcome.samples": 60, "outcome.positive_share": 0.3, "outcome.train_samples": 400, "analysis.draws": 20}
    folder = workdir / "outcomes" / "in_hospital_death_24h"

    def ask(recalibrate):
        study.ask(small.config(**asked, **{"data.patients": 2000, "outcome.recalibrate": recalibrate}), workdir)
        tuning = prepared.tuning_of(next(q for q in asked_in(workdir) if q.folder == folder))
        return tuning and prepared.recalibration_of(tuning)

    changed = ("none", "line", "none", "isotonic", "line")
    assert [ask(x) for x in (False, True, *changed)] == [None, "line", None, "line", None, "isotonic", "line"]
    (folder / "validation" / prepared.RECALIBRATION).unlink()  # as earlier versions left it
    assert prepared.recalibration_of(prepared.tuning_of(asked_in(workdir)[-1])) == "line"


def test_the_baseline(trained, monkeypatch):
    workdir, _ = trained
    folder = workdir / "outcomes" / TASK.name
    score = evaluate.baseline(workdir, TASK)
    assert artifacts.read_json(folder / "baseline.json") == score
    asked = questions.load(folder).stays
    assert score["name"] == "logistic regression"
    assert (score["n"], score["positives"]) == (60, asked.labels.sum())
    assert score["train_stays"] == 400
    every = cohort.stays(workdir, "train", TASK)
    assert score["method"] == f"fitted on 400 of {len(every.labels):,} stays of the train split"
    table = pq.read_table(folder / "baseline.parquet")
    assert table.schema == predictions.BINARY
    p = table["predicted_boolean_probability"].to_numpy()
    assert score["auroc"] == pytest.approx(metrics.auroc(asked.labels, p.astype(float)), abs=1e-6)
    assert score["auroc"] > 0.6  # sicker patients look sicker
    assert set(score["others"]) == {"prevalence", "gradient-boosted trees"}
    assert score["others"]["prevalence"]["auroc"] == 0.5
    monkeypatch.setattr(questions, "load", lambda folder: pytest.fail("fitted again"))
    assert evaluate.baseline(workdir, TASK) == score


def test_what_does_not_belong_together_is_refused(study_of):
    workdir, cell = study_of
    score = lambda c: evaluate.job([c], workdir, small.silent)  # noqa: E731
    with pytest.raises(UserError, match="other timelines"):
        score(dataclasses.replace(cell, id="other", vocab=cell.vocab + 1))
    with pytest.raises(UserError, match="no finished run: train cell other"):
        score(dataclasses.replace(cell, id="other"))
    folder = workdir / "outcomes" / TASK.name
    record = artifacts.read_json(folder / artifacts.RECORD)
    artifacts.write_sealed(folder / artifacts.RECORD, {**record, "inputs": {**record["inputs"], "context": 65}})
    with pytest.raises(UserError, match=r"65 tokens of prompt and future, and cell \w+ was trained on 64"):
        score(cell)
    artifacts.write_sealed(folder / artifacts.RECORD, {**record, "inputs": {**record["inputs"], "timelines": "else"}})
    with pytest.raises(UserError, match="other timelines"):
        score(cell)
    artifacts.write_sealed(folder / artifacts.RECORD, record)
    earlier = workdir / "earlier"
    earlier.mkdir()
    with np.load(folder / questions.SAMPLES) as fields:
        np.savez(earlier / questions.SAMPLES, **{name: fields[name] for name in fields if name != "unit"})
    with pytest.raises(
        UserError, match=r"samples\.npz was made by an earlier version: take another --workdir, or delete"
    ):
        questions.load(earlier)
    damaged = (folder / questions.SAMPLES).read_bytes()[:-300]
    (folder / questions.SAMPLES).write_bytes(damaged)
    with pytest.raises(UserError, match=r"samples\.npz is damaged .*: delete"):
        score(cell)
    assert not list(folder.glob(f"*{cell.id}*"))
    shutil.rmtree(workdir / "outcomes")
    with pytest.raises(UserError, match="holds no prepared task"):
        score(cell)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"copies": 0}, "copies=0: take 1 or more"),
        ({"max_samples": 1}, "samples=1: take 2 or more"),
        ({"positive_share": 1.5}, "positive_share=1.5: take a number between 0 and 1"),
        ({"new_tokens": 62, "room": 62}, "no room beside"),
        ({"room": 64}, "room=64: take a number from 1 to 63"),
        ({"method": "guess"}, "method=guess: take scope, monte_carlo, reach or exact"),
    ],
)
def test_senseless_options(trained, tmp_path, change, message):
    workdir = tmp_path / "study"
    workdir.mkdir()
    (workdir / "timelines").symlink_to(trained[0] / "timelines")
    with pytest.raises(UserError, match=message):
        questions.prepare(workdir, TASK, **{**OPTIONS, **change})
    assert not list(workdir.glob("outcomes/*"))
