"""Rotary positions and masks of every layer, read off one run of the model itself, so that no family needs code of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

__all__ = ["ROTATIONS", "Geometry", "Rotation", "rotate"]


Rotation: TypeAlias = Literal["none", "half", "doubled", "pairs", "pairs_of_half"]
"""How a family lays out its angles. ``half``: dimension i turns with i + d/2, angles stand twice; ``doubled``: the same, angles stand once;
``pairs``: dimension 2i turns with 2i + 1, each angle stands twice in a row; ``pairs_of_half``: the same, from the layout of half."""

ROTATIONS: tuple[Rotation, ...] = ("half", "pairs_of_half", "pairs", "doubled", "none")


_HIDDEN = -1e4
"""Scores below it belong to keys that are not seen, in masks that hold a bias for each head."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """What a layer's attention knows of positions.

    Parameters
    ----------
    angles : (Tensor, Tensor) or None
        Cosine and sine, each (pos, d_rotary); None where positions are part of the embedding.
    visible : Tensor of bool, shape (pos, pos)
        Which keys (second axis) each query sees: causal, and within the sliding window where there is one.
    bias : Tensor, shape (head, 1 or pos, pos), optional
        Added to the scores, by query and key (ALiBi).
    """

    angles: tuple[Float[Tensor, "pos d_rotary"], Float[Tensor, "pos d_rotary"]] | None
    visible: Bool[Tensor, "pos pos"]
    bias: Float[Tensor, "head query pos"] | None = None

    def angles_of(self, start: int, stop: int) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine of some positions; None where positions are part of the embedding."""
        return None if self.angles is None else (self.angles[0][start:stop], self.angles[1][start:stop])

    @classmethod
    def of_call(cls, named: dict[str, Any], length: int) -> Geometry:
        """From the keyword arguments that a model gave one of its layers; angles as the family lays them out."""
        angles, mask = named.get("position_embeddings"), named.get("attention_mask")
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        bias = next((named[name] for name in ("alibi", "position_bias") if isinstance(named.get(name), torch.Tensor)), None)
        if isinstance(mask, torch.Tensor) and mask.ndim == 4 and mask.shape[1] > 1:  # noqa: PLR2004 - a mask that holds each head's bias
            seen = mask[0, :, -length:, :length] > _HIDDEN
            causal, bias = causal & seen.all(0).cpu(), mask[0, :, -length:, :length].masked_fill(~seen, 0.0)
        elif isinstance(mask, torch.Tensor):
            allowed = mask if mask.dtype == torch.bool else mask > -1
            causal = causal & allowed.expand(-1, 1, length, length)[0, 0].cpu()
        bias = None if bias is None else bias.detach().reshape(-1, bias.shape[-2], bias.shape[-1])[..., -length:]
        causal = causal if bias is None else causal.to(bias.device)
        if not isinstance(angles, tuple) or len(angles) != 2:  # noqa: PLR2004 - cosine and sine
            return cls(None, causal, bias)
        cos, sin = (part.detach().expand(1, length, part.shape[-1])[0] for part in angles)
        return cls((cos, sin), causal.to(cos.device), bias)

    def laid_out(self, rotation: Rotation, factor: float) -> Geometry:
        """Angles as `rotate` takes them, and the bias times a factor."""
        bias = None if self.bias is None else self.bias * factor
        if self.angles is None or rotation == "none":
            return Geometry(None, self.visible, bias)
        cos, sin = (_laid_out(part, rotation) for part in self.angles)
        return Geometry((cos, sin), self.visible, bias)

    def biased(self, start: int, stop: int) -> Tensor:
        """What is added to the scores of some queries, with every key up to the last of them; (head, query or 1, key)."""
        bias = self.bias
        if bias is None:
            return torch.zeros((), device=self.visible.device)
        rows = bias if bias.shape[1] == 1 else bias[:, start:stop]
        return rows[..., :stop]


def _laid_out(part: Tensor, rotation: Rotation) -> Tensor:
    if rotation == "doubled":
        return torch.cat([part, part], dim=-1)
    return part[..., : part.shape[-1] // 2].repeat_interleave(2, dim=-1) if rotation == "pairs_of_half" else part


def rotate(
    x: Float[Tensor, "*rows pos head d_head"], angles: tuple[Tensor, Tensor] | None, *, pairs: bool = False
) -> Float[Tensor, "*rows pos head d_head"]:
    """Turn queries or keys by their positions; ``angles`` are (..., pos, d_rotary) and turn the first d_rotary dimensions of every head.

    ``pairs`` turns neighbouring dimensions with each other instead of the two halves.
    """
    if angles is None:
        return x
    cos, sin = (part[..., None, :].to(x.dtype) for part in angles)
    turned, kept = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    half = turned.shape[-1] // 2
    if pairs:
        swapped = torch.stack([-turned[..., 1::2], turned[..., ::2]], dim=-1).flatten(-2)
    else:
        swapped = torch.cat([-turned[..., half:], turned[..., :half]], dim=-1)
    turned = turned * cos + swapped * sin
    return torch.cat([turned, kept], dim=-1) if kept.shape[-1] else turned
