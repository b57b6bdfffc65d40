"""The share of copies in which an outcome has come, over time: against what is known in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ehr_scaling.outcomes.pages.incidence import cumulative
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE, RUNNING


def test_golden():
    # Eight copies: at 2 h the outcome, at 3 h one is lost, at 4 h its opposite, at 5 h the outcome twice.
    found = cumulative(
        np.array([2, 3, 4, 5, 5, 9, 9, 9.0]),
        np.array([POSITIVE, OPEN, NEGATIVE, POSITIVE, POSITIVE, NEGATIVE, NEGATIVE, NEGATIVE]),
    )
    assert found.times.tolist() == [0, 2, 4, 5, 9]
    # S falls from 1 to 7/8 at 2 h, then by a sixth to 35/48 at 4 h; a fifth of that each comes at 5 h
    np.testing.assert_allclose(found.share, [0, 1 / 8, 1 / 8, 1 / 8 + 35 / 48 * 2 / 5, 1 / 8 + 35 / 48 * 2 / 5])
    assert found.until == np.inf


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from([POSITIVE, NEGATIVE])), min_size=1, max_size=40))
def test_without_censoring_it_is_a_share_with_its_exact_interval(copies):
    hours, ended = np.array(copies).T
    found = cumulative(hours.astype(float), ended)
    for time, share, low, high in zip(*found[:4], strict=True):
        hits = int(((hours <= time) & (ended == POSITIVE)).sum())
        exact = stats.binomtest(hits, len(copies)).proportion_ci(method="exact")
        assert (share, low, high) == pytest.approx((hits / len(copies), exact.low, exact.high), abs=1e-6)
    assert found.until == np.inf


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from([POSITIVE, OPEN, RUNNING])), min_size=2, max_size=40))
def test_without_a_competing_risk_it_is_kaplan_and_meier_with_greenwood(copies):
    hours, ended = np.array(copies).T
    hours = hours.astype(float)
    found = cumulative(hours, ended)
    came = ended == POSITIVE
    km = stats.ecdf(stats.CensoredData(uncensored=hours[came], right=hours[~came])).sf
    np.testing.assert_allclose(found.share, 1 - km.evaluate(found.times), atol=1e-9)
    for i, time in enumerate(found.times):
        p, steps = found.share[i], [t for t in np.unique(hours[came]) if t <= time]
        n = np.array([(hours >= t).sum() for t in steps], float)
        d = np.array([(came & (hours == t)).sum() for t in steps], float)
        if 0 < p < 1:
            effective = p / (1 - p) / np.sum(d / (n * (n - d)))  # p(1 − p) over Greenwood's variance
            low = stats.beta.ppf(0.025, p * effective, effective * (1 - p) + 1)
            high = stats.beta.ppf(0.975, p * effective + 1, effective * (1 - p))
            assert (found.low[i], found.high[i]) == pytest.approx((low, high), abs=1e-6)
        assert found.low[i] <= p <= found.high[i]


def test_its_interval_covers_the_truth_under_censoring():
    rng, n, at, covered, shares = np.random.default_rng(0), 24, 8.0, 0, []
    truth = (1 / 20) / (1 / 20 + 1 / 12) * (1 - np.exp(-(1 / 20 + 1 / 12) * at))
    for _ in range(300):
        times = np.stack([rng.exponential(mean, n) for mean in (20, 12, 25)])
        found = cumulative(times.min(axis=0), np.array([POSITIVE, NEGATIVE, OPEN])[times.argmin(axis=0)])
        i = np.searchsorted(found.times, at, side="right") - 1
        covered += found.low[i] <= truth <= found.high[i]
        shares.append(found.share[i])
    assert np.mean(shares) == pytest.approx(truth, abs=4 * np.std(shares) / np.sqrt(300))
    assert 0.93 <= covered / 300 <= 1


def test_it_ends_where_nobody_is_watched_any_more():
    found = cumulative(np.array([1.0, 2.0, 3.0, 5.0]), np.array([POSITIVE, RUNNING, RUNNING, RUNNING]))
    assert found.until == 5.0
    assert cumulative(np.array([1.0, 9.0]), np.array([RUNNING, POSITIVE])).until == np.inf
    nothing = cumulative(np.array([3.0, 4.0]), np.array([RUNNING, OPEN]))
    assert (nothing.times.tolist(), nothing.share.tolist(), nothing.until) == ([0.0], [0.0], 4.0)
    assert nothing.high[0] == pytest.approx(1 - 0.025**0.5)  # two copies without it
