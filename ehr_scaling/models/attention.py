"""Attention that stays inside one patient, by the fastest way each platform has.

Shapes: B batch, T queries, S keys, H heads, K head width. Segments are int32, one patient each; 0 is padding, which
sees only padding: what is computed there is finite and means nothing.
"""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from ehr_scaling.errors import UserError

IMPLEMENTATIONS = ("xla", "blocked", "cudnn", "splash")
HALVES = (jnp.bfloat16, jnp.float16)
# Not -inf: the gradient of a row with no visible key would be NaN.
MASKED = -1e9
ROTARY_BASE = 10_000.0
# Blocks against one einsum, forward and backward on 2 CPU cores: equal at T = 64, 1.3 × as fast at 128, 2 × at 512.
BLOCKED_FROM = 64

dot = partial(jnp.einsum, preferred_element_type=jnp.float32)


def choose(
    setting: str, *, platform: str, dtype: jax.typing.DTypeLike, head: int, context: int, members: int = 1
) -> str:
    """The implementation that `--config.model.attention` means here: one of IMPLEMENTATIONS.

    Args:
      setting: "auto", or the name of an implementation.
      platform: of the devices, as JAX names it: cpu, gpu (or cuda, rocm), tpu.
      dtype: of the activations.
      head, context: head width K and positions T.
      members: models trained together under `vmap`.
    Raises UserError for an unknown name, and for what cannot run here.
    """
    if setting == "auto":
        if platform == "tpu":
            return "splash"
        if platform in ("gpu", "cuda") and members == 1 and _cudnn_refuses(dtype, head, context) is None:
            return "cudnn"
        return "blocked" if context > BLOCKED_FROM else "xla"
    if setting not in IMPLEMENTATIONS:
        raise UserError(f"--config.model.attention={setting}: choose one of {', '.join(('auto', *IMPLEMENTATIONS))}")
    if setting == "splash" and platform != "tpu":
        raise UserError(f"--config.model.attention=splash runs on TPU only, and this is {platform}: choose auto")
    if setting == "cudnn":
        if platform not in ("gpu", "cuda"):
            raise UserError(f"--config.model.attention=cudnn runs on NVIDIA only, and this is {platform}: choose auto")
        if members > 1:
            # Under vmap jax accepts no mask, so that patients would see each other.
            raise UserError(
                "--config.model.attention=cudnn trains no models together: choose auto, or --config.training.together=1"
            )
        _check_cudnn(dtype, head, context)
    return setting


def attention(
    q_BxTxHxK: jax.Array,
    k_BxTxHxK: jax.Array,
    v_BxTxHxK: jax.Array,
    segments_BxT: jax.Array,
    implementation: str,
) -> jax.Array:
    """Causal softmax attention within segments, logits and softmax in float32. Returns (B, T, H, K) in v's dtype.

    Args: implementation, one of IMPLEMENTATIONS (`choose` knows which), fixed when traced.
    Raises UserError where cuDNN does not take the shape or the dtype.
    """
    q, k, v, segments = q_BxTxHxK, k_BxTxHxK, v_BxTxHxK, segments_BxT
    match implementation:
        case "xla":
            return attend(q, k, v, visible(segments, segments))
        case "blocked":
            return _blocked(q, k, v, segments, _block(q.shape[1]))
        case "cudnn":
            _check_cudnn(q.dtype, q.shape[-1], q.shape[1])
            # Only a mask keeps patients apart here: with lengths or none at all, cuDNN sees one long sequence.
            same_Bx1xTxT = (segments[:, :, None] == segments[:, None, :])[:, None]
            return jax.nn.dot_product_attention(q, k, v, mask=same_Bx1xTxT, is_causal=True, implementation="cudnn")
        case "splash":
            return _splash(q, k, v, segments)
    raise ValueError(implementation)


def visible(segments_BxT: jax.Array, segments_BxS: jax.Array, index: jax.Array | int = 0) -> jax.Array:
    """Which keys a query may attend to: its own segment (patient), up to and including itself.

    Args:
      segments_BxT: int32 segment of each query.
      segments_BxS: int32 segment of each key.
      index: position of the first query among the keys.
    Returns: bool (B, 1, T, S); the axis of 1 is for the heads.
    """
    query_T = index + jnp.arange(segments_BxT.shape[1])
    causal_TxS = query_T[:, None] >= jnp.arange(segments_BxS.shape[1])[None, :]
    return ((segments_BxT[:, :, None] == segments_BxS[:, None, :]) & causal_TxS)[:, None]


def attend(q_BxTxHxK: jax.Array, k_BxSxHxK: jax.Array, v_BxSxHxK: jax.Array, visible_Bx1xTxS: jax.Array) -> jax.Array:
    """Softmax attention by plain einsum, logits and softmax in float32. Returns (B, T, H, K) in the dtype of v."""
    logits = dot("bthk,bshk->bhts", q_BxTxHxK * q_BxTxHxK.shape[-1] ** -0.5, k_BxSxHxK)
    weights = jax.nn.softmax(jnp.where(visible_Bx1xTxS, logits, MASKED), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", weights.astype(v_BxSxHxK.dtype), v_BxSxHxK)


def rotate(x_BxTxHxK: jax.Array, positions_T: jax.Array) -> jax.Array:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864), base 10,000, halves paired as in Llama.

    Only differences of positions reach the attention logits, so a patient may start anywhere in a row.
    """
    half = x_BxTxHxK.shape[-1] // 2
    frequency_F = ROTARY_BASE ** (-jnp.arange(half) / half)
    angle_Tx1xF = positions_T[:, None, None] * frequency_F
    cos, sin = jnp.cos(angle_Tx1xF), jnp.sin(angle_Tx1xF)
    a, b = jnp.split(x_BxTxHxK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BxTxHxK.dtype)


def honours_segments(
    implementation: str, dtype: jax.typing.DTypeLike, head: int, context: int, *, heads: int = 2
) -> float:
    """How far the implementation, on this device, lets patients in one row reach each other.

    Random patients packed into a row, against each alone by plain einsum in float32; outputs, and gradients of q, k, v.
    Some fused kernels take segments and ignore them, which no shape and no error tells.

    Returns: largest deviation, in units of what rounding explains; above 1 they are not kept apart. NaN counts as inf.
    """
    cuts = sorted({0, context // 7, context // 3, context // 2 + 1, context - context // 8, context})
    parts = list(pairwise(cuts))
    packed_1xT, alone_PxT = np.zeros((1, context), np.int32), np.zeros((len(parts) - 1, context), np.int32)
    x_4x1xTxHxK = np.random.default_rng(0).normal(size=(4, 1, context, heads, head))
    x_4xPxTxHxK = np.zeros((4, len(parts) - 1, context, heads, head))
    for row, (start, end) in enumerate(parts[:-1]):  # the last stays padding: it must not reach anyone
        packed_1xT[0, start:end] = len(parts) - row
        alone_PxT[row, : end - start] = 1
        x_4xPxTxHxK[:, row, : end - start] = x_4x1xTxHxK[:, 0, start:end]

    @partial(jax.jit, static_argnums=2)
    def run(x_4xBxTxHxK, segments_BxT, how):
        def score(q, k, v):
            out = attention(q, k, v, segments_BxT, how)
            real = (segments_BxT > 0)[..., None, None]
            return jnp.sum(jnp.where(real, out * x_4xBxTxHxK[3], 0).astype(jnp.float32)), out

        gradients, out = jax.grad(score, (0, 1, 2), has_aux=True)(*x_4xBxTxHxK[:3])
        return jnp.stack([out, *gradients]).astype(jnp.float32)

    packed = np.asarray(run(jnp.asarray(x_4x1xTxHxK, dtype), packed_1xT, implementation))
    if not np.isfinite(packed).all():  # padding too: it would reach the parameters
        return np.inf
    with jax.default_matmul_precision("highest"):
        alone = np.asarray(run(jnp.asarray(x_4xPxTxHxK, dtype).astype(jnp.float32), alone_PxT, "xla"))
    # A unit in the last place of bfloat16 is 0.008; accelerators round the factors of float32 products as coarsely.
    exact = jnp.dtype(dtype) == jnp.float32 and jax.default_backend() == "cpu"
    tolerance = 1e-4 if exact else 3e-2
    worst = 0.0
    for row, (start, end) in enumerate(parts[:-1]):
        expected = alone[:, row, : end - start]
        deviation = np.abs(packed[:, 0, start:end] - expected).max(axis=(1, 2, 3))
        worst = max(worst, float((deviation / np.maximum(np.abs(expected).max(axis=(1, 2, 3)), 1.0)).max()))
    return worst / tolerance


def _block(context: int) -> int:
    """Queries a block: small enough to skip most of the upper triangle, few enough blocks to compile."""
    return min(max(64, -(-context // 512) * 64), 256)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blocked(q_BxTxHxK, k_BxTxHxK, v_BxTxHxK, segments_BxT, block):
    """Blocks of queries, each with the keys up to its end; the backward pass computes each block's weights anew.

    As in FlashAttention (Dao et al. 2022, arXiv 2205.14135, appendix B), but with whole rows of logits.
    """
    return _blocked_forward(q_BxTxHxK, k_BxTxHxK, v_BxTxHxK, segments_BxT, block)[0]


def _blocks(context: int, block: int) -> list[tuple[int, int]]:
    return [(start, min(start + block, context)) for start in range(0, context, block)]


def _logits(q_BxHxTxK, k_BxHxTxK, segments_BxT, start, end):
    seen = visible(segments_BxT[:, start:end], segments_BxT[:, :end], start)
    # Added, and once for all heads: XLA would put comparisons and a select into each of them, slower than the product.
    bias = jax.lax.optimization_barrier(jnp.where(seen, 0.0, MASKED))
    return dot("bhtk,bhsk->bhts", q_BxHxTxK[:, :, start:end], k_BxHxTxK[:, :, :end]) + bias


def _blocked_forward(q, k, v, segments, block):
    # Barriers, here and below: XLA would fold a transposition into the products, for which it then has no fast kernel.
    q, k, v = jax.lax.optimization_barrier([x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v)])
    outs, logsumexps = [], []
    for start, end in _blocks(q.shape[2], block):
        logits = _logits(q, k, segments, start, end)
        top = logits.max(axis=-1, keepdims=True)
        weights = jnp.exp(logits - top)
        total = weights.sum(axis=-1, keepdims=True)
        outs.append(dot("bhts,bhsk->bhtk", weights.astype(v.dtype), v[:, :, :end]) / total)
        logsumexps.append(top + jnp.log(total))
    out = jnp.concatenate(outs, axis=2)
    saved = q, k, v, segments, out, jnp.concatenate(logsumexps, axis=2)
    return out.astype(v.dtype).swapaxes(1, 2), saved


def _blocked_backward(block, saved, slope):
    q, k, v, segments, out, logsumexp = saved
    slope = jax.lax.optimization_barrier(slope.swapaxes(1, 2))
    q_BxHxKxT, slope_BxHxKxT = jax.lax.optimization_barrier([x.swapaxes(2, 3) for x in (q, slope)])
    # Sum over keys of weight × its slope, the term of the softmax's derivative, is that over channels of the output.
    common = jnp.sum(slope.astype(jnp.float32) * out, axis=-1, keepdims=True)
    dq, dk_BxHxKxT = [], jnp.zeros(q_BxHxKxT.shape, jnp.float32)
    dv_BxHxKxT = dk_BxHxKxT
    for start, end in reversed(_blocks(q.shape[2], block)):
        here = slice(start, end)
        weights = jnp.exp(_logits(q, k, segments, start, end) - logsumexp[:, :, here])
        d_weights = dot("bhtk,bhsk->bhts", slope[:, :, here], v[:, :, :end])
        d_logits = (weights * (d_weights - common[:, :, here])).astype(q.dtype)
        dq.append(dot("bhts,bhsk->bhtk", d_logits, k[:, :, :end]) * q.shape[-1] ** -0.5)
        d_v = dot("bhkt,bhts->bhks", slope_BxHxKxT[..., here], weights.astype(v.dtype))
        dv_BxHxKxT = dv_BxHxKxT.at[..., :end].add(d_v)
        dk_BxHxKxT = dk_BxHxKxT.at[..., :end].add(dot("bhkt,bhts->bhks", q_BxHxKxT[..., here], d_logits))
    slopes = jnp.concatenate(dq[::-1], axis=2), dk_BxHxKxT.swapaxes(2, 3), dv_BxHxKxT.swapaxes(2, 3)
    return *(x.astype(q.dtype).swapaxes(1, 2) for x in slopes), None


_blocked.defvjp(_blocked_forward, _blocked_backward)


def _cudnn_refuses(dtype: jax.typing.DTypeLike, head: int, context: int) -> str | None:
    """What of this cuDNN's flash attention does not take, and the remedy; None if nothing."""
    if jnp.dtype(dtype) not in HALVES:
        return f"needs bfloat16, not {jnp.dtype(dtype)}: set --config.model.dtype=bfloat16"
    if head % 8 or head > 128:
        return f"needs heads of a multiple of 8 up to 128, not {head}: choose another size, or blocked"
    if context % 128:
        return f"needs a context of a multiple of 128, not {context}: choose another, or blocked"
    return None


def _check_cudnn(dtype: jax.typing.DTypeLike, head: int, context: int) -> None:
    if (reason := _cudnn_refuses(dtype, head, context)) is not None:
        raise UserError(f"--config.model.attention=cudnn {reason}")


def _splash(q, k, v, segments):
    """TPU's kernel for each device's rows and heads; elsewhere interpreted, which is slow and for tests."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:  # by hand: the rows are already the device's own
        return _splash_local(q, k, v, segments)
    # XLA cannot split a kernel it does not know: each device is told which rows and heads are its own.
    rows = tuple(axis for axis in ("data", "fsdp") if axis in mesh.axis_names)
    heads = "tensor" if "tensor" in mesh.axis_names else None
    spec = PartitionSpec(rows, None, heads, None)
    local = jax.shard_map(
        _splash_local, in_specs=(spec, spec, spec, PartitionSpec(rows, None)), out_specs=spec, check_vma=False
    )
    return local(q, k, v, segments)


def _splash_local(q, k, v, segments):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash  # half a second, and only TPU needs it

    _, context, heads, width = q.shape
    padded = -(-context // 128) * 128
    block = next(n for n in (512, 256, 128) if padded % n == 0)
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.CausalMask((padded, padded))] * heads),
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        interpret=jax.default_backend() != "tpu",
    )
    # Lanes and sublanes of the unit. Added keys come after all queries and are of no patient; zeros add no product.
    room = ((0, 0), (0, 0), (0, padded - context), (0, -width % 128))
    q, k, v = (jnp.pad(x.swapaxes(1, 2), room) for x in (q * width**-0.5, k, v))
    segments = jnp.pad(segments, ((0, 0), (0, padded - context)))
    out = jax.vmap(lambda q, k, v, s: kernel(q, k, v, segment_ids=splash.SegmentIds(s, s)))(q, k, v, segments)
    return out[:, :, :context, :width].swapaxes(1, 2)
