"""Groups are judged by themselves, and nothing can be learnt of small ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.outcomes.judging.metrics.calibration import SMALLEST
from ehr_scaling.outcomes.judging.metrics.metrics import auroc, bootstrap_weights, evaluate
from ehr_scaling.outcomes.judging.metrics.subgroups import COMPLEMENTARY, SUPPRESSED, by_group, gaps


def cohort(**sizes):
    """Stays of groups of (patients with the outcome, patients without), two stays each."""
    names = np.concatenate([np.repeat(name, 2 * (a + b)) for name, (a, b) in sizes.items()])
    labels = np.concatenate([np.repeat([True, False], [2 * a, 2 * b]) for a, b in sizes.values()])
    return names, np.arange(len(names)) // 2, labels


def told(names, patients, labels):
    result = by_group(names, patients, labels, lambda rows: {"stays": len(rows)})
    return {name: made.get("suppressed", made.get("stays")) for name, made in result.items()}


@pytest.mark.parametrize(
    "sizes, expected",
    [
        ({"F": (20, 40), "M": (11, 30)}, {"F": 120, "M": 82}),
        # One alone could be had by subtraction: the smallest other goes with it
        (
            {"a": (10, 90), "b": (30, 70), "c": (20, 50)},
            {"a": SUPPRESSED, "b": 200, "c": COMPLEMENTARY, "a or c": 340},
        ),
        ({"a": (90, 10), "b": (30, 70)}, {"a": SUPPRESSED, "b": COMPLEMENTARY}),
        # Two whose sum is small still tell that it is
        ({"a": (3, 50), "b": (4, 60), "c": (40, 30)}, {"a": SUPPRESSED, "b": SUPPRESSED, "c": COMPLEMENTARY}),
        (
            {"a": (6, 50), "b": (5, 60), "c": (40, 30)},
            {"a": SUPPRESSED, "b": SUPPRESSED, "c": 140, "a or b": 242},
        ),
        (
            {"a": (0, 500), "b": (30, 40), "c": (30, 50)},
            {"a": SUPPRESSED, "b": COMPLEMENTARY, "c": 160, "a or b": 1140},
        ),
    ],
)
def test_what_is_suppressed(sizes, expected):
    assert told(*cohort(**sizes)) == expected


def test_what_is_small_goes_with_its_neighbour():
    names, patients, labels = cohort(
        **{"80 on": (20, 20), "45": (30, 30), "18": (3, 50), "65": (40, 40), "?": (15, 15)}
    )
    judge = lambda rows: {"stays": len(rows)}  # noqa: E731
    result = by_group(names, patients, labels, judge, ["18", "45", "65", "80 on"])
    assert list(result) == ["18", "45", "65", "80 on", "?", "18 or 45"]
    assert result["18"]["suppressed"] == SUPPRESSED and result["45"]["suppressed"] == COMPLEMENTARY
    assert result["18 or 45"] == {"stays": 226}
    # Without an order it goes with those of fewest patients
    assert by_group(names, patients, labels, judge)["18 or ?"] == {"stays": 166}


def test_stays_are_not_patients():
    names, patients, labels = cohort(F=(10, 40), M=(30, 30))
    assert (labels & (names == "F")).sum() == 20
    assert told(names, patients, labels)["F"] == SUPPRESSED
    assert told(names, patients, None) == {"F": 100, "M": 120}  # numbers have no outcome to be rare


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)).filter(any), min_size=1, max_size=6))
def test_no_small_count_can_be_had(sizes):
    names, patients, labels = cohort(**{str(i): size for i, size in enumerate(sizes)})
    result = told(names, patients, labels)
    hidden = [i for i in range(len(sizes)) if isinstance(result[str(i)], str)]
    assert len(result) == len(sizes) + bool(hidden and len(hidden) < len(sizes))
    for i in set(range(len(sizes))) - set(hidden):
        assert min(sizes[i]) >= SMALLEST
    if hidden and len(hidden) < len(sizes):  # what is told leaves the sum of what is not
        assert len(hidden) > 1
        assert min(sum(sizes[i][k] for i in hidden) for k in (0, 1)) >= SMALLEST


def test_a_group_is_judged_as_if_it_were_alone():
    rng = np.random.default_rng(0)
    names, patients, labels = cohort(F=(30, 60), M=(40, 50))
    scores = rng.normal(0, 1, len(labels)) + labels
    judge = lambda rows: evaluate(labels[rows], scores[rows], patients[rows], draws=50)  # noqa: E731
    result = by_group(names, patients, labels, judge)
    own = names == "M"
    assert list(result) == ["F", "M"]
    assert result["M"] == evaluate(labels[own], scores[own], patients[own], draws=50)
    assert result["F"]["patients"] == 90


def two_groups(n=400, seed=0, easier=0.0, shift=0.0):
    """Stays of two groups, one patient each: in the first scores tell more, and risks are too low by `shift`."""
    rng = np.random.default_rng(seed)
    first = np.arange(n) < n // 2
    x = rng.normal(-1, 1 + easier * first, n)
    return first, rng.random(n) < 1 / (1 + np.exp(-x - shift * first)), 1 / (1 + np.exp(-x))


def test_gaps_are_those_of_the_two_parts():
    first, labels, p = two_groups(seed=4, easier=0.5, shift=0.7)
    patients = np.random.default_rng(0).integers(0, 300, 400)
    weights = np.random.default_rng(1).uniform(0.5, 3, 400)
    apart = gaps(np.flatnonzero(first), labels, p, patients, weights=weights, draws=100)
    one, other = (
        evaluate(labels[at], p[at], patients[at], weights=weights[at], probabilities=True, draws=1)
        for at in (first, ~first)
    )
    assert apart["auroc"]["value"] == pytest.approx(one["auroc"] - other["auroc"])
    large = [score["calibration_in_the_large"]["value"] for score in (one, other)]
    assert apart["calibration_in_the_large"]["value"] == pytest.approx(large[0] - large[1], abs=1e-9)
    for gap in apart.values():
        assert gap["low"] < gap["value"] < gap["high"]
        assert gap["told"] == (gap["low"] > 0 or gap["high"] < 0)
        assert gap["could_hide"] == max(abs(gap["low"]), abs(gap["high"]))
    # Seen from the other side it is as large
    mirrored = gaps(np.flatnonzero(~first), labels, p, patients, weights=weights, draws=100)
    assert mirrored["auroc"]["low"] == pytest.approx(-apart["auroc"]["high"])
    assert mirrored["auroc"]["could_hide"] == pytest.approx(apart["auroc"]["could_hide"])


def test_both_parts_are_of_one_resample_of_all_patients():
    first, labels, p = two_groups(seed=2)
    patients = np.tile(np.arange(200), 2)  # each patient has a stay in both groups
    drawn = next(bootstrap_weights(patients, 1, 6))[0]
    apart = gaps(np.flatnonzero(first), labels, p, patients, draws=1, seed=6)["auroc"]
    parts = [float(auroc(labels[at], p[at], drawn[at])) for at in (first, ~first)]
    assert apart["low"] == pytest.approx(parts[0] - parts[1])
    # Stays of the same patients with the same scores and outcomes are never apart
    same = gaps(np.arange(200), np.tile(labels[:200], 2), np.tile(p[:200], 2), patients, draws=50)
    for gap in same.values():
        assert gap["value"] == gap["low"] == gap["high"] == 0 and not gap["told"]


def test_intervals_of_gaps_cover_and_tell_what_is_there():
    truth, covered, told = 0.8, 0, {0.0: 0, 0.8: 0}
    for seed in range(120):
        for shift in told:
            first, labels, p = two_groups(500, seed, shift=shift)
            gap = gaps(np.flatnonzero(first), labels, p, np.arange(500), draws=150, seed=seed)
            large = gap["calibration_in_the_large"]
            covered += large["low"] <= shift <= large["high"]
            told[shift] += large["told"]
    assert 0.89 <= covered / 240 <= 0.985, covered
    assert told[0.0] <= 12 and told[truth] >= 100, told


def test_gaps_that_cannot_be():
    first, labels, p = two_groups(100)
    rows = np.arange(100)
    assert gaps(rows, labels, p, rows) == {}  # nobody is left
    assert gaps(rows[:50], labels & first, p, rows) == {}  # of the rest nobody has the outcome
    alone = gaps(rows[:50], labels, p, np.where(labels & first, 0, 1 + rows), draws=20)
    assert alone["auroc"]["low"] is None and alone["auroc"]["could_hide"] is None and not alone["auroc"]["told"]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)).filter(any), min_size=2, max_size=6))
def test_the_rest_of_a_told_group_is_no_small_group(sizes):
    """A gap tells of the rest. That is told groups, and the suppressed all together, which are never few."""
    names, patients, labels = cohort(**{str(i): size for i, size in enumerate(sizes)})
    rest = {}

    def judge(rows):
        left = np.setdiff1d(np.arange(len(labels)), rows)
        if len(np.unique(names[rows])) > 1:  # the suppressed together, whose rest is told groups
            return {"told": True}
        cells = [len(np.unique(patients[left[kind[left]]])) for kind in (labels, ~labels)]
        rest[names[rows[0]]] = (set(names[left]), cells)
        return {"told": True}

    hidden = {name for name, made in by_group(names, patients, labels, judge).items() if "suppressed" in made}
    for groups, cells in rest.values():
        assert not hidden or (hidden <= groups and len(hidden) > 1)
        # What is hidden is 11 and more of both kinds, so that the rest is too, unless there is none
        of_hidden = [sum(sizes[int(name)][k] for name in hidden) for k in (0, 1)]
        assert not hidden or min(of_hidden) >= SMALLEST
        assert not groups or min(cells) >= SMALLEST
