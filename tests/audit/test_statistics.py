"""Statistics of an audit against closed forms, and what they do not tell of few patients."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import norm

from ehr_scaling.audit import statistics
from ehr_scaling.audit.statistics import Counts, Occurrences, count

HOW = {"generated": True, "draws": 200, "seed": 0}


def test_two_normals():
    """AUROC Φ(δ/√2) and, at 1 % false positives, Φ(δ − z) of them, of N(δ, 1) against N(0, 1)."""
    rng = np.random.default_rng(0)
    for delta in (0.0, 1.0, 2.5):
        told = statistics.attack(
            delta + rng.standard_normal(20_000), rng.standard_normal(20_000), **{**HOW, "draws": 40}
        )
        assert told["auroc"] == pytest.approx(norm.cdf(delta / np.sqrt(2)), abs=0.01)
        found = told["true_positives"]
        assert found["value"] == pytest.approx(norm.cdf(delta - norm.ppf(0.99)), abs=0.03)
        assert found["low"] < found["value"] < found["high"] < found["low"] + 0.1
        assert told["low"] < told["auroc"] < told["high"] and told["high"] - told["low"] < 0.02


def test_intervals_of_attacks_hold_the_truth():
    rng, inside, found = np.random.default_rng(1), 0, 0
    truth, share = norm.cdf(0.3 / np.sqrt(2)), norm.cdf(0.3 - norm.ppf(0.95))
    for seed in range(200):
        members, held_out = 0.3 + rng.standard_normal(150), rng.standard_normal(400)
        told = statistics.attack(members, held_out, generated=True, draws=100, seed=seed, rate=0.05)
        inside += told["low"] <= truth <= told["high"]
        found += told["true_positives"]["low"] <= share <= told["true_positives"]["high"]
    assert 180 <= inside <= 199 and found >= 170


def test_scores_that_are_all_apart_have_an_exact_end():
    """With area A, n pairs that share no patient are all in order with probability Aⁿ."""
    told = statistics.attack(np.arange(10.0) + 100, np.arange(30.0), **HOW)
    assert (told["auroc"], told["error"], told["high"]) == (1.0, None, 1.0)
    assert told["low"] ** 10 == pytest.approx(0.025)
    turned = statistics.attack(np.arange(30.0), np.arange(10.0) + 100, **HOW)
    assert (turned["auroc"], turned["low"]) == (0.0, 0.0) and turned["high"] == pytest.approx(1 - told["low"])


@pytest.mark.parametrize("generated", [True, False])
def test_none_and_all_found_are_not_certain(generated):
    """Of members whom all held-out patients lie under, or over, resamples are alike: Wilson's interval of 15."""
    scores, how = (np.arange(15.0) + 1000, np.arange(200.0)), {**HOW, "generated": generated}
    every, none = statistics.attack(*scores, **how), statistics.attack(scores[0] - 2000, scores[1], **how)
    every, none = every["true_positives"], none["true_positives"]
    assert (every["value"], every["high"]) == (1.0, 1.0) and every["low"] == pytest.approx(0.7961, abs=1e-4)
    assert (none["value"], none["low"]) == (0.0, 0.0) and none["high"] == pytest.approx(0.2039, abs=1e-4)


def test_a_rate_that_one_patient_exceeds_is_not_told():
    """Of 99 held-out patients one is more than 1 %: what is found there is found at no false positives."""
    told = [statistics.attack(np.arange(50.0) + 60, np.arange(float(h)), **HOW)["true_positives"] for h in (99, 100)]
    assert told[0]["value"] is told[0]["low"] is None and "held-out" in told[0]["missing"] and told[1]["value"] > 0


def test_equal_scores_are_not_parted():
    scores, labels = np.array([3.0, 2.0, 2.0, 2.0, 1.0]), np.array([True, True, False, True, False])
    at = lambda rate: statistics.found_at(scores, labels, np.ones((1, 5)), rate)[0]  # noqa: E731
    assert at(0.0) == pytest.approx(1 / 3)  # only the score above the first held-out one
    assert at(0.5) == 1.0
    weights = np.array([[0.0, 1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0, 1.0]])
    assert statistics.found_at(scores, labels, weights, 0.0).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("share", "n", "other", "m", "low", "high"),
    # Newcombe 1998, Stat. Med. 17:873, table II, method 10
    [
        (56 / 70, 70, 48 / 80, 80, 0.0524, 0.3339),
        (9 / 10, 10, 3 / 10, 10, 0.1705, 0.8090),
        (5 / 56, 56, 0 / 29, 29, -0.0381, 0.1926),
        (10 / 10, 10, 0 / 20, 20, 0.6791, 1.0),
    ],
)
def test_newcombe(share, n, other, m, low, high):
    assert statistics.newcombe(share, n, other, m) == pytest.approx((low, high), abs=5e-5)


def holding(yes, n):
    return np.arange(n) < yes


@given(n=st.integers(11, 60), m=st.integers(11, 60), of=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@example(n=15, m=15, of=(0.0, 0.0))
@example(n=11, m=11, of=(1.0, 0.0))
def test_intervals_are_no_narrower_than_those_of_the_patients_there_are(n, m, of):
    """Though of few real patients a rounded number is told, which may be larger by a third."""
    yes, other = round(of[0] * n), round(of[1] * m)
    told = statistics.excess(count(holding(yes, n), False), count(holding(other, m), False))
    low, high = statistics.newcombe(yes / n, n, other / m, m)
    assert told["low"] <= low + 1e-12 and told["high"] >= high - 1e-12


@given(yes=st.integers(0, 200), other=st.integers(0, 200))
@example(yes=10, other=190)
@example(yes=1, other=199)
@example(yes=11, other=189)
def test_few_patients_are_not_told(yes, other):
    """What is written of counts from 1 to 10 of real patients, or of all but so many, is the same for all of them."""
    n = 200

    def written(yes, other):
        counts = count(holding(yes, n), False), count(holding(other, n), False)
        return [c.to_json() for c in counts], statistics.excess(*counts)

    told, difference = written(yes, other)
    instead = [6 if 1 <= k <= 10 else n - 6 if n - 10 <= k <= n - 1 else k for k in (yes, other)]
    assert written(*instead) == (told, difference)
    real = statistics.newcombe(yes / n, n, other / n, n)
    assert difference["low"] <= real[0] + 1e-12 and difference["high"] >= real[1] - 1e-12
    exact = statistics.excess(count(holding(yes, n), True), count(holding(other, n), True))
    assert exact["value"] == pytest.approx((yes - other) / n) and (exact["low"], exact["high"]) == real


def test_how_many_patients_there_are_is_not_given_away():
    """Not by the ends of a share, nor those of a difference: 991 and 986 patients are written the same."""
    written = []
    for n in (991, 986):
        counts = [count(holding(yes, n), False) for yes in (0, 4, n // 3, n - 2)]
        written.append([c.to_json() for c in counts] + [statistics.excess(c, counts[1]) for c in counts])
    assert written[0] == written[1]


@given(n=st.integers(22, 3000), part=st.floats(0, 1))
def test_shares_are_told_in_steps_of_ten_patients(n, part):
    """A share is that of ten counts or more, as is whoever may be so many; and what it may be holds what it is."""
    yes = round(part * n)
    told = count(holding(yes, n), False)
    assert told.least <= yes / n <= told.most and told.n % 10 == 0
    if told.share is not None and 0 < yes < n:
        assert 0 < told.share < 1 and abs(told.share - yes / n) <= 5 / (n - 10) + 1e-4
        alike = [k for k in range(n + 1) if count(holding(k, n), False).share == told.share]
        assert len(alike) >= 10 or alike[0] == 11 or alike[-1] == n - 11  # of those next to a count that is not told


@pytest.mark.parametrize("more", [1, 10, 11, 40])
def test_nested_counts_do_not_give_each_other_away(more):
    """Of two sets of real patients, one to ten apart, one is told, and of the other what it may be."""
    n = 400
    among, some = np.ones(n, bool), holding(350, n)
    counts = Counts(False)
    first, inside = counts.of(holding(100 + more, n), among), counts.of(holding(100, n), among)
    assert first.share is not None and (inside.share is None) == (more <= 10)
    assert inside.least <= 0.25 <= inside.most and inside.most - inside.least < 0.07
    outside = counts.of(holding(100 + 2 * more, n), some)  # of other patients, and it holds both
    assert (outside.share is None) == (more <= 10) and outside.least <= (100 + 2 * more) / 350 <= outside.most
    exact = Counts(True)
    assert exact.of(holding(101, n), among).share == 101 / n and exact.of(holding(100, n), some).share == 100 / 350


def test_attacks_on_real_patients_are_rounded():
    """So that no number times the pairs of patients, or times the members, is a count."""
    rng = np.random.default_rng(3)
    members, held_out = 3 + rng.standard_normal(137), rng.standard_normal(211)
    exact = statistics.attack(members, held_out, **HOW)
    told = statistics.attack(members, held_out, **{**HOW, "generated": False})
    for name in ("auroc", "error", "low", "high"):
        assert told[name] == round(exact[name], 4) != exact[name]
    found, before = told["true_positives"], exact["true_positives"]
    assert found["value"] == count(holding(round(before["value"] * 137), 137), False).share != before["value"]
    assert (found["low"], found["high"]) == (round(before["low"], 4), round(before["high"], 4))


def test_true_positives_of_few_real_patients_are_not_told():
    members, held_out = np.append(np.zeros(95), np.full(5, 9.0)), np.linspace(-1, 1, 100)
    assert statistics.attack(members, held_out, **HOW)["true_positives"]["value"] == 0.05
    told = statistics.attack(members, held_out, **{**HOW, "generated": False})["true_positives"]
    assert told["value"] is told["low"] is told["high"] is None and "suppressed" in told


def test_tokens_that_one_side_lacks_do_not_count():
    """Σ w (mean of members − mean of others) / Σ w, w = m·h / (m + h), worked out by hand."""
    tokens = np.array([5, 5, 5, 7, 7, 7, 7, 9])
    members = np.array([True, True, False, True, False, False, False, True])
    values = np.array([1.0, 3.0, 1.0, 5.0, 1.0, 2.0, 3.0, 1e6])
    told = statistics.stratified(Occurrences(tokens, np.arange(8), members), {"x": values}, **HOW)["x"]
    w5, w7 = 2 * 1 / 3, 1 * 3 / 4
    assert told["value"] == pytest.approx((w5 * 1.0 + w7 * 3.0) / (w5 + w7))
    none = statistics.stratified(Occurrences(tokens, np.arange(8), tokens == 5), {"x": values}, **HOW)["x"]
    assert none == {"value": None, "low": None, "high": None}


@pytest.mark.parametrize(("of_members", "of_others"), [(False, False), (True, True), (True, False)])
def test_tokens_that_nobody_recalls_have_an_interval(of_members, of_others):
    """Newcombe's, of the patients who have tokens that both sides have: resamples of them are all the same."""
    tokens, patients = np.array([1] * 30 + [2] * 9), np.arange(39)
    members = patients % 2 == 0
    members[30:] = True  # whose token no held-out patient has
    recall = np.where(members, of_members, of_others)
    at = Occurrences(tokens, patients, members)
    told = statistics.stratified(at, {"recall": recall, "size": recall * 1.0}, **HOW)
    ends = statistics.newcombe(float(of_members), 15, float(of_others), 15)
    assert (told["recall"]["low"], told["recall"]["high"]) == pytest.approx(ends) and ends[1] - ends[0] > 0.25
    assert told["size"] == {"value": told["recall"]["value"], "low": None, "high": None}


def test_intervals_of_rare_tokens_hold_the_truth():
    rng, inside = np.random.default_rng(2), 0
    for seed in range(200):
        tokens, patients = np.repeat(np.arange(20), 30), rng.integers(0, 300, 600)
        members = patients < 120
        level, of_patient = rng.normal(0, 2, 20)[tokens], rng.normal(0, 0.5, 300)[patients]
        values = level + of_patient + 0.7 * members + rng.standard_normal(600)
        at = Occurrences(tokens, patients, members)
        told = statistics.stratified(at, {"x": values}, **{**HOW, "seed": seed})["x"]
        inside += told["low"] <= 0.7 <= told["high"]
    assert 180 <= inside <= 199
