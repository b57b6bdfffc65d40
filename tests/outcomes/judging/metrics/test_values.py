"""Errors of numbers and of classes against scikit-learn and scipy, in all rows and in resamples."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import (
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
    top_k_accuracy_score,
)

from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.judging.metrics.metrics import auroc, bootstrap_weights
from ehr_scaling.outcomes.judging.metrics.values import evaluate_classes, evaluate_values

MEASURES = {
    "mae": mean_absolute_error,
    "rmse": root_mean_squared_error,
    "r2": r2_score,
    "spearman": lambda truth, predicted: spearmanr(truth, predicted).statistic,
}


def lengths_of_stay(n=90, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.exponential(4, n).round(1)
    return truth, (0.5 * truth + rng.exponential(2, n)).round(), rng.integers(0, n // 2, n)


def test_errors_are_those_of_the_libraries():
    truth, predicted, patients = lengths_of_stay()
    result = evaluate_values(truth, predicted, patients, draws=1, seed=4)
    rows = np.repeat(np.arange(90), next(bootstrap_weights(patients, 1, 4))[0].astype(int))
    for name, measure in MEASURES.items():
        assert result[name]["value"] == pytest.approx(measure(truth, predicted)), name
        # The one resample, with its rows repeated
        assert result[name]["low"] == pytest.approx(measure(truth[rows], predicted[rows])), name
    assert (result["n"], result["patients"], result["draws"]) == (90, len(np.unique(patients)), 1)
    weights = np.random.default_rng(1).integers(1, 4, 90)
    repeated = np.repeat(np.arange(90), weights)
    weighted = evaluate_values(truth, predicted, patients, weights=weights, draws=2)
    for name, measure in MEASURES.items():
        assert weighted[name]["value"] == pytest.approx(measure(truth[repeated], predicted[repeated])), name


def test_intervals_of_numbers_cover():
    covered = dict.fromkeys(("mae", "spearman"), 0)
    truth = {"mae": np.sqrt(2 / np.pi), "spearman": 6 / np.pi * np.arcsin(np.sqrt(0.5) / 2)}  # correlation √½
    for seed in range(150):
        rng = np.random.default_rng(seed)
        x = rng.normal(0, 1, 100)
        result = evaluate_values(x + rng.normal(0, 1, 100), x, np.arange(100), draws=150, seed=seed)
        for name in covered:
            covered[name] += result[name]["low"] <= truth[name] <= result[name]["high"]
    assert all(0.88 <= count / 150 <= 0.99 for count in covered.values()), covered


def test_numbers_that_say_nothing():
    truth, _, patients = lengths_of_stay()
    constant = evaluate_values(truth, np.full(90, truth.mean()), patients, draws=20)
    assert constant["r2"]["value"] == pytest.approx(0) and constant["spearman"]["value"] is None
    same = evaluate_values(np.full(90, 3.3), truth, patients, draws=20)
    assert same["r2"] == {"value": None, "low": None, "high": None}
    one = evaluate_values(truth, truth, np.zeros(90, int))
    assert one["mae"] == {"value": 0, "low": None, "high": None}
    assert one["interval_missing"] == "fewer than two patients"
    with pytest.raises(ValueError, match="not finite"):
        evaluate_values(truth, np.full(90, np.nan), patients)
    with pytest.raises(UserError, match="no stay to judge"):
        evaluate_values(truth[:0], truth[:0], patients[:0])


def classes(n=120, seed=0, names=7):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % names)
    logits = rng.normal(0, 1, (n, names)) + 1.2 * (labels[:, None] == np.arange(names))
    p = np.exp(logits)
    return labels, p / p.sum(1, keepdims=True), rng.integers(0, n // 2, n)


def test_classes_are_judged_as_by_scikit_learn():
    labels, p, patients = classes()
    result = evaluate_classes(labels, p, patients, draws=1, seed=3)
    rows = np.repeat(np.arange(120), next(bootstrap_weights(patients, 1, 3))[0].astype(int))
    measures = {
        "top1": lambda y, q: top_k_accuracy_score(y, q, k=1),
        "top5": lambda y, q: top_k_accuracy_score(y, q, k=5),
        "log_loss": log_loss,
    }
    for name, measure in measures.items():
        assert result[name]["value"] == pytest.approx(measure(labels, p)), name
        assert result[name]["low"] == pytest.approx(measure(labels[rows], p[rows])), name
    macro = result["macro_auroc"]
    assert macro["value"] == pytest.approx(roc_auc_score(labels, p, multi_class="ovr"))
    assert macro["low"] < macro["value"] < macro["high"]
    assert result["classes"] == result["classes_ranked"] == 7


def test_ties_share_their_place():
    labels = np.array([0, 1, 2, 3])
    result = evaluate_classes(labels, np.full((4, 10), 0.1), np.arange(4), draws=5)
    assert result["top1"]["value"] == pytest.approx(0.1) and result["top5"]["value"] == pytest.approx(0.5)
    assert result["macro_auroc"]["value"] == 0.5 and result["classes_ranked"] == 4
    assert evaluate_classes(labels, np.eye(4), np.arange(4), draws=5)["top1"]["value"] == 1
    with pytest.raises(ValueError, match="not among 0 to 2"):
        evaluate_classes(labels, np.eye(4)[:, :3], np.arange(4))


def test_the_error_of_the_macro_area_is_that_of_resampling_patients():
    labels, p, patients = classes(300, 1)
    macro = evaluate_classes(labels, p, patients, draws=2)["macro_auroc"]
    drawn = np.concatenate(list(bootstrap_weights(patients, 1000, 0)))
    resampled = np.mean([auroc(labels == k, p[:, k], drawn) for k in range(7)], axis=0)
    low, high = np.percentile(resampled, [2.5, 97.5])
    assert macro["high"] - macro["low"] == pytest.approx(high - low, rel=0.1)
