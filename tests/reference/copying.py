"""The copying score of one head the plain way: a matrix of vocabulary by vocabulary from the model's own modules, and its eigenvalues."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch


@torch.no_grad()
def copying_score(hf: Any, layer: int, head: int, *, after_mlp: bool) -> float:
    """Sum of eigenvalues over sum of magnitudes; ``after_mlp``: tokens as the first MLP leaves them (but for heads of layer 0)."""
    family = hf.config.model_type
    tokens = _stream(hf, family, after_mlp=after_mlp and layer > 0)
    norm, value, output, post, final = _modules(hf, family, layer, head)
    normed = norm(tokens) - (norm.bias if getattr(norm, "bias", None) is not None else 0.0)
    written = normed @ value @ output
    if post is not None:
        written = written * (1 + post.weight)
    gain = final.weight + 1 if family.startswith("gemma") else final.weight
    if family in {"gpt2", "gpt_neox"}:  # LayerNorm sees what differs from the mean
        written = written - written.mean(-1, keepdim=True)
    circuit = (written * gain) @ hf.get_output_embeddings().weight.T
    found = np.linalg.eigvals(circuit.numpy())
    return float(found.sum().real / np.abs(found).sum())


def _stream(hf: Any, family: str, *, after_mlp: bool) -> torch.Tensor:
    tokens = hf.get_input_embeddings().weight.detach().clone()
    if family.startswith("gemma"):
        tokens = tokens * math.sqrt(hf.config.hidden_size)
    if not after_mlp:
        return tokens
    if family == "gpt2":
        first = hf.transformer.h[0]
        return tokens + first.mlp(first.ln_2(tokens))
    if family == "gpt_neox":
        first = hf.gpt_neox.layers[0]
        return tokens + first.mlp(first.post_attention_layernorm(tokens))
    first = hf.model.layers[0]
    if family.startswith("gemma"):
        return tokens + first.post_feedforward_layernorm(first.mlp(first.pre_feedforward_layernorm(tokens)))
    return tokens + first.mlp(first.post_attention_layernorm(tokens))


def _modules(hf: Any, family: str, layer: int, head: int) -> tuple[Any, torch.Tensor, torch.Tensor, Any, Any]:
    """Norm of attention, W_V (d_model, d_head), W_O (d_head, d_model), norm of what attention writes, final norm."""
    heads = hf.config.num_attention_heads
    width = getattr(hf.config, "head_dim", None) or hf.config.hidden_size // heads
    mine = slice(head * width, (head + 1) * width)
    if family == "gpt2":
        block = hf.transformer.h[layer]
        value = block.attn.c_attn.weight[:, 2 * hf.config.hidden_size :][:, mine]
        return block.ln_1, value, block.attn.c_proj.weight[mine], None, hf.transformer.ln_f
    if family == "gpt_neox":
        block = hf.gpt_neox.layers[layer]
        fused = block.attention.query_key_value.weight.view(heads, 3, width, -1)
        return block.input_layernorm, fused[head, 2].T, block.attention.dense.weight[:, mine].T, None, hf.gpt_neox.final_layer_norm
    block = hf.model.layers[layer]
    shared = head // (heads // hf.config.num_key_value_heads)
    value = block.self_attn.v_proj.weight[shared * width : (shared + 1) * width].T
    post = block.post_attention_layernorm if family.startswith("gemma") else None
    return block.input_layernorm, value, block.self_attn.o_proj.weight[:, mine].T, post, hf.model.norm
