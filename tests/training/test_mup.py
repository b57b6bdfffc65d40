"""Coordinate check: with µP a few steps move every activation by as much in a wide or deep model as in a small one.

Yang et al. 2022 (arXiv 2203.03466), appendix D.1; over depth Dey et al. 2025 (arXiv 2505.01618), figure 4.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehr_scaling.models.sizes import Shape, head_width
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.training import optimizer

VOCAB, RATE, STEPS = 64, 2**-7, 6
BASE, WIDTHS, DEPTHS = (32, 2), (32, 128, 512), (2, 16)
TOKENS = np.random.default_rng(0).integers(1, VOCAB, (4, 17)).astype(np.int32)
SEGMENTS = np.ones_like(TOKENS)


@cache
def moved(parametrization, name="adamw", *, width=BASE[0], layers=BASE[1], tied=False, mixing="none"):
    """Root mean square of how far a few steps move the stream after each layer (L,), and the logits."""
    shape = Shape("test", width, layers, max(1, width // head_width(width)), 8 * width // 3 // 8 * 8)
    model = Transformer(shape, VOCAB, VOCAB, tied, parametrization=parametrization, base=BASE, mixing=mixing)
    transform = optimizer.transform(name, clip=1e9, b1=0.9, b2=0.95)

    def loss(params):
        (logits, _), seen = model.apply({"params": params}, TOKENS, SEGMENTS, capture_intermediates=True)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits)[:, :-1], TOKENS[:, 1:, None], axis=-1)
        return -chosen.mean(), (seen["intermediates"]["blocks"]["__call__"][0][0], logits[..., 1:VOCAB])

    @jax.jit
    def run(key):
        params = model.init(key, TOKENS, SEGMENTS)["params"]
        scales = optimizer.scales(name, model, params)

        def step(carry, _):
            params, state = carry
            gradient, seen = jax.grad(loss, has_aux=True)(params)
            direction, state = transform.update(gradient, state, params)
            return (optimizer.apply(params, direction, RATE, 0.0, scales), state), seen

        _, seen = jax.lax.scan(step, (params, transform.init(params)), length=STEPS)
        return jax.tree.map(lambda x: x[-1] - x[0], seen)

    stream_LxBxTxD, logits = run(jax.random.key(0))
    return np.sqrt(np.mean(np.square(stream_LxBxTxD), axis=(1, 2, 3))), np.sqrt(np.mean(np.square(logits)))


def slope(sizes, values):
    """Exponent of a power law through `values`."""
    return np.polyfit(np.log(sizes), np.log(values), 1)[0]


def over_width(*setting, widths=WIDTHS, **options):
    """Exponents of the stream after the first and the last layer, and of the logits."""
    found = [moved("mup", *setting[1:], **options)]  # at the base both parametrizations are one
    found += [moved(*setting, width=width, **options) for width in widths[1:]]
    values = [s[0] for s, _ in found], [s[-1] for s, _ in found], [x for _, x in found]
    return [slope(widths, v) for v in values]


def over_depth(parametrization, **options):
    """Exponents of the stream after the last layer, and of the logits."""
    found = [moved("mup", **options), moved(parametrization, layers=DEPTHS[1], **options)]
    return [slope(DEPTHS, [s[-1] for s, _ in found]), slope(DEPTHS, [x for _, x in found])]


def test_mup_moves_models_of_every_size_alike():
    np.testing.assert_allclose(over_width("mup"), 0, atol=0.15)
    np.testing.assert_allclose(over_depth("mup"), 0, atol=0.15)


@pytest.mark.nightly
def test_with_mixing_too():
    np.testing.assert_allclose(over_width("mup", mixing="conv", widths=(32, 512)), 0, atol=0.15)
    np.testing.assert_allclose(over_depth("mup", mixing="conv"), 0, atol=0.15)


@pytest.mark.nightly
def test_with_muon_too():
    np.testing.assert_allclose(over_width("mup", "muon", widths=(32, 512)), 0, atol=0.15)


@pytest.mark.nightly
def test_with_a_tied_head_too():
    first, last, logits = over_width("mup", tied=True, widths=(32, 512))
    np.testing.assert_allclose([first, last], 0, atol=0.15)
    assert abs(logits) < 0.35  # what the embedding's random start adds to the change of logits dies out with width


@pytest.mark.nightly
def test_the_standard_parametrization_moves_large_models_more():
    assert min(over_width("standard", widths=(32, 512))) > 0.5
    assert over_depth("standard")[0] > 0.3
