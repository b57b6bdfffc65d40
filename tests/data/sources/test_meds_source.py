import json
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ehr_scaling.data import events
from ehr_scaling.data.sources import meds
from ehr_scaling.errors import UserError

SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("time", pa.timestamp("us")),
        ("code", pa.string()),
        ("numeric_value", pa.float32()),
        ("text_value", pa.large_string()),
    ]
)
T0 = datetime(2100, 1, 1)


def table(rows, schema=SCHEMA):
    """From (subject, hours or None, code, number or None)."""
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    times = [None if h is None else T0 + timedelta(hours=h) for h in columns[1]]
    return pa.table([columns[0], times, columns[2], columns[3], ["made up"] * len(rows)], schema=schema)


def put(root, shards, splits=None):
    for name, t in shards.items():
        path = root / "data" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(t, path)
    if splits is not None:
        (root / "metadata").mkdir(exist_ok=True)
        pq.write_table(
            pa.table({"subject_id": pa.array(list(splits), pa.int64()), "split": list(splits.values())}),
            root / "metadata" / "subject_splits.parquet",
        )
    return root


def extract(root, out, **options):
    out.mkdir(parents=True)
    summary = meds.extract(root, out, **{"seed": 0, **options})
    found = {s: [pq.read_table(p) for p in sorted((out / "data" / s).glob("*.parquet"))] for s in events.SPLITS}
    return summary, found


def test_its_splits_are_kept_and_free_text_is_not(tmp_path):
    a = table([(2, 5, "B", 1.5), (2, None, "STATIC", None), (1, 3, "Z", None), (1, 3, "A", None), (2, 4, "C", None)])
    b = table([(7, 0, "A", 2.0)]).append_column("site", pa.array(["x"]))
    root = put(tmp_path / "raw", {"train/0": a, "deep/er/1": b}, {1: "tuning", 2: "train", 7: "held_out", 9: "train"})
    (root / "metadata" / "dataset.json").write_text(json.dumps({"dataset_name": "Made up", "license": "none"}))
    summary, found = extract(root, tmp_path / "events")
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
        "name": "Made up",
        "license": "none",
        "splits": "of the data set",
    }


def test_optional_columns_and_other_spellings_of_types(tmp_path):
    plain = table([(1, 0, "A", 1.0)]).select(["subject_id", "time", "code"])
    rich = table([(2, 0, "A", 1.0)])
    rich = rich.set_column(2, "code", rich["code"].dictionary_encode())
    rich = rich.set_column(3, "numeric_value", rich["numeric_value"].cast(pa.float64()))
    root = put(tmp_path / "raw", {"0": plain, "1": rich}, {1: "train", 2: "train"})
    _, found = extract(root, tmp_path / "events")
    assert [t["numeric_value"].to_pylist() for t in found["train"]] == [[None], [1.0]]
    assert [t["code"].to_pylist() for t in found["train"]] == [["A"], ["A"]]


event = st.tuples(
    st.integers(0, 30),
    st.none() | st.integers(-(10**6), 10**6),
    st.sampled_from(["A", "B//C", "LAB//é"]),
    st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(event, min_size=1, max_size=60), st.integers(1, 3))
def test_no_event_is_lost_or_added(tmp_path_factory, rows, files):
    tmp_path = tmp_path_factory.mktemp("meds")
    shards = {str(k): table([r for r in rows if r[0] % files == k]) for k in range(files)}
    root = put(tmp_path / "raw", shards)
    summary, found = extract(root, tmp_path / "events", splits=(1.0, 0.0, 0.0))
    got = [
        (r["subject_id"], r["time"] and (r["time"] - T0) // timedelta(hours=1), r["code"], r["numeric_value"])
        for t in found["train"]
        for r in t.to_pylist()
    ]
    # A stable sort by patient, then time with null first, within each file.
    wanted = [
        r
        for k in range(files)
        for r in sorted((r for r in rows if r[0] % files == k), key=lambda r: (r[0], r[1] is not None, r[1] or 0))
    ]
    assert got == wanted
    assert summary["events"] == len(rows)
    assert summary["splits"] == "by hash"


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
        (GOOD.set_column(0, "subject_id", pa.array(["1"])), None, r"column subject_id is string, MEDS wants int64"),
        (
            GOOD.set_column(1, "time", pa.array([T0], pa.timestamp("us", "UTC"))),
            None,
            r"column time is .*without a zone",
        ),
        (GOOD.set_column(1, "time", pa.array([1.0])), None, r"column time is double"),
        (
            GOOD.set_column(3, "numeric_value", pa.array(["x"])),
            None,
            r"column numeric_value is string, MEDS wants float",
        ),
        (table([(None, 0, "A", 1.0)]), None, r"0\.parquet: 1 rows have no subject_id"),
        (table([(1, 0, None, 1.0)]), None, r"0\.parquet: 1 rows have no code"),
        (GOOD, {1: "test"}, r"subject_splits\.parquet has a split called 'test'.*train, tuning, held_out"),
        (GOOD, {2: "train"}, r"subject_splits\.parquet lists no split for 1 patients"),
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
    with pytest.raises(UserError, match=r"1\.parquet and .*0\.parquet hold events of the same patient"):
        extract(root, tmp_path / "events", splits=(1.0, 0.0, 0.0))
    path = root / "data" / "1.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"1\.parquet is truncated or no parquet file"):
        extract(root, tmp_path / "again")
    pq.write_table(pa.table({"subject_id": [1, 1], "split": ["train", "tuning"]}), _metadata(root))
    path.unlink()
    with pytest.raises(UserError, match=r"subject_splits\.parquet lists a patient twice"):
        extract(root, tmp_path / "once more")
    pq.write_table(pa.table({"subject_id": [1]}), _metadata(root))
    with pytest.raises(UserError, match=r"subject_splits\.parquet has no column split"):
        extract(root, tmp_path / "and again")


def _metadata(root):
    (root / "metadata").mkdir(exist_ok=True)
    return root / "metadata" / "subject_splits.parquet"
