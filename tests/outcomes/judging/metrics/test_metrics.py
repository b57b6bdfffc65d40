"""Ranking metrics against scikit-learn and by hand; intervals that resample patients and cover."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.judging.metrics.metrics import auroc, average_precision, bootstrap_weights, evaluate


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
def test_areas_are_those_of_scikit_learn(seed, n, distinct):
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.4
    labels[:2] = True, False
    scores = rng.integers(0, distinct, n) / distinct  # ties
    weights = rng.integers(0, 4, (3, n)).astype(float)
    weights[:, :2] += 1
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))
    for area, reference in ((auroc, roc_auc_score), (average_precision, average_precision_score)):
        expected = [reference(labels, scores, sample_weight=w) for w in weights]
        np.testing.assert_allclose(area(labels, scores, weights), expected)


def test_areas_of_one_class_are_none():
    labels, scores = np.array([True, False, True, False]), np.array([0.1, 0.2, 0.7, 0.6])
    weights = np.array([[1.0, 0, 2.3, 0], [0, 0.1, 0, 0.7], [0.3, 0.1, 0.2, 0.7]])
    for area in (auroc, average_precision):
        np.testing.assert_array_equal(np.isnan(area(labels, scores, weights)), [True, True, False])


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
    monkeypatch.setattr("ehr_scaling.outcomes.judging.metrics.metrics._AT_ONCE", 1500)
    assert evaluate(labels, scores, patients, draws=100) == whole


def test_too_few_for_an_interval_say_so():
    patients = np.array([0, 0, 1, 2])
    result = evaluate(np.array([1, 1, 0, 0], bool), np.array([0.9, 0.2, 0.3, 0.1]), patients)
    assert result["auroc"] == 0.75
    assert result["low"] is None and result["high"] is None
    assert result["interval_missing"] == "fewer than two patients with the outcome"
    with pytest.raises(UserError, match="all of them have it"):
        evaluate(np.ones(4, bool), np.arange(4.0), patients)
    with pytest.raises(ValueError, match="not finite"):
        auroc(np.array([True, False]), np.array([np.nan, 1.0]))


def made(n=300, seed=0, stays=2, separation=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.25
    p = 1 / (1 + np.exp(1.5 - separation * (labels + rng.normal(0, 1, n))))
    return labels, p, rng.integers(0, n // stays, n)


def test_every_statistic_of_a_resample_is_that_of_the_rows_drawn():
    """The bootstrap works on weights; here rows are repeated as often as they were drawn instead."""
    labels, p, patients = made(80)
    p = p.round(2)
    drawn = next(bootstrap_weights(patients, 1, 5))[0].astype(int)
    rows = np.repeat(np.arange(80), drawn)
    one = evaluate(labels, p, patients, draws=1, seed=5, probabilities=True)
    again = evaluate(labels[rows], p[rows], patients[rows], draws=1, probabilities=True)
    assert one["low"] == pytest.approx(again["auroc"])
    for name in ("auprc", "brier", "calibration_slope", "calibration_intercept", "calibration_in_the_large"):
        assert one[name]["low"] == one[name]["high"] == pytest.approx(again[name]["value"], abs=2e-3), name
        assert abs(one[name]["low"] - one[name]["value"]) > 4e-3, name


def test_weights_undo_a_sampling_by_outcome():
    rng = np.random.default_rng(0)
    n = 60_000
    logits = rng.normal(-3.5, 1.3, n)
    p = 1 / (1 + np.exp(-logits))
    labels, patients = rng.random(n) < p, np.arange(n)
    whole = evaluate(labels, p, patients, draws=20, probabilities=True)
    kept = labels | (rng.random(n) < 0.1)
    sample = labels[kept], p[kept], patients[kept]
    plain = evaluate(*sample, draws=20, probabilities=True)
    undone = evaluate(*sample, weights=np.where(sample[0], 1.0, 10.0), draws=20, probabilities=True)
    assert plain["auroc"] == pytest.approx(undone["auroc"]) == pytest.approx(whole["auroc"], abs=0.01)
    assert plain["delong"]["error"] == pytest.approx(undone["delong"]["error"])
    for name in ("auprc", "brier", "calibration_in_the_large"):
        assert undone[name]["value"] == pytest.approx(whole[name]["value"], abs=0.03), name
        assert abs(plain[name]["value"] - whole[name]["value"]) > 0.06, name
    assert undone["calibration_slope"]["value"] == pytest.approx(1, abs=0.1)
    assert (plain["weighted"], undone["weighted"]) == (False, True)
    weights = np.where(sample[0], 1.0, 10.0)
    one = evaluate(*sample, weights=weights, draws=1, seed=7, probabilities=True)
    drawn = next(bootstrap_weights(sample[2], 1, 7))[0]
    assert one["brier"]["low"] == pytest.approx(np.average((sample[1] - sample[0]) ** 2, weights=weights * drawn))
    with pytest.raises(ValueError, match="positive numbers"):
        evaluate(*sample, weights=np.zeros(len(sample[0])))


def test_probabilities_are_judged_where_asked():
    labels, p, patients = made()
    assert "brier" not in evaluate(labels, p, patients, draws=10)
    with pytest.raises(ValueError, match="not within 0 and 1"):
        evaluate(labels, p + 0.5, patients, draws=10, probabilities=True)
    few = evaluate(labels[:40], p[:40], np.zeros(40, int), probabilities=True)
    assert few["interval_missing"] == "fewer than two patients with the outcome"
    for part in (few["auprc"], few["brier"]):
        assert part["value"] is not None and part["low"] is part["high"] is None
    assert few["delong"] == {"error": None, "low": None, "high": None}


def test_a_constant_is_no_better_than_chance():
    labels, _, patients = made()
    result = evaluate(labels, np.full(300, 0.2), patients, draws=30, probabilities=True)
    assert (result["auroc"], result["low"], result["high"]) == (0.5, 0.5, 0.5)
    assert result["calibration_slope"] == {"value": None, "low": None, "high": None}
    share = labels.mean()
    assert result["calibration_in_the_large"]["value"] == pytest.approx(np.log(share / (1 - share)) - np.log(0.25))
