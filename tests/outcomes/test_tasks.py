"""Which stays are asked about, what is true of them, and that a prompt knows nothing of what comes after it."""

import numpy as np
import pytest

from ehr_scaling.data import timelines
from ehr_scaling.data.vocabulary import HOUR
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes import baselines, tasks
from tests.data import made_up

TASK = tasks.in_hospital_death()
NOON = 50 * 365 * 24 * HOUR


def stay(*events, start=0.0):
    """Events of a stay from (hours after the admission, code[, value])."""
    return [(NOON + round((start + hours) * HOUR), code, *(value or (None,))) for hours, code, *value in events]


ADMIT, ALIVE, DEATH = "HOSPITAL_ADMISSION//URGENT//ED", "HOSPITAL_DISCHARGE//HOME", "MEDS_DEATH"
FACTS = [(None, "GENDER//F", None), (NOON - 40 * 366 * 24 * HOUR, "MEDS_BIRTH", None)]
# Each patient, and (known tokens, label) of the stays that can be asked; the numbers count the tokens by hand.
PATIENTS = {
    # ADMISSION TYPE, 6h-12h LAB Q are known; 12h-1d LAB Q, 6h-12h DEATH … are not: their intervals lead past 24 h
    "dies": ([(0, ADMIT), (10, "LAB//1//MG", 3.0), (30, "LAB//1//MG", 4.0), (40, DEATH), (40, ALIVE)], [(5, True)]),
    "lives": ([(0, ADMIT), (24, "LAB//1//MG", 1.0), (50, ALIVE), (60, DEATH)], [(5, False)]),  # at 24 h is known
    "early": ([(0, ADMIT), (20, ALIVE)], []),
    "on the hour": ([(0, ADMIT), (24, ALIVE)], []),
    "no end": ([(0, ADMIT), (30, "LAB//1//MG", 2.0)], []),
    "lost end": ([(0, ADMIT), (200, ADMIT), (300, ALIVE)], [(5, False)]),
    "twice": ([(0, ADMIT), (48, ALIVE), (1000, ADMIT), (1030, DEATH), (1030, ALIVE)], [(2, False), (8, True)]),
    "never in": ([(0, "LAB//1//MG", 2.0)], []),
}


def cohort(first):
    return {first + i: FACTS + stay(*events) for i, (events, _) in enumerate(PATIENTS.values())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tasks")
    made_up.write(
        root / "events", train=cohort(100) | cohort(150), tuning=cohort(200), held_out=cohort(300) | cohort(350)
    )
    (root / "timelines").mkdir()
    timelines.build(root / "events", root / "timelines", min_count=1, min_values=1)
    return root


def test_stays_and_what_is_true_of_them(folder):
    found = tasks.stays(folder, "test", TASK)
    expected = [
        (p + 8 * copy, known, label)
        for copy in range(2)
        for p, (_, stays) in enumerate(PATIENTS.values())
        for known, label in stays
    ]
    assert list(zip(found.patients, found.known, found.labels, strict=True)) == expected
    np.testing.assert_array_equal(found.subject_ids, [(300 if p < 8 else 342) + p for p, _, _ in expected])
    records = list(timelines.read(folder, "test"))
    vocabulary = timelines.vocabulary(folder)
    for patient, anchor, known, time in zip(found.patients, found.anchors, found.known, found.times, strict=True):
        record = records[patient]
        assert vocabulary.tokens[record["tokens"][anchor]] == "HOSPITAL_ADMISSION"
        assert time == record["times"][anchor] + 24 * HOUR
        assert (record["times"][:known] <= time).all() and (record["times"][known:] > time).all()


def test_a_prompt_is_context_and_the_last_tokens(folder):
    found = tasks.stays(folder, "test", TASK)
    vocabulary = timelines.vocabulary(folder)
    prompts = tasks.prompts(folder, "test", found, 12)
    names = [[vocabulary.tokens[i] for i in row] for row in prompts]
    context = ["GENDER//F", "AGE//40-45"]
    first = ["HOSPITAL_ADMISSION", "ADMISSION_TYPE//EMERGENCY"]
    assert names[0][:5] == ["PAD"] * 5 and names[0][5:7] == context
    assert names[0][7:11] == [*first, "TIME//6h-12h", "LAB//1//MG"] and names[0][11].startswith("Q")
    # The second stay of the patient with two: the first in full, the gap, and the admission
    second = names[4]
    assert second[2:] == [
        *context, *first, "TIME//1d-3d", "HOSPITAL_DISCHARGE", "DISCHARGE_LOCATION//HOME", "TIME//1mt-3mt", *first,
    ]  # fmt: skip
    short = tasks.prompts(folder, "test", found, 5)
    np.testing.assert_array_equal(short[:, 2:], prompts[:, -3:])
    # A window that begins later has the context of then, and one that begins with a gap that of before the gap.
    assert [vocabulary.tokens[i] for i in short[4, :2]] == context
    with pytest.raises(UserError, match="2 tokens of static context"):
        tasks.prompts(folder, "test", found, 2)


def test_the_future_changes_nothing(folder, monkeypatch):
    found = tasks.stays(folder, "test", TASK)
    before = tasks.prompts(folder, "test", found, 9)
    known = baselines.features(folder, "test", found)
    vocabulary, real = timelines.vocabulary(folder), timelines.batches
    rng = np.random.default_rng(0)
    for row in range(len(found.labels)):
        asked = found.take(np.array([row]))
        patient, until = found.patients[row], found.known[row]

        def another_future(workdir, split, patient=patient, until=until, asked=asked):
            for part in real(workdir, split):
                later = slice(part.offsets[patient] + until, part.offsets[patient + 1])
                tokens, times = part.tokens.copy(), part.times.copy()
                assert (tokens[later] != 0).all() and later.stop > later.start
                tokens[later] = rng.integers(1, len(vocabulary.tokens), later.stop - later.start)
                times[later] += rng.integers(1, 10**9)
                context = slice(part.context_offsets[patient], part.context_offsets[patient + 1])
                values = part.context_tokens.copy()
                later_values = part.context_times[context] > asked.times[0]
                values[context][later_values] = 1
                yield part._replace(tokens=tokens, times=times, context_tokens=values)

        monkeypatch.setattr(timelines, "batches", another_future)
        np.testing.assert_array_equal(tasks.prompts(folder, "test", asked, 9)[0], before[row])
        after = baselines.features(folder, "test", asked)
        assert abs(after - known[[row]]).max() == 0


def test_what_the_baseline_knows(folder):
    found = tasks.stays(folder, "test", TASK)
    vocabulary = timelines.vocabulary(folder)
    x = baselines.features(folder, "test", found).toarray().reshape(len(found.labels), 4, -1)
    index = vocabulary.index
    second = x[4]  # the second stay of a patient
    assert second[0, index["HOSPITAL_ADMISSION"]] == pytest.approx(np.log(3))
    assert second[1, index["HOSPITAL_ADMISSION"]] == pytest.approx(np.log(2))
    assert second[0, index["HOSPITAL_DISCHARGE"]] == pytest.approx(np.log(2))
    assert second[1, index["HOSPITAL_DISCHARGE"]] == 0
    assert second[2].any() == 0
    lab = index["LAB//1//MG"]
    record = next(timelines.read(folder, "test"))
    quantile = int(vocabulary.tokens[record["tokens"][4]].removeprefix("Q"))
    assert x[0, 2, lab] == quantile - 5.5
    assert set(np.flatnonzero(x[0, 3])) == {index["GENDER//F"], index["AGE//40-45"]}


def test_subsamples(folder):
    found = tasks.stays(folder, "test", TASK)  # 10 stays, 4 with the outcome
    for most in (None, 99):
        for field, same in zip(found, tasks.subsample(found, most, None, 0), strict=True):
            np.testing.assert_array_equal(field, same)
    some = tasks.subsample(found, 6, 0.5, 1)
    assert len(some.labels) == 6 and some.labels.sum() == 3
    np.testing.assert_array_equal(some.times, tasks.subsample(found, 6, 0.5, 1).times)
    assert sorted(zip(some.patients, some.known, strict=True)) == list(zip(some.patients, some.known, strict=True))
    scarce = tasks.subsample(found, 9, 0.9, 1)  # all there are with the outcome, the rest without
    assert (len(scarce.labels), scarce.labels.sum()) == (9, 4)
    assert 0 < tasks.subsample(found, 2, 0.01, 1).labels.sum() < 2


def test_silence(folder):
    vocabulary = timelines.vocabulary(folder)
    names = lambda task: {vocabulary.tokens[i] for i in np.flatnonzero(tasks.first_ids(vocabulary, task))}  # noqa: E731
    assert names(TASK) == set(vocabulary.tokens)
    past_a_day = {
        "TIME//1d-3d",
        "TIME//3d-1w",
        "TIME//1w-2w",
        "TIME//2w-1mt",
        "TIME//1mt-3mt",
        "TIME//3mt-6mt",
        "TIME//6mt",
    }
    assert names(tasks.in_hospital_death(silence=24)) == past_a_day
    assert names(tasks.in_hospital_death(silence=20)) == past_a_day | {"TIME//12h-1d"}  # it may last 22 h
    # 24 h after the admission, the next events come after 6 h ("dies": at 30 h) and 26 h ("lives": at 50 h)
    assert len(tasks.stays(folder, "test", tasks.in_hospital_death(silence=6)).labels) == 10
    with pytest.raises(UserError, match=r"4 of 10 stays have an event within --config\.outcome\.silence=7"):
        tasks.stays(folder, "test", tasks.in_hospital_death(silence=7))
    assert "told so" in tasks.in_hospital_death(silence=6).description
    assert "told so" not in TASK.description


def test_questions_that_the_records_cannot_answer(folder, tmp_path):
    with pytest.raises(tasks.Unanswerable, match="needs the token ICU_ADMISSION"):
        tasks.stays(folder, "test", tasks.in_hospital_death("ICU_ADMISSION", 48))
    with pytest.raises(tasks.Unanswerable, match="0 stays of the test split"):
        tasks.stays(folder, "test", tasks.in_hospital_death(hours=1e5))
    with pytest.raises(tasks.Unanswerable, match="cannot be fitted"):
        baselines.fit(np.eye(3), np.array([True, False, False]), np.arange(3), 0)
