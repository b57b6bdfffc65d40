"""Tasks as data: what may stand in a file of them, and what they mean in a vocabulary."""

import dataclasses
import json

import numpy as np
import pytest

from ehr_scaling.data.vocabulary import END
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.asking import cohort, stays
from ehr_scaling.outcomes.asking.tasks import task_tokens, tasks
from ehr_scaling.outcomes.asking.tasks.tasks import Task, means
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE
from tests.outcomes import records
from tests.outcomes.records import FOLDER, NOON, patient

BINARY = {"anchor": "IN", "hours": 24, "positive": ["DEATH"], "negative": ["OUT"]}


def written(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_packages_own_tasks():
    own = tasks.load()
    assert {
        *("in_hospital_death_24h", "in_hospital_death_48h", "challenge_2012_death", "hospital_mortality"),
        *("icu_admission", "prolonged_stay", "composite", "length_of_stay", "icu_mortality", "icu_mortality_24h"),
        *("icu_readmission", "sofa", "readmission_30d", "drg", "onset_heart_failure", "ed_hospitalization"),
        *("ed_critical_outcome", "ed_representation"),
    } <= set(own)
    assert all(task.name == name and task.description.endswith(".") for name, task in own.items())
    first = own["in_hospital_death_24h"]
    assert first == Task(
        name="in_hospital_death_24h",
        description="Death in hospital, predicted 24 hours after admission to hospital for patients who are still in "
        "hospital then.",
        anchor=("HOSPITAL_ADMISSION",),
        hours=24.0,
        positive=("MEDS_DEATH",),
        negative=("HOSPITAL_DISCHARGE",),
        open=("HOSPITAL_ADMISSION",),
    )
    challenge = own["challenge_2012_death"]
    assert (challenge.anchor, challenge.hours, challenge.silence) == (("ICU_ADMISSION",), 48.0, 24.0)
    assert "told so" in challenge.description and "told so" not in first.description
    # What is recorded of a task is read back as the same task.
    for task in own.values():
        assert Task(**json.loads(json.dumps(dataclasses.asdict(task)))) == task


def test_tasks_of_ones_own(tmp_path):
    path = written(
        tmp_path,
        """
base: &base
  anchor: IN
  hours: 24
  positive: DEATH        # one name needs no list
  negative: [OUT]
later:
  <<: *base
  hours: 48.5
  horizon: 7
  at_horizon: negative
theirs:
  labels: cohort
  positive: [DEATH]
  horizon: 7
  at_horizon: negative
""",
    )
    own = tasks.load(path)
    assert own["base"] == Task("base", "", anchor=("IN",), hours=24.0, positive=("DEATH",), negative=("OUT",))
    assert own["later"] == dataclasses.replace(
        own["base"], name="later", hours=48.5, horizon=7.0, at_horizon="negative"
    )
    assert own["theirs"].labels == str(tmp_path / "cohort")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hors": 24}, "unknown key hors: did you mean hours?"),
        ({"xyz": 1}, "unknown key xyz: take some of description, anchor"),
        ({"name": "x"}, "unknown key name"),
        ({"hours": "24"}, "hours is '24': take a number"),
        ({"hours": True}, "hours is True: take a number"),
        ({"hours": float("inf")}, "hours is inf: take a number"),
        ({"hours": None, "tokens": 1.5}, "tokens is 1.5: take a whole number"),
        ({"onset": 1}, "onset is 1: take true or false"),
        ({"positive": [True]}, r"positive is \[True\]: take a list of token names"),
        ({"positive": {"DEATH": 1}}, "positive is .*: take a list of token names"),
        ({"negative": ["OUT", ""]}, "negative is .*: take a list of token names"),
        ({"negative": None}, "negative is None: take a list of token names"),
        ({"description": 3}, "description is 3: take a text"),
        ({"anchor": []}, "anchor is missing"),
        ({"tokens": 0}, "hours and tokens are both given"),
        ({"hours": None}, "hours and tokens are both missing"),
        ({"hours": -1}, "hours is -1: take 0 or more"),
        ({"hours": None, "tokens": -2}, "tokens is -2: take -1 or more"),
        ({"kind": "ternary"}, "kind is 'ternary': take one of binary, days, class"),
        ({"at_end": "closed"}, "at_end is 'closed': take one of positive, negative, open"),
        ({"horizon": 3, "at_horizon": "x"}, "at_horizon is 'x': take one of positive, negative, open"),
        ({"horizon": 3, "at_horizon": "open", "horizon_from": "birth"}, "horizon_from is 'birth': take one of"),
        ({"min_age": -1}, "min_age is -1"),
        ({"follow_up": -1}, "follow_up is -1"),
        ({"silence": -1}, "silence is -1"),
        ({"hours": None, "tokens": 0, "silence": 3}, "silence is given, and so is tokens"),
        ({"horizon": 0, "at_horizon": "open"}, "horizon is 0: take a number of days above 0"),
        ({"horizon": 3}, "at_horizon is missing"),
        ({"at_horizon": "open"}, "at_horizon is given without a horizon"),
        ({"horizon": 1, "at_horizon": "open", "horizon_from": "anchor"}, "horizon is 1 days from the anchor"),
        (
            {"hours": None, "tokens": -1, "horizon": 1, "at_horizon": "open", "horizon_from": "anchor"},
            "horizon_from is 'anchor'",
        ),
        ({"open": ["OUT"]}, "negative and open both hold OUT"),
        ({"positive": ["OUT//HOME"]}, "positive and negative both hold OUT//HOME"),
        ({"positive": ["DEATH", "OUT"], "negative": ["OUT//HOME", "OUT//A"]}, "positive and negative both hold"),
        ({"open": [END]}, "open holds TIMELINE_END: say by at_end"),
        ({"positive": []}, "positive is missing"),
        ({"negative": []}, "negative is missing"),
        ({"positive": [], "at_end": "positive", "onset": True}, "onset is given"),
        ({"classes": ["DRG"]}, "classes is .* means nothing for the kind 'binary'"),
        ({"ordered": True}, "ordered is True, which means nothing for the kind 'binary'"),
        ({"kind": "days"}, "negative is .* means nothing for the kind 'days'"),
        ({"kind": "days", "negative": [], "at_end": "negative"}, "at_end and at_horizon say nothing about days"),
        ({"kind": "days", "negative": [], "positive": []}, "positive is missing"),
        ({"kind": "days", "negative": [], "hours": None, "tokens": -1}, "tokens is -1: days are counted"),
        ({"kind": "class"}, "positive is .* means nothing for the kind 'class'"),
        ({"kind": "class", "positive": [], "negative": []}, "classes is missing"),
        ({"labels": "x.parquet"}, "anchor is given, and so are labels"),
        ({"labels": "x", "anchor": [], "hours": None, "kind": "days", "negative": []}, "kind is 'days': labels"),
    ],
)  # fmt: skip
def test_what_no_task_may_be(changes, problem, tmp_path):
    path = written(tmp_path, json.dumps({"odd": {**BINARY, **changes}}).replace("Infinity", ".inf"))
    with pytest.raises(UserError, match=rf"^{path}: task odd: {problem}") as e:
        tasks.load(path)
    assert "\n" not in str(e.value)


def test_files_that_hold_no_tasks(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml cannot be read \(No such file"):
        tasks.load(tmp_path / "none.yaml")
    for text, problem in (
        ("a: [1, 2", "line 1: expected ',' or ']'|line 2: expected ',' or ']'"),
        ("a: {anchor: X}\nb: {anchor: Y}\na: {anchor: Z}", "line 3: a is repeated"),
        ("a:\n  hours: 1\n  hours: 2", "line 3: hours is repeated"),
        ("- a\n- b", "holds no tasks"),
        ("", "holds no tasks"),
        ("a: 3", "task a: there are no fields"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("../a: {anchor: X, hours: 1, positive: P, negative: N}", r"task ../a: name is '../a': take letters"),
    ):
        with pytest.raises(UserError, match=problem) as e:
            tasks.load(written(tmp_path, text))
        assert "\n" not in str(e.value)


def test_names():
    for names, token, is_meant in (
        (["OUT"], "OUT", True),
        (["OUT"], "OUT//HOME", True),
        (["OUT"], "OUTSIDE", False),
        (["OUT//HOME"], "OUT", False),
        (["DRG", "-DRG//UNKNOWN"], "DRG//872", True),
        (["DRG", "-DRG//UNKNOWN"], "DRG//UNKNOWN", False),
        (["-DRG"], "DRG", False),
        ([], "DRG", False),
    ):
        assert means(names, token) == is_meant, (names, token)


def tokens_of(vocabulary, which):
    return {vocabulary.tokens[i] for i in np.flatnonzero(which)}


def test_stops():
    vocabulary = records.vocabulary("IN", "OUT//HOME", "OUT//DIED", "DEATH", "ICU")
    death = Task("death", "", "IN", 24, positive=("DEATH",), negative=("OUT",), open=("IN",))
    long = Task(
        "long", "", "IN", 24, negative=("DEATH", "OUT", "-OUT//DIED"), horizon=10, horizon_from="anchor",
        at_horizon="positive",
    )  # fmt: skip
    icu = Task("icu", "", "IN", 24, positive=("ICU",), horizon=0.5, at_horizon="negative", at_end="negative")
    stops = task_tokens.stops(vocabulary, [death, long, icu])
    for which, expected in (
        (stops.positive, [{"DEATH"}, set(), {"ICU"}]),
        (stops.negative, [{"OUT//HOME", "OUT//DIED"}, {"OUT//HOME", "DEATH"}, {END}]),
        (stops.open, [{"IN", END}, {END}, set()]),
    ):
        assert which.shape == (3, len(vocabulary.tokens)) and which.dtype == bool
        assert [tokens_of(vocabulary, row) for row in which] == expected
    assert stops.at_horizon.tolist() == [OPEN, POSITIVE, NEGATIVE] and stops.at_horizon.dtype == np.int8


def test_classes():
    vocabulary = records.vocabulary("DRG//1", "DRG//2", "DRG//UNKNOWN", "SOFA")
    drg = Task("drg", "", "DRG", tokens=-1, kind="class", classes=("DRG", "-DRG//UNKNOWN"))
    assert [vocabulary.tokens[i] for i in task_tokens.classes(vocabulary, drg)] == ["DRG//1", "DRG//2"]
    sofa = Task("sofa", "", "SOFA", tokens=0, kind="class", classes=("Q",), ordered=True)
    assert [vocabulary.tokens[i] for i in task_tokens.classes(vocabulary, sofa)] == [f"Q{k}" for k in range(1, 11)]
    with pytest.raises(tasks.Unanswerable, match="to choose from, of which the vocabulary of these timelines has 1"):
        task_tokens.classes(vocabulary, dataclasses.replace(drg, classes=("DRG//1",)))


def test_what_a_vocabulary_lacks():
    vocabulary = records.vocabulary("IN", "OUT")
    death = Task("death", "", "IN", 24, positive=("DEATH",), negative=("OUT",))
    with pytest.raises(tasks.Unanswerable, match="the task death needs the token DEATH, which the vocabulary"):
        task_tokens.stops(vocabulary, [death])
    with pytest.raises(tasks.Unanswerable, match="needs the token ICU"):
        task_tokens.stops(vocabulary, [dataclasses.replace(death, anchor=("ICU",))])
    with pytest.raises(tasks.Unanswerable, match="needs the token A or B"):
        task_tokens.stops(vocabulary, [dataclasses.replace(death, positive=("OUT",), negative=("A", "B"))])
    # Of several spellings one suffices, and a horizon suffices for a side that has no token.
    either = dataclasses.replace(death, positive=("DEATH", "OUT"), negative=("A",), at_end="negative")
    assert task_tokens.stops(vocabulary, [either]).positive.sum() == 1
    assert task_tokens.lacking(vocabulary, either) == ["DEATH", "A"]
    assert (
        task_tokens.lacking(vocabulary, dataclasses.replace(death, positive=("OUT", "-OUT//X"), negative=("IN",))) == []
    )


def test_groups_share_their_prompts():
    own = tasks.load()
    groups = [[task.name for task in group] for group in task_tokens.groups(own.values())]
    assert sorted(name for group in groups for name in group) == sorted(own)
    together = ["hospital_mortality", "icu_admission", "prolonged_stay", "composite", "length_of_stay"]
    assert together in groups
    discharge = next(group for group in groups if "readmission_30d" in group)
    assert sum(name.startswith(("onset_", "readmission_")) for name in discharge) == len(discharge) == 9
    assert ["in_hospital_death_24h"] in groups and ["challenge_2012_death"] in groups
    # What only the next token answers needs no simulation.
    death, drg = own["hospital_mortality"], dataclasses.replace(own["drg"], anchor=("HOSPITAL_ADMISSION",), tokens=2)
    assert len(task_tokens.groups([death, drg])) == 2


def test_horizons():
    death = Task("death", "", "IN", 24, positive=("DEATH",), negative=("OUT",))
    week = dataclasses.replace(death, horizon=7, at_horizon="negative")
    stays = records_of([(0, "IN"), (30, "X"), (200, "OUT")], count=3)
    hours = task_tokens.horizons([death, week, dataclasses.replace(week, horizon_from="anchor")], stays)
    assert hours.dtype == np.float32
    np.testing.assert_array_equal(hours, [[np.inf, 168, 144]] * 3)
    at_once = dataclasses.replace(week, hours=None, tokens=0, horizon_from="anchor")
    np.testing.assert_array_equal(task_tokens.horizons([at_once], stays), [[168]] * 3)


def records_of(events, count):
    one = np.zeros(count, np.int64)
    return stays.Stays(one, one, one + len(events), one + NOON, one, one == 1)


def test_gaps():
    death = Task("death", "", "IN", 24, positive=("DEATH",), negative=("OUT",), silence=3)
    patients = [
        patient((0, "IN"), (10, "X"), (30, "DEATH")),
        patient((0, "IN"), (24, "X"), (50, "OUT")),
        patient((5, "IN"), (60, "OUT")),
    ]
    with records.told({"test": patients}):
        stays = cohort.find(FOLDER, "test", [death]).of(0)
        gaps = task_tokens.gaps(FOLDER, "test", stays, death)
        assert gaps.dtype == np.float32
        np.testing.assert_array_equal(gaps, [14 + 3, 0 + 3, 24 + 3])
        by_token = dataclasses.replace(death, hours=None, tokens=0, silence=0)
        stays = cohort.find(FOLDER, "test", [by_token]).of(0)
        np.testing.assert_array_equal(task_tokens.gaps(FOLDER, "test", stays, by_token), [0, 0, 0])
