# Copyright the ehr_scaling authors. Apache-2.0, as transformers is.
"""A Llama whose layers read, ahead of attention, the three positions before each: for `transformers`, on its own.

It lies beside the weights that `ehr-scaling export` writes, and needs torch and transformers alone:
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`. Rows may be padded on the left. There is no
cache of past positions, so that each new token reads its row anew.
"""

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

EARLIER = 3  # positions that each position reads beside its own


class EhrScalingConfig(LlamaConfig):
    model_type = "ehr_scaling"


class Mixing(nn.Module):
    """y[t] = x[t] + Σⱼ weight[j - 1] · x[t - j] where t sees t - j: "Canon-A", Allen-Zhu 2025, arXiv 2512.17351."""

    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(EARLIER, config.hidden_size))

    def forward(self, x, mask):
        """Of the stream (B, T, D). mask: of attention, (B, 1, T, T), True or 0 where t sees a position, or None."""
        y = x.float()
        for j, weight in enumerate(self.weight, 1):
            earlier = x[:, :-j].float() * weight
            if mask is not None:
                seen = mask.diagonal(-j, dim1=-2, dim2=-1).squeeze(1)[..., None]
                earlier = earlier * (seen if seen.dtype == torch.bool else seen == 0)
            y = torch.cat([y[:, :j], y[:, j:] + earlier], dim=1)
        return y.to(x.dtype)


class Layer(LlamaDecoderLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.mixing = Mixing(config)

    def forward(self, hidden_states, attention_mask=None, **rest):
        if rest.get("cache", rest.get("past_key_values")) is not None:  # as versions of transformers name it
            raise ValueError("this model keeps no cache of past positions: set use_cache=False")
        read = self.mixing(self.input_layernorm(hidden_states), attention_mask)
        hidden_states = hidden_states + self.self_attn(hidden_states=read, attention_mask=attention_mask, **rest)[0]
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class EhrScalingForCausalLM(LlamaForCausalLM):
    config_class = EhrScalingConfig
    _no_split_modules = ["Layer"]  # noqa: RUF012
    _supports_flash_attn = False  # of its masks the layers could not tell which position sees which
    _supports_flex_attn = False

    def __init__(self, config):
        super().__init__(config)
        self.model.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.post_init()
