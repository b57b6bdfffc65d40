"""The mixing of positions, against the same in plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehr_scaling.models.mixing import EARLIER, mix


def in_loops(x, weights, segments, before):
    """What a position reads, in float64."""
    last, earlier = before
    stream, who = np.concatenate([last, x], axis=1).astype(float), np.concatenate([earlier, segments], axis=1)
    out = np.zeros(x.shape)
    for row, t in np.ndindex(segments.shape):
        here = t + EARLIER
        out[row, t] = stream[row, here]
        for j in (1, 2, 3):
            if who[row, here - j] == who[row, here]:
                out[row, t] += weights[j - 1] * stream[row, here - j]
    return out


def arrays(batch, context, width, seed=0):
    """Stream, weights, and the stream of the positions before."""
    rng = np.random.default_rng(seed)
    shapes = (batch, context, width), (EARLIER, width), (batch, EARLIER, width)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


NOBODY = np.full((2, EARLIER), -1, np.int32)


@st.composite
def patients(draw):
    """Segments of two rows of T, and of the positions before them; in order, or not."""
    context = draw(st.sampled_from([1, 2, 5, 13]))
    row = st.lists(st.integers(0, 3), min_size=EARLIER + context, max_size=EARLIER + context)
    both = np.array([draw(row), draw(row)], np.int32)
    both = np.sort(both, axis=1) if draw(st.booleans()) else both
    return both[:, :EARLIER], both[:, EARLIER:]


@settings(max_examples=40, deadline=None)
@given(patients(), st.integers(0, 2**16))
def test_it_is_what_the_loops_say(segments, seed):
    earlier, here = segments
    x, weights, last = arrays(*here.shape, 5, seed=seed)
    np.testing.assert_allclose(
        mix(x, weights, here, (last, earlier)), in_loops(x, weights, here, (last, earlier)), atol=1e-5
    )
    np.testing.assert_allclose(mix(x, weights, here), in_loops(x, weights, here, (0 * last, NOBODY)), atol=1e-5)


def test_the_slope_is_that_of_the_loops():
    """By differences in float64: the loops are a polynomial of degree 2, so that central ones are exact."""
    x, weights, last = arrays(2, 9, 3)
    segments = np.array([[1] * 4 + [2] * 5, [3] * 2 + [0] * 7], np.int32)
    slope = np.random.default_rng(1).normal(size=x.shape)
    gradients = jax.grad(lambda x, w: jnp.sum(mix(x, w, segments) * slope), (0, 1))(x, weights)
    for which, gradient in enumerate(gradients):
        for place in np.ndindex(gradient.shape):
            ends = []
            for step in (0.5, -0.5):
                moved = [x.astype(float), weights.astype(float)]
                moved[which][place] += step
                ends.append(np.sum(in_loops(moved[0], moved[1], segments, (0 * last, NOBODY)) * slope))
            assert gradient[place] == pytest.approx(ends[0] - ends[1], abs=1e-4)


def test_not_even_a_nan_crosses_from_one_patient_to_another():
    x, weights, _ = arrays(1, 8, 3)
    x[0, 3] = np.nan
    mixed = np.asarray(mix(x, weights, np.array([[1] * 4 + [2] * 4], np.int32)))
    assert np.isfinite(mixed[0, 4:]).all() and np.isfinite(mixed[0, :3]).all()


def test_it_adds_in_float32():
    x, weights, _ = arrays(2, 16, 8)
    half, ones = jnp.asarray(x, jnp.bfloat16), np.ones((2, 16), np.int32)
    exact = mix(half.astype(jnp.float32), weights, ones)
    mixed = mix(half, weights, ones)
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_array_equal(mixed, exact.astype(jnp.bfloat16))
