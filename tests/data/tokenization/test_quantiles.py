import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.data.tokenization import quantiles
from ehr_scaling.data.tokenization.quantiles import ValueCounts, ordered_bits

values = st.one_of(st.sampled_from([-0.0, 0.0, 1.0, -1.5, 7.0]), st.floats(width=32, allow_nan=False))
rows = st.lists(st.tuples(st.integers(0, 4), values), min_size=1, max_size=120)


def add(counts, chosen):
    counts.add(np.array([c for c, _ in chosen], np.int64), np.array([v for _, v in chosen], np.float32))


@settings(deadline=None, max_examples=150)
@given(rows, st.integers(1, 4), st.sampled_from([4, 10]))
def test_breaks_are_the_distinct_nearest_quantiles(rows, parts, bins):
    counts = ValueCounts()
    for part in range(parts):
        add(counts, rows[part::parts])
        if part % 2:
            counts.merge()
    found = counts.breaks(bins, 3)
    with_constant = counts.breaks(bins, 3, constant=True)
    for code in range(5):
        mine = np.sort(np.float32([v for c, v in rows if c == code]))
        if len(mine) < 3:
            assert code not in found and code not in with_constant
            continue
        ranks = [int(np.floor((len(mine) - 1) * k / bins + 0.5)) for k in range(1, bins)]
        np.testing.assert_array_equal(with_constant[code], np.unique(mine[ranks]))
        assert (code in found) == (mine[0] < mine[-1])


@settings(deadline=None, max_examples=100)
@given(rows, st.randoms(use_true_random=False), st.integers(2, 16))
def test_cells_do_not_depend_on_parts_or_order(rows, random, most):
    """What is kept is a function of the values alone, and as fine as the limit allows."""

    def kept(parts, shift=0):
        total = ValueCounts()
        for part in parts:
            one = ValueCounts()
            add(one, [(4 - c if shift else c, v) for c, v in part])
            total.absorb(one, np.arange(5)[::-1] if shift else np.arange(5))
        total.merge()
        return total.keys.tolist(), total.counts.tolist(), total.levels[np.unique(total.keys >> np.uint64(32))].tolist()

    before = quantiles.MOST
    quantiles.MOST = most
    try:
        expect = kept([rows])
        shuffled = random.sample(rows, len(rows))
        cut = sorted(random.choices(range(len(rows) + 1), k=3))
        parts = [shuffled[a:b] for a, b in zip([0, *cut], [*cut, len(rows)], strict=True)]
        assert kept(parts) == expect
        assert kept(parts, shift=4) == expect
    finally:
        quantiles.MOST = before
    keys, counts, levels = expect
    assert sum(counts) == len(rows)
    scales = sorted({c for c, _ in rows})
    for scale, level in zip(scales, levels, strict=True):
        bits = ordered_bits(np.float32([v for c, v in rows if c == scale])).tolist()
        kept_cells = len({b >> level for b in bits})
        assert kept_cells <= most and (level == 0 or len({b >> (level - 1) for b in bits}) > most)
        assert sum(k >> 32 == scale for k in keys) == kept_cells


def test_many_distinct_values_cost_little_and_change_little():
    drawn = np.random.default_rng(0).lognormal(3, 1, 400_000).astype(np.float32)
    counts = ValueCounts()
    for part in np.array_split(drawn, 7):
        counts.add(np.zeros(len(part), np.int64), part)
    found = counts.breaks(10, 1)[0]
    assert len(counts.keys) <= quantiles.MOST < len(np.unique(drawn))
    np.testing.assert_allclose(found, np.quantile(drawn, np.arange(1, 10) / 10, method="nearest"), rtol=1e-3)
    # A cell lies in one bin: its values are none of them above the break that it makes.
    assert np.searchsorted(np.sort(drawn), found, side="right") == pytest.approx(np.arange(1, 10) * 40_000, rel=1e-2)


def test_by_hand():
    counts = ValueCounts()
    counts.add(np.zeros(11, np.int64), np.arange(11, dtype=np.float32)[::-1])
    counts.add(np.ones(20, np.int64), np.float32([5] * 19 + [6]))
    found = counts.breaks(10, 2)
    assert found[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert found[1].tolist() == [5]
    assert counts.breaks(2, 2)[0].tolist() == [5]


def test_no_values():
    assert ValueCounts().breaks(10, 1) == {}


@given(st.lists(values, min_size=2, max_size=2))
def test_bits_keep_the_order(pair):
    a, b = np.float32(pair)
    low, high = ordered_bits(np.float32(pair))
    assert (low < high) == (a < b)
    assert (low == high) == (a == b)
