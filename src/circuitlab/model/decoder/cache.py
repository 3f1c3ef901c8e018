"""Keys and values of positions that have been run already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

__all__ = ["Cache"]


@dataclass(eq=False)
class Cache:
    """Rotated keys and values of the first positions of prompts, by layer. A forward pass continues from there and appends its own.

    Parameters
    ----------
    held : dict of int to (Tensor, Tensor)
        Keys and values by layer, each (row, pos, kv_head, d_head).
    """

    held: dict[int, tuple[Float[Tensor, "row pos kv_head d_head"], Float[Tensor, "row pos kv_head d_head"]]] = field(default_factory=dict)

    def length(self, layer: int = 0) -> int:
        """Number of cached positions in a layer."""
        return self.held[layer][0].shape[-3] if layer in self.held else 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append positions to a layer, and return all of its keys and values."""
        if self.length(layer):
            before = self.held[layer]
            keys, values = torch.cat([before[0], keys], dim=-3), torch.cat([before[1], values], dim=-3)
        self.held[layer] = (keys, values)
        return keys, values

    def copy(self) -> Cache:
        """A copy that another run can append to without changing this one; tensors are shared."""
        return Cache(dict(self.held))

    def select(self, rows: Sequence[int] | slice) -> Cache:
        """The cache of some rows."""
        return Cache({layer: (keys[rows], values[rows]) for layer, (keys, values) in self.held.items()})
