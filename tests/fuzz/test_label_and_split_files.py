"""Labels and split files of any content are arrays, or one line."""

import re
from datetime import datetime

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from ehr_scaling.data.events import splits
from ehr_scaling.outcomes.asking import label_files
from tests.fuzz.one_line import PATIENT, fuzz, result_or_line
from tests.fuzz.strategies import damaged, encoded, parquets, with_cells

IDS = [PATIENT + i for i in range(6)]
OF_PATIENTS = re.compile(str(PATIENT)[:-2])  # a header may say what it likes, and is told
LABELS = pa.table(
    {
        "subject_id": pa.array(IDS, pa.int64()),
        "prediction_time": pa.array([datetime(2149, 1, 1 + i) for i in range(6)], pa.timestamp("us")),
        "boolean_value": [True, False] * 3,
        "integer_value": pa.nulls(6, pa.int64()),
        "categorical_value": pa.nulls(6, pa.string()),
    }
)
OTHERS = LABELS.set_column(0, "subject_id", pa.array([i + 50 for i in IDS], pa.int64()))
SPLITS = pa.table({"subject_id": pa.array(IDS, pa.int64()), "split": ["train", "tuning", "held_out"] * 2})
SPLITS_CSV = "subject_id,split,split2\n" + "".join(
    f"{i},{s},{s}\n" for i, s in zip(IDS, SPLITS["split"].to_pylist(), strict=True)
)


@fuzz(120)
@given(data=parquets(LABELS), more=st.none() | parquets(OTHERS))
def test_labels(tmp_path_factory, data, more):
    folder = tmp_path_factory.mktemp("labels")
    (folder / "0.parquet").write_bytes(data)
    if more is not None:
        (folder / "1.parquet").write_bytes(more)
    read = result_or_line(label_files.read, folder)
    if read is not None:
        assert read.subject_ids.dtype == read.times.dtype == np.int64
        assert len(read.subject_ids) == len(read.times) == len(read.values) > 0


@fuzz(120)
@given(data=parquets(SPLITS), column=st.sampled_from(["", ":split", ":1", ":\n"]))
def test_split_files_of_parquet(tmp_path_factory, data, column):
    check_split(tmp_path_factory.mktemp("split") / "s.parquet", data, column)


@fuzz(120)
@given(
    data=with_cells(SPLITS_CSV).flatmap(encoded).flatmap(damaged), column=st.sampled_from(["", ":split", ":2", ":x"])
)
def test_split_files_of_text(tmp_path_factory, data, column):
    check_split(tmp_path_factory.mktemp("split") / "s.csv", data, column)


def check_split(path, data, column):
    path.write_bytes(data)
    listed = result_or_line(splits.read, f"{path}{column}", secret=OF_PATIENTS)
    if listed is not None:
        assert (np.diff(listed.ids) > 0).all()
        assert {0, 1} <= set(listed.split.tolist()) <= {0, 1, 2}
