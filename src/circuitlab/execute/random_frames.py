"""Random orthonormal frames: what rotations of a head's reading side at random look like, thousands of them at the price of a few."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["Frames", "bases_for", "random_frames"]

_SPARE = 2
"""Directions drawn for each draw at least: the largest of many draws of a single direction should not be the same one."""


class Frames(NamedTuple):
    """Frames made of the directions of one random basis.

    Parameters
    ----------
    basis : Tensor, shape (direction, d_model)
        Orthonormal, and uniform over rotations.
    draws : slice
        The draws whose frames are taken from it.
    picked : Tensor of int, shape (draw, column)
        The directions of each frame, in order.
    signs : Tensor, shape (draw, column)
        1 or -1.
    """

    basis: Float[Tensor, "direction d_model"]
    draws: slice
    picked: Int[Tensor, "draw column"]
    signs: Float[Tensor, "draw column"]


def bases_for(d_model: int, draws: int) -> int:
    """How many random bases as many draws take."""
    return math.ceil(_SPARE * draws / d_model) + 1


def random_frames(d_model: int, width: int, draws: int, seed: int) -> Iterator[Frames]:
    """``draws`` random frames of ``width`` orthonormal directions each, basis by basis.

    Directions of a uniformly random basis, some of them in random order and with random signs, are a uniformly random frame. Frames of one
    basis share directions, so that what a direction gives is computed once for all of them.
    """
    import torch  # noqa: PLC0415 - listing roles must not load torch

    generator = torch.Generator().manual_seed(seed)
    each = math.ceil(draws / bases_for(d_model, draws))
    for start in range(0, draws, each):
        stop = min(start + each, draws)
        q, r = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator))
        picked = torch.rand(stop - start, d_model, generator=generator).argsort(-1)[:, :width]
        signs = torch.randint(0, 2, picked.shape, generator=generator).float() * 2 - 1
        yield Frames((q * r.diagonal().sign()).T, slice(start, stop), picked, signs)
