"""AUROC against scikit-learn and by hand; an interval that resamples patients and covers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.metrics import auroc, bootstrap_weights, evaluate


@pytest.mark.parametrize(
    "labels, scores, expected",
    [
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75),
        ([0, 1], [0.5, 0.5], 0.5),
        ([0, 1, 1], [1.0, 2.0, 3.0], 1.0),
        ([1, 0, 0], [1.0, 2.0, 3.0], 0.0),
        ([1, 0, 1, 0, 0], [0.3, 0.3, 0.9, 0.3, 0.1], (0.5 + 0.5 + 1 + 3) / 6),
    ],
)
def test_auroc_by_hand(labels, scores, expected):
    assert auroc(np.array(labels, bool), np.array(scores)) == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 8))
def test_auroc_is_that_of_scikit_learn(seed, n, distinct):
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.4
    labels[:2] = True, False
    scores = rng.integers(0, distinct, n) / distinct  # ties
    weights = rng.integers(0, 4, (3, n)).astype(float)
    weights[:, :2] += 1
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    expected = [roc_auc_score(labels, scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(auroc(labels, scores, weights), expected)


def test_resamples_are_of_whole_patients():
    patients = np.array([7, 7, 3, 9, 9, 9])
    weights = np.concatenate(list(bootstrap_weights(patients, 500, 0)))
    assert weights.shape == (500, 6)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3:] == weights[:, 3:4]).all()
    assert (weights[:, 0] + weights[:, 2] + weights[:, 3] == 3).all()
    assert weights[:, 2].mean() == pytest.approx(1, abs=0.2)
    np.testing.assert_array_equal(weights, np.concatenate(list(bootstrap_weights(patients, 500, 0))))


def test_more_stays_of_the_same_patients_say_nothing_new():
    rng = np.random.default_rng(0)
    labels, patients = rng.random(80) < 0.3, np.arange(80)
    scores = rng.normal(0, 1, 80) + labels
    once = evaluate(labels, scores, patients, draws=300)
    again = evaluate(np.tile(labels, 4), np.tile(scores, 4), np.tile(patients, 4), draws=300)
    for name in ("auroc", "low", "high", "patients"):
        assert again[name] == pytest.approx(once[name])
    assert (again["n"], again["positives"]) == (320, 4 * once["positives"])
    independent = evaluate(np.tile(labels, 4), np.tile(scores, 4), np.arange(320), draws=300)
    assert independent["high"] - independent["low"] < 0.6 * (again["high"] - again["low"])


def test_the_interval_covers():
    rng = np.random.default_rng(1)
    truth = 0.7602499  # Φ(1/√2): scores N(0,1) and N(1,1)
    covered = 0
    for _ in range(200):
        labels = np.arange(120) < 36
        result = evaluate(labels, rng.normal(0, 1, 120) + labels, np.arange(120), draws=200, seed=3)
        assert result["low"] < result["auroc"] < result["high"]
        covered += result["low"] <= truth <= result["high"]
    assert 0.88 <= covered / 200 <= 0.99


def test_large_samples_are_resampled_in_parts(monkeypatch):
    rng = np.random.default_rng(2)
    labels = rng.random(200) < 0.3
    scores, patients = rng.normal(0, 1, 200) + labels, rng.integers(0, 90, 200)
    whole = evaluate(labels, scores, patients, draws=100)
    monkeypatch.setattr("ehr_scaling.outcomes.metrics._AT_ONCE", 1500)
    assert evaluate(labels, scores, patients, draws=100) == whole


def test_too_few_for_an_interval_say_so():
    patients = np.array([0, 0, 1, 2])
    result = evaluate(np.array([1, 1, 0, 0], bool), np.array([0.9, 0.2, 0.3, 0.1]), patients)
    assert result["auroc"] == 0.75
    assert result["low"] is None and result["high"] is None
    assert result["interval_missing"] == "fewer than two patients with the outcome"
    with pytest.raises(UserError, match=r"4 of 4 have it"):
        evaluate(np.ones(4, bool), np.arange(4.0), patients)
    with pytest.raises(ValueError, match="not finite"):
        auroc(np.array([True, False]), np.array([np.nan, 1.0]))
