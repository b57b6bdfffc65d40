"""Patients packed into one row do not see each other, whichever way attention is computed."""

import os
import re
import sys
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.errors import UserError
from ehr_scaling.models import attention as module
from ehr_scaling.models.attention import IMPLEMENTATIONS, _blocked, attention, choose, honours_segments
from tests import forked

NVIDIA = pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs an NVIDIA GPU")
HERE = [pytest.param(name, marks=NVIDIA if name == "cudnn" else ()) for name in IMPLEMENTATIONS]


def arrays(batch, context, heads, width, dtype=np.float32, seed=0):
    """q, k, v and the slope of the output, stacked."""
    return np.random.default_rng(seed).normal(size=(4, batch, context, heads, width)).astype(dtype)


def results(x, segments, how, real=True):
    """Output, and gradients of q, k and v: (4, B, T, H, K)."""

    def score(q, k, v):
        out = how(q, k, v, segments)
        return jnp.sum(jnp.where(real, out * x[3], 0).astype(jnp.float32)), out

    gradients, out = jax.grad(score, (0, 1, 2), has_aux=True)(*x[:3])
    return jnp.stack([out, *gradients])


def by(implementation):
    return lambda q, k, v, segments: attention(q, k, v, segments, implementation)


@jax.jit
def plain(x, segments):
    return results(x, segments, by("xla"))


@pytest.mark.parametrize("implementation", HERE)
def test_packed_is_unpacked(implementation):
    half = implementation == "cudnn"
    context, cuts = (128 if implementation in ("cudnn", "splash") else 150), (0, 5, 70, 71, 120)
    x = jnp.asarray(arrays(1, context, 2, 16), jnp.bfloat16 if half else jnp.float32)
    segments = np.zeros((1, context), np.int32)  # the rest is padding
    for name, (start, end) in zip((7, 3, 11, 5), pairwise(cuts), strict=True):
        segments[0, start:end] = name
    packed = jax.jit(lambda x, s: results(x, s, by(implementation), (s > 0)[..., None, None]))(x, segments)
    assert np.isfinite(packed.astype(jnp.float32)).all()
    for start, end in pairwise(cuts):
        part = x[:, :, start:end].astype(jnp.float32)
        alone = plain(part, np.ones((1, end - start), np.int32))
        np.testing.assert_allclose(packed[:, :, start:end].astype(jnp.float32), alone, atol=5e-2 if half else 2e-5)


@pytest.mark.parametrize("implementation", HERE)
def test_the_check_before_training_passes_here(implementation):
    assert honours_segments(implementation, jnp.bfloat16, head=16, context=128) <= 1


def test_the_check_before_training_is_strict_in_float32():
    assert honours_segments("blocked", jnp.float32, head=8, context=130) <= 1


@pytest.mark.parametrize("defect", ["segments ignored", "backward ignores them", "not causal", "NaN in padding"])
def test_the_check_before_training_finds(defect, monkeypatch):
    true = module.attention

    def broken(q, k, v, segments, implementation):
        if implementation == "xla":
            return true(q, k, v, segments, implementation)
        one = jnp.ones_like(segments)
        if defect == "segments ignored":
            return true(q, k, v, one, "xla")
        if defect == "backward ignores them":
            blind = true(q, k, v, one, "xla")
            return blind + jax.lax.stop_gradient(true(q, k, v, segments, "xla") - blind)
        if defect == "not causal":
            return module.attend(q, k, v, (segments[:, :, None] == segments[:, None, :])[:, None])
        return jnp.where(segments[..., None, None] > 0, true(q, k, v, segments, "xla"), jnp.nan)

    monkeypatch.setattr(module, "attention", broken)
    assert honours_segments("blocked", jnp.bfloat16, head=8, context=32) > 3


@st.composite
def rows(draw):
    """Segments of a batch of random patients, in no order, with padding anywhere."""
    batch, context = draw(st.sampled_from([(1, 1), (2, 16), (2, 37)]))
    ids = st.lists(st.integers(0, 3), min_size=context, max_size=context)
    segments = np.array(draw(st.lists(ids, min_size=batch, max_size=batch)), np.int32)
    return np.sort(segments, axis=1)[:, ::-1] if draw(st.booleans()) else segments


@jax.jit
def both(x, segments):
    return results(x, segments, lambda *a: _blocked(*a, 16)), plain(x, segments)


@settings(max_examples=40, deadline=None)
@given(rows(), st.integers(0, 2**16), st.sampled_from([0.1, 1.0, 3.0, 1e4]))
def test_blocked_is_plain(segments, seed, scale):
    x = arrays(*segments.shape, 2, 8, seed=seed) * np.float32([scale, 1, 1, 1])[:, None, None, None, None]
    blocked, expected = both(x, segments)
    assert np.isfinite(blocked).all()
    if scale < 10:  # where weights are 0 or 1, a last digit of a logit decides which
        np.testing.assert_allclose(blocked, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("implementation", ["blocked", "splash"])
def test_models_together(implementation):
    context = 130
    x = np.stack([arrays(2, context, 2, 8, seed=seed) for seed in range(3)])
    segments = np.sort(np.random.default_rng(1).integers(0, 4, (3, 2, context)).astype(np.int32), axis=-1)
    together = jax.jit(jax.vmap(lambda x, s: results(x, s, by(implementation))))(x, segments)
    one_by_one = jnp.stack([plain(x[i], segments[i]) for i in range(3)])
    np.testing.assert_allclose(together, one_by_one, atol=2e-5)


@pytest.mark.parametrize("implementation", ["xla", "blocked"])
def test_bfloat16_in_bfloat16_out(implementation):
    x = jnp.asarray(arrays(2, 130, 2, 8), jnp.bfloat16)
    segments = np.repeat([[1, 2]], 65, axis=1).repeat(2, axis=0).astype(np.int32)
    half = jax.jit(lambda x: results(x, segments, by(implementation)))(x)
    assert half.dtype == jnp.bfloat16
    full = plain(x.astype(jnp.float32), segments)
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=6e-2)


def test_splash_on_a_mesh():
    if len(jax.devices()) < 8:  # the number of devices is fixed when a process starts: this test, in another one
        env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
        code = 'import jax, pytest, sys; jax.config.update("jax_platforms", "cpu"); sys.exit(pytest.main(sys.argv[1:]))'
        again = [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", f"{__file__}::test_splash_on_a_mesh"]
        ended = forked.run(again, env=env, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stdout
        return
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    x, segments = arrays(4, 128, 2, 8), np.repeat([[1, 2]], 64, axis=1).repeat(4, axis=0).astype(np.int32)
    expected = plain(x, segments)
    with jax.set_mesh(mesh):
        split = jax.jit(lambda x: results(x, segments, by("splash")))(x)
    np.testing.assert_allclose(split, expected, atol=2e-5)


def test_splash_compiles_for_tpu(monkeypatch):
    """As far as the kernels handed to the TPU's own compiler: shapes and blocks that it refuses are found here."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    x = jax.ShapeDtypeStruct((4, 1, 1000, 2, 64), jnp.bfloat16)
    segments = jax.ShapeDtypeStruct((1, 1000), jnp.int32)
    traced = jax.jit(lambda x, s: results(x, s, by("splash"))).trace(x, segments)
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call") >= 3


def squares(implementation, context):
    """Arrays of the compiled forward and backward pass that have two axes of T."""
    x, segments = arrays(2, context, 3, 16), np.ones((2, context), np.int32)
    program = jax.jit(lambda x: results(x, segments, by(implementation))).lower(x).compile().as_text()
    shapes = set(re.findall(r"\w+\[([\d,]+)\]", program))
    return [shape for shape in shapes if shape.split(",").count(str(context)) > 1]


def test_blocked_never_holds_every_query_with_every_key():
    assert squares("xla", 200)  # or this test would see nothing
    assert not squares("blocked", 200)


@pytest.mark.parametrize(
    ("setting", "where", "expected"),
    [
        ("auto", {"platform": "tpu"}, "splash"),
        ("auto", {"platform": "tpu", "members": 4, "dtype": jnp.float32}, "splash"),
        ("auto", {"platform": "gpu"}, "cudnn"),
        ("auto", {"platform": "cuda"}, "cudnn"),
        ("auto", {"platform": "rocm"}, "blocked"),
        ("auto", {"platform": "gpu", "dtype": "float32"}, "blocked"),
        ("auto", {"platform": "gpu", "head": 20}, "blocked"),
        ("auto", {"platform": "gpu", "context": 200}, "blocked"),
        ("auto", {"platform": "gpu", "members": 2}, "blocked"),
        ("auto", {"platform": "cpu"}, "blocked"),
        ("auto", {"platform": "cpu", "context": 64}, "xla"),
        ("xla", {"platform": "tpu"}, "xla"),
        ("blocked", {"platform": "gpu"}, "blocked"),
        ("cudnn", {"platform": "gpu"}, "cudnn"),
        ("splash", {"platform": "tpu"}, "splash"),
    ],
)
def test_choice(setting, where, expected):
    assert choose(setting, **{"dtype": jnp.bfloat16, "head": 64, "context": 256} | where) == expected


@pytest.mark.parametrize(
    ("setting", "where", "says"),
    [
        ("flash", {}, "auto, xla, blocked, cudnn, splash"),
        ("splash", {"platform": "gpu"}, "TPU"),
        ("cudnn", {"platform": "cpu"}, "NVIDIA"),
        ("cudnn", {"platform": "rocm"}, "NVIDIA"),
        ("cudnn", {"members": 2}, "--config.training.together=1"),
        ("cudnn", {"dtype": "float32"}, "--config.model.dtype=bfloat16"),
        ("cudnn", {"head": 20}, "multiple of 8"),
        ("cudnn", {"head": 256}, "up to 128"),
        ("cudnn", {"context": 200}, "multiple of 128"),
    ],
)
def test_what_cannot_run_is_refused(setting, where, says):
    with pytest.raises(UserError, match=f"--config.model.attention={setting}.*{re.escape(says)}") as caught:
        choose(setting, **{"platform": "gpu", "dtype": jnp.bfloat16, "head": 64, "context": 256} | where)
    assert "\n" not in str(caught.value)


def test_cudnn_is_refused_when_traced():
    x = arrays(1, 128, 2, 8)
    with pytest.raises(UserError, match="attention=cudnn needs bfloat16"):
        jax.eval_shape(by("cudnn"), *x[:3], np.ones((1, 128), np.int32))
