"""A Llama-style decoder: RMSNorm, rotary positions, SwiGLU, no biases, layers under one `nn.scan`.

Shapes: B batch, T queries, S keys, D width, H heads, K head width, L layers, V vocabulary (padded).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import normal, ones, variance_scaling, zeros

from ehr_scaling.models.attention import attention, rotate, visible
from ehr_scaling.models.sizes import Shape

PAD = 0


class Cache(NamedTuple):
    """Keys and values of past positions (L, B, S, H, K), and the segment (B, S) each belongs to; 0 is empty."""

    keys: jax.Array
    values: jax.Array
    segments: jax.Array


def empty_cache(shape: Shape, batch: int, positions: int, dtype: jnp.dtype = jnp.float32) -> Cache:
    kv = jnp.zeros((shape.layers, batch, positions, shape.heads, shape.width // shape.heads), dtype)
    return Cache(kv, kv, jnp.zeros((batch, positions), jnp.int32))


def padded_vocab(vocab: int, multiple: int) -> int:
    return -(-vocab // multiple) * multiple


class RMSNorm(nn.Module):
    """x / rms(x), times a learnt scale; in float32 (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        return (y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + 1e-6) * scale).astype(x.dtype)


class Block(nn.Module):
    shape: Shape
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BxTxD, kv, visible_Bx1xTxS, positions_T, index):
        s, width = self.shape, self.shape.width
        fan_in = variance_scaling(1.0, "fan_in", "normal")
        # Residual branches start smaller with depth, so that the stream's variance does not grow with L (GPT-2).
        residual = variance_scaling(0.5 / s.layers, "fan_in", "normal")
        dense = lambda name, out, init: nn.Dense(out, use_bias=False, dtype=self.dtype, kernel_init=init, name=name)  # noqa: E731

        qkv = dense("qkv", 3 * width, fan_in)(RMSNorm(name="attention_norm")(x_BxTxD))
        q, k, v = (y.reshape(*y.shape[:2], s.heads, -1) for y in jnp.split(qkv, 3, axis=-1))
        q, k = rotate(q, positions_T), rotate(k, positions_T)
        if kv is not None:
            k, v = (
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), index, axis=1)
                for old, new in zip(kv, (k, v), strict=True)
            )
            kv = (k, v)
        mixed = attention(q, k, v, visible_Bx1xTxS)
        x_BxTxD += dense("out", width, residual)(mixed.reshape(x_BxTxD.shape))

        gate, up = jnp.split(dense("gate_up", 2 * s.ff, fan_in)(RMSNorm(name="mlp_norm")(x_BxTxD)), 2, axis=-1)
        x_BxTxD += dense("down", width, residual)(nn.silu(gate) * up)
        return x_BxTxD, kv


class Transformer(nn.Module):
    """Next-token logits of a packed batch.

    Attributes:
      shape: from `models/sizes.py`.
      vocab: tokens in the vocabulary; ids from `vocab` to `padded` exist only to give the matmul a round size.
      padded: rows of the embedding and columns of the head.
      tied: head and embedding share one matrix.
      dtype: of activations; parameters, logits and losses are float32.
    """

    shape: Shape
    vocab: int
    padded: int
    tied: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens_BxT: jax.Array, segments_BxT: jax.Array, cache: Cache | None = None, index: jax.Array | int = 0
    ) -> tuple[jax.Array, Cache | None]:
        """Args: tokens and segments, int32 (B, T); a cache and the position at which to write into it, to go on from.

        Returns: logits float32 (B, T, V), -1e9 for PAD and for ids past the vocabulary; the cache with these T added.
        """
        width = self.shape.width
        embedding = self.param("embedding", normal(1.0 if not self.tied else width**-0.5), (self.padded, width))
        x_BxTxD = embedding.astype(self.dtype)[tokens_BxT]
        if cache is None:
            keys_BxS, kv = segments_BxT, None
        else:
            keys_BxS = jax.lax.dynamic_update_slice_in_dim(cache.segments, segments_BxT, index, axis=1)
            kv = (cache.keys, cache.values)
        blocks = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=self.shape.layers,
        )
        x_BxTxD, kv = blocks(self.shape, self.dtype, name="blocks")(
            x_BxTxD,
            kv,
            visible(segments_BxT, keys_BxS, index),
            index + jnp.arange(tokens_BxT.shape[1]),
            index,
        )
        x_BxTxD = RMSNorm(name="final_norm")(x_BxTxD)
        # A head of zeros makes the first prediction uniform, whatever the size: runs start from the same loss, log V.
        head = embedding.T if self.tied else self.param("head", zeros, (width, self.padded))
        logits = jnp.einsum("btd,dv->btv", x_BxTxD, head.astype(self.dtype), preferred_element_type=jnp.float32)
        ids = jnp.arange(self.padded)
        logits = jnp.where((ids == PAD) | (ids >= self.vocab), -1e9, logits)
        return logits, None if kv is None else Cache(kv[0], kv[1], keys_BxS)


def token_losses(logits_BxTxV: jax.Array, targets_BxT: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats, float32 (B, T), from integer targets (no one-hot)."""
    at_target = jnp.take_along_axis(logits_BxTxV, targets_BxT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BxTxV, axis=-1) - at_target
