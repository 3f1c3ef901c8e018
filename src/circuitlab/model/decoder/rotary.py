"""Rotary angles and masks of every layer, recorded from one run of the model itself, so that no family needs code of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

__all__ = ["ROTATIONS", "Geometry", "Rotation", "rotate"]


Rotation: TypeAlias = Literal["none", "half", "doubled", "pairs", "pairs_of_half"]
"""How a family lays out its angles. ``half``: dimension i is paired with i + d/2, and the list of angles is repeated; ``doubled``: the same
pairs, each angle once; ``pairs``: dimension 2i is paired with 2i + 1, and each angle is repeated; ``pairs_of_half``: the same pairs, with
angles laid out as in ``half``."""

ROTATIONS: tuple[Rotation, ...] = ("half", "pairs_of_half", "pairs", "doubled", "none")


_HIDDEN = -1e4
"""In masks that hold a bias for each head, values at or below this hide a key."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """A layer's rotary angles, mask and position bias.

    Parameters
    ----------
    angles : (Tensor, Tensor) or None
        Cosine and sine, each (pos, d_rotary); None without a rotary embedding.
    visible : Tensor of bool, shape (pos, pos)
        Which keys (second axis) each query sees: causal, and within the sliding window where there is one.
    bias : Tensor, shape (head, 1 or pos, pos), optional
        Added to the attention scores, by query and key (ALiBi).
    """

    angles: tuple[Float[Tensor, "pos d_rotary"], Float[Tensor, "pos d_rotary"]] | None
    visible: Bool[Tensor, "pos pos"]
    bias: Float[Tensor, "head query pos"] | None = None

    def angles_of(self, start: int, stop: int) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine of positions ``start`` to ``stop - 1``; None without a rotary embedding."""
        return None if self.angles is None else (self.angles[0][start:stop], self.angles[1][start:stop])

    @classmethod
    def of_call(cls, named: dict[str, Any], length: int) -> Geometry:
        """From the keyword arguments that a model passed to one of its layers, with angles in the family's own layout."""
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
        """The geometry with angles in the layout that `rotate` takes, and the bias times a factor."""
        bias = None if self.bias is None else self.bias * factor
        if self.angles is None or rotation == "none":
            return Geometry(None, self.visible, bias)
        cos, sin = (_laid_out(part, rotation) for part in self.angles)
        return Geometry((cos, sin), self.visible, bias)

    def biased(self, start: int, stop: int) -> Tensor:
        """Position bias of queries ``start`` to ``stop - 1`` and keys before ``stop``, shape (head, query or 1, key)."""
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
    """Apply the rotary embedding to queries or keys. ``angles`` are (..., pos, d_rotary); later dimensions of a head are not rotated.

    ``pairs`` rotates neighbouring dimensions together, instead of dimension i with i + d_rotary / 2.
    """
    if angles is None:
        return x
    cos, sin = (part[..., None, :].to(x.dtype) for part in angles)
    rotary, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    half = rotary.shape[-1] // 2
    if pairs:
        swapped = torch.stack([-rotary[..., 1::2], rotary[..., ::2]], dim=-1).flatten(-2)
    else:
        swapped = torch.cat([-rotary[..., half:], rotary[..., :half]], dim=-1)
    rotary = rotary * cos + swapped * sin
    return torch.cat([rotary, rest], dim=-1) if rest.shape[-1] else rotary
