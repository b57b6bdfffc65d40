"""From a sheet of questions to a trained model's answers: decided as tasks are, made once, gone on with."""

import csv
import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from ehr_scaling import artifacts, storage, study
from ehr_scaling.errors import Preempted, UserError
from ehr_scaling.grid import manifest
from ehr_scaling.outcomes import answering, parts, together
from ehr_scaling.outcomes.asking import prepared, questions, sheet_stays
from ehr_scaling.outcomes.asking.tasks import sheets, tasks
from ehr_scaling.outcomes.judging import counting, sheet_scores
from ehr_scaling.outcomes.judging.metrics import metrics
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, POSITIVE
from ehr_scaling.storage.bucket import Bucket
from ehr_scaling.training import loop
from ehr_scaling.training.setup import restored_params
from tests import buckets, forked, small
from tests.outcomes import as_one
from tests.outcomes.scored import same

TEXT = """
description: What comes after a discharge.
anchor: HOSPITAL_DISCHARGE
hours: 0
codes: {readmission: [HOSPITAL_ADMISSION, MEDS_DEATH], lab: LAB, none: NOT_A_TOKEN}
top: 4
horizons: [7, 30]
at_end: negative
"""
OPTIONS = {"context": 64, "copies": 3, "new_tokens": 24}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work directory with a finished cell, a sheet, and a task that asks one of its questions; the cell's answers."""
    workdir = tmp_path_factory.mktemp("study")
    packed = study.prepare(small.config(**{"data.patients": 400}), workdir)
    cell = small.cell(packed)
    loop.job([cell], workdir, small.silent)
    (workdir / "grid").mkdir()
    manifest.write(workdir / "grid" / manifest.MANIFEST, [cell])
    path = workdir / "after_discharge.yaml"
    path.write_text(TEXT)
    sheet = sheets.load(path)
    sheet_stays.prepare(workdir, sheet, **OPTIONS)
    more = {"max_samples": None, "method": "monte_carlo", "draws": 20, "train_samples": 100}
    questions.prepare(workdir, tasks.load()["readmission_30d"], **OPTIONS, **more)
    (answers,) = answering.job([cell], workdir, small.silent, name=sheet.name)
    return workdir, cell, sheet, answers


def _row(answers, code, days):
    (row,) = (row for row in answers["scores"] if (row["code"], row["horizon_days"]) == (code, days))
    return row


def test_a_question_is_decided_as_the_task_that_asks_the_same(trained, tmp_path):
    """Same stays, same labels, and of each the same copies in which it comes and does not: to the last one."""
    workdir, cell, sheet, answers = trained
    asked, known = answering._prepared(workdir, sheet.name), sheet_stays.load(workdir / "outcomes" / sheet.name)
    drawn = answering._drawn(cell, workdir, asked, known, tmp_path / "scratch", small.silent)
    group = prepared.asked_in(workdir)
    union = prepared.union_of(group)
    trained_model = restored_params(cell, workdir / "runs" / cell.id)
    everyone = np.arange(len(union.first))
    futures = together.of_group(workdir, group, union).run(*trained_model, everyone).take(union.rows[0])
    theirs, ours = union.samples[0].stays, known.stays
    order = np.lexsort((theirs.times, theirs.subject_ids)), np.lexsort((ours.times, ours.subject_ids))
    for name in ("subject_ids", "times"):
        np.testing.assert_array_equal(getattr(theirs, name)[order[0]], getattr(ours, name)[order[1]])
    for counted, kind in zip((drawn.positive, drawn.negative), (POSITIVE, NEGATIVE), strict=True):
        ended = (futures.ended[..., 0] == kind).sum(axis=1)
        np.testing.assert_array_equal(counted[order[1], 0, 1], ended[order[0]])
        assert 0 < ended.mean() < 3
    np.testing.assert_array_equal(known.labels(30.0, 0.0)[order[1], 0] == POSITIVE, theirs.labels[order[0]])
    row = _row(answers, "readmission", 30.0)["all"]
    said = counting.shares(drawn.positive[:, 0, 1], drawn.negative[:, 0, 1])
    labels = known.labels(30.0, 0.0)[:, 0] == POSITIVE
    assert row["auroc"] == pytest.approx(metrics.auroc(labels, said.probability), abs=6e-5)
    assert (row["stays"], row["with_outcome"]) == (len(labels), labels.sum())


def test_what_is_written(trained):
    workdir, cell, sheet, answers = trained
    folder = workdir / "outcomes" / sheet.name
    about = artifacts.read_json(folder / sheets.FILE)
    codes = [code["code"] for code in about["codes"]]
    assert codes[:2] == ["readmission", "lab"] and len(codes) == 6 and about["lacking"] == ["none"]
    assert not any(code.startswith(("TIME//", "Q", "AGE//", "TIMELINE_END")) for code in codes)
    assert "vocabulary lacks none" in about["description"]
    assert [(row["code"], row["horizon_days"]) for row in answers["scores"]] == [(c, d) for c in codes for d in (7, 30)]
    assert artifacts.read_json(folder / f"{cell.id}.json") == answers and 0 <= answers["bounded"] <= 1
    with (folder / f"{cell.id}.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 6 * 2 * 3 and tuple(rows[0]) == answering.COLUMNS
    for row in rows:
        score = _row(answers, row["code"], float(row["horizon_days"]))[row["occurrence"]]
        assert row["auroc"] == ("" if "suppressed" in score else str(score["auroc"]))
        assert row["suppressed"] == score.get("suppressed", "")
    table = pq.read_table(folder / f"{cell.id}.parquet")
    n = artifacts.record(folder)["summary"]["stays"]
    assert table.num_rows == n * 6 * 2 and table.schema.equals(answering.PREDICTIONS)
    p, error = (table[name].to_numpy() for name in ("probability", "error"))
    assert ((p > 0) & (p < 1) & (error > 0)).all()
    of_code = p.reshape(6, 2, n).mean(axis=2)
    assert (of_code[:, 1] >= of_code[:, 0] - 0.02).all()  # a longer horizon has more of each code
    known, labels = sheet_stays.load(folder), table["boolean_value"].to_pylist()
    for h, days in enumerate(sheet.horizons):
        kinds = known.labels(days, sheet.follow_up)
        said = np.array(labels, object).reshape(6, 2, n)[:, h].T
        np.testing.assert_array_equal(said == True, kinds == POSITIVE)  # noqa: E712
        np.testing.assert_array_equal(said == None, ~np.isin(kinds, (POSITIVE, NEGATIVE)))  # noqa: E711


def test_answers_are_made_once_and_interruptions_gone_on_with(trained, monkeypatch):
    workdir, cell, sheet, answers = trained
    folder = workdir / "outcomes" / sheet.name
    monkeypatch.setattr(answering, "restored_params", lambda *_: pytest.fail("asked again"))
    assert answering.job([cell], workdir, small.silent, name=sheet.name) == [answers]
    assert answering.finished([cell], workdir, name=sheet.name) == [answers]
    monkeypatch.undo()
    kept = [(folder / f"{cell.id}{ending}").read_bytes() for ending in answering.ENDINGS[:2]]
    (folder / f"{cell.id}.csv").unlink()
    assert answering.finished([cell], workdir, name=sheet.name) is None
    monkeypatch.setattr(parts, "AT_ONCE", 16)
    real, drawn = together.Simulation.run, []

    def interrupted(self, model, params, rows, report):
        if len(drawn) == 2:
            raise Preempted("now")
        drawn.append(rows)
        return real(self, model, params, rows, report)

    monkeypatch.setattr(together.Simulation, "run", interrupted)
    with pytest.raises(Preempted):
        answering.job([cell], workdir, small.silent, name=sheet.name)
    done = []
    monkeypatch.setattr(together.Simulation, "run", lambda self, *args: done.append(args[2]) or real(self, *args))
    (again,) = answering.job([cell], workdir, small.silent, name=sheet.name)
    assert np.concatenate(done).min() == 32  # the first two parts are not drawn again
    assert {**again, "seconds": 0} == {**answers, "seconds": 0}
    assert [(folder / f"{cell.id}{ending}").read_bytes() for ending in answering.ENDINGS[:2]] == kept
    assert not list(folder.glob(".*"))


def test_a_machine_of_a_bucket_goes_on_with_the_parts_of_another(trained, tmp_path, monkeypatch):
    workdir, cell, sheet, answers = trained
    url, mirrors = buckets.url("file", tmp_path), []
    for number in range(2):
        monkeypatch.setenv("EHR_SCALING_MIRRORS", str(tmp_path / f"machine{number}"))
        mirrors.append(storage.local(url))
        for name in ("events", "timelines", "packed", "runs", "grid"):
            (mirrors[-1] / name).symlink_to(workdir / name)
        sheet_stays.prepare(mirrors[-1], sheet, **OPTIONS)
    monkeypatch.setattr(parts, "AT_ONCE", 16)
    real, done = together.Simulation.run, []

    def ended(self, *args):
        done.append(args[2][0])
        if len(done) == 3:
            raise Preempted("now")
        return real(self, *args)

    monkeypatch.setattr(together.Simulation, "run", ended)
    with pytest.raises(Preempted):
        answering.job([cell], mirrors[0], small.silent, name=sheet.name)
    kept = f"outcomes/{sheet.name}/.{cell.id}"
    names = {key.rsplit("/", 1)[-1] for key in Bucket(url).list(kept)}
    assert {"0.npz", "16.npz", "32.part"} <= names and "32.npz" not in names
    (again,) = answering.job([cell], mirrors[1], small.silent, name=sheet.name)
    assert done[:4] == [0, 16, 32, 32] and {**again, "seconds": 0} == {**answers, "seconds": 0}
    assert not Bucket(url).list(kept)


def test_two_processes_answer_as_one_device_does(trained, tmp_path):
    """Process 0 alone writes, and tells."""
    workdir, cell, sheet, answers = trained
    (tmp_path / "w").mkdir()
    for name in ("events", "timelines", "packed", "runs", "grid"):
        (tmp_path / "w" / name).symlink_to(workdir / name)
    flags = [f"--workdir={tmp_path / 'w'}", f"--questions={workdir / 'after_discharge.yaml'}"]
    flags += ["--config.data.context=64", "--config.outcome.copies=3", "--config.outcome.new_tokens=24"]
    first, second = as_one.ends(as_one.start("-m", "launch.ask", *flags, popen=forked.Popen))
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert f"{cell.id}: " in first[1] and cell.id not in "".join(second[1:])
    assert "one process holds this model: several that ask it as one" in first[2]
    assert same(artifacts.read_json(tmp_path / "w" / "outcomes" / sheet.name / f"{cell.id}.json"), answers)


def test_a_sheet_is_no_task_and_other_questions_are_another_sheet(trained):
    workdir, cell, sheet, _ = trained
    assert [folder.name for folder in questions.prepared(workdir)] == ["readmission_30d"]
    assert sheet_stays.sheet_of(artifacts.record(workdir / "outcomes" / sheet.name)) == sheet
    changed = dataclasses.replace(sheet, horizons=(7.0, 60.0))
    with pytest.raises(UserError, match="was made from other inputs"):
        sheet_stays.prepare(workdir, changed, **OPTIONS)
    with pytest.raises(UserError, match="trained on 32"):
        answering.job([dataclasses.replace(cell, id="other", context=32)], workdir, small.silent, name=sheet.name)


def test_real_patients_are_told_by_tens(trained, tmp_path):
    """The same answers, were the patients real: what is told of each question has no count but tens."""
    workdir, _, sheet, answers = trained
    asked = answering._prepared(workdir, sheet.name)
    known = sheet_stays.load(asked.folder)
    shape = (len(known.stays.times), 6, 2)
    counts = answering.Counts(np.ones(shape, np.uint16), np.ones(shape, np.uint16))
    scores = answering._written(asked, known, counts, tmp_path / "cell", generated=False)
    told = [score[name] for score in scores for name in sheet_scores.OCCURRENCES if "auroc" in score[name]]
    assert told and all(
        count % 10 == 0 for row in told for count in (row["stays"], row["patients"], row["with_outcome"])
    )
    assert any(row["all"]["stays"] % 10 for row in answers["scores"] if "stays" in row["all"])
