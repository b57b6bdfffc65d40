"""That a prompt knows nothing of what comes after it, and how stays are drawn."""

import numpy as np
import pytest

from ehr_scaling.data.timelines import timelines
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.asking import cohort, stays
from ehr_scaling.outcomes.asking.tasks import tasks
from ehr_scaling.outcomes.judging import baselines

TASK = tasks.load()["in_hospital_death_24h"]


def test_a_prompt_is_context_and_the_last_tokens(admissions):
    found = cohort.stays(admissions, "test", TASK)
    vocabulary = timelines.vocabulary(admissions)
    prompts = stays.prompts(admissions, "test", found, 12)
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
    short = stays.prompts(admissions, "test", found, 5)
    np.testing.assert_array_equal(short[:, 2:], prompts[:, -3:])
    # A window that begins later has the context of then, and one that begins with a gap that of before the gap.
    assert [vocabulary.tokens[i] for i in short[4, :2]] == context
    with pytest.raises(UserError, match="2 tokens of static context"):
        stays.prompts(admissions, "test", found, 2)
    # Of all splits: those of the test split come last.
    everywhere = cohort.stays(admissions, None, TASK)
    assert len(everywhere.labels) == 25
    np.testing.assert_array_equal(stays.prompts(admissions, None, everywhere, 12)[-10:], prompts)
    np.testing.assert_array_equal(everywhere.subject_ids[-10:], found.subject_ids)


def test_the_future_changes_nothing(admissions, monkeypatch):
    found = cohort.stays(admissions, "test", TASK)
    before = stays.prompts(admissions, "test", found, 9)
    quiet = stays.quiet(admissions, "test", found)
    known = baselines.features(admissions, "test", found)
    vocabulary, real = timelines.vocabulary(admissions), timelines.batches
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
        np.testing.assert_array_equal(stays.prompts(admissions, "test", asked, 9)[0], before[row])
        assert stays.quiet(admissions, "test", asked)[0] == quiet[row]
        after = baselines.features(admissions, "test", asked)
        assert abs(after - known[[row]]).max() == 0


def test_what_the_baseline_knows(admissions):
    found = cohort.stays(admissions, "test", TASK)
    vocabulary = timelines.vocabulary(admissions)
    x = baselines.features(admissions, "test", found).toarray().reshape(len(found.labels), len(baselines.BLOCKS), -1)
    index = vocabulary.index
    second = x[4]  # the second stay of a patient
    assert second[0, index["HOSPITAL_ADMISSION"]] == pytest.approx(np.log(3))
    assert second[1, index["HOSPITAL_ADMISSION"]] == pytest.approx(np.log(2))
    assert second[0, index["HOSPITAL_DISCHARGE"]] == pytest.approx(np.log(2))
    assert second[1, index["HOSPITAL_DISCHARGE"]] == 0
    assert second[2].any() == 0
    lab = index["LAB//1//MG"]
    record = next(timelines.read(admissions, "test"))
    quantile = int(vocabulary.tokens[record["tokens"][4]].removeprefix("Q"))
    assert x[0, 2, lab] == quantile - 5.5
    assert set(np.flatnonzero(x[0, 3])) == {index["GENDER//F"], index["AGE//40-45"]}


def test_subsamples(admissions):
    found = cohort.stays(admissions, "test", TASK)  # 10 stays, 4 with the outcome
    for most in (None, 99):
        for field, same in zip(found, stays.subsample(found, most, None, 0), strict=True):
            np.testing.assert_array_equal(field, same)
    some = stays.subsample(found, 6, 0.5, 1)
    assert len(some.labels) == 6 and some.labels.sum() == 3
    np.testing.assert_array_equal(some.times, stays.subsample(found, 6, 0.5, 1).times)
    assert sorted(zip(some.patients, some.known, strict=True)) == list(zip(some.patients, some.known, strict=True))
    scarce = stays.subsample(found, 9, 0.9, 1)  # all there are with the outcome, the rest without
    assert (len(scarce.labels), scarce.labels.sum()) == (9, 4)
    assert 0 < stays.subsample(found, 2, 0.01, 1).labels.sum() < 2
    # A share is one of yes-or-no labels: days are drawn without regard to it.
    days = np.arange(10, dtype=np.float32)
    np.testing.assert_array_equal(stays.draw(days, 6, 0.5, 1), stays.draw(days, 6, None, 1))


def test_some_stays_of_a_group():
    seven = np.arange(7)
    all_ = stays.Stays(seven, seven, seven, seven, 10 * seven, np.full(7, np.nan, np.float32))
    rows = (np.array([0, 1, 3, 5]), np.array([1, 2, 5, 6]))
    group = stays.Group(all_, rows, (rows[0] > 1, rows[1] / 2), ({}, {"left open": 1200}))
    some = group.choose([np.array([1, 3]), np.array([2, 3])])
    assert some.stays.subject_ids.tolist() == [10, 50, 60]
    assert [r.tolist() for r in some.rows] == [[0, 1], [1, 2]]
    assert [x.tolist() for x in some.labels] == [[False, True], [2.5, 3.0]]
    for k, chosen in enumerate(([1, 3], [2, 3])):
        for field, same in zip(some.of(k), group.of(k).take(np.array(chosen)), strict=True):
            np.testing.assert_array_equal(field, same)
    nobody = group.choose([np.zeros(0, np.int64)] * 2)
    assert len(nobody.stays.known) == 0 and len(nobody.of(0).labels) == 0
    assert group.describe(0, True) == "4 stays asked; left out: none"
    assert group.describe(1, True) == "4 stays asked; left out: 1,200 left open"
