"""Changes to the weights of Hugging Face models whose effect on scores is known: a dead head, relabelled heads, scaled logits.

All change a model in place before it is loaded into circuitlab, and return it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from circuitlab.core.errors import ModelError

__all__ = ["kill_head", "relabel_heads", "scale_readout"]


def _attention(hf: Any, layer: int) -> Any:
    if hasattr(hf, "transformer"):
        return hf.transformer.h[layer].attn
    if hasattr(hf, "gpt_neox"):
        return hf.gpt_neox.layers[layer].attention
    return hf.model.layers[layer].self_attn


def _d_head(hf: Any) -> int:
    config = hf.config
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


@torch.no_grad()
def kill_head(hf: Any, layer: int, head: int) -> Any:
    """Set one query head's rows of the output projection W_O to zero, so that the head has no effect."""
    attention, width = _attention(hf, layer), _d_head(hf)
    block = slice(head * width, (head + 1) * width)
    if hasattr(attention, "c_proj"):  # GPT-2 stores (in, out)
        attention.c_proj.weight[block] = 0
    else:
        projection = attention.o_proj if hasattr(attention, "o_proj") else attention.dense
        projection.weight[:, block] = 0
    return hf


@torch.no_grad()
def relabel_heads(hf: Any, groups: Sequence[int]) -> Any:
    """Reorder the key/value heads of every layer, each with its query heads; the model's logits stay the same.

    Parameters
    ----------
    hf : PreTrainedModel
        A model with separate q, k, v and o projections (Llama, Qwen, Gemma).
    groups : sequence of int
        New order: group i was group ``groups[i]``.

    Raises
    ------
    ModelError
        If the projections are fused.
    """
    config, width = hf.config, _d_head(hf)
    size = config.num_attention_heads // config.num_key_value_heads
    heads = [group * size + i for group in groups for i in range(size)]
    query = torch.cat([torch.arange(h * width, (h + 1) * width) for h in heads])
    shared = torch.cat([torch.arange(g * width, (g + 1) * width) for g in groups])
    for layer in range(config.num_hidden_layers):
        attention = _attention(hf, layer)
        if not hasattr(attention, "q_proj"):
            what = f"{type(hf).__name__} has fused projections, so that its heads cannot be relabelled row by row."
            raise ModelError(what, "Use a model with q_proj, k_proj and v_proj.")
        for name, index in (("q_proj", query), ("k_proj", shared), ("v_proj", shared)):
            projection = getattr(attention, name)
            projection.weight.copy_(projection.weight[index].clone())
            if projection.bias is not None:
                projection.bias.copy_(projection.bias[index].clone())
        attention.o_proj.weight.copy_(attention.o_proj.weight[:, query].clone())
    return hf


@torch.no_grad()
def scale_readout(hf: Any, factor: float) -> Any:
    """Multiply every logit by a factor, by scaling the unembedding, which is untied from the embedding first."""
    head = hf.get_output_embeddings()
    if head.weight.data_ptr() == hf.get_input_embeddings().weight.data_ptr():
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    head.weight.mul_(factor)
    if getattr(head, "bias", None) is not None:
        head.bias.mul_(factor)
    return hf
