import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling import artifacts
from ehr_scaling.data.timelines import static_context, timelines
from ehr_scaling.data.tokenization.tokenizer import STATIC, Timelines
from ehr_scaling.data.vocabulary import AGES, SPECIAL, Vocabulary
from ehr_scaling.errors import UserError
from tests.data import made_up
from tests.data.made_up import DAY, MINUTE


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    made_up.write(work / "events", **made_up.splits())
    record = artifacts.build(work / "timelines", {}, lambda out: timelines.build(work / "events", out, min_count=2))
    return work, record["summary"]


def test_read_back_what_tfds_reads(work):
    folder, summary = work
    vocabulary = timelines.vocabulary(folder)
    builder = tfds.builder_from_directory(folder / "timelines")
    for split in ("train", "validation", "test"):
        source = builder.as_data_source(split)
        patients = list(timelines.read(folder, split))
        assert len(source) == len(patients) == summary[split]["patients"]
        assert sum(len(p["tokens"]) for p in patients) == summary[split]["tokens"]
        for record, patient in zip(source, patients, strict=True):
            assert set(record) == set(patient)
            for key, value in patient.items():
                np.testing.assert_array_equal(record[key], value)
                assert key in ("subject_id", "birth") or record[key].dtype == value.dtype
            assert patient["tokens"].dtype == vocabulary.dtype
            assert vocabulary.tokens[patient["tokens"][-1]] == "TIMELINE_END"
            assert (np.diff(patient["times"]) >= 0).all()
            assert 0 not in patient["tokens"]


def test_splits_are_the_events_splits(work):
    folder, _ = work
    ids = {split: {p["subject_id"] for p in timelines.read(folder / "timelines", split)} for split in timelines.SPLITS}
    assert ids["train"] == {*range(1, 61), *range(10_001, 10_061)}
    assert ids["validation"] == set(range(20_001, 20_021))
    assert ids["test"] == set(range(30_001, 30_021))


def test_counts_and_summary_are_those_of_the_tokens(work):
    folder, summary = work
    v = timelines.vocabulary(folder)
    train = [p["tokens"] for p in timelines.read(folder, "train")]
    assert list(v.counts) == np.bincount(np.concatenate(train), minlength=len(v.tokens)).tolist()
    assert v.counts[v.index["TIMELINE_END"]] == len(train)
    assert summary["vocabulary"] == len(v.tokens)
    assert summary["train"]["tokens_per_patient"]["p50"] == np.median([len(t) for t in train])
    bare = [i for i, t in enumerate(v.tokens) if t in ("UNK", "LAB//UNK", "ICD10CM//UNK")]
    share = np.isin(np.concatenate(train), bare).mean()
    assert summary["train"]["unknown_tokens"] == pytest.approx(share)
    slots = tuple(f"{slot}//" for slot in v.context_slots)
    head = 1 + max(i for i, t in enumerate(v.tokens) if t.startswith(slots) and not t.endswith("//UNK"))
    assert v.tokens[: len(SPECIAL) + len(AGES)] == SPECIAL + AGES
    plain = [n for i, n in enumerate(v.counts) if i >= head and i not in v.fused and v.tokens[i] not in v.quantiles]
    assert plain == sorted(plain, reverse=True) and len(plain) > 30
    assert sum(v.counts[head:]) > 0.4 * sum(v.counts)
    assert len(v.interval_seconds) == 13 and 5 * 60 <= v.interval_seconds[0] < 15 * 60
    assert v.interval_seconds[-1] == pytest.approx(180 * 86400, rel=0.3)


def test_events_and_patient_days_are_counted_in_every_split(work):
    folder, summary = work
    for split in timelines.SPLITS:
        times = [p["times"] for p in timelines.read(folder, split)]
        assert summary[split]["patient_days"] == pytest.approx(sum(t[-1] - t[0] for t in times) / DAY)
        events = summary[split]["events"]
        assert summary[split]["patients"] < events < summary[split]["tokens"] - summary[split]["patients"]
        silent = sum(summary[split]["silent_events"].values())
        assert silent < 0.5 * events  # so that the count is not of what made no token


def test_same_events_make_the_same_files(work, tmp_path):
    folder, _ = work
    out = tmp_path / "timelines"
    out.mkdir()
    timelines.build(folder / "events", out, min_count=2)
    for path in sorted(p for p in out.iterdir() if p.is_file()):
        assert path.read_bytes() == (folder / "timelines" / path.name).read_bytes(), path.name
    assert not [p for p in out.rglob("*") if "partial" in p.name]
    for path in out.glob("*.json"):
        assert str(tmp_path) not in path.read_text()


def test_other_patients_than_train_change_no_token(work, tmp_path):
    folder, _ = work
    splits = made_up.splits()
    splits["tuning"] = made_up.cohort(99, 30, 40_001)
    made_up.write(tmp_path / "events", **splits)
    (tmp_path / "timelines").mkdir()
    timelines.build(tmp_path / "events", tmp_path / "timelines", min_count=2)
    assert timelines.vocabulary(tmp_path) == timelines.vocabulary(folder)


def test_one_file_a_shard(work):
    folder, summary = work
    assert timelines.files(folder, "train") == [60, 60]
    assert len(tfds.builder_from_directory(folder / "timelines").as_data_source("train")) == 120
    whole = [p["subject_id"] for p in timelines.read(folder, "train")]
    assert whole == [i for k in range(2) for i in timelines.read_file(folder, "train", k).subject_ids.tolist()]
    assert summary["train"]["patients"] == 120


def test_patients_in_one_split_only(tmp_path):
    made_up.write(tmp_path / "events", train=made_up.splits(patients=20)["train"])
    (tmp_path / "timelines").mkdir()
    summary = timelines.build(tmp_path / "events", tmp_path / "timelines")
    assert summary["test"] == {**summary["test"], "patients": 0, "tokens": 0}
    assert list(timelines.read(tmp_path, "test")) == []
    assert len(list(timelines.read(tmp_path, "train"))) == 40


def test_a_vocabulary_of_other_data_is_refused(work, tmp_path):
    shutil.copytree(work[0] / "timelines", tmp_path / "timelines")
    made_up.write(tmp_path / "other" / "events", **made_up.splits(seed=50))
    (tmp_path / "other" / "timelines").mkdir()
    timelines.build(tmp_path / "other" / "events", tmp_path / "other" / "timelines")
    shutil.copy(tmp_path / "other" / "timelines" / "vocabulary.json", tmp_path / "timelines")
    with pytest.raises(UserError, match=r"vocabulary\.json is damaged"):
        timelines.vocabulary(tmp_path)


def test_reading_needs_no_tensorflow(work):
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        "from ehr_scaling.data.timelines import static_context, timelines\n"
        f"next(timelines.read({str(work[0])!r}, 'train'))\n"
        f"tfds.builder_from_directory({str(work[0] / 'timelines')!r}).as_data_source('train')[0]\n"
        "assert not {'tensorflow', 'torch', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bad_input_is_named(work, tmp_path):
    folder, _ = work
    with pytest.raises(UserError, match="no split 'tuning'"):
        next(timelines.read(folder, "tuning"))
    with pytest.raises(UserError, match="mincount"):
        timelines.build(folder / "events", tmp_path, mincount=2)

    def build(**splits):
        name = tmp_path / f"w{len(list(tmp_path.iterdir()))}"
        made_up.write(name / "events", **splits)
        (name / "timelines").mkdir()
        timelines.build(name / "events", name / "timelines")

    good = made_up.splits(patients=6)
    with pytest.raises(UserError, match="no patient of the train split has an event with a time"):
        build(**{**good, "train": {77: [(None, "GENDER//F", None)]}})
    with pytest.raises(UserError, match="a patient in two splits"):
        build(**{**good, "tuning": made_up.cohort(0, 3, 1)})


def test_damaged_files_are_named(work, tmp_path):
    folder, _ = work
    out = tmp_path / "timelines"
    out.mkdir()
    timelines.build(folder / "events", out)
    path = out / "timelines-train.array_record-00000-of-00002"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"train\.array_record-00000"):
        list(timelines.read(out, "train"))
    path.unlink()
    with pytest.raises(UserError, match=r"train\.array_record-00000.*missing"):
        list(timelines.read(out, "train"))
    info = json.loads((out / "dataset_info.json").read_text())
    info["splits"][1]["shardLengths"] = ["7"]
    (out / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="holds 20 of 7 patients"):
        list(timelines.read(out, info["splits"][1]["name"]))


CONTEXT = ("BMI//UNKNOWN", "BMI//Q1", "BMI//Q2", "GENDER//UNKNOWN", "GENDER//F")
V = Vocabulary((*SPECIAL, *AGES, *CONTEXT), (), ("BMI", "GENDER"), {}, (), {})
BMI1, BMI2, FEMALE = V.index["BMI//Q1"], V.index["BMI//Q2"], V.index["GENDER//F"]


def record(birth=STATIC, context=()):
    tokens, times, slots = zip(*context, strict=True) if context else ((), (), ())
    return {
        "birth": birth,
        "tokens": np.zeros(0, np.uint16),
        "times": np.zeros(0, np.int64),
        "context_tokens": np.array(tokens, np.uint16),
        "context_times": np.array(times, np.int64),
        "context_slots": np.array(slots, np.uint8),
    }


def prefix(patient, time):
    return [V.tokens[i] for i in static_context.context_at(V, patient, time)]


def test_context_never_comes_from_the_future():
    patient = record(0, [(FEMALE, STATIC, 1), (BMI1, 10, 0), (BMI2, 20, 0), (BMI1, 20, 0), (BMI2, 30, 0)])
    assert [prefix(patient, t)[0] for t in (-1, 0, 9, 10, 19, 20, 29, 30, 10**15)] == [
        *["BMI//UNKNOWN"] * 3, *["BMI//Q1"] * 4, *["BMI//Q2"] * 2,
    ]  # fmt: skip
    assert {prefix(patient, t)[1] for t in (-(10**15), 0, 10**15)} == {"GENDER//F"}
    single = record(0, [(BMI1, 10, 0)])  # a single value is no exception
    assert prefix(single, 9)[0] == "BMI//UNKNOWN"
    assert prefix(record(), 0) == ["BMI//UNKNOWN", "GENDER//UNKNOWN", "AGE//UNKNOWN"]


@pytest.mark.parametrize(
    ("years", "token"),
    [(-1, "0-5"), (0, "0-5"), (4.999, "0-5"), (5, "5-10"), (39.999, "35-40"), (40, "40-45"), (44.999, "40-45"),
     (94.999, "90-95"), (95, "95+"), (130, "95+")],
)  # fmt: skip
def test_age(years, token):
    birth = -40 * 365 * DAY
    assert prefix(record(birth), birth + round(years * 365.25 * DAY))[-1] == f"AGE//{token}"


entries = st.lists(st.tuples(st.sampled_from([(BMI1, 0), (BMI2, 0), (FEMALE, 1)]), st.integers(-3, 12)), max_size=6)


@settings(deadline=None, max_examples=100)
@given(st.lists(entries, min_size=1, max_size=5), st.data())
def test_many_windows_agree_with_one_at_a_time(patients, data):
    rows = [[(t, STATIC if x < -2 else x, s) for (t, s), x in sorted(p, key=lambda e: e[1])] for p in patients]
    flat = [row for p in rows for row in p]
    windows = data.draw(
        st.lists(st.tuples(st.integers(0, len(rows) - 1), st.integers(-5, 15)), min_size=1, max_size=12)
    )
    births = np.array([STATIC if i % 2 else -(10**15) for i in range(len(rows))])
    part = Timelines(
        subject_ids=np.arange(len(rows)),
        births=births,
        tokens=np.zeros(0, np.uint16),
        times=np.zeros(0, np.int64),
        offsets=np.zeros(len(rows) + 1, np.int64),
        context_tokens=np.array([r[0] for r in flat], np.uint16),
        context_times=np.array([r[1] for r in flat], np.int64),
        context_slots=np.array([r[2] for r in flat], np.uint8),
        context_offsets=np.cumsum([0, *map(len, rows)]),
    )
    owners, starts = (np.array(x, np.int64) for x in zip(*windows, strict=True))
    found = static_context.contexts(V, part, owners, starts)
    for (p, time), got in zip(windows, found, strict=True):
        for slot, name in enumerate(("BMI", "GENDER")):
            known = [t for t, x, s in rows[p] if s == slot and x <= time]
            assert V.tokens[got[slot]] == (V.tokens[known[-1]] if known else f"{name}//UNKNOWN")
        np.testing.assert_array_equal(got, static_context.context_at(V, record(births[p], rows[p]), time))


def test_a_window_that_begins_with_an_interval_starts_at_the_event_before():
    v = timelines.Vocabulary((*SPECIAL, *AGES, "A"), (), (), {}, (), {})
    a, gap = v.index["A"], v.index["TIME//6mt"]
    tokens = np.array([a, gap, gap, a, a, a, v.index["TIME//5m-15m"], a])
    times = np.array([5, 400 * DAY, 400 * DAY, 400 * DAY, 400 * DAY, 7, 7 + 9 * MINUTE, 7 + 9 * MINUTE])
    found = static_context.start_times(v, tokens, times, np.arange(8))
    assert found.tolist() == [5, 5, 5, 400 * DAY, 400 * DAY, 7, 7, 7 + 9 * MINUTE]
