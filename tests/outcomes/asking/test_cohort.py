"""Which stays are asked about, and what is true of them."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data.timelines import timelines
from ehr_scaling.data.vocabulary import DAY, END, HOUR, YEAR
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.asking import cohort, stays
from ehr_scaling.outcomes.asking.tasks import task_tokens, tasks
from ehr_scaling.outcomes.asking.tasks.tasks import Task, means
from ehr_scaling.outcomes.judging import baselines
from tests.outcomes import records
from tests.outcomes.admissions import PATIENTS
from tests.outcomes.records import FOLDER, NOON, patient

OWN = tasks.load()
TASK = OWN["in_hospital_death_24h"]


def test_stays_and_what_is_true_of_them(admissions):
    found = cohort.stays(admissions, "test", TASK)
    expected = [
        (p + 8 * copy, known, label)
        for copy in range(2)
        for p, (_, asked) in enumerate(PATIENTS.values())
        for known, label in asked
    ]
    assert list(zip(found.patients, found.known, found.labels, strict=True)) == expected
    np.testing.assert_array_equal(found.subject_ids, [(300 if p < 8 else 342) + p for p, _, _ in expected])
    read = list(timelines.read(admissions, "test"))
    vocabulary = timelines.vocabulary(admissions)
    for who, anchor, known, time in zip(found.patients, found.anchors, found.known, found.times, strict=True):
        record = read[who]
        assert vocabulary.tokens[record["tokens"][anchor]] == "HOSPITAL_ADMISSION"
        assert time == record["times"][anchor] + 24 * HOUR
        assert (record["times"][:known] <= time).all() and (record["times"][known:] > time).all()


def test_what_is_left_out_is_counted(admissions):
    group = cohort.find(admissions, "test", [TASK])
    # Of either copy: two that left before, one without an end, one whose end is lost.
    assert group.left_out == ({"decided by the time of the prediction": 4, "left open": 4},)
    assert group.describe(0, True) == ("10 stays asked; left out: 4 decided by the time of the prediction, 4 left open")


def test_silence(admissions):
    # 24 h after the admission, the next events come after 6 h ("dies": at 30 h) and 26 h ("lives": at 50 h)
    assert len(cohort.stays(admissions, "test", dataclasses.replace(TASK, silence=6)).labels) == 10
    with pytest.raises(
        UserError, match=r"under 10 of 10 stays have an event within the 7 hours of silence of the task"
    ):
        cohort.stays(admissions, "test", dataclasses.replace(TASK, silence=7))


def test_questions_that_the_records_cannot_answer(admissions):
    with pytest.raises(tasks.Unanswerable, match="needs the token ICU_ADMISSION"):
        cohort.stays(admissions, "test", OWN["challenge_2012_death"])
    with pytest.raises(tasks.Unanswerable, match="0 stays of the test split"):
        cohort.stays(admissions, "test", dataclasses.replace(TASK, hours=1e5))
    dead = [patient((0, "HOSPITAL_ADMISSION"), (30, "MEDS_DEATH"))] * 2
    with (
        records.told({"train": dead, "test": dead[:1]}, "HOSPITAL_DISCHARGE"),
        pytest.raises(
            tasks.Unanswerable, match="under 10 stays of all splits can be asked for in_hospital_death_24h, all of them"
        ),
    ):
        cohort.stays(FOLDER, None, TASK)
    with pytest.raises(tasks.Unanswerable, match="cannot be fitted"):
        nobodys = baselines.Features(sp.csr_array(np.eye(3, dtype=np.float32)), np.zeros((3, 0), np.float32))
        baselines.fit(nobodys, np.array([True, False, False]), np.arange(3), 0)
    with pytest.raises(ValueError, match="must share their prompts"):
        cohort.find(admissions, "test", [TASK, OWN["hospital_mortality"]])
    with pytest.raises(UserError, match="there is no split 'held_out'"):
        cohort.find(admissions, "held_out", [TASK])


def asked(task, *patients, more=()):
    """What is asked of these patients: [(patient, row of the anchor, known tokens, label)], and what is left out."""
    names = (*task.anchor, *task.positive, *task.negative, *task.open, *task.classes, *more)
    with records.told({"test": patients}, *names):
        group = cohort.find(FOLDER, "test", [task])
    own = group.of(0)
    rows = zip(own.patients.tolist(), own.anchors.tolist(), own.known.tolist(), own.labels.tolist(), strict=True)
    return list(rows), group.left_out[0]


def test_the_end_of_another_patient_is_none():
    task = Task("death", "", "IN", 24, positive=("DEATH",), negative=("OUT",))
    open_stay, next_one = patient((0, "IN"), (30, "X")), patient((0, "IN"), (50, "DEATH"))
    assert asked(task, open_stay, next_one) == ([(1, 0, 1, True)], {"left open": 1})
    assert asked(dataclasses.replace(task, at_end="negative"), open_stay, next_one)[0] == [
        (0, 0, 1, False),
        (1, 0, 1, True),
    ]


def test_prompts_that_end_at_a_token():
    task = Task("t", "", "IN", tokens=2, positive=("DEATH",), negative=("OUT",))
    full = patient((0, "IN"), (0, "TYPE"), (0, "INSURANCE"), (0, "LAB"), (9, "OUT"))
    bare = patient((-9, "LAB"), (0, "IN"), (9, "OUT"))  # what comes at another time is not in the prompt
    at_once = patient((0, "IN"), (0, "OUT"))
    last = patient((0, "IN"))  # nor is the token that ends a timeline
    for tokens, known in ((2, (3, 3)), (1, (2, 3)), (0, (1, 3)), (9, (4, 3))):
        found, left_out = asked(dataclasses.replace(task, tokens=tokens), full, bare)
        assert [row[2] for row in found] == list(known) and not left_out
    assert asked(task, at_once) == ([], {"decided by the time of the prediction": 1})
    assert asked(dataclasses.replace(task, tokens=0), at_once) == ([(0, 0, 1, False)], {})
    assert asked(dataclasses.replace(task, at_end="negative"), last) == ([(0, 0, 1, False)], {})
    # Just before the anchor: which then may be what decides.
    before = Task("t", "", "OUT", tokens=-1, positive=("OUT//DIED",), negative=("OUT//HOME",))
    home, died, first = (
        patient((0, "IN"), (9, "OUT//HOME")), patient((0, "IN"), (9, "OUT//DIED")), patient((9, "OUT//HOME"))
    )  # fmt: skip
    found, left_out = asked(before, home, died, first)
    assert found == [(0, 2, 2, False), (1, 2, 2, True)] and left_out == {"with no record before the prediction": 1}


def test_times_of_predictions():
    in_, before = patient((0, "LAB"), (2, "IN"), (2, "TYPE"), (9, "OUT")), ("OUT",)
    for fields, hours in (
        ({"anchor": "IN", "hours": 1.5}, 3.5),
        ({"anchor": "IN", "tokens": 1}, 2),
        ({"anchor": "TYPE", "tokens": -1}, 2),
        # The last known token is the interval that leads to the anchor, and carries its time.
        ({"anchor": "IN", "tokens": -1}, 2),
    ):
        task = Task("t", "", positive=before, at_end="negative", **fields)
        with records.told({"test": [in_]}):
            assert cohort.find(FOLDER, "test", [task]).stays.times.tolist() == [NOON + hours * HOUR]


def test_first_after():
    """The first ICU discharge of each stay in hospital."""
    task = Task(
        "t", "", "ICU_OUT", tokens=0, first_after=("IN",), positive=("ICU_IN",), negative=("OUT",), open=("IN",)
    )
    before = patient((0, "ICU_OUT"), (5, "OUT"), (90, "IN"), (91, "ICU_OUT"), (92, "OUT"))
    twice = patient((0, "IN"), (1, "ICU_OUT"), (2, "ICU_IN"), (3, "ICU_OUT"), (4, "OUT"), (9, "IN"), (10, "ICU_OUT"))
    assert asked(task, before, twice) == (
        [(0, 6, 7, False), (1, 2, 3, True)],
        {"not the first of their kind (first_after)": 2, "left open": 1},
    )


def test_what_rules_a_stay_out():
    task = Task(
        "t", "", "OUT", hours=0, since=("IN",), without=("DEATH",), positive=("IN",), horizon=30,
        at_horizon="negative", at_end="negative",
    )  # fmt: skip
    died = patient((0, "IN"), (50, "DEATH"), (50, "OUT"))
    later = patient((0, "IN"), (50, "OUT"), (60, "DEATH"))
    earlier = patient((0, "DEATH"), (5, "IN"), (9, "OUT"))  # before the stay
    unopened = patient((0, "DEATH"), (50, "OUT"))  # no beginning: that of the record
    found, left_out = asked(task, died, later, earlier, unopened)
    assert [row[0] for row in found] == [1, 2] and left_out == {"ruled out by an event (without)": 2}
    # Without `since`, from the anchor on.
    found, left_out = asked(dataclasses.replace(task, since=(), hours=20), died, later, earlier)
    assert found == [] and left_out == {
        "ruled out by an event (without)": 1, "whose record ends before the prediction": 2
    }  # fmt: skip


def test_ages():
    task = Task("t", "", "IN", hours=0, min_age=18, positive=("DEATH",), negative=("OUT",))
    events = (0, "IN"), (50, "OUT")
    people = [patient(*events, age=age) for age in (17.99, 18.0, 90, None)]
    found, left_out = asked(task, *people, more=["DEATH"])
    assert [row[0] for row in found] == [1, 2] and left_out == {"too young, or of unknown age (min_age)": 2}
    assert len(asked(dataclasses.replace(task, min_age=0), *people)[0]) == 4


def test_onset():
    task = Task("t", "", "OUT", hours=0, onset=True, positive=("ICD//I50",), horizon=365, at_horizon="negative")
    long_ago = patient((0, "ICD//I50"), (9000, "OUT"), (9010, "ICD//I50"))
    just_now = patient((0, "OUT"), (0, "ICD//I50"), (99, "ICD//I50"))
    first = patient((0, "OUT"), (0, "ICD//E11"), (364 * 24, "ICD//I50"), (9000, "OUT"))
    too_late = patient((0, "OUT"), (366 * 24, "ICD//I50"))
    unseen = patient((0, "OUT"), (364 * 24, "X"))
    found, left_out = asked(task, long_ago, just_now, first, too_late, unseen)
    assert [(row[0], row[3]) for row in found] == [(2, True), (3, False)]
    assert left_out == {"with the outcome before (onset)": 3, "left open": 1}  # of `first`, the second stay too


def test_horizons_from_the_anchor_and_from_the_prediction():
    week = Task("t", "", "IN", hours=24, positive=("DEATH",), negative=("OUT",), horizon=7, at_horizon="negative")
    dies_after = [patient((0, "IN"), (h, "DEATH")) for h in (24.1, 7 * 24, 7 * 24 + 0.1, 8 * 24, 8 * 24 + 0.1)]
    labels = lambda task, *who: [row[3] for row in asked(task, *who)[0]]  # noqa: E731
    assert labels(week, *dies_after) == [True, True, True, True, False]
    assert labels(dataclasses.replace(week, horizon_from="anchor"), *dies_after) == [True, True, False, False, False]
    # Who has no end in the record was not dead at the horizon, if there is something later.
    assert labels(week, patient((0, "IN"), (9000, "X"))) == [False]
    assert asked(week, patient((0, "IN"), (100, "X")))[1] == {"left open": 1}
    assert labels(dataclasses.replace(week, at_end="negative"), patient((0, "IN"), (100, "X"))) == [False]
    opens = dataclasses.replace(week, at_horizon="open")
    assert asked(opens, *dies_after)[1] == {"left open": 1}


def test_prolonged_stays():
    task = dataclasses.replace(OWN["prolonged_stay"], anchor=("IN",), negative=("OUT", "DEATH"), open=("IN",))
    leaves_after = [
        patient((0, "IN"), (24 * d, how)) for d, how in ((2, "OUT"), (9.99, "DEATH"), (10, "OUT"), (30, "OUT"))
    ]
    assert [row[3] for row in asked(task, *leaves_after)[0]] == [False, False, True, True]
    # An end that is missing shows nothing, however much later the record goes on.
    lost = patient((0, "IN"), (24 * 200, "IN"), (24 * 205, "OUT"))
    assert asked(task, lost, patient((0, "IN"), (24 * 15, "X"))) == ([(0, 2, 3, False)], {"left open": 2})


def test_follow_up():
    task = Task(
        "t", "", "OUT", hours=0, positive=("IN",), negative=("DEATH",), horizon=30, at_horizon="negative",
        at_end="negative", follow_up=30,
    )  # fmt: skip
    day = 24
    people = [
        patient((0, "OUT"), (3 * day, "IN")),
        patient((0, "OUT"), (3 * day, "DEATH")),  # says so
        patient((0, "OUT"), (3 * day, "X")),
        patient((0, "OUT"), (29.9 * day, "X")),
        patient((0, "OUT"), (30 * day, "X")),
        patient((0, "OUT"), (90 * day, "IN")),
    ]
    found, left_out = asked(task, *people)
    assert [(row[0], row[3]) for row in found] == [(0, True), (1, False), (4, False), (5, False)]
    assert left_out == {"without the outcome and without enough follow-up": 2}
    assert len(asked(dataclasses.replace(task, follow_up=0), *people)[0]) == 6
    # More follow-up than the horizon is asked of those too who were seen to reach it.
    dies_later = patient((0, "OUT"), (40 * day, "DEATH"))
    found, _ = asked(dataclasses.replace(task, follow_up=60), *people, dies_later)
    assert [row[0] for row in found] == [0, 1, 5]
    assert [row[0] for row in asked(task, dies_later)[0]] == [0]


def test_days():
    task = dataclasses.replace(
        OWN["length_of_stay"], anchor=("IN",), positive=("OUT", "DEATH"), open=("IN",), hours=24.0, tokens=None
    )
    people = [patient((0, "IN"), (36, "OUT")), patient((0, "IN"), (72, "DEATH"), (72, "OUT")), patient((0, "IN"))]
    found, left_out = asked(task, *people)
    assert [row[3] for row in found] == [1.5, 3.0]
    assert left_out == {"whose record ends before the prediction": 1}
    with records.told({"test": people}):
        assert cohort.stays(FOLDER, "test", task).labels.dtype == np.float32


def test_classes():
    drg = dataclasses.replace(OWN["drg"], first_after=("OUT",))
    people = [
        patient((0, "OUT"), (0, "ICD"), (0, "DRG//7"), (0, "DRG//3")),
        patient((0, "OUT"), (0, "DRG//UNKNOWN"), (90, "OUT"), (90, "DRG//3")),
    ]
    found, left_out = asked(drg, *people)
    names = lambda found, order: [(row[0], row[2], order[row[3]]) for row in found]  # noqa: E731
    assert names(found, ["DRG//7", "DRG//3"]) == [(0, 2, "DRG//7"), (1, 4, "DRG//3")]
    assert left_out == {"not the first of their kind (first_after)": 1}
    sofa = OWN["sofa"]
    found, left_out = asked(sofa, patient((0, "SOFA"), (0, "Q4")), patient((0, "SOFA"), (0, "X")), more=["Q1"])
    assert [(row[0], row[3]) for row in found] == [(0, 3)] and left_out == {"left open": 1}
    with records.told({"test": people}):
        assert cohort.stays(FOLDER, "test", drg).labels.dtype == np.int64


def test_splits_without_patients():
    task = Task("death", "", "IN", 24, positive=("DEATH",), negative=("OUT",))
    with records.told({"train": [patient((0, "IN"), (40, "DEATH"), (50, "OUT"))]}):
        group = cohort.find(FOLDER, "test", [task, task])
        assert len(group.stays.known) == 0 and [len(x) for x in group.labels] == [0, 0] and group.left_out == ({}, {})
        with pytest.raises(tasks.Unanswerable, match="0 stays of the test split"):
            cohort.stays(FOLDER, "test", task)


# Random timelines against a slow reference ---------------------------------------------------------------------------

NAMES = ("A", "A//1", "P", "N", "O", "S", "W", "X")
HOURS_BETWEEN = (0, 0, 0, 0.05, 0.2, 1, 23, 24, 25, 23.5, 216, 240, 24 * 29, 24 * 400)
EVENTS = st.lists(st.tuples(st.sampled_from(HOURS_BETWEEN), st.sampled_from(NAMES)), min_size=1, max_size=14)
PEOPLE = st.lists(st.tuples(EVENTS, st.sampled_from([None, 1.0, 40.0])), min_size=1, max_size=5)
END_OF_PROMPT = st.sampled_from([("hours", 0), ("hours", 24), ("hours", 25), *(("tokens", k) for k in (-1, 0, 1, 3))])
MEANING = st.sampled_from(["positive", "negative", "open"])
FIELDS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["binary", "binary", "binary", "days", "class"]),
        "positive": st.sampled_from([(), ("P",), ("P", "X"), ("A//1",)]),
        "negative": st.sampled_from([(), ("N",), ("N", "S")]),
        "open": st.sampled_from([(), ("O",), ("A", "-A//1")]),
        "first_after": st.sampled_from([(), (), ("S",), ("S", "W")]),
        "without": st.sampled_from([(), (), ("W",)]),
        "since": st.sampled_from([(), ("S",), ("S", "A//1")]),
        "min_age": st.sampled_from([0, 0, 18]),
        "onset": st.booleans(),
        "horizon": st.sampled_from([None, 1, 10, 30]),
        "horizon_from": st.sampled_from(["prediction", "anchor"]),
        "at_horizon": MEANING,
        "at_end": MEANING,
        "follow_up": st.sampled_from([0, 0, 30]),
        "classes": st.just(("P", "N", "X")),
    }
)


def made(people):
    out = []
    for events, age in people:
        hours = np.cumsum([gap for gap, _ in events]).tolist()
        out.append(patient(*((h, name) for h, (_, name) in zip(hours, events, strict=True)), age=age))
    return out


def task_of(name, end, fields):
    """The task, or None where the fields contradict each other; those that mean nothing for its kind are left out."""
    senseless = {
        "binary": ["classes"],
        "days": ["classes", "negative", "onset", "follow_up", "at_end"],
        "class": [
            *("positive", "negative", "open", "onset", "follow_up", "at_end", "at_horizon", "horizon", "horizon_from"),
        ],
    }[fields["kind"]]
    own = {key: value for key, value in fields.items() if key not in senseless}
    if own.get("horizon") is None:
        own["at_horizon"] = None
    if own["kind"] == "days" and own["at_horizon"]:
        own["at_horizon"] = "open"
    try:
        return Task(name, "", "A", **{end[0]: end[1]}, **own)
    except UserError:
        return None


def reference(task, people):
    """What `find` should say, token by token: [(patient, anchor, known, time, label)] and the reasons, counted."""
    found, reasons = [], Counter()
    for p, (tokens, times, birth) in enumerate(people):
        for anchor in [i for i, token in enumerate(tokens) if means(task.anchor, token)]:
            told = _judge(task, tokens, times, birth, anchor)
            if isinstance(told, str):
                reasons[next(reason for reason in cohort.REASONS if told in reason)] += 1
            else:
                found.append((p, anchor, *told))
    return found, reasons


def _judge(task, tokens, times, birth, anchor):
    last = len(tokens) - 1
    time = times[anchor] + (task.hours or 0) * HOUR
    known = 0
    while known < last and times[known] <= time and not (task.tokens is not None and known > anchor + task.tokens):
        known += 1
    if task.tokens is not None and known:
        time = times[known - 1]
    # Who is asked at all
    if task.first_after:
        openings = [i for i in range(anchor) if means(task.first_after, tokens[i])]
        if not openings or any(means(task.anchor, tokens[i]) for i in range(openings[-1], anchor)):
            return "(first_after)"
    if not known:
        return "no record"
    start = anchor
    if task.since:
        start = max([i for i in range(anchor + 1) if means(task.since, tokens[i])], default=0)
    if any(means(task.without, tokens[i]) for i in range(start, known)):
        return "(without)"
    if task.min_age and (birth == records.STATIC or time - birth < task.min_age * YEAR):
        return "(min_age)"
    if task.onset and any(means(task.positive, tokens[i]) for i in range(known)):
        return "(onset)"
    # What came true
    if task.kind == "class":
        if time > times[last]:
            return "record ends"
        if not means(task.classes, tokens[known]):
            return "left open"
        return known, time, [n for n in ORDER if means(task.classes, n)].index(tokens[known])
    deadline = None
    if task.horizon is not None:
        deadline = (times[anchor] if task.horizon_from == "anchor" else time) + task.horizon * DAY
    for i in range(min(anchor + 1, known), last + 1):
        names = {"positive": task.positive, "negative": task.negative, "open": task.open}
        kinds = [kind for kind, meant in names.items() if means(meant, tokens[i])]
        kind = task.at_end if tokens[i] == END else kinds[0] if kinds else None
        if kind:
            break
    if i < known and kind != "open":
        return "decided"
    if time > times[last]:
        return "record ends"
    by_token = tokens[i] != END
    if deadline is not None:
        positive = task.at_horizon == "positive"
        if (times[i] >= deadline and kind != "open") if positive else times[i] > deadline:
            kind, by_token = task.at_horizon, False
    if kind == "open":
        return "left open"
    if kind == "negative" and not by_token and times[last] < time + task.follow_up * DAY:
        return "follow-up"
    label = (times[i] - times[anchor]) / DAY if task.kind == "days" else kind == "positive"
    return known, time, label


ORDER = [*NAMES]  # as the vocabulary below has them


@settings(max_examples=150, deadline=None)
@given(PEOPLE, END_OF_PROMPT, st.lists(FIELDS, min_size=1, max_size=3))
def test_find_is_what_a_slow_reading_says(people, end, fields):
    people = made(people)
    group = [task for k, own in enumerate(fields) if (task := task_of(f"t{k}", end, own))]
    group = max(task_tokens.groups(group), key=len, default=[])
    if not group:
        return
    # Patients without events first, to fix the order of the vocabulary
    order = patient(*((0, name) for name in ORDER if not means(("A",), name)))
    people = [order, *people]
    with records.told({"test": people}, *NAMES):
        together = cohort.find(FOLDER, "test", group)
        alone = [cohort.find(FOLDER, "test", [task]) for task in group]
        prompts = stays.prompts(FOLDER, "test", together.stays, 40)
        vocabulary = timelines.vocabulary(FOLDER)
    order_of = lambda name: vocabulary.index[name]  # noqa: E731
    assert sorted(("P", "N", "X"), key=order_of) == [n for n in ORDER if n in ("P", "N", "X")]
    for k, task in enumerate(group):
        own, (single,), (left_out,) = together.of(k), [alone[k].of(0)], [together.left_out[k]]
        expected, reasons = reference(task, people)
        told = [own.patients, own.anchors, own.known, own.times, own.labels]
        assert list(zip(*(column.tolist() for column in told), strict=True)) == [
            (p, a, n, t, np.float32(label).item() if task.kind == "days" else label) for p, a, n, t, label in expected
        ]
        assert left_out == reasons
        # The union answers each task as that task alone would.
        for field, same in zip(own, single, strict=True):
            np.testing.assert_array_equal(field, same)
        assert own.labels.dtype == single.labels.dtype and alone[k].left_out[0] == left_out
    # All that is asked is in the union, once, and nothing else is.
    rows = np.unique(np.concatenate(together.rows))
    np.testing.assert_array_equal(rows, np.arange(len(together.stays.known)))
    keys = list(zip(together.stays.patients, together.stays.anchors, strict=True))
    assert keys == sorted(set(keys))
    # Prompts hold what is known at the prediction, and no more.
    for row, (p, known, time) in enumerate(
        zip(together.stays.patients, together.stays.known, together.stays.times, strict=True)
    ):
        tokens, times, _ = people[p]
        assert all(t <= time for t in times[:known]) and END not in tokens[:known]
        shown = [vocabulary.tokens[i] for i in prompts[row] if i][1:]  # after the age
        assert shown == tokens[:known][-39:]
