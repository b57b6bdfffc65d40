"""Split files: who is in which split, who is left out, and what is refused before any work."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_scaling.configs import base
from ehr_scaling.data import pipeline
from ehr_scaling.data.events import events, splits
from ehr_scaling.data.sources.synthetic import patients
from ehr_scaling.errors import UserError

ROWS = "subject_id,split\n3,train\n1,held_out\n2,tuning\n"
SEVERAL = "record_id,split1,split2\n1,train,tuning\n2,tuning,train\n3,held_out,held_out\n"


def put(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def said(listed):
    return {int(i): splits.SPLITS[s] for i, s in zip(listed.ids, listed.split, strict=True)}


def test_a_csv_and_a_parquet_say_the_same(tmp_path):
    wanted = {1: "held_out", 2: "tuning", 3: "train"}
    one = splits.read(put(tmp_path / "a.csv", ROWS))
    assert said(one) == wanted
    assert (one.ids.dtype, one.split.dtype) == (np.int64, np.int8)
    table = pa.table(
        {"split": ["validation", "test", "train", "train"], "subject_id": pa.array([2, 1, 3, 3], pa.int32())}
    )
    kinds = (table, table.set_column(0, "split", table["split"].dictionary_encode()))
    for i, kind in enumerate(kinds):
        pq.write_table(kind, tmp_path / f"{i}.parquet")
        other = splits.read(str(tmp_path / f"{i}.parquet"))
        assert said(other) == wanted
        assert other.mark() == one.mark()  # the same patients in the same splits: the same events
    assert splits.read(put(tmp_path / "b.csv", ROWS.replace("3,train", "4,train"))).mark() != one.mark()


def test_one_of_several_splits_is_named(tmp_path):
    path = put(tmp_path / "p:12.csv", SEVERAL)
    assert said(splits.read(f"{path}:split1")) == {1: "train", 2: "tuning", 3: "held_out"}
    assert (
        said(splits.read(f"{path}:2"))
        == said(splits.read(f"{path}:split2"))
        == {1: "tuning", 2: "train", 3: "held_out"}
    )
    assert splits.read(f"{path}:1").mark() != splits.read(f"{path}:2").mark()
    with pytest.raises(UserError, match=r"has the splits 'split1', 'split2': name one"):
        splits.read(path)
    with pytest.raises(UserError, match=r"has no split 3: take one of 'split1', 'split2'"):
        splits.read(f"{path}:3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROWS + "3,tuning\n", "row 4: a patient that an earlier row has in another split, and 1 rows are so in all"),
        (ROWS.replace("2,tuning", "2,dev"), "row 3: split is none of train, tuning, held_out, validation, test"),
        (ROWS.replace("2,tuning", "2,"), "row 3: split is none of"),
        (ROWS.replace("2,tuning", "2.5,tuning"), "row 3: subject_id is no whole number"),
        (ROWS.replace("2,tuning", "²,tuning"), "row 3: subject_id is no whole number"),
        (ROWS.replace("2,tuning", ",tuning"), "row 3: subject_id is no whole number"),
        (ROWS.replace("2,tuning", "9" * 5000 + ",tuning"), "row 3: subject_id is no whole number"),
        (ROWS.replace("tuning", "train"), "puts no patient into the split tuning"),
        (ROWS.replace("train", "test"), "puts no patient into the split train"),
        (ROWS.replace("subject_id", "patient"), "has no column subject_id or record_id"),
        ("subject_id,record_id,split\n1,1,train\n", "has more than one column subject_id or record_id"),
        ("subject_id\n1\n", "has no column split"),
        ("subject_id,split,split\n1,train,train\n", "has more than one split split"),
        (ROWS + "4\n", "is no parquet or CSV file, or damaged"),
        ("", "is no parquet or CSV file, or damaged"),
        ("subject_id,split\n", "puts no patient into the split train"),
        (ROWS.encode().replace(b"split", b"spl\xe9t"), "is no parquet or CSV file, or damaged"),
        (ROWS.encode("utf-16"), "is no parquet or CSV file, or damaged|has no column"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as e:
        splits.read(put(tmp_path / "splits.csv", text))
    assert str(tmp_path / "splits.csv") in str(e.value) and "\n" not in str(e.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(
        UserError, match=r"split_file=nowhere\.csv is no file: give a CSV or parquet file, or FILE:SPLIT"
    ):
        splits.read("nowhere.csv")
    with pytest.raises(UserError, match="is no parquet or CSV file"):
        splits.read(put(tmp_path / "a.parquet", ROWS))
    table = pa.table({"subject_id": [1.5, 2.0], "split": ["train", "tuning"]})
    pq.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(UserError, match="row 1: subject_id is no whole number"):
        splits.read(str(tmp_path / "b.parquet"))
    table = pa.table({"subject_id": [1, 2], "split": [0, 1]})
    pq.write_table(table, tmp_path / "c.parquet")
    with pytest.raises(UserError, match="split is int64, and should be text"):
        splits.read(str(tmp_path / "c.parquet"))
    pq.write_table(table, tmp_path / "d.parquet", store_schema=False)
    put(tmp_path / "d.parquet", (tmp_path / "d.parquet").read_bytes().replace(b"split", b"spl\xfft"))
    with pytest.raises(UserError, match="is no parquet or CSV file, or damaged"):
        splits.read(str(tmp_path / "d.parquet"))


def test_patients_that_are_not_named_have_no_split(tmp_path):
    listed = splits.read(put(tmp_path / "a.csv", ROWS))
    ids = np.array([4, 2, 0, 3, 9])
    split, shard = events.assign(ids, 0, listed)
    assert split.tolist() == [-1, 1, -1, 0, -1]
    assert shard[split >= 0].tolist() == [0, 0]
    assert splits.told(listed, ids) == {"split_file": {"not named": 3, "not there": 1}}
    assert splits.told((0.8, 0.1, 0.1), ids) == {}
    with pytest.raises(UserError, match="has 1 patients in the split tuning, none of them in the data"):
        splits.told(listed, np.array([3, 1]))


@pytest.mark.parametrize(
    "wrong", [(0.8, 0.1), (0.8, 0.1, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1), ("a", 0, 1), (np.nan,) * 3]
)
def test_fractions_that_are_none(wrong):
    with pytest.raises(UserError, match=r"--config.data.splits=.* are no fractions: give three that sum to 1"):
        splits.fractions(wrong)


def test_units_of_work_are_told_of_a_split_file_by_its_folder(tmp_path):
    """A table of patients travels with none of them."""
    listed = splits.read(put(tmp_path / "a.csv", ROWS))
    nobody = splits.Listed("nobody", np.zeros(0, np.int64), np.zeros(0, np.int8))
    for given in (listed, nobody, splits.ALL_HELD_OUT, (0.7, 0.2, 0.1)):
        told = json.loads(json.dumps(splits.written(given, tmp_path / "parts")))
        back = splits.as_written(told)
        ids = np.arange(10)
        assert type(back) is type(given) and len(str(told)) < len(str(tmp_path)) * 2 + 80
        assert events.assign_splits(ids, 3, back).tolist() == events.assign_splits(ids, 3, given).tolist()
    assert [path.suffix for path in (tmp_path / "parts").iterdir()] == [".npy"] * 2


def test_the_pipeline_takes_a_split_file(tmp_path, capsys):
    ids = patients.FIRST_ID + np.arange(60)
    names = np.array(splits.SPLITS)[np.arange(60) % 3]
    lines = [f"{i},{name}" for i, name in zip(ids[:50], names, strict=False)]
    file = put(tmp_path / "s.csv", "\n".join(["subject_id,split", *lines, "5,train", "6,tuning"]))
    c = base.get_config().data
    c.patients, c.split_file = 60, file
    record = pipeline.prepare(c, tmp_path / "w", until="events")
    assert "split file: 10 patients are not in it and left out, 2 only in it" in capsys.readouterr().out
    assert record["summary"]["patients"] == {"train": 17, "tuning": 17, "held_out": 16}
    written = pq.read_table(tmp_path / "w/events/metadata/subject_splits.parquet")
    told = dict(zip(written["subject_id"].to_pylist(), written["split"].to_pylist(), strict=True))
    assert told == dict(zip(ids[:50].tolist(), names[:50].tolist(), strict=True))

    put(tmp_path / "again.csv", "\n".join(["subject_id,split", *lines[::-1], "6,tuning", "5,train"]))
    c.split_file = str(tmp_path / "again.csv")
    assert pipeline.prepare(c, tmp_path / "w", until="events") == record  # another file that says the same
    put(tmp_path / "again.csv", "\n".join(["subject_id,split", *lines]))
    with pytest.raises(UserError, match=r"was made from other inputs \(splits\.patients was 52, now 50"):
        pipeline.prepare(c, tmp_path / "w", until="events")
    put(tmp_path / "again.csv", "subject_id,split\n1,train\n2,tuning\n")
    with pytest.raises(UserError, match=r"1 patients in the split train, none of them in the data: is it the file"):
        pipeline.prepare(c, tmp_path / "other", until="events")
