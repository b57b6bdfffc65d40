"""Packed = unpacked, cached = uncached, and what a token may see."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehr_scaling.models import attention
from ehr_scaling.models.mixing import MIXINGS
from ehr_scaling.models.sizes import SHAPES
from ehr_scaling.models.transformer import Transformer, empty_cache, padded_vocab, token_losses

VOCAB, PADDED = 40, 48


def filled(model):
    """Parameters, also of what starts at zero: or every logit would be equal and every test below would pass."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(model.clone(attention="xla").init)(jax.random.key(0), tokens, tokens)["params"]
    some = lambda x, key: jax.random.normal(jax.random.key(key), x.shape) * 0.3  # noqa: E731
    if not model.tied:
        params["head"] = some(params["head"], 1)
    if model.mixing != "none":
        params["blocks"]["mixing"] = some(params["blocks"]["mixing"], 2)
    return {"params": params}


@pytest.fixture(
    scope="module",
    params=[("14k", "none", "xla"), ("25k", "none", "xla"), ("14k", "conv", "xla"), ("25k", "conv", "blocked")],
    ids="-".join,
)
def setting(request):
    size, mixing, kernel = request.param
    model = Transformer(SHAPES[size], VOCAB, PADDED, mixing=mixing, attention=kernel)
    return jax.jit(model.apply), filled(model), model


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    """In rows as short as these."""
    monkeypatch.setattr(attention, "_block", lambda context: 8)


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
    apply, params, model = setting
    tokens = random_tokens(2, 16)
    segments = np.ones((2, 16), np.int32)
    segments[0, :7] = 0  # padded on the left, as prompts of unequal length are
    full, _ = apply(params, tokens, segments)
    logits, cache = apply(params, tokens[:, :9], segments[:, :9], empty_cache(model, 2, 16), 0)
    np.testing.assert_allclose(logits[1], full[1, :9], atol=2e-5)
    np.testing.assert_allclose(logits[0, 7:], full[0, 7:9], atol=2e-5)
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
    logits, _ = jax.jit(model.apply)(params, tokens, np.ones((1, 8), np.int32))
    np.testing.assert_allclose(token_losses(logits, tokens), np.log(VOCAB - 1), rtol=1e-6)


def test_mixing_begins_as_the_model_without():
    """Of one seed: the same parameters, and to the last bit the same logits."""
    tokens, segments = random_tokens(2, 12), np.repeat([[1, 2]], [4, 8], axis=1).repeat(2, axis=0)
    models = [Transformer(SHAPES["3.5k"], VOCAB, PADDED, tied=True, mixing=mixing) for mixing in MIXINGS]
    plain, mixed = (jax.jit(model.init)(jax.random.key(0), tokens, segments) for model in models)
    assert not mixed["params"]["blocks"].pop("mixing").any()
    jax.tree.map(np.testing.assert_array_equal, mixed, plain)
    without, conv = (jax.jit(model.apply) for model in models)
    mixed["params"]["blocks"]["mixing"] = np.zeros((2, 3, 12), np.float32)
    np.testing.assert_array_equal(conv(mixed, tokens, segments)[0], without(plain, tokens, segments)[0])


def test_an_unknown_mixing_is_an_error():
    with pytest.raises(ValueError, match="unknown mixing 'convolution'"):
        filled(Transformer(SHAPES["3.5k"], VOCAB, PADDED, mixing="convolution"))


def test_tied_head_is_the_embedding():
    model = Transformer(SHAPES["3.5k"], VOCAB, PADDED, tied=True)
    tokens = random_tokens(1, 8)
    params = jax.jit(model.init)(jax.random.key(0), tokens, tokens)
    assert "head" not in params["params"]
    assert np.isfinite(jax.jit(model.apply)(params, tokens, np.ones((1, 8), np.int32))[0]).all()


@pytest.mark.parametrize("mixing", MIXINGS)
def test_bfloat16_keeps_parameters_and_logits_in_float32(mixing):
    model = Transformer(SHAPES["25k"], VOCAB, PADDED, dtype=jnp.bfloat16, mixing=mixing)
    tokens, segments = random_tokens(2, 8), np.ones((2, 8), np.int32)
    params = filled(model)
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
    logits, _ = jax.jit(model.apply)(params, tokens, segments)
    assert logits.dtype == np.float32
    exact, _ = jax.jit(model.clone(dtype=jnp.float32).apply)(params, tokens, segments)
    np.testing.assert_allclose(jax.nn.softmax(logits), jax.nn.softmax(exact), atol=0.03)


def test_padded_vocab():
    assert [padded_vocab(v, 16) for v in (1, 16, 17)] == [16, 16, 32]


def test_losses_are_those_of_the_logits(setting):
    apply, params, model = setting
    tokens, segments = random_tokens(2, 13), np.repeat([[1, 2]], [4, 9], axis=1).repeat(2, axis=0)
    logits, _ = apply(params, tokens[:, :-1], segments[:, :-1])
    expected = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), tokens[:, 1:, None], axis=-1)[..., 0]
    mask = np.arange(24).reshape(2, 12) % 3 > 0
    losses = jax.jit(partial(model.apply, method="losses"))(params, tokens, segments)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    total = jax.jit(partial(model.apply, method="loss_sum"))(params, tokens, segments, mask)
    assert float(total) == pytest.approx(expected[mask].sum(), rel=1e-5)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_what_is_computed_again_is_the_same(mixing):
    tokens = random_tokens(2, 9)
    segments = np.ones_like(tokens)
    model_of = partial(Transformer, SHAPES["3.5k"], VOCAB, PADDED, tied=True, mixing=mixing)
    params = filled(model_of())

    def gradient(remat):
        model = model_of(remat=remat)
        return jax.grad(lambda p: model.apply(p, tokens, segments, method="losses").mean())

    plain = jax.jit(gradient("none"))(params)
    products = str(jax.make_jaxpr(gradient("none"))(params)).count("dot_general")
    # "dots" computes the two products of attention again, which have batch dimensions; "full" also those of qkv, out
    # and gate_up. What comes out of the last, the backward pass does not ask for.
    for remat, more in (("dots", 2), ("full", 5)):
        assert str(jax.make_jaxpr(gradient(remat))(params)).count("dot_general") == products + more
        again = jax.jit(gradient(remat))(params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), plain, again)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_layers_in_a_row_are_layers_in_a_loop(mixing):
    tokens = random_tokens(2, 17)
    segments, mask = np.ones_like(tokens), np.ones((2, 16), bool)
    model = Transformer(SHAPES["151k"], VOCAB, PADDED, tied=True, dropout=0.1, mixing=mixing)
    params = filled(model)

    def program(unroll):
        how = {"rngs": {"dropout": jax.random.key(1)}, "deterministic": False, "method": "loss_sum"}
        loss = lambda p: model.clone(unroll=unroll).apply(p, tokens, segments, mask, **how)  # noqa: E731
        return jax.jit(jax.value_and_grad(loss)).lower(params)

    loop, row = program(False), program(True)
    assert loop.as_text().count("stablehlo.while") > row.as_text().count("stablehlo.while")
    for a, b in zip(*(jax.tree.leaves(one.compile()(params)) for one in (loop, row)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_dropout_is_of_the_output_of_a_branch():
    rate, tokens = 0.3, random_tokens(4, 16)
    model = Transformer(SHAPES["14k"], VOCAB, PADDED, dropout=rate)
    params = jax.jit(model.init)(jax.random.key(0), tokens, tokens)["params"]
    params["blocks"]["out"]["kernel"] *= 0.0  # only the MLP's branch is left

    @partial(jax.jit, static_argnums=1)
    def added(key, deterministic=False):
        _, seen = model.apply(
            {"params": params},
            tokens,
            np.ones_like(tokens),
            deterministic=deterministic,
            rngs={"dropout": jax.random.key(key)},
            capture_intermediates=True,
        )
        stream, branch = seen["intermediates"]["blocks"], seen["intermediates"]["blocks"]["down"]
        return jnp.diff(stream["__call__"][0][0], axis=0)[0], branch["__call__"][0][0][1]

    difference, branch = added(0)
    kept = np.abs(difference) > 1e-6
    assert (~kept).mean() == pytest.approx(rate, abs=0.03)
    np.testing.assert_allclose(difference[kept], branch[kept] / (1 - rate), atol=1e-5)
    assert (np.abs(added(1)[0]) > 1e-6).astype(int).tolist() != kept.astype(int).tolist()
    np.testing.assert_allclose(*added(0, True), atol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_no_dropout_adds_nothing_to_the_program(rate):
    tokens = random_tokens(1, 8)
    model = Transformer(SHAPES["3.5k"], VOCAB, PADDED, dropout=rate)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)
    rngs = {"dropout": jax.random.key(0)}
    program = jax.make_jaxpr(lambda p: model.apply(p, tokens, tokens, deterministic=False, rngs=rngs))(params)
    assert ("random_bits" in str(program)) == (rate > 0)


@pytest.mark.parametrize(("tied", "mixing"), [(False, "none"), (True, "none"), (True, "conv")])
def test_mup_is_the_standard_parametrization_at_its_base(tied, mixing):
    tokens = random_tokens(1, 8)

    def program(**options):
        model = Transformer(SHAPES["151k"], VOCAB, PADDED, tied, mixing=mixing, **options)
        return str(jax.make_jaxpr(model.init)(jax.random.key(0), tokens, tokens))

    assert program(parametrization="mup", base=(64, 3)) == program()
    assert program(parametrization="mup", base=(32, 3)) != program()
