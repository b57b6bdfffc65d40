"""Gradients written by hand are those that JAX would write."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehr_scaling.models import layers, loss

VOCAB, PADDED, WIDTH = 40, 48, 8


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_same(got, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, expected)


def assert_gradients_as_of(plain, function, *args, **tolerance):
    """Of a sum with random weights of all that comes out, for every argument, with and without vmap."""

    def scored(f):
        def score(*args):
            out = jnp.stack(jax.tree.leaves(f(*args)))
            return jnp.sum(out * random(*out.shape, seed=9))

        return jax.value_and_grad(score, tuple(range(len(args))))

    got, expected = (jax.jit(scored(f))(*args) for f in (function, plain))
    assert_same(got, expected, **tolerance)
    members = tuple(jnp.stack([x, 2 * x]) for x in args)
    together = jax.jit(jax.vmap(scored(function)))(*members)
    assert_same(jax.tree.map(lambda y: y[0], together), expected, **tolerance)


@pytest.mark.parametrize("parts, out", [(1, 5), (3, 4), (2, 600)])  # the last is wide enough for a transposed copy
def test_a_product_has_its_gradient(parts, out):
    def plain(x, kernel):
        return tuple(x @ kernel[:, n] for n in range(parts))

    x, kernel = random(2, 7, WIDTH), random(WIDTH, parts, out, seed=1)
    assert_gradients_as_of(plain, layers.dense, x, kernel, rtol=1e-4, atol=1e-4)


def test_the_gate_has_its_gradient():
    gate, up = 3 * random(2, 7, WIDTH), random(2, 7, WIDTH, seed=1)
    assert_gradients_as_of(lambda g, u: jax.nn.silu(g) * u, layers.swiglu, gate, up, rtol=1e-5, atol=1e-5)


def test_the_norm_has_its_gradient():
    def plain(x, scale):
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale

    # Where the stream is as small as epsilon's root, epsilon has its part in the slope.
    x = jnp.array([[1.0], [1e-3], [100.0]]) * random(2, 3, WIDTH)
    assert_gradients_as_of(plain, layers.rms_norm, x, random(WIDTH, seed=1), rtol=1e-4, atol=1e-4)


def plain(x, head, targets, weights):
    return jnp.sum(weights * loss.token_losses(loss.logits(x, head, VOCAB), targets))


def total(x, head, targets, weights):
    return loss.loss_sum(x, head, targets, weights, VOCAB)


# Whole, in pieces, position by position, and as on an accelerator
@pytest.mark.parametrize("tokens, cpu", [(10_000, True), (5 * 16, True), (1, True), (1, False)])
def test_the_loss_has_its_gradient(monkeypatch, tokens, cpu):
    monkeypatch.setattr(loss, "with_logits", lambda vocab: tokens)
    for module in (layers, loss):
        monkeypatch.setattr(module, "on_cpu", lambda: cpu)
    rows, positions = 16, 12
    rng = np.random.default_rng(0)
    targets = rng.integers(1, VOCAB, (rows, positions)).astype(np.int32)
    weights = (rng.random((rows, positions)) < 0.7).astype(np.float32)
    x, head = random(rows, positions, WIDTH), random(WIDTH, PADDED, seed=1)
    # A factor behind the sum, which the gradient made with the loss does not know yet
    got, expected = (
        jax.jit(jax.value_and_grad(lambda x, h, f=f: f(x, h, targets, weights) / 7, (0, 1)))(x, head)
        for f in (total, plain)
    )
    assert_same(got, expected, rtol=1e-5, atol=1e-6)
    assert float(jax.jit(total)(x, head, targets, weights)) == pytest.approx(7 * float(got[0]), rel=1e-6)
    assert (np.asarray(got[1][1])[:, [0, *range(VOCAB, PADDED)]] == 0).all()  # what cannot be drawn learns nothing

    members = jax.jit(jax.vmap(jax.grad(lambda x, h: total(x, h, targets, weights) / 7, (0, 1))))
    together = members(jnp.stack([x, 2 * x]), jnp.stack([head, -head]))
    assert_same(jax.tree.map(lambda g: g[0], together), expected[1], rtol=1e-5, atol=1e-6)


def test_a_gradient_has_the_type_of_its_argument():
    x, head = random(2, 9, WIDTH).astype(jnp.bfloat16), random(WIDTH, PADDED, seed=1).astype(jnp.bfloat16)
    targets, weights = np.ones((2, 9), np.int32), np.ones((2, 9), np.float32)
    loss, slopes = jax.jit(jax.value_and_grad(total, (0, 1)))(x, head, targets, weights)
    assert loss.dtype == jnp.float32 and {s.dtype for s in slopes} == {jnp.dtype(jnp.bfloat16)}
    _, exact = jax.jit(jax.value_and_grad(plain, (0, 1)))(
        x.astype(jnp.float32), head.astype(jnp.float32), targets, weights
    )
    assert_same([s.astype(jnp.float32) for s in slopes], list(exact), rtol=0.03, atol=0.03)
