"""An attention score taken apart on a Hugging Face model through plain hooks: one writer at a time, in loops, norms written out.

Nothing of circuitlab is used. A writer is what one module added to the residual stream; a norm is divided by the root that it had in
the run; the rotation is the one that the layer itself was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

Tensor = torch.Tensor


@dataclass
class Run:
    """What one run showed: streams entering layers, inputs of output projections, what MLPs added, rotary angles."""

    entering: list[Tensor]
    z: list[Tensor]
    mlp: list[Tensor]
    angles: list[Any]
    attentions: tuple[Tensor, ...]


def run_of(hf: Any, tokens: list[int]) -> Run:
    """Run one prompt."""
    found, handles = Run([], [], [], [], ()), []
    gpt2 = hasattr(hf, "transformer")
    for layer in hf.transformer.h if gpt2 else hf.model.layers:
        attention = layer.attn if gpt2 else layer.self_attn
        out = attention.c_proj if gpt2 else attention.o_proj
        written = getattr(layer, "post_feedforward_layernorm", layer.mlp)
        handles += [
            layer.register_forward_pre_hook(lambda _m, args: found.entering.append(args[0][0].clone())),
            out.register_forward_pre_hook(lambda _m, args: found.z.append(args[0][0].clone())),
            written.register_forward_hook(lambda _m, _a, value: found.mlp.append(value[0].clone())),
            attention.register_forward_pre_hook(
                lambda _m, _a, named: found.angles.append(named.get("position_embeddings")), with_kwargs=True
            ),
        ]
    try:
        with torch.no_grad():
            found.attentions = hf(input_ids=torch.tensor([tokens]), use_cache=False, output_attentions=True).attentions
    finally:
        for handle in handles:
            handle.remove()
    return found


class ByHand:
    """Writers of one head's query or key at one position, as they enter the score."""

    def __init__(self, hf: Any, tokens: list[int], layer: int) -> None:
        self.hf, self.run, self.layer = hf, run_of(hf, tokens), layer
        self.gpt2 = hasattr(hf, "transformer")
        self.layers = hf.transformer.h if self.gpt2 else hf.model.layers
        self.attention = self.layers[layer].attn if self.gpt2 else self.layers[layer].self_attn
        self.n_heads = hf.config.num_attention_heads
        self.d_head = self.run.z[0].shape[-1] // self.n_heads

    def writes(self, position: int) -> dict[str, Tensor]:
        """What every writer added to the stream entering the layer."""
        found = {"embed": self.run.entering[0][position]}
        for index in range(self.layer):
            module, z = self.layers[index], self.run.z[index][position]
            out = module.attn.c_proj if self.gpt2 else module.self_attn.o_proj
            weight = out.weight.detach() if self.gpt2 else out.weight.detach().T
            parts = {f"a{index}.h{h}": z[self._of(h)] @ weight[self._of(h)] for h in range(self.n_heads)}
            if out.bias is not None:
                parts[f"a{index}.bias"] = out.bias.detach()
            if hasattr(module, "pre_feedforward_layernorm"):
                whole = sum(parts.values())
                parts = {name: self._normed(module.post_attention_layernorm, part, whole) for name, part in parts.items()}
            found |= parts | {f"m{index}": self.run.mlp[index][position]}
        return found

    def terms(self, port: str, head: int, position: int) -> dict[str, Tensor]:
        """Every writer's term of a query or key."""
        norm = self.layers[self.layer].ln_1 if self.gpt2 else self.layers[self.layer].input_layernorm
        weight, bias = self._projection(port, head)
        stream = self.run.entering[self.layer][position]
        raw = {name: self._normed(norm, part, stream) @ weight for name, part in self.writes(position).items()}
        raw["bias"] = bias + (norm.bias.detach() @ weight if self.gpt2 else 0.0)
        after = getattr(self.attention, f"{port}_norm", None)
        if after is not None:
            whole = sum(raw.values())
            raw = {name: self._normed(after, part, whole) for name, part in raw.items()}
        return {name: self._turned(part, position) for name, part in raw.items()}

    def score(self, head: int, query: int, key: int) -> tuple[list[str], Tensor]:
        """Writers and the matrix of terms, query side down."""
        group = self.n_heads // getattr(self.hf.config, "num_key_value_heads", self.n_heads)
        asks, holds = self.terms("q", head, query), self.terms("k", head // group, key)
        scale = self.d_head**-0.5 if self.gpt2 else self.attention.scaling
        return list(asks), torch.tensor([[float(one @ other) * scale for other in holds.values()] for one in asks.values()])

    def _of(self, head: int) -> slice:
        return slice(head * self.d_head, (head + 1) * self.d_head)

    def _projection(self, port: str, head: int) -> tuple[Tensor, Tensor]:
        if self.gpt2:
            width = self.n_heads * self.d_head
            start = "qkv".index(port) * width + head * self.d_head
            module = self.attention.c_attn
            return module.weight.detach()[:, start : start + self.d_head], module.bias.detach()[start : start + self.d_head]
        module = getattr(self.attention, f"{port}_proj")
        weight = module.weight.detach()[self._of(head)].T
        return weight, weight[0] * 0 if module.bias is None else module.bias.detach()[self._of(head)]

    def _normed(self, norm: Any, part: Tensor, whole: Tensor) -> Tensor:
        """A summand of ``whole`` through a norm, divided by the root of the whole."""
        weight = norm.weight.detach()
        if self.gpt2:
            root = (whole.var(unbiased=False) + norm.eps).sqrt()
            return (part - part.mean()) / root * weight
        eps = getattr(norm, "variance_epsilon", None) or norm.eps
        return part / (whole.pow(2).mean() + eps).sqrt() * (1 + weight if "Gemma" in type(norm).__name__ else weight)

    def _turned(self, vector: Tensor, position: int) -> Tensor:
        angles = self.run.angles[self.layer]
        if self.gpt2 or angles is None:
            return vector
        cos, sin = (part[0, position] for part in angles)
        half = len(vector) // 2
        turned = vector.clone()
        for i in range(half):
            turned[i] = vector[i] * cos[i] - vector[i + half] * sin[i]
            turned[i + half] = vector[i + half] * cos[i] + vector[i] * sin[i]
        return turned
