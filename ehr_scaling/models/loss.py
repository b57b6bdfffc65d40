"""The head and the loss, whose gradient is made while the logits are at hand (see `layers`).

Shapes: B batch, T positions, D width, V vocabulary (padded), C positions at a time.
"""

from functools import partial

import jax
import jax.numpy as jnp

from ehr_scaling.models.layers import flat, on_cpu, turned

PAD = 0
_LOGITS = 256 * 4096  # so many stay in a core's cache


def with_logits(vocab: int) -> int:
    """Tokens whose logits are there at a time on a CPU. Args: vocab, padded."""
    return max(256, _LOGITS // vocab)


def _minus_target(p_BxCxV: jax.Array, targets_BxC: jax.Array, weights_BxC: jax.Array) -> jax.Array:
    """p, less the weight at each target; on accelerators, which do not like to scatter, as part of what makes p."""
    if on_cpu():
        batch, positions = jnp.indices(targets_BxC.shape, sparse=True)
        return p_BxCxV.at[batch, positions, targets_BxC].add(-weights_BxC)
    hit_BxCxV = jnp.arange(p_BxCxV.shape[-1]) == targets_BxC[..., None]
    return p_BxCxV - jnp.where(hit_BxCxV, weights_BxC[..., None], 0.0)


def logits(x_BxTxD: jax.Array, head_DxV: jax.Array, vocab: int) -> jax.Array:
    """Float32 (B, T, V), -1e9 for PAD and for ids from `vocab` on. Args: stream and head of one dtype."""
    scores = jnp.einsum("btd,dv->btv", x_BxTxD, head_DxV, preferred_element_type=jnp.float32)
    ids = jnp.arange(head_DxV.shape[1])
    return jnp.where((ids == PAD) | (ids >= vocab), -1e9, scores)


def token_losses(logits_BxTxV: jax.Array, targets_BxT: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats, float32 (B, T), from integer targets (no one-hot)."""
    at_target = jnp.take_along_axis(logits_BxTxV, targets_BxT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BxTxV, axis=-1) - at_target


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def loss_sum(
    x_BxTxD: jax.Array, head_DxV: jax.Array, targets_BxT: jax.Array, weights_BxT: jax.Array, vocab: int
) -> jax.Array:
    """Σ weights · negative log-likelihood of the targets, nats; of the logits of `logits`, which are never all there.

    Where a gradient is asked for it is made with the loss, while the logits are at hand. Not of the weights.
    Args: stream and head of one dtype, targets int32, weights float32.
    """
    return jnp.sum(weights_BxT * token_losses(logits(x_BxTxD, head_DxV, vocab), targets_BxT))


def _loss_forward(x_BxTxD, head_DxV, targets_BxT, weights_BxT, vocab):
    batch, positions = targets_BxT.shape
    # Positions are cut, not rows, which may lie on several devices.
    most = max(1, with_logits(head_DxV.shape[1]) // batch) if on_cpu() else positions
    at_a_time = max(c for c in range(1, min(most, positions) + 1) if positions % c == 0)

    def add(sums, chunk):
        loss, head_slope_DxV = sums
        x_BxCxD, targets_BxC, weights_BxC = chunk
        logits_BxCxV = logits(x_BxCxD, head_DxV, vocab)
        top_BxCx1 = logits_BxCxV.max(axis=-1, keepdims=True)
        exp_BxCxV = jnp.exp(logits_BxCxV - top_BxCx1)
        total_BxCx1 = exp_BxCxV.sum(axis=-1, keepdims=True)
        at_target_BxCx1 = jnp.take_along_axis(logits_BxCxV, targets_BxC[..., None], axis=-1)
        losses_BxC = (jnp.log(total_BxCx1) + top_BxCx1 - at_target_BxCx1)[..., 0]
        slope = _minus_target(exp_BxCxV * (weights_BxC[..., None] / total_BxCx1), targets_BxC, weights_BxC)
        # Once, in the dtype of the products: else each of the two would compute it again.
        slope_BxCxV = jax.lax.optimization_barrier(slope.astype(x_BxCxD.dtype))
        x_slope_BxCxD = slope_BxCxV @ head_DxV.T
        x_DxN = turned(flat(x_BxCxD))
        chunk_slope_DxV = jnp.matmul(x_DxN, flat(slope_BxCxV), preferred_element_type=jnp.float32)
        return (loss + jnp.sum(weights_BxC * losses_BxC), head_slope_DxV + chunk_slope_DxV), x_slope_BxCxD

    start = (jnp.zeros((), jnp.float32), jnp.zeros(head_DxV.shape, jnp.float32))
    everything = (x_BxTxD, targets_BxT, weights_BxT)
    if at_a_time == positions:
        (loss, head_slope_DxV), x_slope_BxTxD = add(start, everything)
    else:
        cut = lambda y: y.reshape(batch, -1, at_a_time, *y.shape[2:]).swapaxes(0, 1)  # noqa: E731
        (loss, head_slope_DxV), x_slope = jax.lax.scan(add, start, jax.tree.map(cut, everything))
        x_slope_BxTxD = x_slope.swapaxes(0, 1).reshape(x_BxTxD.shape)
    return loss, (x_slope_BxTxD, head_slope_DxV.astype(head_DxV.dtype))


def _loss_backward(vocab, saved, slope):
    x_slope, head_slope = ((y * slope).astype(y.dtype) for y in saved)
    return x_slope, head_slope, None, None


loss_sum.defvjp(_loss_forward, _loss_backward)
