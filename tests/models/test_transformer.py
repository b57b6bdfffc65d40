"""Packed = unpacked, cached = uncached, and what a token may see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehr_scaling.models.sizes import SHAPES
from ehr_scaling.models.transformer import Transformer, empty_cache, padded_vocab, token_losses

VOCAB, PADDED = 40, 48


@pytest.fixture(scope="module", params=["14k", "25k"])
def setting(request):
    shape = SHAPES[request.param]
    model = Transformer(shape, VOCAB, PADDED)
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), tokens, tokens)
    # The head starts at zero: fill it, or every logit would be equal and every test below would pass.
    params["params"]["head"] = jax.random.normal(jax.random.key(1), params["params"]["head"].shape) * 0.3
    return jax.jit(model.apply), params, shape


def random_tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(1, VOCAB, shape).astype(np.int32)


def test_packed_is_unpacked(setting):
    apply, params, _ = setting
    lengths = (5, 9, 7)
    tokens = random_tokens(1, 24)
    segments = np.zeros((1, 24), np.int32)
    segments[0, :21] = np.repeat([7, 3, 11], lengths)  # the last three are padding
    packed, _ = apply(params, tokens, segments)
    start = 0
    for length in lengths:
        part = tokens[:, start : start + length]
        alone, _ = apply(params, part, np.ones_like(part))
        np.testing.assert_allclose(packed[:, start : start + length], alone, atol=2e-5)
        start += length


def test_a_token_sees_its_past_and_nothing_else(setting):
    apply, params, _ = setting
    tokens = random_tokens(1, 12)
    segments = np.repeat([[1, 2]], 6, axis=1).reshape(1, 12)
    before, _ = apply(params, tokens, segments)
    changed = tokens.copy()
    changed[0, 8] = changed[0, 8] % (VOCAB - 1) + 1
    after, _ = apply(params, changed, segments)
    moved = np.abs(np.asarray(before - after)).max(axis=-1)[0] > 1e-6
    assert moved.tolist() == [False] * 8 + [True] * 4  # itself and later, in the second patient only


def test_cached_is_uncached(setting):
    apply, params, shape = setting
    tokens = random_tokens(2, 16)
    segments = np.ones((2, 16), np.int32)
    segments[0, :5] = 0  # padded on the left, as prompts of unequal length are
    full, _ = apply(params, tokens, segments)
    logits, cache = apply(params, tokens[:, :9], segments[:, :9], empty_cache(shape, 2, 16), 0)
    np.testing.assert_allclose(logits[1], full[1, :9], atol=2e-5)
    np.testing.assert_allclose(logits[0, 5:], full[0, 5:9], atol=2e-5)
    for t in range(9, 16):
        logits, cache = apply(params, tokens[:, t : t + 1], segments[:, t : t + 1], cache, t)
        np.testing.assert_allclose(logits[:, 0], full[:, t], atol=2e-5)


def test_padding_ids_cannot_be_drawn(setting):
    apply, params, _ = setting
    logits, _ = apply(params, random_tokens(1, 8), np.ones((1, 8), np.int32))
    probability = np.asarray(jax.nn.softmax(logits))
    assert (probability[..., 0] == 0).all()
    assert (probability[..., VOCAB:] == 0).all()
    assert (probability[..., 1:VOCAB] > 0).all()


def test_an_untrained_model_is_uniform():
    model = Transformer(SHAPES["3.5k"], VOCAB, PADDED)
    tokens = random_tokens(1, 8)
    params = jax.jit(model.init)(jax.random.key(0), tokens, tokens)
    logits, _ = model.apply(params, tokens, np.ones((1, 8), np.int32))
    np.testing.assert_allclose(token_losses(logits, tokens), np.log(VOCAB - 1), rtol=1e-6)


def test_tied_head_is_the_embedding():
    model = Transformer(SHAPES["3.5k"], VOCAB, PADDED, tied=True)
    tokens = random_tokens(1, 8)
    params = jax.jit(model.init)(jax.random.key(0), tokens, tokens)
    assert "head" not in params["params"]
    assert np.isfinite(model.apply(params, tokens, np.ones((1, 8), np.int32))[0]).all()


def test_bfloat16_keeps_parameters_and_logits_in_float32():
    model = Transformer(SHAPES["25k"], VOCAB, PADDED, dtype=jnp.bfloat16)
    tokens = random_tokens(2, 8)
    params = jax.jit(model.init)(jax.random.key(0), tokens, tokens)
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert model.apply(params, tokens, np.ones((2, 8), np.int32))[0].dtype == np.float32


def test_padded_vocab():
    assert [padded_vocab(v, 16) for v in (1, 16, 17)] == [16, 16, 32]
