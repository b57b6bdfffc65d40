"""Mixing of neighbouring positions before attention: a causal convolution of each channel, inside one patient.

"Canon-A" (Allen-Zhu 2025, arXiv 2512.17351): the normed stream is y[t] = x[t] + Σⱼ w[j]·x[t-j], j = 1 … 3, before
queries, keys and values are made of it. The position's own weight is not learnt: the scale of the norm is one already.

Shapes: B batch, T positions, J earlier positions, S = T + J, D width.
"""

import jax
import jax.numpy as jnp

from ehr_scaling import flops

MIXINGS = tuple(flops.MIXED)
EARLIER = flops.MIXED["conv"]  # J, positions beside a token's own
_OFFSETS = range(1, EARLIER + 1)  # j
_NOBODY = -1  # segment of positions that are none


def mix(
    x_BxTxD: jax.Array,
    weights_JxD: jax.Array,
    segments_BxT: jax.Array,
    before: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Each position, and the J before it as far as they are of its own segment; added in float32.

    Args: before, the last J positions before these and their segments, (B, J, D) and (B, J); None: there are none.
    Returns: (B, T, D) in the dtype of x.
    """
    if before is None:
        return _mix(x_BxTxD, weights_JxD, segments_BxT)
    x_BxSxD, who_BxS = (jnp.concatenate(pair, axis=1) for pair in zip(before, (x_BxTxD, segments_BxT), strict=True))
    return _added(x_BxTxD, weights_JxD, segments_BxT, x_BxSxD, who_BxS)


def _read(x_BxSxD, who_BxS, segments_BxT, start, factor):
    """T positions of x from `start`, times a factor, in float32; 0 where they are of another segment.

    The factor is inside the choice, for else a CPU takes twice the time.
    """
    here = slice(start, start + segments_BxT.shape[1])
    same_BxTx1 = (who_BxS[:, here] == segments_BxT)[..., None]
    return jnp.where(same_BxTx1, x_BxSxD[:, here].astype(jnp.float32) * factor, 0.0)


def _added(x_BxTxD, weights_JxD, segments_BxT, x_BxSxD, who_BxS):
    y = x_BxTxD.astype(jnp.float32)
    for j in _OFFSETS:
        y += _read(x_BxSxD, who_BxS, segments_BxT, EARLIER - j, weights_JxD[j - 1])
    return y.astype(x_BxTxD.dtype)


def _padded(x_BxTxD, segments_BxT, room):
    """With positions that are none, `room` of them in front and behind.

    On a CPU in memory: what reads it at three offsets is then a plain loop, up to twice as fast as one that asks of
    each place whether it is there.
    """
    padded = (
        jnp.pad(x_BxTxD, ((0, 0), room, (0, 0))),
        jnp.pad(segments_BxT, ((0, 0), room), constant_values=_NOBODY),
    )
    return jax.lax.optimization_barrier(padded) if jax.default_backend() == "cpu" else padded


@jax.custom_vjp
def _mix(x_BxTxD, weights_JxD, segments_BxT):
    return _mix_forward(x_BxTxD, weights_JxD, segments_BxT)[0]


def _mix_forward(x_BxTxD, weights_JxD, segments_BxT):
    padded = _padded(x_BxTxD, segments_BxT, (EARLIER, 0))
    return _added(x_BxTxD, weights_JxD, segments_BxT, *padded), (*padded, weights_JxD, segments_BxT)


def _mix_backward(saved, slope_BxTxD):
    x_BxSxD, who_BxS, weights_JxD, segments_BxT = saved
    later_BxSxD, later_BxS = _padded(slope_BxTxD, segments_BxT, (0, EARLIER))
    x_slope = slope = slope_BxTxD.astype(jnp.float32)
    weights_slope = []
    for j in _OFFSETS:
        # A position is read by those after it
        x_slope += _read(later_BxSxD, later_BxS, segments_BxT, j, weights_JxD[j - 1])
        weights_slope.append(jnp.sum(_read(x_BxSxD, who_BxS, segments_BxT, EARLIER - j, slope), axis=(0, 1)))
    return x_slope.astype(slope_BxTxD.dtype), jnp.stack(weights_slope), None


_mix.defvjp(_mix_forward, _mix_backward)
