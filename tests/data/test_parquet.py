"""Parquet files that this package writes."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehr_scaling.data import parquet


@pytest.mark.parametrize("parts", [[], [0], [3], [2, 0, 5, 9, 1], [4, 4], [30]])
def test_a_table_in_parts_is_held_a_group_at_a_time(tmp_path, monkeypatch, parts):
    monkeypatch.setattr(parquet, "_GROUP", 4)
    whole = pa.table({"x": pa.array(range(sum(parts)), pa.int64()), "y": ["é"] * sum(parts)})
    whole = whole.cast(schema := pa.schema([("x", pa.int64()), ("y", pa.string())]))
    starts = [sum(parts[:i]) for i in range(len(parts))]
    pieces = (whole.slice(start, n) for start, n in zip(starts, parts, strict=True))
    parquet.write_parts(tmp_path / "a", schema, pieces)
    assert parquet.read(tmp_path / "a").equals(whole)
    about = pq.read_metadata(tmp_path / "a")
    groups = [about.row_group(i).num_rows for i in range(about.num_row_groups)]
    assert all(n == 4 for n in groups[:-1]) and max(groups, default=0) <= 4


def test_parts_that_end_in_an_error_leave_nothing(tmp_path):
    def parts():
        yield pa.table({"x": [1]})
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        parquet.write_parts(tmp_path / "a", pa.schema([("x", pa.int64())]), parts())
    assert not list(tmp_path.iterdir())


def test_parts_of_one_group_are_the_bytes_of_a_whole(tmp_path):
    whole = pa.table({"x": range(5_000)})
    parquet.write(tmp_path / "a", whole)
    parquet.write_parts(tmp_path / "b", whole.schema, (whole.slice(i, 999) for i in range(0, 5_000, 999)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
