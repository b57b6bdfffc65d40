"""What the layers compute, with gradients written by hand for the kernels they reach.

XLA's CPU backend has a fast kernel for products, at the core's peak, but not for those that sum over the first axis of
their left factor, as `jax.grad` writes the gradient of every weight: these ran at half the speed.

Shapes: B batch, T positions, D in, E out.
"""

import jax
import jax.numpy as jnp

EPSILON = 1e-6  # of norms
_WIDE = 1000  # columns of a product from which on a transposed copy of its left factor is worth its time


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def turned(x_NxD: jax.Array) -> jax.Array:
    """Transposed; on a CPU in memory, since a product that only looks at it the other way round is a slow one."""
    return jax.lax.optimization_barrier(x_NxD.T) if on_cpu() else x_NxD.T


def flat(x: jax.Array) -> jax.Array:
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
    projections = jnp.split(x_BxTxD @ kernel_DxNxE.reshape(width, -1), parts, axis=-1)
    return tuple(projections), (x_BxTxD, kernel_DxNxE)


def _dense_backward(saved, slopes_BxTxE):
    x_BxTxD, kernel_DxNxE = saved
    # A barrier, for else each of the two products would paste them together for itself.
    slope_BxTxNE = jax.lax.optimization_barrier(jnp.concatenate(slopes_BxTxE, axis=-1))
    columns = slope_BxTxNE.shape[-1]
    x_DxBT = turned(flat(x_BxTxD)) if columns >= _WIDE else flat(x_BxTxD).T
    x_slope_BxTxD = slope_BxTxNE @ kernel_DxNxE.reshape(-1, columns).T
    return x_slope_BxTxD, (x_DxBT @ flat(slope_BxTxNE)).reshape(kernel_DxNxE.shape)


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
    over_rms = jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + EPSILON)
    return (y * over_rms * scale).astype(x.dtype), (x, over_rms, scale)


def _rms_norm_backward(saved, slope):
    x, over_rms, scale = saved
    y, slope = x.astype(jnp.float32) * over_rms, slope.astype(jnp.float32)
    inner = slope * scale
    x_slope = over_rms * (inner - y * jnp.mean(inner * y, axis=-1, keepdims=True))
    return x_slope.astype(x.dtype), jnp.sum(slope * y, axis=tuple(range(x.ndim - 1)))


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)
