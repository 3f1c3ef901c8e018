"""Head patching through plain PyTorch hooks on a Hugging Face model: one forward pass for one head."""

from __future__ import annotations

from typing import Any

import torch


def output_projections(hf: Any) -> list[torch.nn.Module]:
    """The module after z in every layer."""
    if hasattr(hf, "transformer"):
        return [block.attn.c_proj for block in hf.transformer.h]
    if hasattr(hf, "gpt_neox"):
        return [block.attention.dense for block in hf.gpt_neox.layers]
    return [block.self_attn.o_proj for block in hf.model.layers]


@torch.no_grad()
def flat_z(hf: Any, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Input of every output projection, (row, pos, head * d_head)."""
    seen: list[torch.Tensor] = []
    handles = [m.register_forward_pre_hook(lambda _m, args: seen.append(args[0].clone())) for m in output_projections(hf)]
    hf(tokens)
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
def patched_logits(hf: Any, tokens: torch.Tensor, source: list[torch.Tensor], layer: int, head: int, n_heads: int) -> torch.Tensor:
    """All logits of a run in which one head's z comes from another run, at every position."""

    def swap(_module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        z = args[0].clone()
        width = z.shape[-1] // n_heads
        block = slice(head * width, (head + 1) * width)
        z[..., block] = source[layer][..., block]
        return (z, *args[1:])

    handle = output_projections(hf)[layer].register_forward_pre_hook(swap)
    try:
        return hf(tokens).logits
    finally:
        handle.remove()
