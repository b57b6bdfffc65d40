import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data.quantiles import ValueCounts, ordered_bits

values = st.one_of(st.sampled_from([-0.0, 0.0, 1.0, -1.5, 7.0]), st.floats(width=32, allow_nan=False))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 4), values), min_size=1, max_size=120), st.integers(1, 4))
def test_breaks_are_the_distinct_nearest_deciles(rows, parts):
    counts = ValueCounts()
    for part in range(parts):
        chosen = rows[part::parts]
        counts.add(np.array([c for c, _ in chosen], np.int64), np.array([v for _, v in chosen], np.float32))
        if part % 2:
            counts.merge()
    found = counts.breaks(3)
    for code in range(5):
        mine = np.sort(np.float32([v for c, v in rows if c == code]))
        if len(mine) < 3 or mine[0] == mine[-1]:
            assert code not in found
        else:
            ranks = [int(np.floor((len(mine) - 1) * k / 10 + 0.5)) for k in range(1, 10)]
            np.testing.assert_array_equal(found[code], np.unique(mine[ranks]))


def test_by_hand():
    counts = ValueCounts()
    counts.add(np.zeros(11, np.int64), np.arange(11, dtype=np.float32)[::-1])
    counts.add(np.ones(20, np.int64), np.float32([5] * 19 + [6]))
    found = counts.breaks(2)
    assert found[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert found[1].tolist() == [5]


def test_no_values():
    assert ValueCounts().breaks(1) == {}


@given(st.lists(values, min_size=2, max_size=2))
def test_bits_keep_the_order(pair):
    a, b = np.float32(pair)
    low, high = ordered_bits(np.float32(pair))
    assert (low < high) == (a < b)
    assert (low == high) == (a == b)
