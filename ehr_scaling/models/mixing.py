"""Mixing of neighbouring positions before attention: a causal convolution of each channel, inside one patient.

"Canon-A" (Allen-Zhu 2025, arXiv 2512.17351): the normed stream is y[t] = x[t] + Σⱼ w[j]·x[t-j], j = 1 … 3, before
queries, keys and values are made of it. The position's own weight is not learnt: the scale of the norm is one already.

Shapes: B batch, T positions, J earlier positions, D width.
"""

import jax
import jax.numpy as jnp

MIXINGS = ("none", "conv")
EARLIER = 3  # J, positions beside a token's own


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
        batch, _, width = x_BxTxD.shape
        before = jnp.zeros((batch, EARLIER, width), x_BxTxD.dtype), jnp.full((batch, EARLIER), -1, jnp.int32)
    x, segments = (jnp.concatenate(pair, axis=1) for pair in zip(before, (x_BxTxD, segments_BxT), strict=True))
    y = x_BxTxD.astype(jnp.float32)
    for j in range(1, EARLIER + 1):
        here = slice(EARLIER - j, x.shape[1] - j)
        same_BxTx1 = (segments[:, here] == segments_BxT)[..., None]
        y += jnp.where(same_BxTx1, x[:, here].astype(jnp.float32) * weights_JxD[j - 1], 0.0)
    return y.astype(x_BxTxD.dtype)
