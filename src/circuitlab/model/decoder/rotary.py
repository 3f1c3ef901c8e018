"""Rotary positions and masks of every layer, read off one run of the model itself, so that no family needs code of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

__all__ = ["Geometry", "rotate"]


@dataclass(frozen=True, eq=False)
class Geometry:
    """What a layer's attention knows of positions.

    Parameters
    ----------
    angles : (Tensor, Tensor) or None
        Cosine and sine, each (pos, d_rotary); None where positions are part of the embedding.
    visible : Tensor of bool, shape (pos, pos)
        Which keys (second axis) each query sees: causal, and within the sliding window where there is one.
    """

    angles: tuple[Float[Tensor, "pos d_rotary"], Float[Tensor, "pos d_rotary"]] | None
    visible: Bool[Tensor, "pos pos"]

    def angles_of(self, start: int, stop: int) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine of some positions; None where positions are part of the embedding."""
        return None if self.angles is None else (self.angles[0][start:stop], self.angles[1][start:stop])

    @classmethod
    def of_call(cls, named: dict[str, Any], length: int) -> Geometry:
        """From the keyword arguments that a model gave one of its layers."""
        angles, mask = named.get("position_embeddings"), named.get("attention_mask")
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        if isinstance(mask, torch.Tensor):
            allowed = mask if mask.dtype == torch.bool else mask > -1
            causal = causal & allowed.expand(-1, 1, length, length)[0, 0].cpu()
        if angles is None:
            return cls(None, causal)
        cos, sin = (part.detach().expand(1, length, part.shape[-1])[0] for part in angles)
        return cls((cos, sin), causal.to(cos.device))


def rotate(x: Float[Tensor, "*rows pos head d_head"], angles: tuple[Tensor, Tensor] | None) -> Float[Tensor, "*rows pos head d_head"]:
    """Turn queries or keys by their positions; ``angles`` are (..., pos, d_rotary) and turn the first d_rotary dimensions of every head."""
    if angles is None:
        return x
    cos, sin = (part[..., None, :].to(x.dtype) for part in angles)
    turned, kept = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    half = turned.shape[-1] // 2
    swapped = torch.cat([-turned[..., half:], turned[..., :half]], dim=-1)
    turned = turned * cos + swapped * sin
    return torch.cat([turned, kept], dim=-1) if kept.shape[-1] else turned
