"""Labels of others: what a file of them must hold, and how they meet the timelines."""

import dataclasses
import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data.vocabulary import HOUR
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.asking import cohort, label_files, stays
from ehr_scaling.outcomes.asking.tasks import task_tokens, tasks
from ehr_scaling.outcomes.asking.tasks.bounds import Bound
from tests.outcomes import records
from tests.outcomes.records import FOLDER, NOON, patient

KINDS = dict(label_files.SCHEMA)


def table(rows, names=("subject_id", "prediction_time", "boolean_value"), **kinds):
    """Rows of (subject, hours after NOON, value)."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    columns[1] = [None if h is None else NOON + round(h * HOUR) for h in columns[1]]
    kinds = {**KINDS, **kinds}
    arrays = [
        pa.array(column, pa.int64()).cast(kinds[name]) if name == "prediction_time" else pa.array(column, kinds[name])
        for name, column in zip(names, columns, strict=True)
    ]
    return pa.table(dict(zip(names, arrays, strict=True)))


def write(path, rows, **kinds):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(rows, **kinds) if isinstance(rows, list) else rows, path)
    return path


def test_a_file_and_a_folder_of_shards(tmp_path):
    rows = [(7, 5, True), (3, 9.5, False), (7, 1, False), (3, 2, True)]
    whole = label_files.read(write(tmp_path / "all.parquet", rows))
    assert whole.subject_ids.tolist() == [3, 3, 7, 7]
    assert whole.times.tolist() == [NOON + round(h * HOUR) for h in (2, 9.5, 1, 5)]
    assert whole.values.tolist() == [True, False, False, True] and whole.values.dtype == bool
    folder = tmp_path / "shards"
    write(folder / "train/0.parquet", rows[:1])
    write(folder / "train/1.parquet", rows[1:3])
    write(folder / "held_out/0.parquet", rows[3:])
    write(folder / "held_out/1.parquet", [])
    (folder / ".hidden.parquet").write_text("no parquet")
    for field, same in zip(label_files.read(folder), whole, strict=True):
        np.testing.assert_array_equal(field, same)


def test_columns_that_are_empty_count_as_absent(tmp_path):
    """As ACES writes them."""
    full = table([(3, 2, True)])
    for name in ("integer_value", "float_value", "categorical_value"):
        full = full.append_column(name, pa.nulls(1, KINDS[name] if name != "categorical_value" else pa.large_string()))
    assert label_files.read(write(tmp_path / "aces.parquet", full)).values.tolist() == [True]
    bare = label_files.read(write(tmp_path / "bare.parquet", full.select(["subject_id", "prediction_time"])))
    assert bare.values.dtype == np.float32 and np.isnan(bare.values).all()


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (lambda: table([(3, 2, True), (4, None, True)]), "prediction_time is missing in row 2, and in 1 rows in all"),
        (lambda: table([(None, 2, True)]), "subject_id is missing in row 1"),
        (lambda: table([(3, 2, True), (4, 2, None), (5, 2, None)]), "boolean_value is missing in row 2, and in 2 rows"),
        (
            lambda: table([(3, 2, 1)], boolean_value=pa.int64()),
            "boolean_value is int64, and bool in the MEDS label sch",
        ),
        (lambda: table([(3, 2, True)], subject_id=pa.int32()), "subject_id is int32, and int64"),
        (
            lambda: table([(3, 2, True)], prediction_time=pa.timestamp("us", "UTC")),
            r"prediction_time is timestamp\[us, tz=UTC\], and timestamp\[us\]",
        ),
        (lambda: table([(3, 2, True)]).drop_columns(["prediction_time"]), "has no column prediction_time"),
        (
            lambda: table([(3, 2, True)]).append_column("age", pa.array([3])),
            "has a column 'age': the MEDS label schema",
        ),
        (
            lambda: table([(3, 2, True), (9, 9, True), (9, 9, True), (3, 2, False)]),
            "row 3 repeats .* 2 rows do so in all",
        ),
        (lambda: table([]), "holds no rows"),
        (
            lambda: table([(3, 2, True)]).append_column("subject_id", pa.array([3])),
            "has more than one column 'subject_id'",
        ),
    ],
    ids=lambda x: "" if callable(x) else x.split(",")[0],
)
def test_what_is_no_label_file(made, problem, tmp_path):
    path = write(tmp_path / "odd.parquet", made())
    with pytest.raises(UserError, match=rf"^{path}.*{problem}") as e:
        label_files.read(path)
    assert "\n" not in str(e.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"none\.parquet cannot be read"):
        label_files.read(tmp_path / "none.parquet")
    with pytest.raises(UserError, match="holds no parquet file"):
        label_files.read(tmp_path)
    (tmp_path / "text.parquet").write_text("subject_id,prediction_time")
    with pytest.raises(UserError, match=r"text\.parquet is no parquet file, or damaged"):
        label_files.read(tmp_path / "text.parquet")
    folder = tmp_path / "mixed"
    write(folder / "a.parquet", [(3, 2, True)])
    write(folder / "b.parquet", table([(4, 2, True)]).drop_columns(["boolean_value"]))
    with pytest.raises(UserError, match=r"b\.parquet has no boolean_value, and .*a\.parquet has"):
        label_files.read(folder)
    write(folder / "b.parquet", [(8, 2, True), (3, 2, True)])
    with pytest.raises(
        UserError, match=r"b\.parquet: row 2 repeats the subject and time of an earlier one, and 1 rows"
    ):
        label_files.read(folder)


TRAIN = [patient((0, "IN"), (9, "OUT"))]
TEST = [
    patient((0, "IN"), (10, "LAB"), (10, "Q3"), (29.97, "LAB"), (30, "MEDS_DEATH"), (40, "X")),
    patient((0, "LAB"), (50, "OUT")),
    patient((0, "IN"), (90, "OUT")),
]  # subjects 1000; 1001, 1002, 1003
RECORDS = {"train": TRAIN, "test": TEST}


def mortality(path, **fields):
    return label_files.from_labels(path, name="mortality", positive=["MEDS_DEATH"], negative=["OUT"], **fields)


def test_labels_meet_timelines(tmp_path):
    path = write(
        tmp_path / "labels.parquet",
        [
            (1003, 50, False),
            (1001, 10, True),  # up to and at that time
            (1001, 9.99, True),
            (1001, -1, True),  # before all
            (1001, 30, True),  # the death is known
            (1001, 35, True),
            (1002, 500, False),  # after the last event, which is known
            (1000, 3, True),  # of another split
            (77, 3, True),
            (78, 3, True),
        ],
    )
    with records.told(RECORDS) as vocabulary:
        group = cohort.find(FOLDER, "test", [mortality(path)])
        own = group.of(0)
        assert own.subject_ids.tolist() == [1001, 1001, 1002, 1003] and own.patients.tolist() == [0, 0, 1, 2]
        assert own.known.tolist() == [1, 4, 3, 1] and own.labels.tolist() == [True, True, False, False]
        assert own.times.tolist() == [NOON + round(h * HOUR) for h in (9.99, 10, 500, 50)]
        assert own.anchors.tolist() == [0] * 4
        assert group.left_out == (
            {
                "whose subject is in no split of the timelines": 2,
                "whose subject is in another split": 1,
                "with no record by the prediction": 1,
                "after the subject's death": 2,
            },
        )
        prompts = stays.prompts(FOLDER, "test", own, 6)
        names = [[vocabulary.tokens[i] for i in row if i][1:] for row in prompts]
        assert names == [["IN"], ["IN", "TIME//6h-12h", "LAB", "Q3"], ["LAB", "TIME//1d-3d", "OUT"], ["IN"]]
        hours = task_tokens.gaps(FOLDER, "test", own, mortality(path))
        np.testing.assert_allclose(hours, [9.99, 0, 450, 50])
        everywhere = cohort.find(FOLDER, None, [mortality(path)])
        assert everywhere.of(0).subject_ids.tolist() == [1000, 1001, 1001, 1002, 1003]
        assert everywhere.left_out[0]["whose subject is in no split of the timelines"] == 2
        assert "whose subject is in another split" not in everywhere.left_out[0]
        np.testing.assert_array_equal(stays.prompts(FOLDER, None, everywhere.stays, 6)[1:], prompts)


def test_several_outcomes_of_the_same_labels(tmp_path):
    path = write(tmp_path / "labels.parquet", [(1001, 5, True), (1003, 50, False)])
    week, day = (
        dataclasses.replace(mortality(path, horizon_days=d), name=f"in_{d}") for d in (7, 1)
    )  # fmt: skip
    assert (week.horizon, week.at_horizon, mortality(path).at_horizon) == (7.0, "negative", None)
    with records.told(RECORDS):
        (group,) = task_tokens.groups([week, day])
        found = cohort.find(FOLDER, "test", group)
        assert [found.of(k).labels.tolist() for k in (0, 1)] == [[True, False]] * 2
        np.testing.assert_array_equal(task_tokens.horizons(group, found.stays), [[168, 24]] * 2)
        assert np.isnan(found.stays.labels).all()


def test_labels_that_answer_nothing(tmp_path):
    with records.told(RECORDS):
        path = write(tmp_path / "others.parquet", [(1000, 5, True), (76, 5, True), (77, 5, False)])
        with pytest.raises(UserError) as e:
            cohort.find(FOLDER, "test", [mortality(path)])
        assert str(e.value) == (
            f"{path}: of its labels (under 10) none can be asked of the test split: under 10 whose subject is in no "
            "split of the timelines, under 10 whose subject is in another split"
        )
        one = mortality(write(tmp_path / "one.parquet", [(1001, 5, True), (1003, 5, True)]))
        with pytest.raises(tasks.Unanswerable, match=r"under 10 stays .*, all of them with the outcome: both"):
            cohort.stays(FOLDER, "test", one)
        assert cohort.find(FOLDER, "test", [one]).of(0).labels.all()  # predictions can be made all the same
        bare = table([(1001, 5, True), (1003, 5, True)]).drop_columns(["boolean_value"])
        nothing_said = cohort.stays(FOLDER, "test", mortality(write(tmp_path / "bare.parquet", bare)))
        assert np.isnan(nothing_said.labels).all() and len(nothing_said.labels) == 2
        unknown = label_files.from_labels(path, name="t", positive=["ICU"], negative=["OUT"])
        with pytest.raises(tasks.Unanswerable, match="the task t needs the token ICU"):
            cohort.find(FOLDER, "test", [unknown])
    with pytest.raises(UserError, match="task t: negative is missing"):
        label_files.from_labels(path, name="t", positive=["MEDS_DEATH"])


def test_whether_a_threshold_has_tokens_is_not_asked_of_labels(tmp_path):
    """What a code without bins means, the values of the train split say, which come later."""
    path = write(tmp_path / "labels.parquet", [(1001, 5, True), (1003, 50, False)])
    task = label_files.from_labels(path, name="t", values=[Bound("LAB", above=3)], negative=["MEDS_DEATH"])
    with records.told(RECORDS):
        assert cohort.find(FOLDER, "test", [task]).of(0).labels.tolist() == [True, False]


def test_labels_of_other_peoples_patients_are_refused(tmp_path):
    own = [(1003, 5 + k, k % 2 == 0) for k in range(76)]
    strangers = [(9_000 + k, 5, True) for k in range(5)]
    with records.told(RECORDS):
        few = mortality(write(tmp_path / "few.parquet", own + strangers[:4]))  # 4 of 80
        assert cohort.find(FOLDER, "test", [few]).left_out == ({"whose subject is in no split of the timelines": 4},)
        path = write(tmp_path / "many.parquet", own + strangers)  # 5 of 81
        with pytest.raises(UserError) as e:
            cohort.find(FOLDER, "test", [mortality(path)])
        assert str(e.value) == (
            f"{path}: the subjects of under 10 of the 80 labels are in no split of the timelines: the labels belong to "
            "other patients; give their records with --data (launch.predict), or labels of these patients"
        )
        # Another hospital's subjects may have the same numbers: it has other times.
        year = 366 * 24
        late = [(1001 + k % 3, 90 + year + k, True) for k in range(12)]
        path = write(tmp_path / "late.parquet", late + own[:12])
        assert len(cohort.find(FOLDER, "test", [mortality(path)]).of(0).times) == 20  # no more than half
        with pytest.raises(UserError, match=r"10 of the 20 labels .* belong to other patients with the same ids"):
            cohort.find(FOLDER, "test", [mortality(write(tmp_path / "late.parquet", late + own[:6]))])


def test_nothing_of_a_patient_is_told(tmp_path):
    """Neither ids nor dates stand in what goes wrong."""
    rows = [(987654, 2, True), (987654, 2, True)]
    day = datetime.datetime.fromtimestamp(NOON / 1e6, datetime.UTC)
    for made in (rows, [(987654, 5, True)]):
        with pytest.raises(UserError) as e, records.told(RECORDS):
            cohort.find(FOLDER, "test", [mortality(write(tmp_path / "x.parquet", made))])
        assert "987654" not in str(e.value) and str(day.year) not in str(e.value)


HOURS = st.sampled_from([-1, 0, 0.01, 3, 10, 29.97, 30, 31, 400])


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.sampled_from([1000, 1001, 1002, 1003, 55]), HOURS), min_size=1), st.randoms())
def test_known_is_what_has_happened_by_then(tmp_path_factory, rows, random):
    rows = [(subject, hours, random.random() < 0.5) for subject, hours in rows]
    random.shuffle(rows)
    path = write(tmp_path_factory.mktemp("labels") / "x.parquet", rows)
    expected = {}
    for subject, hours, value in rows:
        if 1001 <= subject <= 1003:
            tokens, times, _ = TEST[subject - 1001]
            time = NOON + round(hours * HOUR)
            known = sum(t <= time for t in times[:-1])
            if known and "MEDS_DEATH" not in tokens[:known]:
                expected[subject, time] = (known, value)
    with records.told(RECORDS, patients_a_file=1):
        unknown = sum(subject == 55 for subject, *_ in rows)
        if unknown > max(label_files.A_FEW, label_files.MOST_UNKNOWN * len(rows)):
            with pytest.raises(UserError, match="belong to other patients"):
                cohort.find(FOLDER, "test", [mortality(path)])
            return
        if not expected:
            with pytest.raises(UserError, match="none can be asked"):
                cohort.find(FOLDER, "test", [mortality(path)])
            return
        group = cohort.find(FOLDER, "test", [mortality(path)])
    own = group.of(0)
    found = zip(own.subject_ids.tolist(), own.times.tolist(), own.known.tolist(), own.labels.tolist(), strict=True)
    assert {(s, t): (n, label) for s, t, n, label in found} == expected
    assert sum(group.left_out[0].values()) + len(own.known) == len(rows)
