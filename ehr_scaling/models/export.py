"""A trained model as others load it, `config.json` and `model.safetensors` in the layout of Hugging Face, and back.

Without mixing it is a Llama, whose classes `transformers` has. With it, the folder has a module of its own beside the
weights (`modeling_ehr_scaling.py`), which `transformers` runs where `trust_remote_code=True` allows it.

The decoder multiplies by nothing that is not a parameter, under µP too, so that parameters are all there is to hand
over. Matrices are turned: there they are (out, in). Rows of the vocabulary that only pad it are left out.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ehr_scaling import artifacts
from ehr_scaling.data.vocabulary import END, SPECIAL
from ehr_scaling.errors import UserError, first_line, unreadable
from ehr_scaling.models import attention
from ehr_scaling.models.layers import EPSILON
from ehr_scaling.models.mixing import EARLIER
from ehr_scaling.models.sizes import Shape
from ehr_scaling.models.transformer import PAD, Transformer

CONFIG, TENSORS, GENERATION, CODE = (
    "config.json",
    "model.safetensors",
    "generation_config.json",
    "modeling_ehr_scaling.py",
)
FORMAT = 1  # of what config.json says under OURS
OURS = "ehr_scaling"  # model_type with mixing, and in config.json what Llama's fields do not say
# Of a layer: what a kernel of ours (in, parts, out) is called there, part by part; and vectors
_MATRICES = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
_OF_LOADING = ("auto_map", "dtype", "torch_dtype", "use_cache")  # fields that say nothing of what the model computes
_EMBEDDING, _NORM, _HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def save(folder: Path, model: Transformer, params: Any, context: int) -> None:
    """Write the files of a model into `folder`, which is there.

    Args: params, as `training.setup.restored_params` returns them, float32; context, positions it was trained on.
    """
    arrays = {name: np.ascontiguousarray(x, np.float32) for name, x in tensors(model, params).items()}
    save_file(arrays, folder / TENSORS, metadata={"format": "pt"})
    artifacts.write_json(folder / CONFIG, _config(model, context))
    # PAD is no token that anyone could draw: our loss leaves it out, and what its logit is means nothing
    chosen = {"suppress_tokens": [PAD], "pad_token_id": PAD, "eos_token_id": SPECIAL.index(END)}
    artifacts.write_json(folder / GENERATION, {**chosen, "use_cache": model.mixing == "none"})
    if model.mixing != "none":
        shutil.copyfile(Path(__file__).with_name(CODE), folder / CODE)


def load(folder: Path) -> tuple[Transformer, Any]:
    """What `save` wrote, to the last bit: the model, with this machine's kernel, and its parameters {name: float32}.

    `model.apply({"params": params}, tokens, segments)` gives logits, see `Transformer`. Rows that pad the vocabulary
    are zeros; no logit of a token depends on them.
    Raises: UserError where a file is missing, damaged, or of something else.
    """
    if (folder / artifacts.RECORD).is_file():  # a model that others have trained further has none
        artifacts.verify(folder, [CONFIG, TENSORS])
    about = artifacts.read_json(folder / CONFIG, "export the model again")
    path = folder / TENSORS
    try:
        model = _model(about)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as e:
        what = f"it lacks {e}" if isinstance(e, KeyError) else first_line(e)
        raise UserError(f"{folder / CONFIG} is of no model that launch.export wrote ({what})") from None
    if not path.is_file():
        raise UserError(f"{path} is missing: export the model again")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as e:  # the last three of headers and dtypes
        raise unreadable(e, path, f"{path} is damaged ({first_line(e)}): export the model again") from None
    return model, jax.tree.map(jnp.asarray, _params(model, tensors, path))


def _config(model: Transformer, context: int) -> dict[str, Any]:
    s, mixed = model.shape, model.mixing != "none"
    names = {"AutoConfig": "EhrScalingConfig", "AutoModelForCausalLM": "EhrScalingForCausalLM"}
    module = CODE.removesuffix(".py")
    custom_code = {"auto_map": {auto: f"{module}.{name}" for auto, name in names.items()}} if mixed else {}
    return {
        "architectures": [names["AutoModelForCausalLM"] if mixed else "LlamaForCausalLM"],
        "model_type": OURS if mixed else "llama",
        **custom_code,
        "vocab_size": model.vocab,
        "hidden_size": s.width,
        "intermediate_size": s.ff,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.heads,
        "head_dim": s.width // s.heads,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "rms_norm_eps": EPSILON,
        "rope_theta": attention.ROTARY_BASE,  # by versions before 5 of transformers
        "rope_parameters": {"rope_type": "default", "rope_theta": attention.ROTARY_BASE},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": model.tied,
        "pad_token_id": PAD,
        "bos_token_id": None,
        "eos_token_id": SPECIAL.index(END),
        "use_cache": not mixed,
        "dtype": "float32",
        "torch_dtype": "float32",  # by versions before 5
        OURS: {
            "format": FORMAT,
            "size": s.name,
            "padded_vocab": model.padded,
            "mixing": model.mixing,
            "activations": jnp.dtype(model.dtype).name,
            "parametrization": model.parametrization,
            "base": list(model.base),
        },
    }


def _model(about: dict[str, Any]) -> Transformer:
    """Of the value of a config.json. Raises KeyError, TypeError or ValueError for one of another kind."""
    ours = about[OURS]
    if ours["format"] != FORMAT:
        raise ValueError(f"format {ours['format']!r} is not {FORMAT}")
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    numbers = [*(about[name] for name in names), ours["padded_vocab"], about["max_position_embeddings"]]
    if not all(type(n) is int and 0 < n < 1 << 31 for n in numbers):
        raise ValueError("a size is no whole number from 1 up")
    width, layers, heads, ff, vocab, padded, context = numbers
    if width % heads or width // heads % 2 or not vocab <= padded <= 2 * vocab + 1024:
        raise ValueError("its sizes do not go together")
    model = Transformer(
        Shape(str(ours["size"]), width, layers, heads, ff),
        vocab,
        padded,
        about["tie_word_embeddings"] is True,
        {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[ours["activations"]],
        parametrization=ours["parametrization"],
        base=tuple(ours["base"]),
        mixing=ours["mixing"],
    )
    for name, value in _config(model, context).items():  # whoever trains it further may leave some of them out
        if name not in _OF_LOADING and about.get(name, value) != value:
            raise ValueError(f"{name} is {about[name]!r}, and should be {value!r}")
    platform, head = jax.default_backend(), width // heads
    kernel = attention.choose("auto", platform=platform, dtype=model.dtype, head=head, context=context)
    return model.clone(attention=kernel)


def tensors(model: Transformer, params: Any) -> dict[str, np.ndarray]:
    """Parameters under the names of Llama, and `model.layers.<n>.mixing.weight` (J, D)."""
    blocks, layers = params["blocks"], model.shape.layers
    tensors = {_EMBEDDING: np.asarray(params["embedding"])[: model.vocab], _NORM: params["final_norm"]["scale"]}
    if not model.tied:
        tensors[_HEAD] = np.asarray(params["head"]).T[: model.vocab]
    for n in range(layers):
        layer = f"model.layers.{n}"
        for name, theirs in _MATRICES.items():
            kernel = np.asarray(blocks[name]["kernel"][n])
            parts = kernel.reshape(len(kernel), len(theirs), -1)
            tensors |= {f"{layer}.{part}.weight": parts[:, k].T for k, part in enumerate(theirs)}
        tensors |= {f"{layer}.{theirs}.weight": blocks[name]["scale"][n] for name, theirs in _NORMS.items()}
        if model.mixing != "none":
            tensors[f"{layer}.mixing.weight"] = blocks["mixing"][n]
    return tensors


def _params(model: Transformer, tensors: dict[str, np.ndarray], path: Path) -> dict[str, Any]:
    """Parameters of tensors under the names of Llama, which are taken out of the dict. Raises UserError."""
    s = model.shape
    head = (s.heads, s.width // s.heads)
    shapes = {"qkv": (3, *head), "out": (s.width,), "gate_up": (2, s.ff), "down": (s.width,)}

    def take(name: str, *shape: int) -> np.ndarray:
        if name not in tensors:
            raise UserError(f"{path} lacks {name}: export the model again")
        x = tensors.pop(name)
        if x.shape != shape or x.dtype != np.float32:
            raise UserError(f"{path}: {name} is {x.dtype} {list(x.shape)}, not float32 {list(shape)}: export it again")
        return x

    def stacked(name: str, *shape: int) -> np.ndarray:
        return np.stack([take(f"model.layers.{n}.{name}.weight", *shape) for n in range(s.layers)])

    def kernel(name: str) -> np.ndarray:
        """(L, in, …), as `transformer.Dense` has them, layer by layer."""
        parts, into = _MATRICES[name], s.ff if name == "down" else s.width
        out = int(np.prod(shapes[name])) // len(parts)
        each = [stacked(part, out, into).swapaxes(1, 2) for part in parts]
        return np.stack(each, axis=2).reshape(s.layers, into, *shapes[name])

    padding = ((0, model.padded - model.vocab), (0, 0))
    blocks: dict[str, Any] = {name: {"kernel": kernel(name)} for name in _MATRICES}
    blocks |= {name: {"scale": stacked(theirs, s.width)} for name, theirs in _NORMS.items()}
    if model.mixing != "none":
        blocks["mixing"] = stacked("mixing", EARLIER, s.width)
    params = {
        "embedding": np.pad(take(_EMBEDDING, model.vocab, s.width), padding),
        "blocks": blocks,
        "final_norm": {"scale": take(_NORM, s.width)},
    }
    if not model.tied:
        params["head"] = np.pad(take(_HEAD, model.vocab, s.width), padding).T
    if tensors:
        raise UserError(f"{path} holds {min(tensors)}, which is not of this model: export it again")
    return params
