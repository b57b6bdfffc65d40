"""Sheets of questions: what a file may say, which tokens are meant, and what came true by a walk through records."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ehr_scaling import artifacts, storage
from ehr_scaling.data.vocabulary import DAY, HOUR
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.asking import cohort, sheet_stays
from ehr_scaling.outcomes.asking.tasks import sheets, tasks
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE
from tests import buckets
from tests.outcomes import records

TEXT = """
name: trial
anchor: [ADMIT]
hours: 24
codes: {a: [A, B], b: B, none: C//1}
horizons: [7, 1]
"""


def sheet(tmp_path, text=TEXT, **more):
    path = tmp_path / "questions.yaml"
    path.write_text(text + "".join(f"{key}: {value}\n" for key, value in more.items()))
    return sheets.load(path)


def test_a_sheet_of_a_file(tmp_path):
    trial = sheet(tmp_path)
    assert trial.name == "trial" and trial.horizons == (1.0, 7.0) and trial.at_end == "open"
    assert trial.codes == (("a", ("A", "B")), ("b", ("B",)), ("none", ("C//1",)))
    assert trial.negative == ("MEDS_DEATH",) and trial.who.horizon == 7
    unnamed = sheet(
        tmp_path, TEXT.replace("name: trial", "codes: [A, B]").replace("codes: {", "open: [X]\nwithout: []#")
    )
    assert unnamed.name == "questions" and unnamed.codes == (("A", ("A",)), ("B", ("B",)))
    assert unnamed.who.negative == ("MEDS_DEATH", "X")  # what may mean either decides all the same


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("horizons: [7, 1]", "horizons: [7, 0]"), "horizons is .*above 0"),
        (("horizons: [7, 1]", ""), "horizons is None"),
        (("hours: 24", ""), "hours and tokens are both missing"),
        (("hours: 24", "hour: 24"), "unknown key hour: did you mean hours"),
        (("codes: {a: [A, B], b: B, none: C//1}", ""), "codes and top are both missing"),
        (("b: B", "b: [-B]"), "b names no token"),
        (("b: B", "b: 3"), "codes holds 3"),
        (("b: B", "b: TIMELINE_END"), "at_end"),
        (("name: trial", "name: a/b"), "take letters"),
        (("name: trial", "top: -1"), "top is -1"),
        (("name: trial", "top_of: A"), "top_of is given without top"),
        (("name: trial", "at_end: positive"), "at_end is 'positive'"),
        (("name: trial", "top: 5000"), "2,000 at most"),
        (("name: trial", "negative: [X]\nopen: [X]"), "both hold X"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, change, message):
    with pytest.raises(UserError, match=message) as told:
        sheet(tmp_path, TEXT.replace(*change))
    assert "questions.yaml" in str(told.value) and "\n" not in str(told.value)


def test_which_tokens_are_meant(tmp_path):
    made = records.vocabulary("ADMIT", "A", "A//1", "B", "B//UNK", "D", "MEDS_DEATH", "X")
    counts = {"A": 5, "A//1": 9, "B": 3, "B//UNK": 90, "D": 7, "ADMIT": 8, "TIMELINE_END": 99, "Q1": 99, "AGE//0-5": 50}
    made = dataclasses.replace(made, counts=tuple(counts.get(token, 0) for token in made.tokens))
    resolved = sheets.resolve(sheet(tmp_path, top=3, open="[X]", negative="[MEDS_DEATH]"), made)
    # What is asked for by name alone is not asked again; "a" is a family, and its commonest member another question
    assert [code.name for code in resolved.codes] == ["a", "b", "A//1", "ADMIT", "D"] and resolved.lacking == ("none",)
    named = [{made.tokens[i] for i in np.flatnonzero(tokens)} for tokens in resolved.sets]
    assert named == [{"A", "A//1", "B", "B//UNK"}, {"B", "B//UNK"}, {"A//1"}, {"ADMIT"}, {"D"}]
    assert {made.tokens[i]: int(kind) for i, kind in enumerate(resolved.ends) if kind} == {
        "MEDS_DEATH": NEGATIVE, "X": OPEN, "TIMELINE_END": OPEN,
    }  # fmt: skip
    few = sheets.resolve(sheet(tmp_path, top=9, top_of="[A, D]", at_end="negative"), made)
    assert [code.name for code in few.codes][2:] == ["A//1", "D", "A"]
    assert few.ends[made.index["TIMELINE_END"]] == NEGATIVE
    with pytest.raises(tasks.Unanswerable, match="nothing that the vocabulary"):
        sheets.resolve(sheet(tmp_path, TEXT.replace("{a: [A, B], b: B, none: C//1}", "[Z]")), made)


CODES = ("A", "B", "C//1", "C//2", "X", "OUT", "MEDS_DEATH")
PATIENT = st.lists(st.tuples(st.integers(0, 900), st.sampled_from((*CODES, "ADMIT"))), min_size=1, max_size=12).map(
    lambda events: records.patient(*sorted(((hours / 4, token) for hours, token in events), key=lambda e: e[0]))
)


def walked(patient, times, until, horizon, names, ending, at_end, follow_up):
    """What came true, by a walk from the prediction on, token by token. Also whether the code was there before."""
    tokens, when = patient.tokens, patient.times
    before = any(tasks.means(names, t) for t in tokens[:until])
    label = None
    for token, time in zip(tokens[until:], when[until:], strict=True):
        if time - times > horizon * DAY:
            label, said = NEGATIVE, False
        elif tasks.means(names, token):
            label, said = POSITIVE, True
        elif token in ending:
            label, said = ending[token], True
        elif token == "TIMELINE_END":
            label, said = at_end, False
        if label is not None:
            break
    if label == NEGATIVE and not said and when[-1] - times < follow_up * DAY:
        label = sheet_stays.SHORT
    return label, before


@settings(deadline=None, max_examples=60)
@given(
    st.lists(PATIENT, min_size=1, max_size=5),
    st.sampled_from(["open", "negative"]),
    st.sampled_from([0.0, 2.0, 5.0]),
)
# At the horizon to the minute; and so soon after the prediction that no interval stands between
@example([records.patient((0, "ADMIT"), (36, "A"), (200, "B"))], "open", 0.0)
@example([records.patient((0, "ADMIT"), (12, "B"), (12.02, "A"), (200, "B"))], "open", 0.0)
def test_labels_are_those_of_a_walk_through_each_record(tmp_path_factory, patients, at_end, follow_up):
    text = (
        "anchor: ADMIT\nhours: 12\nhorizons: [1, 3]\ncodes: {a: A, c: C, out: [OUT, B], death: MEDS_DEATH}\n"
        f"negative: [MEDS_DEATH, OUT]\nopen: [X]\nat_end: {at_end}\nfollow_up: {follow_up}\n"
    )
    trial = sheet(tmp_path_factory.mktemp("sheet"), text)
    meaning = {"open": OPEN, "negative": NEGATIVE}
    ending = {"MEDS_DEATH": NEGATIVE, "OUT": NEGATIVE, "X": OPEN}
    with records.told({"test": patients}, *CODES, "ADMIT") as made:
        resolved = sheets.resolve(trial, made)
        group = cohort.find(records.FOLDER, "test", [trial.who])
        known = sheet_stays.read_records(records.FOLDER, "test", group.of(0), resolved)
    stays = known.stays
    for days in trial.horizons:
        labels = known.labels(days, follow_up)
        for i in range(len(stays.times)):
            patient = patients[stays.patients[i]]
            for q, code in enumerate(trial.codes):
                label, before = walked(
                    patient, stays.times[i], stays.known[i], days, code.names, ending, meaning[at_end], follow_up
                )
                assert (labels[i, q], known.before[i, q]) == (label, before)
    # Everyone who is alive, and whose stay nothing has ended, is asked
    expected = 0
    for patient in patients:
        for row, token in enumerate(patient.tokens):
            if token == "ADMIT":
                at = patient.times[row] + 12 * HOUR
                known_by_then = [t for t, time in zip(patient.tokens, patient.times, strict=True) if time <= at]
                ended = any(t in ending for t in known_by_then[row + 1 :]) or "MEDS_DEATH" in known_by_then
                expected += not ended and patient.times[-1] >= at
    assert len(stays.times) == expected


@pytest.mark.parametrize(
    "name", ["readmission_30d", "readmission_30d_alone", "onset_heart_failure", "readmission_30d_followed"]
)
def test_labels_are_those_of_the_task_that_asks_the_same(tmp_path, admissions, name):
    task = dataclasses.replace(tasks.load()[name], anchor=("HOSPITAL_ADMISSION",), hours=12.0)
    if task.onset:
        task = dataclasses.replace(task, positive=("LAB//1//MG",), horizon=2.0, at_end="open")
    text = (
        f"anchor: HOSPITAL_ADMISSION\nhours: 12\ncodes: {{it: {list(task.positive)}}}\nhorizons: [{task.horizon}]\n"
        f"negative: {list(task.negative)}\nat_end: {task.at_end}\nfollow_up: {task.follow_up}\n"
    )
    trial = sheet(tmp_path, text)
    resolved = sheets.resolve(trial, sheet_stays.timelines.vocabulary(admissions))
    group = cohort.find(admissions, "test", [trial.who])
    known = sheet_stays.read_records(admissions, "test", group.of(0), resolved)
    labels, stays = known.labels(task.horizon, task.follow_up)[:, 0], known.stays
    asked = cohort.find(admissions, "test", [task]).of(0)
    ours = dict(
        zip(zip(stays.subject_ids, stays.times, strict=True), zip(labels, known.before[:, 0], strict=True), strict=True)
    )
    assert 0 < asked.labels.sum() < len(asked.times)
    for who, time, label in zip(asked.subject_ids, asked.times, asked.labels, strict=True):
        found, before = ours.pop((who, time))
        assert found == (POSITIVE if label else NEGATIVE) and not (task.onset and before)
    # A task leaves out who is left open, who is not followed, and, where it asks for an onset, who had it before
    assert all(found in (OPEN, sheet_stays.SHORT) or (task.onset and before) for found, before in ours.values())


def test_what_another_machine_is_handing_over_to_a_bucket_is_no_broken_sheet(tmp_path, monkeypatch):
    """Its record comes last; on a disk of its own a folder without a record is one that somebody has spoilt."""
    monkeypatch.setenv("EHR_SCALING_MIRRORS", str(tmp_path / "mirrors"))
    monkeypatch.setattr(artifacts, "record", lambda folder: {"fingerprint": "of the timelines"})
    monkeypatch.setattr(artifacts, "build", lambda folder, inputs, make, version: {"waited for": folder.name})
    asked = sheet(tmp_path)
    for workdir, in_bucket in ((tmp_path / "disk", False), (storage.local(buckets.url("file", tmp_path)), True)):
        (workdir / "outcomes" / "trial").mkdir(parents=True)
        prepare = lambda: sheet_stays.prepare(workdir, asked, context=64, copies=2, new_tokens=8)  # noqa: B023, E731
        if in_bucket:
            assert prepare() == {"waited for": "trial"}
        else:
            with pytest.raises(UserError, match="trial is not complete: delete it and run again"):
                prepare()
