"""Decision curves and tables of thresholds against closed forms, scikit-learn and simulations."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.metrics import confusion_matrix

from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.judging.metrics import calibration, decision, metrics
from ehr_scaling.outcomes.judging.metrics.decision import HARMS, HELPS, OPEN, SAME, SUPPRESSED, evaluate

A, B = 1.2, 6.0  # of the Beta that true risks are drawn from


def drawn(n, seed=0):
    """Labels of patients whose true risk is the prediction."""
    rng = np.random.default_rng(seed)
    p = rng.beta(A, B, n)
    return rng.random(n) < p, p


def truth(t):
    """Net benefit at thresholds of the true risks: P(D, p ≥ t) − P(not D, p ≥ t) · odds, in closed form."""
    t = np.asarray(t)
    with_outcome = A / (A + B) * beta.sf(t, A + 1, B)  # E[p; p ≥ t] of a Beta
    return with_outcome - (beta.sf(t, A, B) - with_outcome) * t / (1 - t)


def of_all(t, prevalence=A / (A + B)):
    return prevalence - (1 - prevalence) * np.asarray(t) / (1 - np.asarray(t))


def column(result, name, end="value"):
    return np.array([point[name][end] for point in result["curve"]])


def thresholds(result):
    return np.array([point["threshold"] for point in result["curve"]])


def test_true_risks_have_the_net_benefit_of_the_closed_form():
    labels, p = drawn(300_000)
    result = evaluate(labels, p, np.arange(len(p)), draws=20)
    t = thresholds(result)
    near = t < 0.6
    assert near.sum() > 25
    np.testing.assert_allclose(column(result, "net_benefit")[near], truth(t[near]), atol=0.002)
    np.testing.assert_allclose(column(result, "treat_all")[near], of_all(t[near]), atol=0.004)
    best = np.maximum(of_all(t), 0)
    np.testing.assert_allclose(column(result, "difference")[near], (truth(t) - best)[near], atol=0.003)
    # True risks are never worse than treating all or none, and by how much they are better says the closed form.
    assert result["prevalence"]["value"] == pytest.approx(A / (A + B), abs=0.002)
    words = {point["threshold"]: point["word"] for point in result["curve"]}
    assert words[0.1] == words[0.2] == words[0.3] == HELPS and HARMS not in words.values()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(60, 300), st.floats(0.15, 0.85))
def test_treat_all_a_perfect_model_and_one_that_tells_nobody_apart(seed, n, prevalence):
    rng = np.random.default_rng(seed)
    labels, patients = rng.random(n) < prevalence, rng.integers(0, n, n)
    if min(labels.sum(), (~labels).sum()) < 30:
        return
    weights, share = rng.choice([1.0, 3.0], n), None
    share = np.average(labels, weights=weights)
    perfect = evaluate(labels, labels.astype(float), patients, weights=weights, draws=5)
    np.testing.assert_allclose(column(perfect, "net_benefit"), share)
    np.testing.assert_allclose(column(perfect, "treat_all"), of_all(thresholds(perfect), share), atol=1e-12)
    assert set(decision.THRESHOLDS) <= set(thresholds(perfect))
    for point in perfect["curve"]:
        best = max(point["treat_all"]["value"], 0)
        assert point["difference"]["value"] == pytest.approx(point["net_benefit"]["value"] - best)
    flat = evaluate(labels, np.full(n, share), patients, weights=weights, draws=30)
    np.testing.assert_allclose(column(flat, "difference"), 0, atol=1e-12)
    assert (column(flat, "difference", "high") <= 1e-12).all()  # whoever is drawn, it is one of both
    assert all(point["word"] in (SAME, OPEN) for point in flat["curve"])
    np.testing.assert_allclose(
        column(flat, "net_benefit"),
        np.where(thresholds(flat) <= share, of_all(thresholds(flat), share), 0),
        atol=1e-12,
    )


def test_risks_that_are_far_too_high_harm():
    labels, p = drawn(5000, 1)
    harmed = evaluate(labels, np.sqrt(np.sqrt(p)), np.arange(5000), draws=100)
    words = {point["threshold"]: point["word"] for point in harmed["curve"]}
    assert words[0.5] == words[0.6] == HARMS
    for point in harmed["curve"]:
        low, value, high = (point["difference"][end] for end in ("low", "value", "high"))
        assert low <= value <= high
        assert (point["word"] == HELPS) == (low > 0) and (point["word"] == HARMS) == (high < 0)


def test_intervals_cover_the_truth_also_where_treating_all_is_as_good_as_none():
    asked = (0.1, A / (A + B), 0.3)
    covered = {name: np.zeros(3) for name in ("net_benefit", "treat_all", "difference")}
    best = np.maximum(of_all(asked), 0)
    known = {"net_benefit": truth(asked), "treat_all": of_all(asked), "difference": truth(asked) - best}
    with pytest.MonkeyPatch.context() as patched:
        for name, chosen in (("THRESHOLDS", asked), ("RISKS", ()), ("BUDGETS", ())):
            patched.setattr(decision, name, chosen)
        for seed in range(200):
            labels, p = drawn(1500, seed)
            result = evaluate(labels, p, np.arange(1500), draws=200, seed=seed)
            assert len(result["curve"]) == 3
            for name, count in covered.items():
                low, high = (column(result, name, end) for end in ("low", "high"))
                count += (low <= known[name]) & (known[name] <= high)
    for name, count in covered.items():
        assert ((count / 200 >= 0.9) & (count / 200 <= 0.99)).all(), (name, count)


def test_intervals_of_the_table_cover():
    alerts = beta.sf(0.2, A, B)
    sensitivity = beta.sf(0.2, A + 1, B)
    ppv = sensitivity * A / (A + B) / alerts
    known = {"alerts": alerts, "sensitivity": sensitivity, "ppv": ppv, "number_needed": 1 / ppv}
    covered = dict.fromkeys(known, 0)
    for seed in range(150):
        labels, p = drawn(500, seed)
        row = evaluate(labels, p, np.arange(500), draws=150, seed=seed)["table"][2]
        assert (row["by"], row["asked"], row["threshold"]) == ("risk", 0.2, 0.2)
        for name, value in known.items():
            covered[name] += row[name]["low"] <= value <= row[name]["high"]
    assert all(0.89 <= count / 150 <= 0.99 for count in covered.values()), covered


def test_samples_by_outcome_are_weighted_back_to_the_cohort():
    """Each stay without the outcome that is left stands for five alike: the numbers are those of the cohort."""
    labels, p = drawn(2000, 3)
    times = np.where(labels, 1, 5)
    again = np.repeat(np.arange(2000), times)
    cohort = evaluate(labels[again], p[again], again, draws=10)
    sample = evaluate(labels, p, np.arange(2000), weights=times.astype(float), draws=10)
    assert len(sample["curve"]) > 15
    for one, other in zip(sample["curve"] + sample["table"], cohort["curve"] + cohort["table"], strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, dict):
                assert all(value[end] == pytest.approx(other[name][end]) for end in value), name
            else:
                assert value == other[name]
    unweighted = evaluate(labels, p, np.arange(2000), draws=10)
    assert abs(unweighted["prevalence"]["value"] - cohort["prevalence"]["value"]) > 0.05
    assert unweighted["table"][1]["sensitivity"]["value"] == cohort["table"][1]["sensitivity"]["value"]


@pytest.mark.parametrize("seed", range(3))
def test_the_table_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels, p = drawn(3000, seed)
    p = p.round(2)  # ties
    weights = rng.choice([1.0, 2.5], 3000)
    rows = evaluate(labels, p, np.arange(3000), weights=weights, draws=20)["table"]
    assert [(row["by"], row["asked"]) for row in rows] == [
        *(("risk", t) for t in decision.RISKS),
        *(("budget", share) for share in decision.BUDGETS),
    ]
    told = [row for row in rows if "threshold" in row]
    assert len(told) >= 5
    for row in told:
        flagged = p >= row["threshold"]
        tn, fp, fn, tp = confusion_matrix(labels, flagged, sample_weight=weights).ravel()
        expected = {
            "alerts": (tp + fp) / weights.sum(), "sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp),
            "ppv": tp / (tp + fp), "npv": tn / (tn + fn), "number_needed": (tp + fp) / tp,
        }  # fmt: skip
        for name, value in expected.items():
            assert row[name]["value"] == pytest.approx(value), name
            assert row[name]["low"] < value < row[name]["high"], name
        if row["by"] == "budget":  # the most that fit: with the next lower score they would be too many
            lower = p >= p[p < row["threshold"]].max()
            assert np.average(flagged, weights=weights) <= row["asked"] < np.average(lower, weights=weights)


def test_resamples_are_of_patients_and_those_of_the_other_metrics():
    labels, p = drawn(900, 5)
    patients = np.random.default_rng(5).integers(0, 400, 900)
    one = evaluate(labels, p, patients, draws=1, seed=4)
    weights = next(metrics.bootstrap_weights(patients, 1, 4))[0]
    again = evaluate(labels[weights > 0], p[weights > 0], patients[weights > 0], weights=weights[weights > 0], draws=1)
    assert one["prevalence"]["low"] == pytest.approx(again["prevalence"]["value"])
    point = {x["threshold"]: x["net_benefit"]["value"] for x in again["curve"]}
    both = [x for x in one["curve"] if x["threshold"] in point and x["net_benefit"]["low"] == x["net_benefit"]["high"]]
    assert len(both) > 3
    for x in both:
        assert x["net_benefit"]["low"] == pytest.approx(point[x["threshold"]])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(30, 500), st.floats(0.05, 0.9), st.integers(1, 3))
def test_no_small_group_lies_between_two_thresholds(seed, n, prevalence, stays):
    rng = np.random.default_rng(seed)
    labels, p, patients = rng.random(n) < prevalence, rng.beta(1, 3, n), rng.integers(0, n // stays + 1, n)
    if metrics.one_class(labels):
        return
    result = evaluate(labels, p, patients, draws=2)
    told = [row["threshold"] for row in result["table"] if "threshold" in row]
    edges = np.unique([-1.0, *told, *thresholds(result), 2.0])
    for low, high in pairwise(edges):
        between = (p >= low) & (p < high)
        for kind in (labels, ~labels):
            assert not 0 < len(np.unique(patients[between & kind])) < calibration.SMALLEST or between.all()
    of_grid = set(decision.THRESHOLDS) & set(thresholds(result).tolist())
    assert len(of_grid) + result["thresholds_suppressed"] == len(decision.THRESHOLDS)
    of_table = {row["threshold"] for row in result["table"] if "threshold" in row}
    assert set(thresholds(result).tolist()) - of_grid <= of_table <= set(thresholds(result).tolist()) | {0.0, 1.0}
    assert all(row["suppressed"] == SUPPRESSED and len(row) == 3 for row in result["table"] if "suppressed" in row)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(100, 1500), st.sampled_from([0.3, 0.9, 2.0]), st.booleans())
def test_nor_between_one_of_a_score_and_one_of_its_recalibration(seed, n, slope, steps):
    """A line keeps ranks, and steps make ties of them: whom either flags is told by both."""
    rng = np.random.default_rng(seed)
    labels, p = rng.random(n) < 0.2, rng.beta(1, 3, n)
    if metrics.one_class(labels):
        return
    moved = calibration.moved(p, -0.4, slope)
    moved = np.round(moved, 1) if steps else moved
    first = evaluate(labels, p, np.arange(n), draws=2)
    second = evaluate(labels, moved, np.arange(n), beside=(p, first), draws=2)
    rank = np.argsort(p, kind="stable")
    cuts = {0, n}
    for risks, result in ((p, first), (moved, second)):
        told = [row["threshold"] for row in result["table"] if row.get("threshold") is not None]
        flagged = {int((risks >= t).sum()) for t in (*told, *thresholds(result))}
        cuts |= {n - count for count in flagged}
    for low, high in pairwise(sorted(cuts)):
        for kind in (labels[rank], ~labels[rank]):
            assert not 0 < kind[low:high].sum() < calibration.SMALLEST or high - low == n


@pytest.mark.parametrize("prevalence", [0.02, 0.2, 0.9])
def test_bins_of_calibration_tell_nothing_beside_thresholds(prevalence):
    rng = np.random.default_rng(3)
    n = 1500
    p = np.clip(rng.beta(2 * prevalence, 2 * (1 - prevalence), n), 0, 1).round(3)
    labels, patients = rng.random(n) < p, rng.integers(0, 1000, n)
    result = evaluate(labels, p, patients, draws=2)
    bins = decision.calibration_curve(labels, p, patients, result)
    assert sum(one["n"] for one in bins) == n
    ends = n - np.cumsum([0, *(one["n"] for one in bins)])
    flagged = {0, n, *(int((p >= t).sum()) for t in thresholds(result))}
    flagged |= {int((p >= row["threshold"]).sum()) for row in result["table"] if row.get("threshold") is not None}
    assert set(ends.tolist()) <= flagged and len(bins) <= calibration.BINS + 1
    assert len(bins) > 2 or prevalence == 0.02
    order = np.argsort(p, kind="stable")
    first = slice(0, bins[0]["n"])
    assert bins[0]["observed"] == pytest.approx(labels[order][first].mean())
    assert bins[0]["patients"] == len(np.unique(patients[order][first]))


def test_thresholds_of_the_table_come_first_and_then_those_far_apart():
    labels, p = drawn(3000, 2)
    result = evaluate(labels, p, np.arange(3000), draws=5)
    assert [row["threshold"] for row in result["table"][:4]] == list(decision.RISKS)
    assert set(decision.RISKS) <= set(thresholds(result).tolist())
    assert 5 < result["thresholds_suppressed"] < 55
    # Of many patients all are told
    labels, p = drawn(200_000, 2)
    assert evaluate(labels, p, np.arange(200_000), draws=2)["thresholds_suppressed"] <= 6


def test_a_count_of_none_is_not_known_to_be_none():
    """300 patients under the threshold of whom none had the outcome: resamples say so for sure, and it is not."""
    labels = np.r_[np.zeros(300, bool), np.arange(300) < 150]
    p = np.r_[np.full(300, 0.001), np.full(300, 0.5)]
    result = evaluate(labels, p, np.arange(600), draws=100)
    (point,) = (x for x in result["curve"] if x["threshold"] == 0.005)
    gain = 300 / 600 * 0.005 / 0.995
    assert point["difference"]["value"] == pytest.approx(gain)
    assert point["difference"]["low"] == pytest.approx(gain + np.log(0.025) / 600) and point["word"] == OPEN
    (point,) = (x for x in result["curve"] if x["threshold"] == 0.2)
    assert point["word"] == HELPS  # at these odds 3.7 patients would not undo it
    row = result["table"][2]
    assert row["sensitivity"] == {"value": 1.0, "low": calibration.wilson(1.0, 150)[0], "high": 1.0}
    assert row["npv"] == {"value": 1.0, "low": calibration.wilson(1.0, 300)[0], "high": 1.0}
    assert row["ppv"]["low"] < row["ppv"]["value"] == 0.5 < row["ppv"]["high"]
    # The mirror image: all who are flagged have the outcome, or none of them
    for outcome, threshold in ((True, 0.9), (False, 0.01)):
        labels = np.r_[np.arange(300) < 30, np.full(60, outcome)]
        p = np.r_[np.full(300, 0.001), np.full(60, 0.95)]
        curve = evaluate(labels, p, np.arange(360), draws=100)["curve"]
        (point,) = (x for x in curve if x["threshold"] == threshold)
        value, low, high = (point["net_benefit"][end] for end in ("value", "low", "high"))
        if outcome:
            assert low == pytest.approx(value + 9 * np.log(0.025) / 360) and point["word"] == HELPS
        else:
            assert high == pytest.approx(value - np.log(0.025) / 360)


def test_more_of_one_risk_than_the_budget_are_no_alert():
    labels, _ = drawn(400, 1)
    rows = evaluate(labels, np.full(400, 0.2), np.arange(400), draws=5)["table"]
    assert all(row["missing"] == decision.TIED for row in rows[4:])
    nobody = rows[3]  # whose risk is 30 %
    assert nobody["alerts"]["value"] == nobody["sensitivity"]["value"] == 0 and nobody["specificity"]["value"] == 1
    assert nobody["ppv"] == {"value": None, "low": None, "high": None} == nobody["number_needed"]
    assert nobody["sensitivity"]["high"] > 0.01


def test_what_cannot_be_judged_says_so():
    labels = np.r_[np.ones(40, bool), np.zeros(60, bool)]
    alone = evaluate(labels, labels * 0.5, np.r_[np.zeros(40, int), np.arange(60)])
    assert alone["interval_missing"] == "fewer than two patients with the outcome"
    for point in alone["curve"]:
        assert point["difference"]["low"] is None and point["word"] == OPEN
    with pytest.raises(UserError, match="all of them have it"):
        evaluate(labels[:40], np.full(40, 0.1), np.arange(40))
    for wrong in (1.5, -0.1, np.nan):
        with pytest.raises(ValueError, match="not within 0 and 1"):
            evaluate(labels, np.full(100, wrong), np.arange(100))


def test_the_order_of_the_stays_is_no_matter():
    labels, p = drawn(700, 9)
    patients = np.random.default_rng(1).integers(0, 500, 700)
    shuffled = np.random.default_rng(2).permutation(700)
    one, other = (evaluate(labels[rows], p[rows], patients[rows], draws=20) for rows in (np.arange(700), shuffled))
    for name in ("net_benefit", "difference"):
        for end in ("value", "low", "high"):
            np.testing.assert_allclose(column(one, name, end), column(other, name, end))
