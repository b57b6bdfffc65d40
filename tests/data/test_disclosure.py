"""Numbers of real records below ten are told nowhere, and cannot be worked out."""

from hypothesis import given
from hypothesis import strategies as st

from ehr_scaling.data import disclosure


def test_what_is_told():
    assert [disclosure.told(n, False) for n in (0, 1, 9, 10, 14, 15, 1_234)] == [0, None, None, 10, 10, 20, 1_230]
    assert [disclosure.told(n, True) for n in (0, 1, 1_234)] == [0, 1, 1_234]
    assert [disclosure.words(n, False) for n in (3, 1_234)] == ["under 10", "1,230"]


def test_a_share_in_full_is_two_counts():
    told = {"a": 1 / 3, "b": [2 / 3, {"c": (0.123456, 7, None, "1.23456")}]}
    assert disclosure.rounded(told, False) == {"a": 0.3333, "b": [0.6667, {"c": [0.1235, 7, None, "1.23456"]}]}
    assert disclosure.rounded(told, True) is told
    chance = {"p_value": 1.23456e-7, "auroc": 0.76543}
    assert disclosure.rounded(chance, False) == {"p_value": 1.23456e-7, "auroc": 0.7654}


def test_a_quantile_of_few_is_not_told():
    told = [(n, q) for n in (7, 20, 81, 200) for q in (0.05, 0.5, 0.95) if disclosure.quantile(n, q, False)]
    assert told == [(20, 0.5), (81, 0.5), (200, 0.05), (200, 0.5), (200, 0.95)]
    assert disclosure.quantile(1, 0.5, True)


@given(st.lists(st.integers(10, 500), min_size=1, max_size=8))
def test_a_part_that_is_hidden_does_not_follow_from_the_total_and_the_others(parts):
    """Whatever the hidden part of 1 to 9 is, some other one would have been told in the same way."""
    shown = [disclosure.told(n, False) for n in parts]
    totals = {n: disclosure.told(sum(parts) + n, False) for n in range(1, 10)}
    for hidden, total in totals.items():
        others = [
            n
            for n in range(1, 10)
            for shift in range(-5 * len(parts), 5 * len(parts) + 1)
            if n != hidden and (sum(shown) + shift + n + 5) // 10 * 10 == total
        ]
        assert others
