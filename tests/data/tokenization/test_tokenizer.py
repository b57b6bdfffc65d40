import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_scaling.data import presets
from ehr_scaling.data.events import columns
from ehr_scaling.data.events.columns import STATIC
from ehr_scaling.data.tokenization import tokenizer
from ehr_scaling.data.vocabulary import INTERVALS
from ehr_scaling.errors import UserError
from tests.data import made_up
from tests.data.made_up import DAY, MINUTE
from tests.data.tokenization.tokenized import MAPS, fit, names, one, tokenize

HOUR = 60 * MINUTE


@pytest.mark.parametrize(
    ("low", "name"),
    [
        (5 * MINUTE, "5m-15m"),
        (15 * MINUTE, "15m-1h"),
        (HOUR, "1h-2h"),
        (2 * HOUR, "2h-6h"),
        (6 * HOUR, "6h-12h"),
        (12 * HOUR, "12h-1d"),
        (DAY, "1d-3d"),
        (3 * DAY, "3d-1w"),
        (7 * DAY, "1w-2w"),
        (14 * DAY, "2w-1mt"),
        (30 * DAY, "1mt-3mt"),
        (90 * DAY, "3mt-6mt"),
        (180 * DAY, "6mt"),
    ],
)
def test_interval_boundaries(tmp_path, low, name):
    token = f"TIME//{name}"
    before = [] if low == 5 * MINUTE else [INTERVALS[INTERVALS.index(token) - 1]]
    history = [(0, "A", None), (low, "A", None), (2 * low - 1, "A", None)]
    v, part, _ = one(tmp_path, history)
    assert names(v, part) == ["A", token, "A", *before, "A", "TIMELINE_END"]
    times = [0, low, low, *[2 * low - 1] * (len(before) + 2)]
    assert part.times.tolist() == times


@pytest.mark.parametrize(
    ("days", "repeats"), [(180, 1), (269.99, 1), (270, 2), (360, 2), (449.99, 2), (450, 3), (3650, 20)]
)
def test_long_gaps_repeat_the_last_interval(tmp_path, days, repeats):
    gap = int(days * DAY)
    v, part, stats = one(tmp_path, [(0, "A", None), (gap, "A", None)])
    assert names(v, part) == ["A", *["TIME//6mt"] * repeats, "A", "TIMELINE_END"]
    assert stats.interval_sums[-1] == pytest.approx(gap / 1e6)
    assert stats.interval_tokens.tolist() == [0] * 12 + [repeats]
    assert stats.events == 2 and stats.days == pytest.approx(days)


def test_patient_days_are_those_between_events_that_make_tokens(tmp_path):
    patients = {
        2: [(0, "A", None), (DAY, "A", None), (4 * DAY, "A", None), (9 * DAY, "MEDS_BIRTH", None)],
        3: [(-DAY, "MEDS_BIRTH", None), (DAY, "A", None)],
        4: [(-7 * DAY, "A", None), (-7 * DAY + DAY // 2, "A", None)],
        5: [(0, "MEDS_BIRTH", None)],
    }
    folder = made_up.write(
        tmp_path / "events", train=patients, tuning={9_001: patients[2]}, held_out={9_003: patients[2]}
    )
    _, stats = tokenize(folder, "train", fit(folder, min_count=1))
    assert sum(s.events for s in stats) == 6 and sum(s.days for s in stats) == pytest.approx(4.5)


def test_no_interval_from_birth_and_none_from_what_makes_no_token(tmp_path):
    history = [
        (None, "GENDER//F", None),
        (0, "MEDS_BIRTH", None),
        (10 * DAY, "RACE//X", None),
        (20 * DAY, "TRANSFER_TO//ED//X", None),
        (30 * DAY, "A", None),
        (30 * DAY + 10 * MINUTE, "TRANSFER_TO//ED//X", None),
        (30 * DAY + 20 * MINUTE, "B", None),
    ]
    v, part, _ = one(tmp_path, history)
    assert names(v, part) == ["A", "TIME//15m-1h", "B", "TIMELINE_END"]
    assert part.births.tolist() == [0]
    assert [v.tokens[i] for i in part.context_tokens] == ["GENDER//F", "RACE//X"]
    assert part.context_times.tolist() == [STATIC, 10 * DAY]
    assert v.context_slots == ("GENDER", "RACE")


def test_quantile_tokens(tmp_path):
    train = {1 + i: [(0, "L", float(i))] for i in range(11)}  # breaks 1 … 9
    history = [(0, "L", x) for x in (-5.0, 1.0, 1.5, 2.0, 9.0, 9.01, 1e30, None, float("nan"), float("inf"))]
    v, part, _ = one(tmp_path, history, train=train, min_values=11, value_tokens="separate")
    expect = []
    for bins in (1, 1, 2, 2, 9, 10, 10, None, None, None):
        expect += ["L"] + ([f"Q{bins}"] if bins else [])
    assert names(v, part) == [*expect, "TIMELINE_END"]
    assert v.quantiles == {"L": tuple(map(float, range(1, 10)))}


def test_few_or_constant_values_have_no_quantile_token(tmp_path):
    train = {1: [(0, "FEW", float(i)) for i in range(19)] + [(0, "SAME", 3.0)] * 50 + [(0, "TIES", 3.0)] * 50}
    train[1] += [(0, "TIES", 4.0)]
    history = [(0, "FEW", 2.0), (0, "SAME", 3.0), (0, "TIES", 3.0), (0, "TIES", 4.0)]
    v, part, _ = one(tmp_path, history, train=train, value_tokens="separate")
    assert names(v, part) == ["FEW", "SAME", "TIES", "Q1", "TIES", "Q2", "TIMELINE_END"]


def test_unknown_codes_never_fail(tmp_path):
    train = {1: [(0, "A", None), (0, "DIAGNOSIS//ICD//10//I5022", None), (0, "LAB//1//X", None)]}
    history = [
        (None, "SHOE_SIZE//9", None),
        (0, "NEW", 4.0),
        (0, "DIAGNOSIS//ICD//10//I5099", None),
        (0, "DIAGNOSIS//ICD//10//J5099", None),
        (0, "LAB//2//X", None),
        (0, "A", None),
    ]
    v, part, stats = one(tmp_path, history, train=train)
    assert names(v, part) == ["UNK", "ICD10CM//I50", "ICD10CM//UNK", "LAB//UNK", "A", "TIMELINE_END"]
    assert (stats.events, stats.fallbacks) == (5, 4)
    assert len(part.context_tokens) == 0


def test_rare_codes_collapse_to_their_prefix(tmp_path):
    train = {1: [(0, "DIAGNOSIS//ICD//10//I5022", None)] * 3 + [(0, "DIAGNOSIS//ICD//10//I5033", None)]}
    train[1] += [(0, "DIAGNOSIS//ICD//10//J1899", None), (0, "LAB//1//X", None), (0, "ED_OUT", None)]
    v, part, _ = one(tmp_path, train[1], train=train, min_count=3)
    i50 = ["ICD10CM//I50", "ICD10CM//3-6//22"]
    assert names(v, part) == [*i50 * 3, "ICD10CM//I50", "ICD10CM//UNK", "LAB//UNK", "ED_OUT", "TIMELINE_END"]
    assert "ICD10CM//3-6//33" not in v.tokens
    assert "ED_OUT//UNK" not in v.tokens  # the bare name is that


def test_codes_are_numbered_by_falling_train_count(tmp_path):
    train = {1: [(0, "B", None)] * 3 + [(0, "A", None)] * 2 + [(0, "C", None)] * 2}
    v, _, _ = one(tmp_path, train[1], train=train)
    assert v.tokens[-3:] == ("B", "A", "C")
    assert v.tokens[:5] == ("PAD", "UNK", "TIMELINE_END", "TIME//5m-15m", "TIME//15m-1h")


def test_static_values_and_their_unknowns(tmp_path):
    train = {i + 1: [(None, "HEIGHT", 150.0 + i), (None, "GENDER//F", None), (0, "A", None)] for i in range(40)}
    train[1].insert(1, (None, "GENDER//RARE", None))
    history = [(None, "HEIGHT", 1.0), (None, "HEIGHT", None), (None, "GENDER//RARE", None), (None, "GENDER//F", None)]
    v, part, _ = one(tmp_path, [*history, (0, "A", None)], train=train, min_count=5)
    found = [v.tokens[i] for i in part.context_tokens]
    assert found == ["HEIGHT//Q1", "HEIGHT//UNKNOWN", "GENDER//UNKNOWN", "GENDER//F"]
    assert part.context_slots.tolist() == [1, 1, 0, 0]
    assert [t for t in v.tokens if t.startswith("HEIGHT")] == [
        "HEIGHT//UNKNOWN",
        *(f"HEIGHT//Q{k}" for k in range(1, 11)),
    ]


def test_timed_context_stays_in_the_timeline_where_it_is_an_event(tmp_path):
    train = {1: [(i * DAY, "BMI (kg/m2)", 20.0 + i) for i in range(30)]}
    train[1] += [(30 * DAY, "INSURANCE//X", None), (30 * DAY, "MARITAL//M", None)]
    v, part, _ = one(tmp_path, train[1], train=train)
    assert v.context_slots == ("MARITAL", "INSURANCE", "BMI")
    assert names(v, part)[:3] == ["BMI//Q1", "TIME//1d-3d", "BMI//Q1"]
    assert names(v, part)[-3:] == ["TIME//1d-3d", "INSURANCE//X", "TIMELINE_END"]
    assert [v.tokens[i] for i in part.context_tokens][-3:] == ["BMI//Q10", "INSURANCE//X", "MARITAL//M"]


def test_a_death_without_a_time_is_no_context(tmp_path):
    v, part, _ = one(tmp_path, [(None, "MEDS_DEATH", None), (None, "MEDS_BIRTH", None), (0, "A", None)])
    assert v.context_slots == ()
    assert names(v, part) == ["A", "TIMELINE_END"]
    assert part.births.tolist() == [STATIC]


def test_patients_without_a_timeline_are_left_out(tmp_path):
    shard = {1: [(None, "GENDER//F", None)], 2: [(0, "A", None)], 3: [(0, "MEDS_BIRTH", None)], 4: [(5, "B", None)]}
    folder = made_up.write(tmp_path / "events", train=shard)
    v = fit(folder, min_count=1)
    parts, stats = tokenize(folder, "train", v)
    assert parts[0].subject_ids.tolist() == [2, 4]
    assert stats[0].empty == 2
    assert names(v, parts[0], 1) == ["B", "TIMELINE_END"]
    folder = made_up.write(tmp_path / "none", train={1: [(None, "GENDER//F", None)]})
    part = tokenize(folder, "train", v)[0][0]
    assert (len(part.tokens), part.offsets.tolist(), part.context_offsets.tolist()) == (0, [0], [0])


def reference(history, v):
    """One patient by the words of the contract, an event at a time."""
    tokens, previous, rules = [], None, presets.rules(v.settings, MAPS)
    for time, code, value in history:
        path = (*rules(code).paths, ())[0]
        if time is None or code == "MEDS_BIRTH" or not path or path[0].split("//")[0] in ("GENDER", "RACE", "MARITAL"):
            continue
        gap = 0 if previous is None else time - previous
        if gap >= 180 * DAY:
            tokens += [("TIME//6mt", time)] * math.floor(gap / (180 * DAY) + 0.5)
        elif gap >= 5 * MINUTE:
            lows = [5, 15, 60, 120, 360, 720, 1440, 3 * 1440, 7 * 1440, 14 * 1440, 30 * 1440, 90 * 1440]
            tokens.append((INTERVALS[max(k for k, low in enumerate(lows) if gap >= low * MINUTE)], time))
        spelt = [v.tokens[i] for i in v.encode([path])[0]]
        breaks = v.quantiles.get(rules(code).scale, ())
        if breaks and value is not None:
            number = f"Q{1 + sum(b < np.float32(value) for b in breaks)}"
            spelt = [f"{path[0]}//{number}"] if rules(code).fused else [*spelt, number]
        tokens += [(token, time) for token in spelt]
        previous = time
    return [*tokens, ("TIMELINE_END", previous)]


@pytest.mark.parametrize("values", ["separate", "fused"])
def test_arrays_agree_with_one_event_at_a_time(tmp_path, monkeypatch, values):
    splits = made_up.splits(patients=40)
    folder = made_up.write(tmp_path / "events", **splits)
    v = fit(folder, value_tokens=values)
    assert v.quantiles and v.context_slots == ("GENDER", "HEIGHT", "INSURANCE", "BMI")
    monkeypatch.setattr(columns, "_CHUNK", 100)  # several parts a file
    for split, shards in (("train", splits["train"]), ("tuning", [splits["tuning"]])):
        histories = {subject: history for shard in shards for subject, history in shard.items()}
        parts, _ = tokenize(folder, split, v)
        assert len(parts) > 5
        found = [s for part in parts for s in part.subject_ids.tolist()]
        assert found == list(histories)
        for part in parts:
            for p, subject in enumerate(part.subject_ids.tolist()):
                rows = slice(part.offsets[p], part.offsets[p + 1])
                times = part.times[rows].tolist()
                assert list(zip(names(v, part, p), times, strict=True)) == reference(histories[subject], v)


def test_vocabulary_sees_train_only(tmp_path):
    splits = made_up.splits(patients=20)
    first = fit(made_up.write(tmp_path / "a", **splits))
    other = [(None, "NEW//X", None), (0, "MORE", 4.0), (0, "LAB//1//MG/DL", 1e6)]
    changed = {**splits, "tuning": {1_000_000: other * 1}, "held_out": {1_000_001: other}}
    assert fit(made_up.write(tmp_path / "b", **changed)) == first
    changed["train"] = [*splits["train"], {1_000_002: other}]
    assert fit(made_up.write(tmp_path / "c", **changed)) != first


def test_vocabulary_does_not_depend_on_the_shards(tmp_path):
    splits = made_up.splits(patients=20)
    first = fit(made_up.write(tmp_path / "a", **splits))
    joined = {**splits, "train": splits["train"][0] | splits["train"][1]}
    assert fit(made_up.write(tmp_path / "b", **joined)) == first


def test_bad_events_are_named(tmp_path):
    path = tmp_path / "x.parquet"
    good = made_up.table({1: [(0, "A", None), (5, "A", None)], 2: [(0, "A", None)]})

    def message(table):
        pq.write_table(table, path)
        with pytest.raises(UserError, match=r"x\.parquet") as e:
            list(columns.read_columns(path))
        return str(e.value)

    assert "not sorted" in message(good.take([1, 0, 2]))
    assert "not sorted" in message(good.take([0, 2, 1]))
    assert "numeric_value" in message(good.drop_columns(["numeric_value"]))
    assert "without code" in message(good.set_column(2, "code", pa.array(["A", None, "A"])))
    assert "time" in message(good.set_column(1, "time", pa.array(["x", "y", "z"])))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"x\.parquet cannot be read"):
        list(columns.read_columns(path))
    pq.write_table(good[:0], path)
    assert list(columns.read_columns(path)) == []


def test_options_are_checked(tmp_path):
    for given, word in (({"mincount": 3}, "mincount"), ({"preset": "x"}, "preset"), ({"min_count": 0}, "min_count")):
        with pytest.raises(UserError, match=word):
            tokenizer.options(given)
    many = {1: [(None, f"S{i}//X", None) for i in range(40)] + [(0, "A", None)]}
    with pytest.raises(UserError, match="40 families"):
        fit(made_up.write(tmp_path / "e", train=many))
