"""Many questions judged along drawn futures: decided as the sampler decides each alone, and true of a known chain."""

import jax
import numpy as np
import pytest

from ehr_scaling.models.sizes import SHAPES
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.outcomes.judging import counting, estimators
from ehr_scaling.outcomes.sampler import simulate
from ehr_scaling.outcomes.sampler.simulate import NEGATIVE, OPEN, POSITIVE, RUNNING, Clock, SimulationRequest, Stops
from launch.benchmarks import known_truth

VOCAB, WIDTH, SAMPLES, COPIES, DRAWS = 37, 24, 5, 6, 30
HOURS = {10: (1.0, 2.0), 11: (5.0, 10.0), 12: (20.0, np.inf)}  # id of an interval: mean hours, end
CODES = ((5,), (7, 8), (5, 8, 9), (6, 12))  # 6 ends the watch too, and 12 takes time
ENDS = {2: OPEN, 6: NEGATIVE, 9: NEGATIVE}
HORIZONS = np.array([12.0, 40.0, 100.0], np.float32)


@pytest.fixture(scope="module")
def drawn():
    """A model, what is asked of it, and futures that no code ends."""
    model = Transformer(SHAPES["1.7k"], VOCAB, 40)
    tokens = np.ones((1, 4), np.int32)
    params = jax.jit(model.init)(jax.random.key(0), tokens, tokens)["params"]
    rng = np.random.default_rng(0)
    hours, ends = np.zeros((2, VOCAB), np.float32)
    for token, (mean, end) in HOURS.items():
        hours[token], ends[token] = mean, end
    request = SimulationRequest(
        prompts=rng.integers(1, VOCAB, (SAMPLES, WIDTH)).astype(np.int32),
        ids=np.arange(SAMPLES, dtype=np.uint64),
        gaps=np.array([0, 0.3, 0.7, 3, 11], np.float32),
        horizons=np.full((SAMPLES, 1), HORIZONS[-1]),
        stops=_stops([((), tuple(ENDS))]),
        clock=Clock(hours, ends, 0.5),
        context=WIDTH + 8,  # futures slide
        copies=COPIES,
        new_tokens=DRAWS,
        context_tokens=2,
        seed=3,
    )
    return model, params, request, simulate.simulate(model, params, request)


def _mask(*tokens):
    out = np.zeros(VOCAB, bool)
    out[list(tokens)] = True
    return out


def _stops(outcomes):
    """Of (positive, negative) tokens; what leaves open is that of ENDS."""
    positive, negative, open_ = (np.zeros((len(outcomes), VOCAB), bool) for _ in range(3))
    for k, (codes, ending) in enumerate(outcomes):
        positive[k] = _mask(*codes)
        negative[k] = _mask(*(t for t in ending if ENDS[t] == NEGATIVE and t not in codes))
        open_[k] = _mask(*(t for t in ending if ENDS[t] == OPEN and t not in codes))
    return Stops(positive, negative, open_, np.full(len(outcomes), NEGATIVE, np.int8))


def _ends():
    ends = np.zeros(VOCAB, np.int8)
    ends[list(ENDS)] = list(ENDS.values())
    return ends


def _count(request, futures):
    sets = np.stack([_mask(*codes) for codes in CODES])
    return counting.count(futures.tokens, request.gaps, request.clock, sets, _ends(), HORIZONS)


def test_questions_are_decided_as_the_sampler_decides_each_of_them_alone(drawn):
    """The same copies, with the same seed, each ended by its own question: to the last copy."""
    model, params, request, futures = drawn
    counts = _count(request, futures)
    seen = set()
    for q, codes in enumerate(CODES):
        for h, horizon in enumerate(HORIZONS):
            alone = request._replace(stops=_stops([(codes, tuple(ENDS))]), horizons=np.full((SAMPLES, 1), horizon))
            of_task = simulate.simulate(model, params, alone)
            shorter = of_task.lengths <= futures.lengths
            assert shorter.all()  # the pool goes on where the question ended a copy, and is the same until then
            within = np.arange(DRAWS) < of_task.lengths[..., None]
            np.testing.assert_array_equal(of_task.tokens[within], futures.tokens[within])
            ended = of_task.ended[..., 0]
            seen |= set(ended.ravel().tolist())
            np.testing.assert_array_equal(counts.positive[:, q, h], (ended == POSITIVE).sum(axis=1))
            np.testing.assert_array_equal(counts.negative[:, q, h], (ended == NEGATIVE).sum(axis=1))
            plain = estimators.monte_carlo(of_task, 0).probability
            total = counts.positive[:, q, h] + counts.negative[:, q, h]
            with np.errstate(invalid="ignore"):
                np.testing.assert_allclose(counts.positive[:, q, h] / total, plain)
    assert seen == {RUNNING, POSITIVE, NEGATIVE, OPEN}


def test_parts_of_the_copies_are_counted_as_all(drawn, monkeypatch):
    _, _, request, futures = drawn
    whole = _count(request, futures)
    monkeypatch.setattr(counting, "_COPIES_AT_ONCE", 2 * COPIES)
    for one, other in zip(whole, _count(request, futures), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_token_may_be_of_many_codes():
    sets = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 0, 1]], bool)
    layers = counting._layers(sets)
    of_token = [sorted(code for code in column if code < 3) for column in layers.T.tolist()]
    assert of_token == [[], [0, 1, 2], [0], [2]]


def deciding(chain, codes, positive):
    """The chain, of which none of the codes but one decides."""
    kinds = chain.kinds.copy()
    kinds[list(codes)] = RUNNING
    if positive is not None:
        kinds[positive] = POSITIVE
    return chain._replace(kinds=kinds)


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_of_a_chain_are_its_true_ones(seed):
    """Every horizon from one pool: two codes, that of the chain and one of the tokens that go on."""
    horizons = (6, 20)
    chain = known_truth.random_chain(seed, draws=40, horizon=horizons[-1], at_horizon=NEGATIVE, ending=0.3)
    codes = (1, 5)
    pool = deciding(chain, codes, None)
    futures = known_truth.simulate(pool, 1, 20_000, seed)
    hours = chain.hours.astype(np.float32)
    sets = np.zeros((2, len(hours)), bool)
    sets[[0, 1], codes] = True
    ends = np.where(np.isin(pool.kinds, (NEGATIVE, OPEN)), pool.kinds, 0).astype(np.int8)
    counts = counting.count(
        futures.tokens, np.zeros(1, np.float32), Clock(hours, hours, 0.5), sets, ends, np.array(horizons, np.float32)
    )
    for q, code in enumerate(codes):
        for h, horizon in enumerate(horizons):
            ended = known_truth.exact(deciding(chain, codes, code)._replace(horizon=horizon))
            truth = ended[POSITIVE] / (ended[POSITIVE] + ended[NEGATIVE])
            said = counting.shares(counts.positive[:, q, h], counts.negative[:, q, h])
            assert abs(said.probability[0] - truth) < 4 * said.error[0] + 1e-4 and 0.001 < truth < 0.999


def test_shares_of_stays_recover_risks_of_which_few_copies_tell():
    """Risks of a beta distribution: nearer to the truth than counts are, as often within two errors as they should."""
    rng = np.random.default_rng(0)
    risks = rng.beta(0.3, 6.0, 4000)
    copies = rng.integers(5, 21, 4000)
    positive = rng.binomial(copies, risks)
    said = counting.shares(positive, copies - positive)
    plain = positive / copies
    assert ((said.probability - risks) ** 2).mean() < 0.75 * ((plain - risks) ** 2).mean()
    assert said.probability.mean() == pytest.approx(risks.mean(), abs=0.003)
    assert 0.9 < (np.abs(said.probability - risks) < 2 * said.error).mean() < 0.99
    same = copies == 20
    np.testing.assert_array_equal(
        np.argsort(said.probability[same], kind="stable"), np.argsort(positive[same], kind="stable")
    )


def test_shares_where_little_is_known():
    none = counting.shares(np.zeros(3, int), np.array([10, 10, 0]))
    assert (none.probability > 0).all() and (none.probability < 0.05).all() and (none.error > 0).all()
    silent = counting.shares(np.zeros(2, int), np.zeros(2, int))
    np.testing.assert_allclose(silent.probability, 0.5)
    one = counting.shares(np.array([1, 0, 1]), np.array([0, 1, 0]))
    assert ((one.probability > 0) & (one.probability < 1)).all() and one.probability[0] > one.probability[1]
    apart = counting.shares(np.array([20, 0] * 50), np.array([0, 20] * 50))
    assert apart.probability[0] > 0.95 and apart.probability[1] < 0.05
