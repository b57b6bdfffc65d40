"""Which law forecasts, and how far it is trusted, from numbers that rolling hold-outs would give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ehr_scaling.analysis.forecast import choice

Z = stats.norm.ppf(0.975)


def test_luck_on_few_folds_does_not_replace_the_usual_candidate():
    usual = [1.0, 1.1, 0.9, 1.0]
    assert choice.chosen({"usual": usual, "lucky": [0.1, 1.0, 0.95, 0.9]}, "usual") == "usual"  # one fold decides
    assert choice.chosen({"usual": usual, "near": [0.9, 1.0, 0.8, 0.9]}, "usual") == "usual"  # always, and hardly
    assert choice.chosen({"usual": [1.0], "other": [0.1]}, "usual") == "usual"
    assert choice.chosen({"usual": [], "other": []}, "usual") == "usual"


def test_clear_evidence_replaces_the_usual_candidate_by_the_best():
    errors = {"usual": [1.0, 1.1, 0.9, 1.0], "better": [0.5, 0.6, 0.4, 0.5], "best": [0.3, 0.4, 0.2, 0.3]}
    assert choice.chosen(errors, "usual") == "best"
    # Better by 1.5 standard errors is not clear, by 2.5 it is.
    scatter = np.array([1.0, -1.0, 1.0, -1.0]) / np.sqrt(4 / 3) * 0.2  # of standard deviation 0.2, standard error 0.1
    for errors_off, expected in ((1.5, "usual"), (2.5, "other")):
        other = 1 - 0.1 * errors_off + scatter
        assert np.mean(other) < choice.CLEARLY or errors_off < 2
        assert choice.chosen({"usual": [1.0] * 4, "other": other.tolist()}, "usual") == expected


def test_candidates_in_the_running_are_those_nearly_as_good():
    found = choice.close({"a": 1.0, "b": 1.24, "c": 1.26, "d": 0.999}, "b")
    assert found == ("b", "a", "d")
    assert choice.close({}, "only") == ("only",)


def test_drift_is_that_of_many_folds_and_of_simulated_studies_where_they_are_few():
    many = choice.drift([0.02] * 400, [1.0] * 400, [1.0] * 400)
    assert many == pytest.approx(0.02, rel=0.02)
    few = choice.drift([0.02, 0.02], [1.0, 1.0], [1.0, 1.0])
    pooled = np.sqrt((3 * 0.005**2 + 1 * 0.02**2) / 4)
    assert few == pytest.approx(pooled * stats.t.ppf(0.975, 4) / Z)
    assert choice.drift([], [], []) == pytest.approx(0.01 * stats.t.ppf(0.975, 3) / Z)


def test_drift_never_falls_to_nothing():
    exact = choice.drift([0.0] * 1000, [1.0] * 1000, [1.0] * 1000)
    assert exact == pytest.approx(choice.LEAST_DRIFT, rel=0.02)
    assert choice.drift([0.0, 0.0], [1.0, 1.0], [1.0, 1.0]) > 0.005  # two lucky folds tell little


def test_a_fold_near_its_data_counts_as_a_third_of_a_decade():
    near = choice.drift([0.01] * 400, [0.01] * 400, [1.0] * 400)
    assert near == pytest.approx(choice.drift([0.01] * 400, [1 / 3] * 400, [1.0] * 400))
    assert near == pytest.approx(0.03, rel=0.03)


@given(st.lists(st.floats(-0.05, 0.05), min_size=1, max_size=6), st.floats(0.3, 1.0))
def test_a_fold_that_saw_less_tells_of_a_longer_way(biases, seen):
    decades = [1.0] * len(biases)
    part, whole = (choice.drift(biases, decades, [share] * len(biases)) for share in (seen, 1.0))
    assert part <= whole * (1 + 1e-12)
    scaled = choice.drift([b * seen for b in biases], decades, [1.0] * len(biases))
    assert part == pytest.approx(scaled)


def test_residuals_of_a_law_are_widened_by_the_parameters_it_took():
    assert choice.freedom(16, 6) == pytest.approx(np.sqrt(1.6))
    assert choice.freedom(6, 6) == pytest.approx(np.sqrt(6))  # as with one run left
    assert choice.widened(16, 6) == pytest.approx(np.sqrt(1.6) * stats.t.ppf(0.975, 10) / Z)
    assert choice.equal_cells(np.ones(7)) == pytest.approx(7)
    assert choice.equal_cells(np.array([1.0, 1.0, 0.0])) == pytest.approx(2)
