"""Statistics of values: against a loop over every stay, and never of what was not known."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data.events import events
from ehr_scaling.data.vocabulary import HOUR
from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.asking.stays import Stays
from ehr_scaling.outcomes.judging import summaries

CODES = ["LAB//A", "LAB//B", "LAB//C"]
ROWS = st.lists(
    st.tuples(
        st.integers(0, 5),  # patient
        st.one_of(st.none(), st.integers(0, 60)),  # hour
        st.integers(0, 2),  # code
        st.one_of(st.just(np.nan), st.integers(-50, 50).map(lambda x: x / 4)),
    ),
    min_size=1,
    max_size=60,
)
STAYS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 70)), min_size=1, max_size=8)


def write(folder, rows):
    """Patients 0 to 2 in one file, the others in another; patient p has the id 7·p."""
    rows = sorted(rows, key=lambda row: (row[0], -1 if row[1] is None else row[1]))
    for k in range(2):
        part = [row for row in rows if row[0] // 3 == k]
        times = [None if hour is None else int(hour * HOUR) for _, hour, _, _ in part]
        columns = {
            "subject_id": pa.array([7 * p for p, *_ in part], pa.int64()),
            "time": pa.array(times, pa.int64()).cast(pa.timestamp("us")),
            "code": pa.array([CODES[c] for _, _, c, _ in part], pa.string()),
            "numeric_value": pa.array([None if np.isnan(v) else v for *_, v in part], pa.float32()),
            "text_value": pa.nulls(len(part), pa.large_string()),
        }
        events.write_shard(folder / "events", "train", k, pa.table(columns))


def stays_of(pairs):
    patients, hours = np.array(pairs, np.int64).T
    nothing = np.zeros(len(pairs), np.int64)
    return Stays(patients, nothing, nothing, hours * HOUR, 7 * patients, np.zeros(len(pairs), bool))


def one(values, hours):
    """The statistics of one stay and code, hours before the prediction."""
    values, hours = np.array(values, np.float64), np.array(hours, np.float64)
    out = []
    for window in summaries.WINDOWS:
        v = values[hours <= window]
        out += [len(v), v.mean(), v.min(), v.max()] if len(v) else [0, *[np.nan] * 3]
    if not len(values):
        return [*out, *[np.nan] * 5]
    slope = np.polyfit(-hours / 24, values, 1)[0] if np.ptp(hours) else 0.0
    return [*out, values[0], values[-1], values.std(), slope, hours[-1]]


@settings(max_examples=40)
@given(rows=ROWS, pairs=STAYS, including=st.booleans(), at_once=st.sampled_from([1, 7, 10**6]))
def test_they_are_those_of_a_loop_over_stays(tmp_path_factory, rows, pairs, including, at_once):
    folder = tmp_path_factory.mktemp("values")
    write(folder, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summaries, "_AT_ONCE", at_once)
        made = summaries.summaries(folder, "train", stays_of(pairs), CODES, including)
    assert made.dtype == np.float32 and made.shape == (len(pairs), 3 * summaries.STATISTICS)
    in_time = sorted((row for row in rows if row[1] is not None and not np.isnan(row[3])), key=lambda row: row[1])
    for row, (patient, at) in zip(made.reshape(len(pairs), 3, -1), pairs, strict=True):
        for code in range(3):
            known = [r for r in in_time if r[0] == patient and r[2] == code and (r[1] < at + including)]
            truth = one([r[3] for r in known], [at - r[1] for r in known])
            np.testing.assert_allclose(row[code], truth, rtol=1e-4, atol=2e-4)


def test_the_commonest_codes_are_taken(tmp_path, monkeypatch):
    rows = [(p, 1, 0, 1.0) for p in range(6)] + [(p, 1, 2, 1.0) for p in range(4)] + [(0, 1, 1, 2.0)] * 9
    write(tmp_path, rows)
    every = stays_of([(p, 5) for p in range(6)])
    assert summaries.common_codes(tmp_path, "train", every, True) == ["LAB//A", "LAB//C"]
    assert summaries.common_codes(tmp_path, "train", every._replace(times=every.times * 0 + HOUR), False) == []
    monkeypatch.setattr(summaries, "MOST_CODES", 1)
    assert summaries.common_codes(tmp_path, "train", every, True) == ["LAB//A"]
    columns = summaries.names(CODES)
    assert len(columns) == 3 * summaries.STATISTICS and columns[4] == "LAB//A count of 24 h"
    (tmp_path / "events/data/train/1.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"1\.parquet cannot be read .*: delete events/ and prepare again"):
        summaries.common_codes(tmp_path, "train", every, True)
