"""A Llama-style decoder: RMSNorm, rotary positions, SwiGLU, no biases, layers under one `nn.scan`.

Shapes: B batch, T queries, S keys, D width, H heads, K head width, F inner width of the MLP, L layers, V vocabulary
(padded).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import constant, normal, variance_scaling, zeros

from ehr_scaling.models.attention import attend, attention, rotate, visible
from ehr_scaling.models.layers import dense, rms_norm, swiglu
from ehr_scaling.models.loss import PAD as PAD
from ehr_scaling.models.loss import logits as logits_of
from ehr_scaling.models.loss import loss_sum, token_losses
from ehr_scaling.models.mixing import EARLIER, MIXINGS, mix
from ehr_scaling.models.sizes import Shape, head_width

PARAMETRIZATIONS = ("standard", "mup")
# What the backward pass finds ready of a layer beside its input; the rest it computes again.
REMATS: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Cache(NamedTuple):
    """Keys and values of past positions (L, B, S, H, K), and the segment (B, S) each belongs to; 0 is empty.

    last: what a layer with mixing reads of the last positions, (L, B, J, D), beside their keys; None without.
    """

    keys: jax.Array
    values: jax.Array
    segments: jax.Array
    last: jax.Array | None = None


def empty_cache(model: "Transformer", batch: int, positions: int) -> Cache:
    shape = model.shape
    kv = jnp.zeros((shape.layers, batch, positions, shape.heads, shape.width // shape.heads), model.dtype)
    last = jnp.zeros((shape.layers, batch, EARLIER, shape.width), model.dtype) if model.mixing == "conv" else None
    return Cache(kv, kv, jnp.zeros((batch, positions), jnp.int32), last)


def padded_vocab(vocab: int, multiple: int) -> int:
    return -(-vocab // multiple) * multiple


class Multipliers(NamedTuple):
    """Factors of µP, each folded into the initial value and the rate of a parameter (of q: a third of `qkv`)."""

    query: float = 1.0
    residual: float = 1.0
    output: float = 1.0


class RMSNorm(nn.Module):
    """x / rms(x), times a learnt scale; in float32 (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    start: float = 1.0

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", constant(self.start), (x.shape[-1],))
        return rms_norm(x, scale)


class Dense(nn.Module):
    """The products of the stream with the parts of a kernel (D, parts, …)."""

    parts: int
    out: tuple[int, ...]
    dtype: jnp.dtype
    start: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, x_BxTxD) -> tuple[jax.Array, ...]:
        width = x_BxTxD.shape[-1]
        columns = self.parts * math.prod(self.out)
        shape = (width, self.parts, *self.out) if self.parts > 1 else (width, *self.out)
        kernel = self.param("kernel", lambda key: self.start(key, (width, columns)).reshape(shape))
        projections = dense(x_BxTxD, kernel.astype(self.dtype).reshape(width, self.parts, -1))
        return tuple(y.reshape(*y.shape[:-1], *self.out) for y in projections)


class Block(nn.Module):
    shape: Shape
    dtype: jnp.dtype
    attention: str
    dropout: float
    base_layers: int
    multipliers: Multipliers
    mixing: str

    @nn.compact
    def __call__(self, x_BxTxD, past, segments_BxT, earlier_BxJ, visible_Bx1xTxS, positions_T, index):
        s = self.shape
        fan_in = variance_scaling(1.0, "fan_in", "normal")
        # Residual branches start smaller with depth, so that the stream's variance does not grow with L (GPT-2).
        residual = variance_scaling(0.5 / self.base_layers * self.multipliers.residual**2, "fan_in", "normal")

        def queries_first(key, shape):
            factor_3 = jnp.array((self.multipliers.query, 1.0, 1.0))
            return fan_in(key, shape) * jnp.repeat(factor_3, s.width)

        def into(name, parts, out, start):
            return Dense(parts, out, self.dtype, start, name=name)

        def branch(y_BxTxD):
            return nn.Dropout(self.dropout, deterministic=False)(y_BxTxD) if self.dropout else y_BxTxD

        read_BxTxD, last_BxJxD = RMSNorm(name="attention_norm")(x_BxTxD), None
        if self.mixing == "conv":
            before = None
            if past is not None:
                before = past[2], earlier_BxJ
                last_BxJxD = jnp.concatenate([past[2], read_BxTxD], axis=1)[:, -EARLIER:]
            # Zeros: training starts from the model without mixing, whatever the size; each weight has a slope there.
            weights_JxD = self.param("mixing", zeros, (EARLIER, s.width))
            read_BxTxD = mix(read_BxTxD, weights_JxD, segments_BxT, before)
        q, k, v = into("qkv", 3, (s.heads, s.width // s.heads), queries_first)(read_BxTxD)
        q, k = rotate(q, positions_T), rotate(k, positions_T)
        if past is None:
            attended = attention(q, k, v, segments_BxT, self.attention)
        else:
            k, v = (
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), index, axis=1)
                for old, new in zip(past[:2], (k, v), strict=True)
            )
            attended = attend(q, k, v, visible_Bx1xTxS)
            past = k, v, last_BxJxD
        (written,) = into("out", 1, (s.width,), residual)(attended.reshape(x_BxTxD.shape))
        x_BxTxD += branch(written)

        gate, up = into("gate_up", 2, (s.ff,), fan_in)(RMSNorm(name="mlp_norm")(x_BxTxD))
        (written,) = into("down", 1, (s.width,), residual)(swiglu(gate, up))
        x_BxTxD += branch(written)
        return x_BxTxD, past


class Transformer(nn.Module):
    """Next-token logits of a packed batch.

    Attributes:
      shape: from `models/sizes.py`.
      vocab: tokens in the vocabulary; ids from `vocab` to `padded` exist only to give the matmul a round size.
      padded: rows of the embedding and columns of the head.
      tied: head and embedding share one matrix.
      dtype: of activations; parameters, logits and losses are float32.
      attention: how it is computed, one of `attention.IMPLEMENTATIONS`; not while there is a cache.
      remat: what the backward pass computes again, one of REMATS.
      dropout: share of each residual branch's output that is set to 0.
      parametrization: "mup" changes initial values here, and rates in `training/optimizer.scales`; with both, the best
        rate at one width and depth is the best at others (Yang et al. 2022, arXiv 2203.03466; for depth CompleteP,
        Dey et al. 2025, arXiv 2505.01618).
      base: width and layers at which "mup" is the standard parametrization.
      mixing: of neighbouring positions before attention, one of `mixing.MIXINGS`.
      unroll: layers one after another in the program, instead of a loop over them that copies what each leaves for the
        backward pass into arrays of all and out again; takes longer to compile.
    """

    shape: Shape
    vocab: int
    padded: int
    tied: bool = False
    dtype: jnp.dtype = jnp.float32
    attention: str = "xla"
    remat: str = "none"
    dropout: float = 0.0
    parametrization: str = "standard"
    base: tuple[int, int] = (32, 2)
    mixing: str = "none"
    unroll: bool = False

    @property
    def multipliers(self) -> Multipliers:
        """Where µP multiplies in the forward pass: logits of attention, residual branches, logits.

        The forward pass has none of them. A factor of a matrix is the same as one of its initial value and of its rate,
        where updates do not depend on the size of the gradient, as Adam's and Muon's (Yang et al. 2022, lemma J.1).
        The output's is folded into the scale of the last norm, for a tied embedding is read with factor 1.
        """
        if self.parametrization == "standard":
            return Multipliers()
        if self.parametrization != "mup":
            raise ValueError(f"unknown parametrization {self.parametrization!r}: one of {PARAMETRIZATIONS}")
        width, layers = self.base
        base_head = width // max(1, width // head_width(width))
        head = self.shape.width // self.shape.heads
        # 1/K in place of 1/√K, as queries and keys come to be correlated; 1/L, CompleteP's α = 1
        return Multipliers((base_head / head) ** 0.5, layers / self.shape.layers, width / self.shape.width)

    @nn.compact
    def hidden(
        self,
        tokens_BxT: jax.Array,
        segments_BxT: jax.Array,
        cache: Cache | None = None,
        index: jax.Array | int = 0,
        *,
        deterministic: bool = True,
    ) -> tuple[jax.Array, jax.Array, Cache | None]:
        """What the logits are the product of: the stream after the last norm (B, T, D), and the head (D, V).

        Args and the cache returned: as of `__call__`.
        """
        if self.mixing not in MIXINGS:
            raise ValueError(f"unknown mixing {self.mixing!r}: one of {MIXINGS}")
        width, mup = self.shape.width, self.parametrization == "mup"
        base_width, base_layers = self.base if mup else (width, self.shape.layers)
        start = normal(base_width**-0.5 if self.tied else 1.0)
        embedding = self.param("embedding", start, (self.padded, width))
        x_BxTxD = embedding.astype(self.dtype)[tokens_BxT]
        if cache is None:
            keys_BxS, past, earlier_BxJ, seen = segments_BxT, None, None, None
        else:
            padded_BxJS = jnp.pad(cache.segments, ((0, 0), (EARLIER, 0)))
            earlier_BxJ = jax.lax.dynamic_slice_in_dim(padded_BxJS, index, EARLIER, axis=1)
            keys_BxS = jax.lax.dynamic_update_slice_in_dim(cache.segments, segments_BxT, index, axis=1)
            past, seen = (cache.keys, cache.values, cache.last), visible(segments_BxT, keys_BxS, index)
        policy = REMATS[self.remat]
        blocks = nn.scan(
            Block if policy is None else nn.remat(Block, prevent_cse=False, policy=policy),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, *(nn.broadcast,) * 5),
            length=self.shape.layers,
            unroll=self.shape.layers if self.unroll and past is None else 1,
        )
        x_BxTxD, past = blocks(
            self.shape,
            self.dtype,
            self.attention,
            0.0 if deterministic else self.dropout,
            base_layers,
            self.multipliers,
            self.mixing,
            name="blocks",
        )(x_BxTxD, past, segments_BxT, earlier_BxJ, seen, index + jnp.arange(tokens_BxT.shape[1]), index)
        x_BxTxD = RMSNorm(self.multipliers.output, name="final_norm")(x_BxTxD)
        # A head of zeros makes the first prediction uniform, whatever the size: runs start from the same loss, log V.
        head = embedding.T if self.tied else self.param("head", zeros, (width, self.padded))
        return x_BxTxD, head.astype(self.dtype), None if past is None else Cache(past[0], past[1], keys_BxS, past[2])

    def __call__(
        self,
        tokens_BxT: jax.Array,
        segments_BxT: jax.Array,
        cache: Cache | None = None,
        index: jax.Array | int = 0,
        *,
        deterministic: bool = True,
    ) -> tuple[jax.Array, Cache | None]:
        """Args: tokens and segments, int32 (B, T); a cache and the position at which to write into it, to go on from;
        whether there is no dropout, for which `rngs` has a key "dropout".

        Returns: logits, as of `logits`; the cache with these T added.
        """
        x_BxTxD, head, cache = self.hidden(tokens_BxT, segments_BxT, cache, index, deterministic=deterministic)
        return logits_of(x_BxTxD, head, self.vocab), cache

    def losses(self, tokens_BxT1: jax.Array, segments_BxT1: jax.Array) -> jax.Array:
        """Negative log-likelihood in nats of each token after the first, float32 (B, T). Args: int32 (B, T+1)."""
        logits, _ = self(tokens_BxT1[:, :-1], segments_BxT1[:, :-1])
        return token_losses(logits, tokens_BxT1[:, 1:])

    def loss_sum(
        self, tokens_BxT1: jax.Array, segments_BxT1: jax.Array, mask_BxT: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        """Sum of `losses` where the mask is on, to be trained on: made without holding the logits of all positions."""
        x_BxTxD, head, _ = self.hidden(tokens_BxT1[:, :-1], segments_BxT1[:, :-1], deterministic=deterministic)
        return loss_sum(x_BxTxD, head, tokens_BxT1[:, 1:], mask_BxT.astype(jnp.float32), self.vocab)
