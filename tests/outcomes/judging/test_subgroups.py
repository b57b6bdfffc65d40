"""Groups are judged by themselves, and nothing can be learnt of small ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.outcomes.judging.calibration import SMALLEST
from ehr_scaling.outcomes.judging.metrics import evaluate
from ehr_scaling.outcomes.judging.subgroups import COMPLEMENTARY, SUPPRESSED, by_group


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
        ({"a": (10, 90), "b": (30, 70), "c": (20, 50)}, {"a": SUPPRESSED, "b": 200, "c": COMPLEMENTARY}),
        ({"a": (90, 10), "b": (30, 70)}, {"a": SUPPRESSED, "b": COMPLEMENTARY}),
        # Two whose sum is small still tell that it is
        ({"a": (3, 50), "b": (4, 60), "c": (40, 30)}, {"a": SUPPRESSED, "b": SUPPRESSED, "c": COMPLEMENTARY}),
        ({"a": (6, 50), "b": (5, 60), "c": (40, 30)}, {"a": SUPPRESSED, "b": SUPPRESSED, "c": 140}),
        ({"a": (0, 500), "b": (30, 40), "c": (30, 50)}, {"a": SUPPRESSED, "b": COMPLEMENTARY, "c": 160}),
    ],
)
def test_what_is_suppressed(sizes, expected):
    assert told(*cohort(**sizes)) == expected


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
