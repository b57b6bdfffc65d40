"""What a layer and the loss compute, with gradients written by hand for the kernels they reach.

XLA's CPU backend has a fast kernel for products, at the core's peak, but not for those that sum over the first axis of
their left factor, as `jax.grad` writes the gradient of every weight: these ran at half the speed.

Shapes: B batch, T positions, D in, E out, V vocabulary (padded), C positions at a time.
"""

from functools import partial

import jax
import jax.numpy as jnp

PAD = 0
_WIDE = 1000  # columns of a product from which on a transposed copy of its left factor is worth its time
_LOGITS = 256 * 4096  # so many stay in a core's cache


def with_logits(vocab: int) -> int:
    """Tokens whose logits are there at a time on a CPU. Args: vocab, padded."""
    return max(256, _LOGITS // vocab)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _turned(x_NxD: jax.Array) -> jax.Array:
    """Transposed; on a CPU in memory, since a product that only looks at it the other way round is a slow one."""
    return jax.lax.optimization_barrier(x_NxD.T) if _on_cpu() else x_NxD.T


def _minus_target(p_BxCxV: jax.Array, targets_BxC: jax.Array, weights_BxC: jax.Array) -> jax.Array:
    """p, less the weight at each target; on accelerators, which do not like to scatter, as part of what makes p."""
    if _on_cpu():
        batch, positions = jnp.indices(targets_BxC.shape, sparse=True)
        return p_BxCxV.at[batch, positions, targets_BxC].add(-weights_BxC)
    hit_BxCxV = jnp.arange(p_BxCxV.shape[-1]) == targets_BxC[..., None]
    return p_BxCxV - jnp.where(hit_BxCxV, weights_BxC[..., None], 0.0)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


@jax.custom_vjp
def dense(x_BxTxD: jax.Array, kernel_DxNxE: jax.Array) -> tuple[jax.Array, ...]:
    """The N products x @ kernel[:, n], (B, T, E) each, made as one; all of one dtype.

    Left to itself, `jax.grad` would pad the slope of each to the size of them all, and add them up.
    """
    return _dense_forward(x_BxTxD, kernel_DxNxE)[0]


def _dense_forward(x_BxTxD, kernel_DxNxE):
    # Not a call of `dense`: policies of what to keep for the backward pass do not look into one.
    width, parts, _ = kernel_DxNxE.shape
    found = jnp.split(x_BxTxD @ kernel_DxNxE.reshape(width, -1), parts, axis=-1)
    return tuple(found), (x_BxTxD, kernel_DxNxE)


def _dense_backward(saved, slopes_BxTxE):
    x_BxTxD, kernel_DxNxE = saved
    # A barrier, for else each of the two products would paste them together for itself.
    slope_BxTxNE = jax.lax.optimization_barrier(jnp.concatenate(slopes_BxTxE, axis=-1))
    columns = slope_BxTxNE.shape[-1]
    x_DxBT = _turned(_flat(x_BxTxD)) if columns >= _WIDE else _flat(x_BxTxD).T
    x_slope_BxTxD = slope_BxTxNE @ kernel_DxNxE.reshape(-1, columns).T
    return x_slope_BxTxD, (x_DxBT @ _flat(slope_BxTxNE)).reshape(kernel_DxNxE.shape)


dense.defvjp(_dense_forward, _dense_backward)


@jax.custom_vjp
def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """silu(gate) · up, of one shape and dtype (Shazeer 2020, arXiv 2002.05202, eq. 6)."""
    return _swiglu_forward(gate, up)[0]


def _swiglu_forward(gate, up):
    return jax.nn.silu(gate) * up, (gate, up)


def _swiglu_backward(saved, slope):
    gate, up = saved
    open_ = jax.nn.sigmoid(gate)
    silu = gate * open_
    return slope * up * (open_ + silu * (1 - open_)), slope * silu


swiglu.defvjp(_swiglu_forward, _swiglu_backward)


@jax.custom_vjp
def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """x / rms(x) · scale over the last axis, in float32, returned in the dtype of x (Zhang & Sennrich 2019, eq. 4)."""
    return _rms_norm_forward(x, scale)[0]


def _rms_norm_forward(x, scale):
    y = x.astype(jnp.float32)
    over_rms = jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + 1e-6)
    return (y * over_rms * scale).astype(x.dtype), (x, over_rms, scale)


def _rms_norm_backward(saved, slope):
    x, over_rms, scale = saved
    y, slope = x.astype(jnp.float32) * over_rms, slope.astype(jnp.float32)
    inner = slope * scale
    x_slope = over_rms * (inner - y * jnp.mean(inner * y, axis=-1, keepdims=True))
    return x_slope.astype(x.dtype), jnp.sum(slope * y, axis=tuple(range(x.ndim - 1)))


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


def logits(x_BxTxD: jax.Array, head_DxV: jax.Array, vocab: int) -> jax.Array:
    """Float32 (B, T, V), -1e9 for PAD and for ids from `vocab` on. Args: stream and head of one dtype."""
    found = jnp.einsum("btd,dv->btv", x_BxTxD, head_DxV, preferred_element_type=jnp.float32)
    ids = jnp.arange(head_DxV.shape[1])
    return jnp.where((ids == PAD) | (ids >= vocab), -1e9, found)


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
    most = max(1, with_logits(head_DxV.shape[1]) // batch) if _on_cpu() else positions
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
        x_DxN = _turned(_flat(x_BxCxD))
        own_DxV = jnp.matmul(x_DxN, _flat(slope_BxCxV), preferred_element_type=jnp.float32)
        return (loss + jnp.sum(weights_BxC * losses_BxC), head_slope_DxV + own_DxV), x_slope_BxCxD

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
