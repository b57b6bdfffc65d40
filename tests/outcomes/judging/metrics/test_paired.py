"""Two models on the same stays: what resampling both together knows that two intervals do not."""

import numpy as np
import pytest
from scipy.special import ndtri
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from ehr_scaling.errors import UserError
from ehr_scaling.outcomes.judging.metrics import decision
from ehr_scaling.outcomes.judging.metrics.paired import Answers, compare, net_benefit


def answers(n=400, seed=0, better=0.0):
    """Two models that differ in noise of their own, and `better` in how much the second knows."""
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.3
    shared = rng.normal(0, 1, n)
    p = [1 / (1 + np.exp(1 - knows * labels - shared - 0.4 * rng.normal(0, 1, n))) for knows in (0.8, 0.8 + better)]
    subjects, times = rng.integers(0, n // 2, n), np.arange(n) * 1000
    return [Answers(subjects, times, labels, q) for q in p]


def test_differences_are_those_of_the_two():
    first, second = answers(better=0.5)
    result = compare(first, second, draws=200)
    for name, measure in (
        ("auroc", roc_auc_score), ("auprc", average_precision_score), ("brier", brier_score_loss)
    ):  # fmt: skip
        one, other = (measure(a.labels, a.probabilities) for a in (first, second))
        assert result[name]["first"] == pytest.approx(one) and result[name]["second"] == pytest.approx(other)
        assert result[name]["difference"] == pytest.approx(other - one)
        assert result[name]["low"] < other - one < result[name]["high"]
    closed = result["delong"]
    assert closed["difference"] == pytest.approx(result["auroc"]["difference"])
    assert (closed["low"], closed["high"]) == pytest.approx((result["auroc"]["low"], result["auroc"]["high"]), abs=0.01)
    assert closed["p_value"] < 0.01 and result["auroc"]["p_value"] == pytest.approx(2 / 201)
    assert (result["n"], result["positives"]) == (400, first.labels.sum())
    # The other way round it is the other way round
    back = compare(second, first, draws=200)
    assert back["brier"]["low"] == pytest.approx(-result["brier"]["high"])
    assert back["delong"]["p_value"] == pytest.approx(closed["p_value"])


def test_rows_may_come_in_another_order():
    first, second = answers()
    order = np.random.default_rng(1).permutation(400)
    shuffled = Answers(*(x[order] for x in second))
    assert compare(first, shuffled, draws=20) == compare(first, second, draws=20)


def test_a_model_is_not_better_than_itself():
    first, _ = answers()
    result = compare(first, first, draws=50)
    for name in ("auroc", "auprc", "brier"):
        assert (result[name]["difference"], result[name]["p_value"]) == (0, 1)
    assert (result["delong"]["error"], result["delong"]["p_value"]) == (0, 1)


def test_p_values_are_right_as_often_as_they_say():
    """Of two equal models they are below 1/10 in a tenth of the cases, and of a better one far more often."""
    for better, low, high in ((0.0, 0.04, 0.17), (0.5, 0.8, 1.0)):
        found = [compare(*answers(200, seed, better), draws=100, seed=seed) for seed in range(150)]
        for p in ([x["delong"]["p_value"] for x in found], [x["auroc"]["p_value"] for x in found]):
            assert low <= np.mean(np.array(p) < 0.1) <= high


def test_weights_follow_their_rows():
    first, second = answers()
    weights = np.where(first.labels, 1.0, 5.0) * (1 + np.arange(400) / 400)
    result = compare(first, second, weights=weights, draws=20)
    for name, measure in (("auprc", average_precision_score), ("brier", brier_score_loss)):
        for which, a in (("first", first), ("second", second)):
            expected = measure(a.labels, a.probabilities, sample_weight=weights)
            assert result[name][which] == pytest.approx(expected)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: Answers(*(x[1:] for x in a)), "do not answer as many stays"),
        (lambda a: a._replace(subject_ids=np.r_[a.subject_ids[1:], 7777]), "answer different stays"),
        (lambda a: a._replace(times=a.times + np.eye(1, 400, 3, dtype=int)[0]), "answer different stays"),
        (lambda a: a._replace(labels=a.labels ^ (np.arange(400) < 2)), "under 10 of 400 stays have another label"),
    ],
    ids=["fewer", "others", "other times", "other outcome"],
)
def test_answers_to_other_questions_are_refused(change, message):
    first, second = answers()
    with pytest.raises(UserError, match=message):
        compare(first, change(second))


def test_stays_that_cannot_be_told_apart_or_say_nothing():
    first, second = answers()
    doubled = [a._replace(subject_ids=a.times // 2000, times=a.times * 0) for a in (first, second)]
    back = Answers(*(x[::-1] for x in doubled[1]))
    with pytest.raises(UserError, match="200 predictions have the subject and time of another"):
        compare(doubled[0], back)
    assert compare(*doubled, draws=5)["patients"] == 200  # in the same order there is no doubt
    sick = [a._replace(labels=np.ones(400, bool)) for a in (first, second)]
    with pytest.raises(UserError, match="all of them have it"):
        compare(*sick)
    one = compare(*[a._replace(subject_ids=a.subject_ids * 0) for a in (first, second)])
    assert one["interval_missing"] == "fewer than two patients with the outcome"
    assert one["auroc"]["low"] is one["auroc"]["p_value"] is one["delong"]["error"] is None


def test_net_benefits_differ_by_what_each_has_alone():
    first, second = answers(n=3000, better=0.5)
    weights = np.where(first.labels, 1.0, 2.5)
    curves = [
        {
            point["threshold"]: point["net_benefit"]["value"]
            for point in decision.evaluate(
                first.labels, said.probabilities, first.subject_ids, weights=weights, draws=2
            )["curve"]
        }
        for said in (first, second)
    ]
    thresholds = sorted(set(curves[0]) & set(curves[1]))
    assert 0.3 in thresholds and len(thresholds) > 20
    shuffled = Answers(*(x[np.random.default_rng(1).permutation(3000)] for x in second))
    for other in (second, shuffled):
        result = net_benefit(first, other, thresholds, weights=weights, draws=200)
        assert [part["threshold"] for part in result] == thresholds
        for part in result:
            t = part["threshold"]
            assert part["value"] == pytest.approx(curves[1][t] - curves[0][t])
            assert part["low"] < part["value"] < part["high"]
    assert result[thresholds.index(0.3)]["low"] > 0  # the second knows more
    back = net_benefit(second, first, thresholds, weights=weights, draws=200)
    for there, again in zip(result, back, strict=True):
        assert again["low"] == pytest.approx(-there["high"])


def test_few_that_one_of_both_flags_alone_are_taken_for_ten():
    labels, n, subjects = np.arange(300) < 60, 300, np.arange(300)
    # The second flags six stays more, and three less, all without the outcome
    one, other = np.where(labels, 0.9, 0.0), np.where(labels, 0.9, 0.0)
    other[100:106], one[200:203] = 0.9, 0.9
    first, second = (Answers(subjects, subjects, labels, p) for p in (one, other))
    for threshold in (0.75, 0.01):
        odds = threshold / (1 - threshold)
        half = ndtri(0.975) * np.sqrt(2 * 10 * (1 + odds**2)) / n  # of both, with the outcome and without
        (at,) = net_benefit(first, second, [threshold], draws=100)
        assert at["value"] == pytest.approx(-3 / 300 * odds)
        assert (at["low"], at["high"]) == pytest.approx((at["value"] - half, at["value"] + half))
        # Of risks that never differ nothing is known to differ, and not known to be the same
        (same,) = net_benefit(first, first, [threshold], draws=100)
        assert (same["value"], same["low"], same["high"]) == pytest.approx((0, -half, half))
    # How few they are is not to be seen: with two more flagged it is as wide
    other[106:108] = 0.9
    (wider,) = net_benefit(first, second._replace(probabilities=other), [0.75], draws=100)
    assert wider["high"] - wider["low"] == pytest.approx(2 * ndtri(0.975) * np.sqrt(2 * 10 * 10) / n)


def test_intervals_of_a_difference_in_net_benefit_hold_the_truth():
    truth = np.mean([net_benefit(*answers(20_000, seed), [0.3], draws=1)[0]["value"] for seed in range(900, 910)])
    for n, low, high in ((4000, 0.89, 0.99), (400, 0.93, 1.0)):  # of few stays, few whom one alone flags
        held = 0
        for seed in range(150):
            (part,) = net_benefit(*answers(n, seed), [0.3], draws=150, seed=seed)
            held += part["low"] <= truth <= part["high"]
        assert low <= held / 150 <= high


def test_too_few_have_no_interval():
    subjects, labels = np.arange(30), np.arange(30) < 1
    first, second = (Answers(subjects, subjects, labels, np.linspace(*ends, 30)) for ends in ((0, 1), (1, 0)))
    (part,) = net_benefit(first, second, [0.5])
    assert part["low"] is None and part["high"] is None and part["value"] == pytest.approx(2 / 30)
    with pytest.raises(UserError, match="none of them have it"):
        net_benefit(*(said._replace(labels=np.zeros(30, bool)) for said in (first, second)), [0.5])
