"""Whole vocabulary maps of tiny models, from the modules of each family alone: what the fast ones are compared with."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

FAMILIES = ("llama", "gpt2", "gemma3", "gpt_neox", "granite")


class SlowHead(NamedTuple):
    """One head: W_Q and W_K (d_model, d_head), W_V, W_O and what it makes of every token, with norms applied and not folded."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor


class SlowModel(NamedTuple):
    """Embedding and first MLP of every token, a norm for each layer, and how what is written reaches the logits."""

    hf: Any
    family: str

    @property
    def layers(self) -> Any:
        return {"gpt2": lambda: self.hf.transformer.h, "gpt_neox": lambda: self.hf.gpt_neox.layers}.get(
            self.family, lambda: self.hf.model.layers
        )()

    def embedding(self) -> Tensor:
        if self.family == "gpt2":
            return self.hf.transformer.wte.weight
        if self.family == "gpt_neox":
            return self.hf.gpt_neox.embed_in.weight
        factor = {"gemma3": self.hf.config.hidden_size**0.5, "granite": 3.0}.get(self.family, 1.0)
        return self.hf.model.embed_tokens.weight * factor

    def first_mlp(self, embedding: Tensor, *, normed: bool = True) -> Tensor:
        first = self.layers[0]
        if self.family == "gpt2":
            return first.mlp(first.ln_2(embedding) if normed else embedding)
        if self.family == "gemma3":
            read = first.pre_feedforward_layernorm(embedding) if normed else embedding
            return first.post_feedforward_layernorm(first.mlp(read))
        read = first.post_attention_layernorm(embedding) if normed else embedding
        return first.mlp(read) * (0.22 if self.family == "granite" else 1.0)

    def norm(self, layer: int) -> Any:
        block = self.layers[layer]
        return block.ln_1 if self.family == "gpt2" else block.input_layernorm

    def gain(self, module: Any) -> Tensor:
        return 1 + module.weight if self.family == "gemma3" else module.weight

    def head(self, layer: int, head: int) -> SlowHead:
        block = self.layers[layer]
        if self.family == "gpt2":
            size = 8
            q, k, v = (block.attn.c_attn.weight[:, 32 * i + size * head : 32 * i + size * (head + 1)] for i in range(3))
            return SlowHead(q, k, v, block.attn.c_proj.weight[size * head : size * (head + 1)])
        if self.family == "gpt_neox":
            q, k, v = block.attention.query_key_value.weight.view(4, 3, 8, 32)[head].transpose(-1, -2)
            return SlowHead(q, k, v, block.attention.dense.weight[:, 8 * head : 8 * (head + 1)].T)
        attention, kv = block.self_attn, head // 2
        q = attention.q_proj.weight[8 * head : 8 * (head + 1)].T
        k, v = (part.weight[8 * kv : 8 * (kv + 1)].T for part in (attention.k_proj, attention.v_proj))
        return SlowHead(q, k, v, attention.o_proj.weight[:, 8 * head : 8 * (head + 1)].T)

    def read_by(self, layer: int, x: Tensor) -> Tensor:
        """The normed stream, without the norm's bias."""
        norm = self.norm(layer)
        bias = getattr(norm, "bias", None)
        return norm(x) if bias is None else norm(x) - bias

    def linear_norm(self, layer: int) -> Tensor:
        """The norm before attention at a scale of 1, as a matrix that is applied from the right."""
        return self._matrix(self.norm(layer))

    def linear_post(self, layer: int) -> Tensor:
        """What stands between the output projection and the stream, as a matrix that is applied from the right."""
        post = self.layers[layer].post_attention_layernorm if self.family == "gemma3" else None
        return torch.eye(32) if post is None else self._matrix(post)

    def to_logits(self) -> Tensor:
        """Final norm at a scale of 1, and the unembedding, as a matrix that is applied from the right."""
        names = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}
        norm = self.hf.get_submodule(names.get(self.family, "model.norm"))
        return self._matrix(norm) @ self.hf.get_output_embeddings().weight.T

    def _matrix(self, norm: Any) -> Tensor:
        centre = torch.eye(32) - (torch.full((32, 32), 1 / 32) if isinstance(norm, torch.nn.LayerNorm) else 0)
        return centre @ torch.diag(self.gain(norm))

    def ov_map(self, layer: int, head: int, x: Tensor) -> Tensor:
        """Token by token: what a head writes to every logit for every token whose stream is ``x``."""
        one = self.head(layer, head)
        return self.read_by(layer, x) @ one.v @ one.o @ self.linear_post(layer) @ self.to_logits()

    def ov(self, layer: int, head: int) -> Tensor:
        one = self.head(layer, head)
        return self.linear_norm(layer) @ one.v @ one.o @ self.linear_post(layer)

    def qk(self, layer: int, head: int) -> Tensor:
        """Queries from the left, keys from the right; Gemma 3's norms of both at a scale of 1."""
        one, norm = self.head(layer, head), self.linear_norm(layer)
        q, k = norm @ one.q, norm @ one.k
        if self.family == "gemma3":
            attention = self.layers[layer].self_attn
            q, k = q * self.gain(attention.q_norm), k * self.gain(attention.k_norm)
        return q @ k.T
