"""The decoder of `models/transformer`, one position at a time, laid out for the memory traffic of simulation.

Drawing a token of a small model costs little arithmetic: what takes time is moving keys and values. Those of a prompt
are read once for all copies of it that are under way, as two attentions whose softmaxes are joined ("shared prefix",
"bifurcated": Athiwaratkun et al. 2024, arXiv 2403.08845); those of a copy's own tokens lie in a ring that every row
writes at the same place, whatever its age. Every layer has its own arrays, with positions next to each other in a head,
updated in place. A model with mixing also reads the last J positions of a row: at first those of its prompt, and then
each row has its own. Tests hold it to the model's logits.

Shapes: M prompts in store, G groups, S slots of a group, R = G·S rows, L layers, H heads, P positions of a prompt, W of
the ring, K head width, J positions that mixing reads, D width, V vocabulary (padded).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ehr_scaling.models.attention import MASKED, dot, rotate
from ehr_scaling.models.loss import logits
from ehr_scaling.models.mixing import EARLIER, mix
from ehr_scaling.models.transformer import PAD, RMSNorm, Transformer, empty_cache

_SCORES_AT_ONCE = {"cpu": 1 << 24}  # of a batch of prompts that is read together: 64 MB
_ON_ACCELERATORS = 1 << 28


class Prefix(NamedTuple):
    """What groups attend to of their prompts: keys and values, (G, H, P, K) of each layer, and which count (G, P).

    last: what mixing reads of the last positions, (G, J, D) of each layer, zeros where none counts; None without it.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    seen: jax.Array
    last: tuple[jax.Array | None, ...]

    def take(self, rows: jax.Array) -> "Prefix":
        return jax.tree.map(lambda x: x[rows], self)


class Ring(NamedTuple):
    """Keys and values of the tokens that rows have drawn, one array (R, H, W, K) a layer.

    last: what mixing reads of the last positions of each row, (R, J, D) a layer; None without it.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    last: tuple[jax.Array | None, ...]


def empty_ring(model: Transformer, rows: int, positions: int) -> Ring:
    head = model.shape.width // model.shape.heads
    zeros = _by_heads(jnp.zeros((rows, model.shape.heads, positions, head), model.dtype))
    last = jnp.zeros((rows, EARLIER, model.shape.width), model.dtype) if model.mixing == "conv" else None
    layers = model.shape.layers
    return Ring((zeros,) * layers, (zeros,) * layers, (last,) * layers)


def read(model: Transformer, params: Any, prompts_MxP: jax.Array) -> tuple[jax.Array, Prefix]:
    """Read prompts, int32, padded on the left with PAD: logits of the next token, float32 (M, V), and what to
    attend to.

    Some prompts at a time, so that the scores of one such batch fit into memory.
    """
    prompts, width = prompts_MxP.shape
    most = _SCORES_AT_ONCE.get(jax.default_backend(), _ON_ACCELERATORS)
    together = max(1, min(prompts, most // (model.shape.heads * width * width)))

    def some(prompts_BxP: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
        segments = (prompts_BxP != PAD).astype(jnp.int32)
        empty = empty_cache(model, together, width)
        # Only the last position's logits are wanted, and the head may be most of a small model
        hidden: Any = model.apply({"params": params}, prompts_BxP, segments, empty, 0, method="hidden")
        x_BxPxD, head, full = hidden
        # (B, L, H, P, K)
        keys, values = (_by_heads(x.transpose(1, 0, 3, 2, 4), 2) for x in (full.keys, full.values))
        last = full.last
        if last is not None:
            counts_BxJ = jnp.pad(segments, ((0, 0), (EARLIER, 0)))[:, -EARLIER:] > 0
            last = jnp.where(counts_BxJ[..., None, :, None], last.swapaxes(0, 1), 0)  # (B, L, J, D)
        return logits(x_BxPxD[:, -1:], head, model.vocab)[:, 0], keys, values, last

    filled = jnp.pad(prompts_MxP, ((0, -prompts % together), (0, 0)))
    batches = jax.lax.map(some, filled.reshape(-1, together, width))
    next_MxV, *of_layers = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:prompts], batches)

    def by_layer(x: jax.Array | None) -> tuple[Any, ...]:
        return tuple(None if x is None else x[:, i] for i in range(model.shape.layers))

    keys, values, last = map(by_layer, of_layers)
    return next_MxV, Prefix(keys, values, prompts_MxP != PAD, last)


class Weights(NamedTuple):
    """Parameters as `step` reads them: split by layer, and in the dtype of the activations."""

    embedding: jax.Array
    layers: list[Any]
    final_norm: Any
    head: jax.Array


def weights(model: Transformer, params: Any) -> Weights:
    """The parameters of a model, {name: float32}, as `step` reads them: cast and split once, before the loop."""
    blocks = jax.tree.map(lambda x: x.astype(model.dtype) if x.ndim > 2 else x, params["blocks"])
    embedding = params["embedding"].astype(model.dtype)
    return Weights(
        embedding,
        [jax.tree.map(lambda x, i=i: x[i], blocks) for i in range(model.shape.layers)],
        params["final_norm"],
        embedding.T if model.tied else params["head"].astype(model.dtype),
    )


def step(
    model: Transformer,
    weights: Weights,
    prefix: Prefix,
    ring: Ring,
    tokens_R: jax.Array,
    ages_R: jax.Array,
    at: jax.Array,
) -> tuple[jax.Array, Ring]:
    """Logits, float32 (R, V), after one more token a row, and the ring with it.

    Args: ages, tokens of each row that are in the ring already, fewer than W, written at the places before `at`; at,
      the place, the same of all rows.
    """
    heads, rows, groups = model.shape.heads, len(tokens_R), prefix.seen.shape[0]
    width = ring.keys[0].shape[2]
    own_Rx1xW = ((at - jnp.arange(width)) % width <= ages_R[:, None])[:, None]
    position_R = prefix.seen.shape[1] + ages_R
    x_RxD = weights.embedding[tokens_R]
    keys, values = [], []
    lasts: list[jax.Array | None] = []
    for layer, k_GxHxPxK, v_GxHxPxK, last_GxJxD, k_RxHxWxK, v_RxHxWxK, last_RxJxD in zip(
        *(weights.layers, prefix.keys, prefix.values, prefix.last, ring.keys, ring.values, ring.last), strict=True
    ):
        read_RxD = _norm(layer["attention_norm"], x_RxD)
        if model.mixing == "conv":
            # A row's first token comes after its prompt; what the slot held before is another copy's
            of_prompt_RxJxD = jnp.repeat(last_GxJxD, rows // groups, axis=0)
            last_RxJxD = jnp.where((ages_R == 0)[:, None, None], of_prompt_RxJxD, last_RxJxD)
            lasts.append(jnp.concatenate([last_RxJxD[:, 1:], read_RxD[:, None]], axis=1))
            one_patient = jnp.ones((rows, 1 + EARLIER), jnp.int32)
            before = last_RxJxD, one_patient[:, 1:]
            read_RxD = mix(read_RxD[:, None], layer["mixing"], one_patient[:, :1], before)[:, 0]
        else:
            lasts.append(None)
        qkv_Rx3xHxK = jnp.einsum("rd,dthk->rthk", read_RxD, layer["qkv"]["kernel"])
        q, k, v = (qkv_Rx3xHxK[None, :, i] for i in range(3))
        # rows stand where positions of one sequence would: each is rotated by its own
        q_RxHxK, k_RxHxK, v_RxHxK = rotate(q, position_R)[0], rotate(k, position_R)[0], v[0]
        k_RxHxWxK = jax.lax.dynamic_update_slice_in_dim(k_RxHxWxK, k_RxHxK[:, :, None], at, axis=2)
        v_RxHxWxK = jax.lax.dynamic_update_slice_in_dim(v_RxHxWxK, v_RxHxK[:, :, None], at, axis=2)
        keys.append(k_RxHxWxK)
        values.append(v_RxHxWxK)
        q_RxHxK = q_RxHxK * q_RxHxK.shape[-1] ** -0.5
        q_GxHxSxK = q_RxHxK.reshape(groups, -1, *q_RxHxK.shape[1:]).transpose(0, 2, 1, 3)
        shared = jnp.where(prefix.seen[:, None, None], dot("ghsk,ghpk->ghsp", q_GxHxSxK, k_GxHxPxK), MASKED)
        private = jnp.where(own_Rx1xW, dot("rhk,rhwk->rhw", q_RxHxK, k_RxHxWxK), MASKED)
        top_GxHxS = jnp.max(shared, axis=-1)
        top_RxH = jnp.maximum(top_GxHxS.transpose(0, 2, 1).reshape(rows, heads), jnp.max(private, axis=-1))
        top_GxHxS = top_RxH.reshape(groups, -1, heads).transpose(0, 2, 1)
        shared, private = jnp.exp(shared - top_GxHxS[..., None]), jnp.exp(private - top_RxH[..., None])
        total_RxH = jnp.sum(shared, axis=-1).transpose(0, 2, 1).reshape(rows, heads) + jnp.sum(private, axis=-1)
        of_shared = dot("ghsp,ghpk->ghsk", shared.astype(model.dtype), v_GxHxPxK)
        of_private = dot("rhw,rhwk->rhk", private.astype(model.dtype), v_RxHxWxK)
        mixed = (of_shared.transpose(0, 2, 1, 3).reshape(of_private.shape) + of_private) / total_RxH[..., None]
        x_RxD += mixed.astype(model.dtype).reshape(x_RxD.shape) @ layer["out"]["kernel"]
        gate_up_Rx2xF = jnp.einsum("rd,dtf->rtf", _norm(layer["mlp_norm"], x_RxD), layer["gate_up"]["kernel"])
        x_RxD += (jax.nn.silu(gate_up_Rx2xF[:, 0]) * gate_up_Rx2xF[:, 1]) @ layer["down"]["kernel"]
    x_RxD = _norm(weights.final_norm, x_RxD)
    return logits(x_RxD[None], weights.head, model.vocab)[0], Ring(tuple(keys), tuple(values), tuple(lasts))


def _by_heads(x: jax.Array, axis: int = 1) -> jax.Array:
    """Keys or values, whose heads lie along `axis`, cut by heads where several devices hold the model together."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[axis] % (devices := mesh.shape["tensor"]) or devices == 1:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*(None,) * axis, "tensor"))


def _norm(params: Any, x: jax.Array) -> Any:
    return RMSNorm().apply({"params": params}, x)
