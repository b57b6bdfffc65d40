import json
import os
import shutil
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meds_files import SCHEMA, T0, extract, put, table

from ehr_scaling.data.events import events
from ehr_scaling.data.events.splits import Listed
from ehr_scaling.data.shards import Runner
from ehr_scaling.data.sources.meds import assignment, shuffle
from ehr_scaling.data.sources.meds import dataset as meds
from ehr_scaling.data.sources.meds import reading as meds_reading
from ehr_scaling.errors import UserError


def test_its_splits_are_kept_and_free_text_is_not(tmp_path):
    a = table([(2, 5, "B", 1.5), (2, None, "STATIC", None), (1, 3, "Z", None), (1, 3, "A", None), (2, 4, "C", None)])
    b = table([(7, 0, "A", 2.0)]).append_column("site", pa.array(["x"]))
    root = put(tmp_path / "raw", {"train/0": a, "deep/er/1": b}, {1: "tuning", 2: "train", 7: "held_out", 9: "train"})
    (root / "metadata" / "dataset.json").write_text(json.dumps({"dataset_name": "Made up", "license": "none"}))
    summary, found = extract(root, tmp_path / "events")
    shutil.rmtree(tmp_path / "events" / events.PARTS)
    assert "made up" not in str([p.read_bytes() for p in (tmp_path / "events").rglob("*") if p.is_file()])
    assert found["train"][0].select(["time", "code", "numeric_value"]).to_pylist() == [
        {"time": None, "code": "STATIC", "numeric_value": None},
        {"time": T0 + timedelta(hours=4), "code": "C", "numeric_value": None},
        {"time": T0 + timedelta(hours=5), "code": "B", "numeric_value": 1.5},
    ]
    assert found["tuning"][0]["code"].to_pylist() == ["Z", "A"]  # the file's order where times are equal
    assert found["held_out"][0].schema.names == SCHEMA.names
    assert all(t["text_value"].null_count == len(t) for tables in found.values() for t in tables)
    assert summary == {
        "events": 6,
        "patients": {"train": 1, "tuning": 1, "held_out": 1},
        "codes": 5,
        "shards": {"train": [3], "tuning": [2], "held_out": [1]},
        "name": "Made up",
        "license": "none",
        "dialect": "other",
        "splits": "those of metadata/subject_splits.parquet",
        "dropped": {},
        "mended": {
            "other families: a text and no number, the text is not kept": 4,
            "patients whose rows are not together": 1,
            "rows out of the order of time": 1,
        },
        "several_units": 0,
    }


def test_optional_columns_and_other_spellings_of_types(tmp_path):
    plain = table([(1, 0, "A", 1.0)]).select(["subject_id", "time", "code"])
    rich = table([(2, 0, "A", 1.0)])
    rich = rich.set_column(2, "code", rich["code"].dictionary_encode())
    rich = rich.set_column(3, "numeric_value", rich["numeric_value"].cast(pa.float64()))
    root = put(tmp_path / "raw", {"0": plain, "1": rich}, {1: "train", 2: "train"})
    _, found = extract(root, tmp_path / "events")
    (only,) = found["train"]
    assert only["numeric_value"].to_pylist() == [None, 1.0]
    assert only["code"].to_pylist() == ["A", "A"]
    assert only.schema.equals(events.SCHEMA)


event = st.tuples(
    st.integers(-3, 30),
    st.none() | st.integers(-(10**6), 10**6),
    st.sampled_from(["A", "B//C", "LAB//é", "🩺", "x" * 200]),
    st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(event, min_size=1, max_size=60), st.integers(1, 3), st.integers(1, 9), st.integers(1, 20))
def test_no_event_is_lost_or_added(tmp_path_factory, rows, files, group, unit):
    """Whatever is interleaved, out of order or in several files, and however the work is cut."""
    tmp_path = tmp_path_factory.mktemp("meds")
    shards = {str(k): table([r for i, r in enumerate(rows) if i % files == k]) for k in range(files)}
    root = put(tmp_path / "raw", shards, row_group_size=group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meds, "_UNIT", unit)
        patch.setattr(shuffle, "_HELD", unit)
        patch.setattr(meds_reading, "_BATCH", 7)
        patch.setattr(events, "SHARD", 4)
        summary, found = extract(root, tmp_path / "events", splits=(1.0, 0.0, 0.0))
    got = [
        (r["subject_id"], r["time"] and (r["time"] - T0) // timedelta(hours=1), r["code"], r["numeric_value"])
        for t in found["train"]
        for r in t.to_pylist()
    ]
    in_files = [r for k in range(files) for i, r in enumerate(rows) if i % files == k]
    wanted = sorted(in_files, key=lambda r: (r[0], r[1] is not None, r[1] or 0))  # stable
    assert sorted(got, key=lambda r: r[0]) == wanted  # stable too: a patient is in one shard only
    assert summary["events"] == len(rows)
    assert summary["splits"].startswith("by a hash")
    assert summary["dropped"] == {}


def test_without_splits_patients_are_split_by_hash(tmp_path):
    root = put(tmp_path / "raw", {"0": table([(i, 0, "A", None) for i in range(200)])})
    summary, _ = extract(root, tmp_path / "events", splits=(0.5, 0.25, 0.25))
    assert sum(summary["patients"].values()) == 200
    assert min(summary["patients"].values()) > 20
    assert meds.inputs(root)["raw"] != meds.inputs(put(tmp_path / "b", {"0": table([(1, 0, "A", None)])}))["raw"]


GOOD = table([(1, 0, "A", 1.0)])


@pytest.mark.parametrize(
    ("shard", "splits", "message"),
    [
        (GOOD.drop_columns(["code"]), None, r"0\.parquet has no column code"),
        (GOOD.append_column("code", GOOD["code"]), None, r"0\.parquet has more than one column 'code': keep one"),
        (GOOD.set_column(0, "subject_id", pa.array(["1"])), None, r"column subject_id is string, MEDS wants int64"),
        (GOOD.set_column(1, "time", pa.array([1.0])), None, r"column time is double, MEDS wants timestamp"),
        (GOOD.set_column(1, "time", pa.array(["2100-01-01"])), None, r"column time is string"),
        (GOOD.set_column(1, "time", pa.array([1], pa.duration("s"))), None, r"column time is duration"),
        (GOOD.set_column(2, "code", pa.array([1])), None, r"column code is int64, MEDS wants string"),
        (
            GOOD.set_column(3, "numeric_value", pa.array(["x"])),
            None,
            r"column numeric_value is string, MEDS wants float",
        ),
        (table([(1, 0, None, 1.0)]), None, r"no patient in the train split \(0 patients, 0 events"),
        (GOOD.slice(0, 0), None, r"no patient in the train split \(0 patients, 0 events"),
        (GOOD, {1: "test"}, r"subject_splits\.parquet, row 1: split is none of MEDS', train, tuning, held_out"),
        (GOOD, {}, r"subject_splits\.parquet: column split is null, MEDS wants string"),
        (GOOD, {2: "train"}, r"subject_splits\.parquet lists no split for under 10 patients"),
        (GOOD, {1: "tuning"}, r"no patient in the train split"),
    ],
)
def test_bad_data_sets(tmp_path, shard, splits, message):
    root = put(tmp_path / "raw", {"0": shard}, splits)
    with pytest.raises(UserError, match=message) as e:
        extract(root, tmp_path / "events")
    assert "\n" not in str(e.value)


def test_bad_folders_and_files(tmp_path):
    with pytest.raises(UserError, match="--raw=DIR"):
        meds.inputs(None)
    with pytest.raises(UserError, match=r"data holds no \.parquet file"):
        meds.inputs(tmp_path)
    root = put(tmp_path / "raw", {"0": GOOD, "1": GOOD})
    path = root / "data" / "1.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"1\.parquet is truncated, damaged or no parquet file"):
        extract(root, tmp_path / "again")
    pq.write_table(pa.table({"subject_id": [1, 1], "split": ["train", "tuning"]}), _metadata(root))
    path.unlink()
    with pytest.raises(UserError, match=r"subject_splits\.parquet lists a patient twice"):
        extract(root, tmp_path / "once more")
    pq.write_table(pa.table({"subject_id": [1]}), _metadata(root))
    with pytest.raises(UserError, match=r"subject_splits\.parquet has no column split"):
        extract(root, tmp_path / "and again")


def other(column, array):
    good = table([(i, 0, "A", 1.0) for i in range(len(array))])
    return good.set_column(good.schema.get_field_index(column), column, array)


@pytest.mark.parametrize(
    ("shard", "dropped", "mended"),
    [
        (table([(1, 0, "A", 1.0), (None, 0, "A", 1.0)]), {"no subject_id": 1}, {}),
        (other("code", pa.array([None, "", " \t", "A"])), {"no code": 3}, {}),
        (other("code", pa.array(["A", None]).dictionary_encode()), {"no code": 1}, {}),
        (
            other("code", pa.array(["💊" * 2_560, "q\"'//,;\n\0|", "A"])),
            {},
            {"code longer than 256 characters: cut": 1},
        ),
        (
            other("numeric_value", pa.array([float("nan"), float("inf"), -1e308, 3e38, None])),
            {},
            {"numeric_value is NaN: no value": 1, "numeric_value is infinite, or too large for float32: no value": 2},
        ),
        (other("numeric_value", pa.nulls(2)), {}, {}),
        (other("time", pa.nulls(2)), {}, {}),
        (
            other("numeric_value", pa.array([3e38, 37.0])).append_column("unit", pa.array(["°C", "°C"])),
            {},
            {"a temperature too large for float32: no value": 1},
        ),
        (
            other("time", pa.array([-(2**62), 2**62, 0], pa.timestamp("ms"))),
            {"time before 1800 or after 2261": 2},
            {},
        ),
        (
            other("time", pa.array([datetime(1799, 12, 31), datetime(2262, 1, 1), T0, None], pa.timestamp("us"))),
            {"time before 1800 or after 2261": 2},
            {},
        ),
        (table([(1, 0, "A", 1.0), (1, 0, "A", 1.0), (1, 0, "A", None)]), {}, {"rows that repeat another: kept": 1}),
        (
            table([(1, 5, "MEDS_BIRTH", None), (1, 4, "A", None), (1, 6, "A", None), (1, None, "B", None)]),
            {},
            {"rows before the patient's birth: kept": 1, "rows out of the order of time": 2},
        ),
        (table([(1, None, "MEDS_DEATH", None), (1, 0, "A", None)]), {"no time": 1}, {}),
    ],
)
def test_what_is_odd_is_counted(tmp_path, shard, dropped, mended):
    """And the rest of the file is there."""
    summary, _ = extract(put(tmp_path / "raw", {"0": shard}), tmp_path / "events", splits=(1.0, 0.0, 0.0))
    assert summary["dropped"] == dropped
    assert {what: n for what, n in summary["mended"].items() if "the text is not kept" not in what} == mended
    assert summary["events"] == len(shard) - sum(dropped.values())


@pytest.mark.parametrize(
    "array",
    [
        pa.array([T0, None], pa.timestamp("ns")),
        pa.array([T0, None], pa.timestamp("ms")),
        pa.array([T0, None], pa.timestamp("s")),
        pa.array([T0, None], pa.timestamp("us", "UTC")),
        pa.array([T0.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=5))), None], pa.timestamp("ns", "+05:00")),
        pa.array([T0.date(), None], pa.date32()),
        pa.array([T0.date(), None], pa.date64()),
    ],
)
def test_times_of_any_unit(tmp_path, array):
    _, found = extract(put(tmp_path / "raw", {"0": other("time", array)}), tmp_path / "e", splits=(1.0, 0.0, 0.0))
    assert sorted(found["train"][0]["time"].to_pylist(), key=str) == [T0, None]


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint16(), pa.uint64(), pa.decimal128(25, 2), pa.float16()])
def test_numbers_of_any_type(tmp_path, kind):
    array = pa.array(np.array([1, 2], np.float16)) if kind == pa.float16() else pa.array([1, 2]).cast(kind, safe=False)
    column = "subject_id" if pa.types.is_integer(kind) else "numeric_value"
    _, found = extract(put(tmp_path / "raw", {"0": other(column, array)}), tmp_path / "e", splits=(1.0, 0.0, 0.0))
    assert sorted(found["train"][0][column].to_pylist()) == [1, 2]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6), st.floats(0.9, 1))
def test_damaged_bytes_are_one_line(tmp_path_factory, damage, length):
    tmp_path = tmp_path_factory.mktemp("meds")
    root = put(tmp_path / "raw", {"0": table([(i % 7, i, f"A/{i % 5}é", i / 3) for i in range(300)])})
    path = root / "data" / "0.parquet"
    data = bytearray(path.read_bytes())
    for at, byte in damage:
        data[int(at * len(data))] = byte
    path.write_bytes(data[: int(length * len(data))])
    try:
        summary, _ = extract(root, tmp_path / "events", splits=(1.0, 0.0, 0.0))
        assert summary["events"] + sum(summary["dropped"].values()) <= 300
    except UserError as e:
        assert "0.parquet" in str(e) and "\n" not in str(e)


def test_a_damaged_footer_does_not_end_the_process(tmp_path):
    path = put(tmp_path / "raw", {"0": table([(i, 0, "A", 1.0) for i in range(4)])}) / "data" / "0.parquet"
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for at in range(footer + 15, footer + 30):
        path.write_bytes(whole[:at] + b"\0" + whole[at + 1 :])
        try:
            assert extract(tmp_path / "raw", tmp_path / str(at), splits=(1.0, 0.0, 0.0))[0]["events"] <= 4
        except UserError as e:
            assert "0.parquet" in str(e)


def test_text_that_is_not_utf8(tmp_path):
    bad = pa.array([b"A", b"\xff//B"], pa.binary()).view(pa.string())
    _, found = extract(put(tmp_path / "raw", {"0": other("code", bad)}), tmp_path / "e", splits=(1.0, 0.0, 0.0))
    assert sorted(found["train"][0]["code"].to_pylist()) == ["A", "\ufffd//B"]


def test_patients_in_several_files_are_brought_together(tmp_path):
    shards = {str(k): table([(i, k, f"A{k}", None) for i in range(20)]) for k in range(5)}
    summary, found = extract(put(tmp_path / "raw", shards), tmp_path / "events", splits=(1.0, 0.0, 0.0))
    assert found["train"][0]["code"].to_pylist() == [f"A{k}" for k in range(5)] * 20
    assert summary["mended"]["patients in several files"] == 20


@pytest.mark.parametrize(("apart", "unit"), [(True, 240), (True, 90), (False, 240)])
def test_of_many_patients_each_in_one_file_the_shards_are_of_one_file(tmp_path, monkeypatch, apart, unit):
    """The same events of the same patients in the same splits, in shards that each come from one file or two; not where
    a patient is in several."""
    rows = [[(100 * k + i, j, f"A/{j}", 1.0 * k) for i in range(30) for j in range(4)] for k in range(5)]
    if not apart:
        rows[4].append((7, 9, "A/9", None))
    root = put(tmp_path / "raw", {str(k): table(some) for k, some in enumerate(rows)}, row_group_size=30)
    # Two files a piece, or two pieces a file, of which a patient is in both
    monkeypatch.setattr(meds, "_UNIT", unit)
    monkeypatch.setattr(events, "SHARD", 16)
    read, opened = pa.ipc.open_file, []
    monkeypatch.setattr(pa.ipc, "open_file", lambda source: (opened.append(source), read(source))[1])

    def files(folder):
        return {p.relative_to(folder): pq.read_table(p) for p in sorted((folder / "data").rglob("*.parquet"))}

    def patients(found):
        every = [(path.parts[1], *row.values()) for path, t in found.items() for row in t.to_pylist()]
        return sorted(every, key=str)

    whole = extract(root, tmp_path / "whole")[0], files(tmp_path / "whole")
    many = len(opened)
    monkeypatch.setattr(assignment, "_MANY", 1)
    within = extract(root, tmp_path / "within")[0], files(tmp_path / "within")
    assert patients(within[1]) == patients(whole[1]) and within[0]["patients"] == whole[0]["patients"]
    files_together = 2 if unit == 240 else 1
    pieces = [{int(i) // (100 * files_together) for i in t["subject_id"].to_pylist()} for t in within[1].values()]
    assert all(len(t["subject_id"].unique()) <= 32 for t in within[1].values())
    if apart:
        assert {len(some) for some in pieces} == {1} and len(opened) - many == len(pieces) * (1 if unit == 240 else 2)
    else:
        assert within[1].keys() == whole[1].keys()


def bytes_of(folder):
    """{path: content} of what a data set leaves, but for hidden files."""
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {path: data for path, data in found.items() if not path.parts[0].startswith(".")}


def of_many_times(tmp_path, monkeypatch):
    """A data set of four files, each of which has events of all its 40 patients; a piece a file, shards of a few."""
    rng = np.random.default_rng(0)
    rows = [(int(rng.integers(40)), int(rng.integers(1000)), f"A/{rng.integers(9)}", None) for _ in range(400)]
    monkeypatch.setattr(meds, "_UNIT", 100)
    monkeypatch.setattr(events, "SHARD", 4)
    return put(tmp_path / "raw", {str(k): table(rows[100 * k : 100 * k + 100]) for k in range(4)})


@pytest.mark.parametrize("named", [40, 33])
def test_shards_gathered_by_bands_are_the_same(tmp_path, monkeypatch, named):
    """To the last byte, also where a split file leaves some out; a file is opened for a band, not for every shard."""
    root = of_many_times(tmp_path, monkeypatch)
    monkeypatch.setattr(shuffle, "_HELD", 30)
    read, opened = pa.ipc.open_file, []
    monkeypatch.setattr(pa.ipc, "open_file", lambda source: (opened.append(source), read(source))[1])
    split = np.arange(named, dtype=np.int8) % 3
    splits = (0.8, 0.1, 0.1) if named == 40 else Listed("some", np.arange(named), split)
    whole, _ = extract(root, tmp_path / "whole", splits=splits)
    every = bytes_of(tmp_path / "whole")
    shards = sum(path.parts[0] == "data" for path in every)
    files, rest = divmod(len(opened), shards)
    assert shards >= 9 and files >= 4 and not rest
    opened.clear()
    monkeypatch.setattr(assignment, "_MANY", 1)
    narrowed, real = [], shuffle.narrow
    monkeypatch.setattr(shuffle, "narrow", lambda *args: (narrowed.append((args[1], args[-1])), real(*args)))
    banded, _ = extract(root, tmp_path / "banded", splits=splits)
    assert banded == whole and bytes_of(tmp_path / "banded") == every
    width = round(shards**0.5)
    bands = -(-shards // width)
    assert narrowed == [(band, width) for band in range(bands)]
    # Of a band there are as many files as its events fill, and some are opened for each of its shards
    assert files * bands < len(opened) <= files * bands + shards * files


@pytest.mark.parametrize("by_bands", [False, True])
def test_a_split_file_of_few_patients_of_a_large_set(tmp_path, monkeypatch, by_bands):
    """Of a set in the order of ids most pieces, and most of what a piece holds at once, are of nobody it names."""
    rows = [(i, hour, f"A/{hour % 3}", None) for i in range(40) for hour in range(5)]
    root = put(tmp_path / "raw", {str(k): table(rows[50 * k : 50 * k + 50]) for k in range(4)}, row_group_size=10)
    monkeypatch.setattr(meds, "_UNIT", 50)
    monkeypatch.setattr(meds_reading, "_BATCH", 10)
    monkeypatch.setattr(shuffle, "_HELD", 10)
    monkeypatch.setattr(assignment, "_MANY", 1 if by_bands else 1_024)
    monkeypatch.setattr(events, "SHARD", 1)
    written, real = [], shuffle._write
    monkeypatch.setattr(shuffle, "_write", lambda path, *args: (written.append(path), real(path, *args)))
    named = np.array([12, 13, 38])
    summary, found = extract(root, tmp_path / "events", splits=Listed("some", named, np.array([0, 1, 0], np.int8)))
    got = [(r["subject_id"], r["code"]) for tables in found.values() for t in tables for r in t.to_pylist()]
    assert sorted(got) == sorted((i, code) for i, _, code, _ in rows if i in named)
    assert summary["split_file"] == {"not named": 37, "not there": 0}
    assert sum(path.parent.name == "spread" for path in written) == 2  # 15 events of pieces 1 and 3: no file of nobody


@pytest.mark.parametrize("by_bands", [False, True])
def test_a_shard_is_gathered_without_a_list_of_a_folder(tmp_path, monkeypatch, by_bands):
    """Its files are those that records tell: the folder of all units' files grows with their number, and so would the
    time that each shard takes. What else lies there, of an interrupted version that cut it in more, is none of them."""
    root = of_many_times(tmp_path, monkeypatch)
    if not by_bands:
        apart = {str(k): table([(10 * k + i % 10, i, f"A/{i % 9}", None) for i in range(100)]) for k in range(4)}
        root = put(tmp_path / "apart", apart, row_group_size=50)
    monkeypatch.setattr(assignment, "_MANY", 1)
    monkeypatch.setattr(meds_reading, "_BATCH", 10)
    monkeypatch.setattr(shuffle, "_HELD", 30)  # so that a piece leaves several files
    whole, _ = extract(root, tmp_path / "whole")
    real, gathered, listed = shuffle.gather, [], []

    def watched(path, *args):
        left = [file for name in ("spread", "narrowed") for file in (Path(path) / name).glob("*-0000.arrow")]
        for file in left:
            shutil.copyfile(file, file.with_name(file.name.replace("-0000", "-0099")))
        with monkeypatch.context() as patch:
            for place, name in ((os, "scandir"), (os, "listdir"), (Path, "glob"), (Path, "iterdir")):
                usual = getattr(place, name)
                patch.setattr(place, name, lambda *a, usual=usual: (listed.append(a), usual(*a))[1])
            real(path, *args)
        gathered.append({file.parent.name for file in left})

    monkeypatch.setattr(shuffle, "gather", watched)
    again, _ = extract(root, tmp_path / "again")
    assert gathered == [{"spread", "narrowed"} if by_bands else {"spread"}] * sum(map(len, whole["shards"].values()))
    assert again == whole and bytes_of(tmp_path / "again") == bytes_of(tmp_path / "whole")
    assert listed == []


@pytest.mark.parametrize("by_bands", [False, True])
def test_a_killed_run_goes_on_and_comes_to_the_same(tmp_path, monkeypatch, by_bands):
    root = of_many_times(tmp_path, monkeypatch)
    monkeypatch.setattr(assignment, "_MANY", 1 if by_bands else 1_024)
    whole, _ = extract(root, tmp_path / "whole")
    real, calls = events.write_shard, []

    def dies(*arguments):
        calls.append(arguments[1:3])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(events, "write_shard", dies)
    out = tmp_path / "resumed"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        meds.extract(root, out, seed=0)
    monkeypatch.setattr(meds_reading, "read", None)  # nothing is read from the data set again
    if by_bands:
        monkeypatch.setattr(shuffle, "_batches", partial(of_a_shard, shuffle._batches))
    assert meds.extract(root, out, seed=0) == whole
    assert calls[2] == calls[3] and len(calls) == len({*calls}) + 1
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


def of_a_shard(batches, paths, place):
    """Batches for `gather` alone: no band is narrowed again."""
    assert all(path.parent.name == "narrowed" for path in paths)
    return batches(paths, place)


def test_processes_come_to_the_same(tmp_path, monkeypatch):
    root = put(tmp_path / "raw", {str(k): table([(9 * k + i, i, "A", 1.0) for i in range(9)]) for k in range(3)})
    monkeypatch.setattr(meds, "_UNIT", 9)
    one, _ = extract(root, tmp_path / "one")
    two, _ = extract(root, tmp_path / "two", runner=Runner(workers=2))
    assert one == two
    for path in (tmp_path / "one" / "data").rglob("*.parquet"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_descriptions_and_ancestors_are_carried_through(tmp_path):
    root = put(tmp_path / "raw", {"0": table([(1, 0, "ICD10CM/E11.9", None), (1, 1, "LOINC//1", 1.0)])}, {1: "train"})
    told = [
        ("ICD10CM/E11.9", "Type 2 diabetes", ["SNOMED/44054006", "ICD10CM/E11"]),
        ("ICD10CM/E11", "made up", ["ICD10CM/E08-E13"]),
        ("ICD10CM/E08-E13", None, ["ICD10CM/E11.9"]),  # a circle
        ("never seen", "made up", []),
        (None, None, None),
    ]
    schema = pa.schema(
        [("code", pa.string()), ("description", pa.large_string()), ("parent_codes", pa.list_(pa.string()))]
    )
    pq.write_table(pa.table(list(zip(*told, strict=True)), schema=schema), root / "metadata" / "codes.parquet")
    extract(root, tmp_path / "events")
    assert pq.read_table(tmp_path / "events/metadata/codes.parquet").to_pylist() == [
        {
            "code": "DIAGNOSIS//ICD//10//E119",
            "description": "Type 2 diabetes",
            "parent_codes": ["SNOMED//44054006", "DIAGNOSIS//ICD//10//E11", "ICD10CM//E08-E13"],
        },
        {"code": "LOINC//1", "description": None, "parent_codes": None},
    ]
    assert meds.inputs(root)["raw"] != meds.inputs(put(tmp_path / "raw", {"0": GOOD}))["raw"]


def _metadata(root):
    (root / "metadata").mkdir(exist_ok=True)
    return root / "metadata" / "subject_splits.parquet"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dataset.json", "[" * 100_000, r"dataset\.json is damaged .*: mend it, or delete this file$"),
        ("dataset.json", "9" * 5_000, r"dataset\.json is damaged .*: mend it, or delete this file$"),
        (
            "subject_splits.parquet",
            pa.table({"subject_id": [1], "split": [["train"]]}),
            "column split is list<element: string>, MEDS wants string",
        ),
        (
            "subject_splits.parquet",
            pa.table([[1], ["train"], ["train"]], names=["subject_id", "split", "split"]),
            "has more than one column 'split': keep one",
        ),
        (
            "codes.parquet",
            pa.table([["A"], ["x"], ["A"]], names=["code", "description", "code"]),
            "has more than one column 'code': keep one",
        ),
    ],
)
def test_metadata_that_is_none(tmp_path, name, content, message):
    root = put(tmp_path / "raw", {"0": GOOD}, {1: "train"})
    if isinstance(content, str):
        (root / "metadata" / name).write_text(content)
    else:
        pq.write_table(content, root / "metadata" / name)
    with pytest.raises(UserError, match=message) as e:
        extract(root, tmp_path / "events")
    assert "\n" not in str(e.value)


def test_a_map_of_parents_is_none(tmp_path):
    root = put(tmp_path / "raw", {"0": GOOD}, {1: "train"})
    parents = pa.array([[("A", 1)]], pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"code": ["A"], "parent_codes": parents}), root / "metadata" / "codes.parquet")
    assert extract(root, tmp_path / "events")[0]["events"] == 1
