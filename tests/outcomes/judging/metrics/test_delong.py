"""DeLong's variance by its definition, its extension to patients with several stays, and how often intervals cover."""

import numpy as np
import pytest
from scipy.stats import norm

from ehr_scaling.outcomes.judging.metrics.delong import delong, interval


def made(n, models, seed=0, distinct=12):
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.4
    labels[:4] = True, True, False, False
    return labels, (rng.normal(0, 1, (models, n)) + labels).round(1) % distinct


def by_definition(labels, scores):
    """Equations 1 to 6 of DeLong 1988: structural components, and the covariance of their means."""
    x, y = scores[:, labels], scores[:, ~labels]
    wins = (x[:, :, None] > y[:, None, :]) + 0.5 * (x[:, :, None] == y[:, None, :])
    areas, v10, v01 = wins.mean((1, 2)), wins.mean(2), wins.mean(1)
    return areas, np.cov(v10) / x.shape[1] + np.cov(v01) / y.shape[1]


@pytest.mark.parametrize("seed", range(4))
def test_areas_and_covariance_are_those_of_the_definition(seed):
    labels, scores = made(40, 3, seed)
    for found, expected in zip(delong(labels, scores), by_definition(labels, scores), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-15)
    clusters = np.random.default_rng(seed).permutation(40) * 7
    np.testing.assert_allclose(delong(labels, scores, clusters)[1], delong(labels, scores)[1], rtol=1e-10)


def obuchowski(labels, scores, clusters):
    """The variance for clustered data, sums over clusters written out (Obuchowski 1997, equations 3 to 5)."""
    x, y = scores[labels], scores[~labels]
    wins = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    area, v10, v01 = wins.mean(), wins.mean(1), wins.mean(0)
    a = {c: (v10[clusters[labels] == c] - area).sum() for c in set(clusters)}
    b = {c: (v01[clusters[~labels] == c] - area).sum() for c in set(clusters)}
    m, n, every = len(x), len(y), len(a)
    of_x, of_y = len(set(clusters[labels])), len(set(clusters[~labels]))
    s10 = of_x / ((of_x - 1) * m) * sum(v**2 for v in a.values())
    s01 = of_y / ((of_y - 1) * n) * sum(v**2 for v in b.values())
    s11 = every / (every - 1) * sum(a[c] * b[c] for c in a)
    return s10 / m + s01 / n + 2 * s11 / (m * n)


def test_stays_of_one_patient_are_not_independent():
    labels, scores = made(60, 1, 5)
    clusters = np.random.default_rng(1).integers(0, 25, 60)
    assert delong(labels, scores, clusters)[1][0, 0] == pytest.approx(obuchowski(labels, scores[0], clusters))
    # Every patient four times over says no more than once
    once = delong(labels, scores, np.arange(60))[1]
    again = delong(np.tile(labels, 4), np.tile(scores, 4), np.tile(np.arange(60), 4))[1]
    np.testing.assert_allclose(again, once)
    assert delong(np.tile(labels, 4), np.tile(scores, 4))[1][0, 0] < 0.3 * once[0, 0]


def test_weights_by_label_change_nothing():
    labels, scores = made(50, 2, 3)
    weighted = delong(labels, scores, None, np.where(labels, 1.0, 12.5))
    for found, expected in zip(weighted, delong(labels, scores), strict=True):
        np.testing.assert_allclose(found, expected)
    # A row of weight 2 is two rows of one patient
    weights = np.where(np.arange(50) % 3 == 0, 2.0, 1.0)
    rows = np.repeat(np.arange(50), weights.astype(int))
    repeated = delong(labels[rows], scores[:, rows], rows)
    for found, expected in zip(delong(labels, scores, np.arange(50), weights), repeated, strict=True):
        np.testing.assert_allclose(found, expected)


def test_intervals_cover():
    rng, truth, covered = np.random.default_rng(2), norm.cdf(1.5 / np.sqrt(2)), 0
    for _ in range(400):
        labels = np.arange(90) < 25
        areas, covariance = delong(labels, (rng.normal(0, 1, 90) + 1.5 * labels)[None])
        low, high = interval(areas[0], np.sqrt(covariance[0, 0]))
        assert 0 < low < areas[0] < high < 1
        covered += low <= truth <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_intervals_that_do_not_exist():
    labels = np.array([True, False, False])
    areas, covariance = delong(labels, np.array([[0.4, 0.3, 0.5]]))
    assert areas[0] == 0.5 and np.isnan(covariance).all()
    assert interval(0.5, np.nan) is None
    assert interval(1.0, 0.0) is None
    low, high = interval(0.8, 0.05)
    half = 1.959964 * 0.05 / 0.16
    assert low == pytest.approx(1 / (1 + np.exp(half) / 4)) and high == pytest.approx(1 / (1 + np.exp(-half) / 4))
