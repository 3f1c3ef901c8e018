"""A linear map that reads a loaded module's weights in place, whichever way round the module stores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["Linear"]


@dataclass(frozen=True, eq=False)
class Linear:
    """``x @ weight + bias``.

    Parameters
    ----------
    weight : Tensor, shape (d_in, d_out)
        A view of the module's parameter; nothing is copied.
    bias : Tensor, shape (d_out,), or None
    """

    weight: Float[Tensor, "d_in d_out"]
    bias: Float[Tensor, " d_out"] | None

    @classmethod
    def of(cls, module: Any) -> Linear:
        """Read a module with ``weight`` and ``bias``; GPT-2's Conv1D stores (in, out), others (out, in)."""
        weight, bias = module.weight.detach(), getattr(module, "bias", None)
        by_input = weight if type(module).__name__ == "Conv1D" else weight.T
        return cls(by_input, None if bias is None else bias.detach())

    def __call__(self, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_out"]:
        """Apply the map to the last axis."""
        flat = x.reshape(-1, x.shape[-1])
        out = flat @ self.weight if self.bias is None else torch.addmm(self.bias, flat, self.weight)
        return out.unflatten(0, x.shape[:-1])

    def back(self, gradient: Float[Tensor, "*rows d_out"]) -> Float[Tensor, "*rows d_in"]:
        """Gradient at the input from one at the output."""
        return gradient @ self.weight.T
