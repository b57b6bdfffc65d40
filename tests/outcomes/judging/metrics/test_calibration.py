"""Calibration against scikit-learn, closed forms and simulations."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from ehr_scaling.outcomes import probabilities
from ehr_scaling.outcomes.judging.metrics import calibration, paired
from ehr_scaling.outcomes.judging.metrics.metrics import evaluate


def made(n=400, seed=0, slope=1.0, intercept=0.0):
    """Labels whose true risk has a logit of intercept + slope · that of the prediction; ascending predictions."""
    rng = np.random.default_rng(seed)
    p = np.sort(expit(rng.normal(-1, 1.2, n)))
    return rng.random(n) < expit(intercept + slope * logit(p)), p


def statistics(labels, p, weights=None):
    weights = np.ones(len(p)) if weights is None else weights
    return {k: v[0] for k, v in calibration.statistics(labels, p, weights)(weights[None]).items()}


@pytest.mark.parametrize("seed", range(3))
def test_slope_and_intercept_are_those_of_scikit_learn(seed):
    labels, p = made(150, seed, slope=0.5, intercept=-0.3)
    weights = np.random.default_rng(seed).uniform(0.2, 3, 150)
    for given in (None, weights):
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit(p)[:, None], labels, given)
        found = statistics(labels, p, given)
        assert found["calibration_slope"] == pytest.approx(model.coef_[0, 0], abs=1e-4)
        assert found["calibration_intercept"] == pytest.approx(model.intercept_[0], abs=1e-4)
        assert found["brier"] == pytest.approx(brier_score_loss(labels, p, sample_weight=given))
        # With the slope held at 1, the mean of the shifted predictions is the share of positives.
        shifted = expit(logit(p) + found["calibration_in_the_large"])
        assert np.average(shifted, weights=given) == pytest.approx(np.average(labels, weights=given), abs=1e-9)


def test_resamples_far_from_all_rows_are_fitted_to_the_end():
    labels, p = made(120, 4)
    weights = np.random.default_rng(0).integers(0, 4, (30, 120)).astype(float)
    found = calibration.statistics(labels, p, np.ones(120))(weights)
    for i, w in enumerate(weights):
        expected = statistics(labels[w > 0], p[w > 0], w[w > 0])
        for name in ("calibration_slope", "calibration_intercept", "calibration_in_the_large", "brier"):
            assert found[name][i] == pytest.approx(expected[name], abs=5e-3), name


def test_what_is_known_of_the_truth_is_found():
    labels, p = made(200_000, slope=0.6, intercept=0.4)
    found = statistics(labels, p)
    assert found["calibration_slope"] == pytest.approx(0.6, abs=0.02)
    assert found["calibration_intercept"] == pytest.approx(0.4, abs=0.03)
    right = statistics(*made(200_000))
    assert right["calibration_slope"] == pytest.approx(1, abs=0.02)
    assert right["calibration_in_the_large"] == pytest.approx(0, abs=0.02)
    assert right["ece"] < 0.005 < 0.05 < found["ece"]


def test_intervals_cover():
    covered = dict.fromkeys(("calibration_slope", "calibration_intercept", "calibration_in_the_large"), 0)
    truth = {"calibration_slope": 0.7, "calibration_intercept": 0.2}
    many = made(400_000, 99, 0.7, 0.2)
    truth["calibration_in_the_large"] = statistics(*many)["calibration_in_the_large"]
    for seed in range(150):
        labels, p = made(300, seed, 0.7, 0.2)
        result = evaluate(labels, p, np.arange(300), draws=150, probabilities=True, seed=seed)
        for name in covered:
            covered[name] += result[name]["low"] <= truth[name] <= result[name]["high"]
    assert all(0.88 <= count / 150 <= 0.99 for count in covered.values()), covered


def test_expected_calibration_error_by_hand():
    p = np.repeat([0.1, 0.2, 0.7], [4, 4, 2])
    labels = np.array([0, 0, 0, 0, 1, 1, 0, 0, 1, 1], bool)
    # Ten bins of one row each, but rows of one prediction stay together: three bins
    assert statistics(labels, p)["ece"] == pytest.approx(0.4 * 0.1 + 0.4 * 0.3 + 0.2 * 0.3)
    weights = np.repeat([1.0, 3.0, 2.0], [4, 4, 2])
    assert statistics(labels, p, weights)["ece"] == pytest.approx((4 * 0.1 + 12 * 0.3 + 4 * 0.3) / 20)


def test_ten_bins_of_equal_weight():
    p = np.arange(1000) / 1000
    assert calibration._starts(p, np.ones(1000)).tolist() == list(range(0, 1000, 100))
    weights = np.where(np.arange(1000) < 500, 3.0, 1.0)
    sums = np.add.reduceat(weights, calibration._starts(p, weights))
    assert len(sums) == 10 and np.abs(sums - 200).max() <= 3


@pytest.mark.parametrize(
    "labels, p",
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),  # separated
        ([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9]),  # but for a tie
        ([0, 1, 1, 0], [0.4, 0.4, 0.4, 0.4]),
    ],
)
def test_slopes_that_do_not_exist(labels, p):
    found = statistics(np.array(labels, bool), np.array(p))
    assert np.isnan(found["calibration_slope"]) and np.isnan(found["calibration_intercept"])
    assert np.isfinite([found[name] for name in ("brier", "calibration_in_the_large", "ece")]).all()


def test_certain_predictions_have_a_bounded_logit():
    labels, p = made(200)
    p[:20], p[-20:] = 0.0, 1.0
    clipped = np.clip(p, calibration.CLIP, 1 - calibration.CLIP)
    found, expected = statistics(labels, p), statistics(labels, clipped)
    assert 0 < found["calibration_slope"] == pytest.approx(expected["calibration_slope"])


def test_the_curve():
    labels, p = made(2000)
    rows = calibration.curve(labels, p, np.arange(2000), np.ones(2000), range(2000))
    assert len(rows) == 10 and [row["n"] for row in rows] == [200] * 10
    assert rows[3]["predicted"] == pytest.approx(p[600:800].mean())
    assert rows[3]["observed"] == pytest.approx(labels[600:800].mean())
    reference = binomtest(int(labels[600:800].sum()), 200).proportion_ci(method="wilson")
    assert (rows[3]["low"], rows[3]["high"]) == pytest.approx((reference.low, reference.high))


def test_bins_end_at_cuts():
    labels, p = made(2000)
    weights = np.random.default_rng(0).uniform(0.5, 2, 2000)
    rows = calibration.curve(labels, p, np.arange(2000), weights, [150, 220, 300, 1210, 1990])
    assert [row["n"] for row in rows] == [220, 1210 - 220, 1990 - 1210, 10]
    assert rows[1]["observed"] == pytest.approx(np.average(labels[220:1210], weights=weights[220:1210]))
    (whole,) = calibration.curve(labels, p, np.arange(2000) // 2, weights, [])
    assert (whole["n"], whole["patients"]) == (2000, 1000)


def test_wilson_at_the_ends():
    for successes, n in ((0, 30), (30, 30)):
        reference = binomtest(successes, n).proportion_ci(method="wilson")
        assert calibration.wilson(successes / n, n) == pytest.approx((reference.low, reference.high), abs=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_recalibration_undoes_what_is_wrong_in_slope_and_intercept(seed):
    labels, p = made(20_000, seed, slope=0.4, intercept=-0.7)
    order = np.random.default_rng(seed).permutation(len(p))
    tuning, test = np.split(order, 2)
    line = calibration.line(labels[tuning], p[tuning], np.ones(len(tuning)))
    assert line == pytest.approx((-0.7, 0.4), abs=0.06)
    moved = calibration.moved(p[test], *line)
    assert np.argsort(moved).tolist() == np.argsort(p[test]).tolist()
    before, after = (evaluate(labels[test], x, test, probabilities=True, draws=20) for x in (p[test], moved))
    value = lambda score, name: score[name]["value"]  # noqa: E731
    assert value(before, "calibration_slope") < 0.5
    assert value(after, "calibration_slope") == pytest.approx(1, abs=0.1)
    assert value(after, "ece") < value(before, "ece") / 3 and value(after, "brier") < value(before, "brier")
    assert after["auroc"] == before["auroc"]


def test_recalibration_weighs_stays_and_is_none_where_no_line_exists():
    labels, p = made(400, 3)
    weights = np.random.default_rng(3).integers(1, 4, 400)
    repeated = np.repeat(np.arange(400), weights)
    line = calibration.line(labels, p, weights.astype(float))
    assert line == pytest.approx(calibration.line(labels[repeated], p[repeated], np.ones(len(repeated))), abs=1e-6)
    assert calibration.line(np.arange(10) > 4, np.linspace(0.1, 0.9, 10), np.ones(10)) is None
    assert calibration.line(labels, np.full(400, 0.3), np.ones(400)) is None


@pytest.mark.parametrize("seed", range(2))
def test_isotonic_recalibration_undoes_what_no_line_can(seed):
    rng = np.random.default_rng(seed)
    p = rng.random(20_000)
    truth = np.where(p < 0.5, 0.1 + 0.1 * p, 0.4 + 0.5 * (p - 0.5))  # a step, and two slopes
    labels = rng.random(20_000) < truth
    tuning, test = np.split(rng.permutation(20_000), 2)
    steps = calibration.isotonic(labels[tuning], p[tuning], np.ones(10_000))
    line = calibration.line(labels[tuning], p[tuning], np.ones(10_000))
    assert np.abs(steps.moved(p[test]) - truth[test]).mean() < 0.02
    assert np.abs(calibration.moved(p[test], *line) - truth[test]).mean() > 0.03
    assert (np.diff(steps.moved(np.linspace(0, 1, 500))) >= 0).all()


def test_no_stay_is_certain_after_isotonic_recalibration():
    """Within half a stay of all that it is fitted to."""
    p = np.linspace(0.05, 0.95, 50)
    steps = calibration.isotonic(p > 0.5, p, np.ones(50))
    assert steps.moved(np.array([0.0, 0.05, 0.95, 1.0])) == pytest.approx([0.01, 0.01, 0.99, 0.99])
    weights = np.r_[np.ones(25), np.full(25, 3.0)]
    least = 0.5 * (25 + 25 * 9) / (25 + 75) ** 2
    assert calibration.isotonic(p > 0.5, p, weights).moved(p[[0, -1]]) == pytest.approx([least, 1 - least])
    flat = calibration.isotonic(p > 0.7, np.full(50, 0.3), np.ones(50))
    assert flat.moved(np.array([0.0, 0.3, 1.0])) == pytest.approx((p > 0.7).mean())


def test_isotonic_recalibration_weighs_stays():
    labels, p = made(300, 8)
    weights = np.random.default_rng(8).integers(1, 4, 300)
    repeated = np.repeat(np.arange(300), weights)
    one = calibration.isotonic(labels, p, weights.astype(float))
    other = calibration.isotonic(labels[repeated], p[repeated], np.ones(len(repeated)))
    inside = (one.moved(p) > 0.02) & (one.moved(p) < 0.98)
    assert one.moved(p)[inside] == pytest.approx(other.moved(p)[inside])
    assert np.abs(one.moved(p) - calibration.isotonic(labels, p, np.ones(300)).moved(p)).max() > 0.01


def test_in_the_large_alone_is_that_of_all_statistics():
    labels, p = made(200, 6, intercept=0.5)
    weights = np.random.default_rng(6).uniform(0.5, 2, 200)
    drawn = np.random.default_rng(7).integers(0, 4, (20, 200)) * weights
    all_of_them = calibration.statistics(labels, p, weights)(drawn)["calibration_in_the_large"]
    shuffled = np.random.default_rng(8).permutation(200)
    alone = calibration.in_the_large(labels[shuffled], p[shuffled], weights[shuffled])(drawn[:, shuffled])
    assert alone == pytest.approx(all_of_them, abs=1e-9)


@pytest.mark.parametrize("turned", [False, True])
def test_a_line_that_would_turn_ranks_round_moves_no_risks(turned):
    """Its AUROC would be 1 less that of the model, which stands beside it."""
    labels, p = made(slope=-1.0 if turned else 1.0)
    said = paired.Answers(np.arange(len(p)), np.zeros(len(p), np.int64), labels, p)
    about, moved = probabilities._moved(p, said, None, "line")
    assert ("missing" in about) == turned == (moved is None) and ("slope" in about) != turned
