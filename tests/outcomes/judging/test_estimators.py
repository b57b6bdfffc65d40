"""Estimates against a chain whose probabilities are known exactly."""

import numpy as np
import pytest

from ehr_scaling.outcomes.judging import estimators
from ehr_scaling.outcomes.judging.metrics import metrics
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE, RUNNING, Futures
from launch.benchmarks import known_truth

METHODS = {"monte_carlo": estimators.monte_carlo, "scope": estimators.scope, "reach": estimators.reach}
CHAINS = {
    "tokens alone": known_truth.random_chain(1),
    "open at the horizon": known_truth.random_chain(2, horizon=9),
    "negative at the horizon": known_truth.random_chain(3, horizon=9, at_horizon=NEGATIVE),
    "positive at the horizon": known_truth.random_chain(4, horizon=9, at_horizon=POSITIVE),
    "few draws": known_truth.random_chain(5, draws=4, horizon=6, at_horizon=NEGATIVE),
}
# Tokens that are the outcome with a probability, as bins of values that a threshold cuts
SHARES = np.array([0, 0, 0, 0, 0.3, 0, 0.8, 0])
CHAINS |= {f"{name}, shares": CHAINS[name]._replace(shares=SHARES) for name in list(CHAINS)}


def futures(ended, positive=0.0, negative=0.0, survival=0.0, hours=0.0, late=False, share=None, k=0, outcomes=1):
    """Futures of which outcome k is as given, (n, C) or a number each; those of other outcomes are nonsense."""
    ended = np.asarray(ended, np.int8)

    def one(values, dtype=np.float32):
        out = np.full((*ended.shape, outcomes), 77, dtype)
        out[..., k] = values
        return out

    return Futures(
        tokens=np.zeros((*ended.shape, 3), np.int32),
        lengths=np.full(ended.shape, 3, np.int32),
        ended=one(ended, np.int8),
        by_horizon=one(late, bool),
        hours=one(hours),
        positive=one(positive),
        negative=one(negative),
        survival=one(survival),
        share=one((ended == POSITIVE) & ~np.asarray(late) if share is None else share),
    )


def listed(chain):
    """What `known_truth.exact` says, by listing every future."""
    ended = np.zeros(4)

    def go(p, t, hours, probability):
        for token, q in enumerate(p):
            if q == 0:
                continue
            later = hours + chain.hours[token]
            if chain.shares is not None and chain.kinds[token] == RUNNING:
                ended[POSITIVE] += probability * q * chain.shares[token]
                q *= 1 - chain.shares[token]
            if chain.kinds[token] != RUNNING:
                ended[chain.kinds[token]] += probability * q
            elif chain.horizon is not None and later > chain.horizon:
                ended[chain.at_horizon] += probability * q
            elif t + 1 == chain.draws:
                ended[RUNNING] += probability * q
            else:
                go(chain.transition[token], t + 1, later, probability * q)

    go(chain.start, 0, 0, 1.0)
    return ended


def test_the_exact_answer_is_the_sum_over_all_futures():
    for chain in (CHAINS["few draws"], CHAINS["few draws, shares"], known_truth.random_chain(6, draws=5)):
        np.testing.assert_allclose(known_truth.exact(chain), listed(chain), rtol=1e-12)
        assert known_truth.exact(chain).min() > 1e-4


@pytest.mark.parametrize("name", CHAINS)
def test_estimates_are_unbiased_and_know_their_error(name):
    chain, n, copies = CHAINS[name], 4000, 12
    truth = known_truth.exact(chain)
    assert truth[POSITIVE] > 0.01 and truth.sum() == pytest.approx(1)
    drawn = {suppress: known_truth.simulate(chain, n, copies, 10 + suppress, suppress) for suppress in (False, True)}
    for method, estimate in METHODS.items():
        sample = drawn[method == "reach"]
        p, error = estimate(sample, 0, of_determined=False)
        assert p.dtype == error.dtype == np.float64 and p.shape == error.shape == (n,)
        assert abs(p.mean() - truth[POSITIVE]) < 4 * p.std() / np.sqrt(n), method
        assert np.mean(error**2) == pytest.approx(p.var(), rel=0.15), method
        assert p.std() > 0
        # The ratio is consistent, not unbiased: many copies as one sample.
        one = Futures(*(x.reshape(1, n * copies, *x.shape[2:]) for x in sample))
        p, error = estimate(one, 0, of_determined=True)
        assert abs(p[0] - truth[POSITIVE] / (truth[POSITIVE] + truth[NEGATIVE])) < 4 * error[0], method
        assert 0 < error[0] < 0.02
    undetermined = estimators.undetermined(drawn[False], 0)
    assert undetermined.open == pytest.approx(truth[OPEN], abs=0.01)
    assert undetermined.bounded == pytest.approx(truth[RUNNING], abs=0.01)


def test_what_the_horizon_decides_must_be_told():
    chain = CHAINS["positive at the horizon"]
    truth = known_truth.exact(chain)[POSITIVE]
    for suppress, estimate in ((False, estimators.scope), (True, estimators.reach)):
        sample = known_truth.simulate(chain, 500, 8, 0, suppress)
        assert sample.by_horizon.any()
        untold = sample._replace(by_horizon=np.zeros_like(sample.by_horizon))
        assert estimate(untold, 0, of_determined=False).probability.mean() < truth - 0.05


def test_what_went_on_after_a_share_counts_for_the_rest_alone():
    """To let it count whole, as if a cut bin were none, or to stop at it, as if it were the outcome, is biased."""
    chain = CHAINS["negative at the horizon, shares"]
    truth = known_truth.exact(chain)[POSITIVE]
    sample = known_truth.simulate(chain, 4000, 12, 3)
    assert ((sample.share > 0) & (sample.share < 1)).any()
    sets = [
        np.ceil(SHARES),
        np.round(SHARES),
    ]  # every cut bin is the outcome; those are that are so more often than not
    whole = [known_truth.exact(chain._replace(shares=those))[POSITIVE] for those in sets]
    for other in (*whole, known_truth.exact(chain._replace(shares=None))[POSITIVE]):
        assert abs(other - truth) > 0.02
    p, _ = estimators.scope(sample, 0, of_determined=False)
    untold, _ = estimators.scope(sample._replace(share=np.zeros_like(sample.share)), 0)
    ratio = truth / (truth + known_truth.exact(chain)[NEGATIVE])
    assert abs(p.mean() - truth) < 4 * p.std() / np.sqrt(len(p)) < 0.005 < ratio - untold.mean()


def test_errors_of_ratios():
    chain = CHAINS["negative at the horizon"]
    sample = known_truth.simulate(chain, 2000, 40, 3)
    for estimate in (estimators.monte_carlo, estimators.scope):
        p, error = estimate(sample, 0)
        assert np.sqrt(np.mean(error**2)) == pytest.approx(p.std(), rel=0.1)


def test_scope_and_reach_need_fewer_tokens_than_counting():
    chain = known_truth.random_chain(1, ending=0.03, draws=40)
    truth, judged = known_truth.exact(chain)[POSITIVE], known_truth.judge(chain, 20_000, 0)
    for method in judged.values():
        assert abs(method.probability - truth) < 4 * method.error
    for method in (judged["scope"], judged["reach"]):
        assert judged["monte_carlo"].variance_at_equal_tokens > 2 * method.variance_at_equal_tokens
    # By its definition: variance of a copy times its tokens
    sample = known_truth.simulate(chain, 1, 20_000, 0)
    counted, tokens = sample.ended[0, :, 0] == POSITIVE, sample.lengths[0].mean()
    assert judged["monte_carlo"].variance_at_equal_tokens == pytest.approx(counted.var(ddof=1) * tokens)
    assert judged["monte_carlo"].error == pytest.approx(np.sqrt(counted.var(ddof=1) / 20_000))


def test_by_hand():
    mixed = futures([[POSITIVE, NEGATIVE, NEGATIVE, OPEN], [RUNNING, OPEN, OPEN, OPEN]], k=1, outcomes=3)
    p, error = estimators.monte_carlo(mixed, 1)
    assert p[0] == pytest.approx(1 / 3) and np.isnan(p[1])
    assert error[0] == pytest.approx(np.sqrt(1 / 3 * 2 / 3 / 3 * 4 / 3))  # p(1 − p)/m, with n/(n − 1) of the 4 copies
    assert np.isnan(error[1])
    assert estimators.undetermined(mixed, 1) == (4 / 8, 1 / 8, 1 / 2)

    part = futures([[POSITIVE, NEGATIVE, OPEN, RUNNING]], share=[[1, 0.25, 0.5, 0.75]])
    assert estimators.monte_carlo(part, 0).probability == pytest.approx(2.5 / 3.25)
    late = futures([[NEGATIVE, POSITIVE]], positive=0.25, share=0.25, late=True)
    assert estimators.scope(late, 0).probability == pytest.approx(1.25 / 2)  # 0.25 + 0.25, 0.75 | 0.75 by the horizon
    assert estimators.monte_carlo(late, 0).probability == pytest.approx(1.25 / 2)

    late = [[False, True], [False, False], [True, False]]
    kinds = [[OPEN, POSITIVE], [OPEN, POSITIVE], [NEGATIVE, POSITIVE]]
    sums = futures(kinds, positive=[[0.1, 0.3]] * 3, negative=[[0.4, 0.2]] * 3, late=late)
    assert estimators.scope(sums, 0).probability == pytest.approx([1.4 / 2, 0.4, 0.4 / 2])
    products = futures(kinds, survival=[[np.log(0.8), np.log(0.5)]] * 3, late=late)
    assert estimators.reach(products, 0).probability == pytest.approx([1.2 / 2, 0.7 / 2, 0.7 / 2])
    shares = estimators.reach(products, 0, of_determined=True).probability
    assert shares == pytest.approx([1, 1, 0.7 / 1.5])


def test_one_copy_has_no_known_error():
    single = futures([[POSITIVE], [NEGATIVE]], positive=0.2, negative=0.3, survival=-0.1)
    for estimate in METHODS.values():
        for of_determined in (True, False):
            p, error = estimate(single, 0, of_determined=of_determined)
            assert np.isfinite(p).all() and np.isnan(error).all()
    # Many copies of which one says something are no better, for counting
    assert np.isnan(estimators.monte_carlo(futures([[POSITIVE, OPEN, OPEN]]), 0).error[0])
    assert estimators.monte_carlo(futures([[POSITIVE, POSITIVE, OPEN]]), 0) == (1.0, 0.0)


@pytest.mark.parametrize("method", [estimators.scope, estimators.monte_carlo])
def test_where_nothing_is_known_stands_the_mean_of_the_others(method):
    p, error = method(futures([[OPEN, RUNNING], [POSITIVE, NEGATIVE]], positive=[[0, 0], [1, 0]]), 0)
    assert np.isnan(p[0]) and np.isnan(error[0]) and np.isfinite(p[1])
    found, base = estimators.filled(np.array([np.nan, 0.1, 0.3, np.nan]), np.array([9.0, 3.0, 1.0, 1.0]))
    np.testing.assert_allclose(found, [0.15, 0.1, 0.3, 0.15])
    assert base == pytest.approx(0.15)
    assert estimators.filled(np.full(2, np.nan))[1] == 0.5


def test_stays_of_unknown_risk_are_not_ranked_above_all_others():
    """Of a rare outcome one half would do so, and a perfect predictor would look worse than chance tells."""
    rng = np.random.default_rng(0)
    risk = rng.beta(1, 12, 20_000)
    labels = rng.random(20_000) < risk
    said = np.where(rng.random(20_000) < 0.2, np.nan, risk)
    half, filled = np.where(np.isnan(said), 0.5, said), estimators.filled(said)[0]
    assert metrics.auroc(labels, filled) > metrics.auroc(labels, half) + 0.02
    assert np.mean((filled - labels) ** 2) < np.mean((half - labels) ** 2) - 0.02


def test_days_of_the_copies_that_came_to_an_end():
    ended = [[POSITIVE, NEGATIVE, RUNNING], [OPEN, RUNNING, POSITIVE], [OPEN, OPEN, OPEN]]
    value, error = estimators.days(futures(ended, hours=[[24, 72, 1e6], [5, 6, 36], [1, 2, 3]]), 0)
    np.testing.assert_allclose(value, [2.0, 1.5, np.nan])
    np.testing.assert_allclose(error, [1.0, np.nan, np.nan])  # sd √2, over √2


def test_classes_named_by_the_next_token():
    next_token = np.array([[0.5, 0.1, 0.2, 0.2, 0.0], [0.9, 0.0, 0.0, 0.0, 0.1], [1.0, 0, 0, 0, 0]], np.float32)
    p, total = estimators.class_probabilities(next_token, np.array([-1, 2, 0, 2, 3]))
    np.testing.assert_allclose(p[:2], [[0.4, 0, 0.6, 0], [0, 0, 0, 1]], rtol=1e-6)
    assert np.isnan(p[2]).all()
    np.testing.assert_allclose(total, [0.5, 0.1, 0], rtol=1e-6)
    value, error = estimators.expectation(p, np.array([1.0, 10, 2, 5]))
    np.testing.assert_allclose(value, [1.6, 5, np.nan], rtol=1e-6)
    np.testing.assert_array_equal(error, [0, 0, np.nan])
