"""Attention that stays inside one patient."""

import jax
import jax.numpy as jnp


def visible(segments_BxT: jax.Array, segments_BxS: jax.Array, index: jax.Array | int = 0) -> jax.Array:
    """Which keys a query may attend to: its own segment (patient), up to and including itself.

    Args:
      segments_BxT: int32 segment of each query; 0 is padding, which sees only padding.
      segments_BxS: int32 segment of each key.
      index: position of the first query among the keys.
    Returns: bool (B, 1, T, S); the axis of 1 is for the heads.
    """
    query_T = index + jnp.arange(segments_BxT.shape[1])
    causal_TxS = query_T[:, None] >= jnp.arange(segments_BxS.shape[1])[None, :]
    return ((segments_BxT[:, :, None] == segments_BxS[:, None, :]) & causal_TxS)[:, None]


def attention(
    q_BxTxHxK: jax.Array, k_BxSxHxK: jax.Array, v_BxSxHxK: jax.Array, visible_Bx1xTxS: jax.Array
) -> jax.Array:
    """Softmax attention by plain einsum, logits and softmax in float32. Returns (B, T, H, K) in the dtype of v."""
    scale = q_BxTxHxK.shape[-1] ** -0.5
    logits = jnp.einsum("bthk,bshk->bhts", q_BxTxHxK * scale, k_BxSxHxK, preferred_element_type=jnp.float32)
    # Not -inf: a padding row with no visible key would turn into NaN and poison the gradient.
    weights = jax.nn.softmax(jnp.where(visible_Bx1xTxS, logits, -1e9), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", weights.astype(v_BxSxHxK.dtype), v_BxSxHxK)


def rotate(x_BxTxHxK: jax.Array, positions_T: jax.Array) -> jax.Array:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864), base 10,000, halves paired as in Llama.

    Only differences of positions reach the attention logits, so a patient may start anywhere in a row.
    """
    half = x_BxTxHxK.shape[-1] // 2
    frequency_F = 10_000.0 ** (-jnp.arange(half) / half)
    angle_Tx1xF = positions_T[:, None, None] * frequency_F
    cos, sin = jnp.cos(angle_Tx1xF), jnp.sin(angle_Tx1xF)
    a, b = jnp.split(x_BxTxHxK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BxTxHxK.dtype)
