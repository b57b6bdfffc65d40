"""What a task leaves out of account in its futures: probabilities given a measurement, or given that a gap went by.

Chains stand in for a model: their future is known exactly, whatever is asked of it.
"""

import numpy as np

from ehr_scaling.data.vocabulary import Vocabulary
from ehr_scaling.outcomes import together
from ehr_scaling.outcomes.asking import label_files
from ehr_scaling.outcomes.judging import estimators
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE, RUNNING, Futures
from launch.benchmarks import known_truth

# Of `known_truth.random_chain`: what ends a future, and tokens of 1, 2, 3 and 4 hours
TOKENS = ("PAD", "DEATH", "HOME", "LOST", "A", "B", "C", "D")
VOCABULARY = Vocabulary(TOKENS, (1,) * len(TOKENS), (), {}, (), {})


def task(**fields):
    given = {"name": "t", "positive": ("DEATH",), "negative": ("HOME",), "open": ("LOST",), "horizon_days": 9 / 24}
    return label_files.from_labels("labels", **(given | fields))


def listed(chain, accepts):
    """Probability of the outcome among futures that count, by listing every one of them.

    Args: accepts, of a future's tokens, the hours at its end, and what ended it, whether it counts.
    """
    ended = np.zeros(4)

    def go(p, hours, drawn, probability):
        for token in np.flatnonzero(p):
            later, q = hours + chain.hours[token], probability * p[token]
            kind, tokens = chain.kinds[token], (*drawn, TOKENS[token])
            if kind == RUNNING and later > chain.horizon:
                kind = chain.at_horizon
            if kind != RUNNING or len(tokens) == chain.draws:
                ended[kind] += q * accepts(tokens, later, kind)
            else:
                go(chain.transition[token], later, tokens, q)

    go(chain.start, 0, (), 1.0)
    return ended[POSITIVE] / (ended[POSITIVE] + ended[NEGATIVE])


def judged(futures):
    return {method: getattr(estimators, method)(futures, 0) for method in ("scope", "monte_carlo")}


def test_futures_without_what_a_task_requires_say_nothing():
    chain = known_truth.random_chain(3, horizon=9, draws=10, at_horizon=NEGATIVE)
    futures = known_truth.simulate(chain, 1, 60_000, 0)
    asked = together.as_asked(futures, task(requires=("C",)), VOCABULARY)
    truth = listed(chain, lambda tokens, hours, kind: kind != NEGATIVE or tokens[-1] == "HOME" or "C" in tokens)
    plain = listed(chain, lambda *future: True)
    for method, (p, error) in judged(asked).items():
        assert abs(p[0] - truth) < 4 * error[0] < 0.03 < truth - plain, method
    few = together.as_asked(known_truth.simulate(chain, 4_000, 2, 1), task(requires=("C",)), VOCABULARY)
    silent = np.isin(few.ended, (OPEN, RUNNING)).all(axis=(1, 2))
    p = estimators.scope(few, 0).probability
    assert 0.05 < silent.mean() < 0.9 and np.isnan(p[silent]).all() and not np.isnan(p[~silent]).any()
    assert (asked.ended != futures.ended).any() and ((asked.ended == futures.ended) | (asked.ended == OPEN)).all()


def test_what_is_decided_in_a_gap_says_nothing():
    """The gap's end is an outcome beside: of the same futures, with its horizon, which leaves it open."""
    chain = known_truth.random_chain(2, horizon=9, draws=10, at_horizon=NEGATIVE, ending=0.5)
    n, gap = 60_000, 4
    whole = known_truth.simulate(chain, 1, n, 0)
    within = known_truth.simulate(chain._replace(horizon=gap, at_horizon=OPEN), 1, n, 0)
    same = np.arange(chain.draws) < within.lengths[..., None]
    np.testing.assert_array_equal(within.tokens[same], whole.tokens[same])
    both = Futures(*whole[:2], *(np.concatenate(pair, axis=-1) for pair in zip(whole[2:], within[2:], strict=True)))
    asked = together.as_asked(both, task(gap=float(gap)), VOCABULARY)
    assert asked.ended.shape == (1, n, 1)

    def after(tokens, hours, kind):
        return hours > gap  # of the last token, an interval or, in no time, what ended it

    truth, plain = listed(chain, after), listed(chain, lambda *future: True)
    for method, (p, error) in judged(asked).items():
        assert abs(p[0] - truth) < 4 * error[0] < 0.02 < abs(truth - plain), method


def test_a_gap_may_be_of_any_task():
    """Of one with negative tokens, and of one that its horizon alone decides; the end of the gap is the horizon."""
    for fields in ({}, {"negative": (), "at_horizon": "negative"}, {"horizon_days": None}):
        gapped = task(**{"horizon_days": 2.0, "gap": 12.0} | fields)
        (within,) = together.within_gap(gapped)
        assert (within.horizon, within.gap, within.positive) == (0.5, 0.0, gapped.positive)
    assert together.within_gap(task()) == []


def test_a_task_that_leaves_nothing_out_has_its_futures_as_they_are():
    futures = known_truth.simulate(known_truth.random_chain(1, horizon=9), 5, 3, 0)
    for mine, same in zip(together.as_asked(futures, task(), VOCABULARY), futures, strict=True):
        np.testing.assert_array_equal(mine, same)
