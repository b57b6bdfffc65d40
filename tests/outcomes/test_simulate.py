"""The sampler draws from the model's distribution, and nothing but the prompt, the seed and the copy decides."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.models.sizes import Shape
from ehr_scaling.models.transformer import PAD, Transformer
from ehr_scaling.outcomes import decode, estimators
from ehr_scaling.outcomes.simulate import NEGATIVE, OPEN, POSITIVE, RUNNING, Stops, draw, simulate

VOCAB, PADDED = 40, 48
TINY, DEEP = Shape("tiny", 16, 1, 1, 40), Shape("deep", 32, 2, 2, 88)


@cache
def make(shape=TINY, vocab=VOCAB, padded=PADDED, scale=0.3, **options):
    model = Transformer(shape, vocab, padded, **options)
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), tokens, tokens)["params"]
    if "head" in params:  # it starts at zero, and every distribution would be uniform
        params["head"] = jax.random.normal(jax.random.key(1), params["head"].shape) * scale
    return model, params


@cache
def forward(model):
    return jax.jit(lambda params, tokens: model.apply({"params": params}, tokens, (tokens != PAD).astype(jnp.int32))[0])


def stops(vocab=VOCAB, positive=(), negative=(), end=()):
    return Stops(*(np.isin(np.arange(vocab), ids) for ids in (positive, negative, end)))


def softmax(logits):
    return scipy.special.softmax(np.asarray(logits, np.float64), axis=-1)


def padded_prompts(lengths, width, seed=0):
    rng = np.random.default_rng(seed)
    prompts = np.full((len(lengths), width), PAD, np.int32)
    for row, n in zip(prompts, lengths, strict=True):
        row[width - n :] = rng.integers(1, VOCAB, n)
    return prompts


@pytest.mark.parametrize(
    "shape, options, tolerance",
    [(DEEP, {}, 2e-5), (TINY, {"tied": True}, 2e-5), (TINY, {"dtype": jnp.bfloat16}, 0.05)],
)
def test_decoding_is_the_model(shape, options, tolerance):
    model, params = make(shape, **options)
    rng, copies, room = np.random.default_rng(1), 3, 6
    lengths = (10, 4, 1)
    prompts = padded_prompts(lengths, 10)
    future = rng.integers(1, VOCAB, (9, room)).astype(np.int32)
    step = jax.jit(lambda params, *args: decode.step(model, decode.weights(model, params), *args))
    logits, past = jax.jit(decode.prefill, static_argnums=(0, 3, 4))(model, params, prompts, copies, room)
    decoded = [logits]
    for t in range(room):
        logits, past = step(params, past, future[:, t], 10 + t)
        decoded.append(logits)
    assert logits.dtype == np.float32

    # The same without a cache, and with the padding on the other side: neither may change a logit.
    whole = np.full((9, 16), PAD, np.int32)
    for row in range(9):
        n = lengths[row // copies]
        whole[row, : n + room] = np.concatenate([prompts[row // copies, 10 - n :], future[row]])
    full = np.asarray(forward(model)(params, whole))
    expected = [full[row, lengths[row // copies] - 1 :][: room + 1] for row in range(9)]
    np.testing.assert_allclose(np.stack(decoded, axis=1), np.stack(expected), atol=tolerance)


fast_draw = jax.jit(draw)


def test_draws_follow_the_weights():
    rng = np.random.default_rng(0)
    weights = np.exp(rng.normal(0, 2, 250)).astype(np.float32)
    weights[rng.random(250) < 0.2] = 0
    weights[[0, 249]] = 0
    n = 200_000
    uniform = rng.random(n, np.float32)
    ids = np.concatenate([fast_draw(np.tile(weights, (20_000, 1)), u) for u in uniform.reshape(10, -1)])
    counts = np.bincount(ids, minlength=250)
    assert counts[weights == 0].sum() == 0
    live = weights > 0
    expected = n * weights[live].astype(np.float64) / weights.sum(dtype=np.float64)
    assert scipy.stats.chisquare(counts[live], expected * n / expected.sum()).pvalue > 1e-3


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 16, 17, 47]), st.floats(0, 12))
def test_draw_inverts_the_distribution_function(seed, ids, spread):
    rng = np.random.default_rng(seed)
    weights = np.exp(rng.normal(0, spread, (64, ids))).astype(np.float32) * (rng.random((64, ids)) < 0.7)
    weights[np.arange(64), rng.integers(0, ids, 64)] += 1e-3
    uniform = rng.random(64, np.float32)
    uniform[:3] = 0, 1 - 2**-24, 0.5
    drawn = np.asarray(fast_draw(weights.astype(np.float32), uniform))
    rows = np.arange(64)
    assert (weights[rows, drawn] > 0).all()
    shares = weights.astype(np.float64) / weights.sum(axis=1, keepdims=True, dtype=np.float64)
    above = np.cumsum(shares, axis=1)[rows, drawn]
    assert (uniform <= above + 1e-5).all()
    assert (uniform >= above - shares[rows, drawn] - 1e-5).all()


def test_the_first_token_follows_the_softmax():
    model, params = make(scale=1.0)
    prompts = padded_prompts((7, 3), 8)
    copies = 4000
    futures = simulate(model, params, prompts, stops(), copies=copies, new_tokens=1, context=16, seed=5, batch=2)
    expected = softmax(forward(model)(params, prompts)[:, -1])
    for sample in range(2):
        counts = np.bincount(futures.tokens[sample, :, 0], minlength=PADDED)
        assert counts[PAD] == 0 and counts[VOCAB:].sum() == 0
        p = expected[sample]
        common = p * copies >= 5  # the test's approximation needs some expected in every class: pool the rest
        observed = np.append(counts[common], counts[~common].sum())
        wanted = np.append(p[common], p[~common].sum()) * copies
        keep = wanted > 0
        assert scipy.stats.chisquare(observed[keep], wanted[keep] * copies / wanted.sum()).pvalue > 1e-3


# One shape for the tests that need no other: it is compiled once.
LENGTHS, SHAPE = (8, 5, 2, 7, 6), {"copies": 6, "new_tokens": 8, "context": 16, "batch": 5}
KINDS = stops(positive=[5, 6], negative=range(20, 26), end=[30])


def test_a_future_depends_on_its_prompt_and_copy_alone():
    model, params = make()
    prompts = padded_prompts(LENGTHS, 8)
    whole = simulate(model, params, prompts, KINDS, seed=3, **SHAPE)
    part = simulate(model, params, prompts, KINDS, seed=3, **{**SHAPE, "copies": 2, "batch": 3})
    for name in ("tokens", "lengths", "ended"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[:, :2])
    np.testing.assert_allclose(part.positive, whole.positive[:, :2], rtol=1e-4)
    assert len({tuple(x) for x in whole.tokens.reshape(-1, 8)}) > 25  # copies and samples have keys of their own
    other = simulate(model, params, prompts, KINDS, seed=4, **SHAPE)
    assert (other.tokens != whole.tokens).any()


def test_the_first_token_may_be_restricted():
    model, params = make()
    prompts = padded_prompts(LENGTHS, 8)
    allowed = np.isin(np.arange(VOCAB), [5, 7, 9])
    futures = simulate(model, params, prompts, KINDS, seed=3, first=allowed, **SHAPE)
    assert set(futures.tokens[..., 0].ravel()) == {5, 7, 9}
    assert len(set(futures.tokens[..., 1].ravel())) > 5
    p = softmax(np.where(np.append(allowed, np.zeros(8, bool)), forward(model)(params, prompts)[:, -1], -np.inf))
    at_once = futures.lengths == 1
    assert at_once.any()
    np.testing.assert_allclose(futures.positive[at_once], np.broadcast_to(p[:, 5:6], (5, 6))[at_once], rtol=1e-4)


def test_copies_stop_where_they_should():
    model, params = make(scale=0.05)
    # 23 samples in batches of 5: the last one is filled up, and its filling dropped
    futures = simulate(model, params, padded_prompts((8,) * 23, 8), KINDS, seed=0, **SHAPE)
    assert futures.ended.shape == (23, 6)
    assert set(futures.ended.ravel()) == {RUNNING, POSITIVE, NEGATIVE, OPEN}
    for tokens, length, ended in zip(
        futures.tokens.reshape(-1, 8), futures.lengths.ravel(), futures.ended.ravel(), strict=True
    ):
        drawn, after = tokens[:length], tokens[length:]
        assert (after == PAD).all() and (drawn != PAD).all()
        kind = [next((i for i, ids in enumerate(KINDS, 1) if ids[t]), RUNNING) for t in drawn]
        assert kind[:-1] == [RUNNING] * (length - 1) and kind[-1] == ended
        assert ended != RUNNING or length == 8


def test_both_estimators_are_unbiased():
    # Two tokens that go on (4, 5) and few draws: every future can be listed, and its probability computed exactly.
    model, params = make(vocab=6, padded=16, scale=0.2)
    horizon, copies = 4, 6000
    positive, negative, end = 1, 2, 3
    prompt = np.array([4, 5, 5, 4], np.int32)
    reach = dict.fromkeys((positive, negative, end), 0.0)
    paths = [path for n in range(horizon) for path in itertools.product((4, 5), repeat=n)]
    tokens = np.array([[*prompt, *path, *[PAD] * (horizon - len(path))] for path in paths], np.int32)
    for path, p in zip(paths, softmax(forward(model)(params, tokens)), strict=True):
        alive = np.prod([p[3 + i, token] for i, token in enumerate(path)])
        for token in reach:
            reach[token] += alive * p[3 + len(path), token]
    kinds = stops(6, [positive], [negative], [end])
    futures = simulate(model, params, prompt[None], kinds, copies=copies, new_tokens=horizon, context=8, seed=1)
    for token, kind, sums in ((positive, POSITIVE, futures.positive), (negative, NEGATIVE, futures.negative)):
        exact = reach[token]
        assert 0.05 < exact < 0.6
        for values in (futures.ended[0] == kind, sums[0]):
            assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(copies)
    ratio = reach[positive] / (reach[positive] + reach[negative])
    assert estimators.monte_carlo(futures)[0] == pytest.approx(ratio, abs=0.03)
    assert estimators.scope(futures)[0] == pytest.approx(ratio, abs=0.01)
    assert estimators.undetermined(futures) == pytest.approx(1 - reach[positive] - reach[negative], abs=0.03)


def test_scope_is_less_noisy_than_counting():
    model, params = make()
    prompts = np.repeat(padded_prompts((8,), 8), 200, axis=0)  # 200 tries at one and the same probability
    futures = simulate(model, params, prompts, KINDS, seed=0, **SHAPE)
    assert np.nanstd(estimators.monte_carlo(futures)) > 2 * np.std(estimators.scope(futures))


def test_prompt_and_future_must_fit_the_context():
    model, params = make()
    with pytest.raises(ValueError, match="do not fit a context of 16"):
        simulate(model, params, padded_prompts((8,), 8), stops(), copies=1, new_tokens=9, context=16, seed=0)


def test_estimates_of_samples_that_end_nowhere():
    model, params = make()
    futures = simulate(model, params, padded_prompts(LENGTHS, 8), stops(), seed=0, **SHAPE)
    assert np.isnan(estimators.monte_carlo(futures)).all()
    assert (estimators.scope(futures) == 0.5).all()
    assert estimators.undetermined(futures) == 1.0
