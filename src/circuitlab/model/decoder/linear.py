"""A linear map that reads a loaded module's weights in place, whether the module stores them as (in, out) or (out, in)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["Linear"]


@dataclass(frozen=True, eq=False)
class Linear:
    """``x @ weight + bias``.

    Parameters
    ----------
    weight : Tensor, shape (d_in, d_out)
        A view of the module's parameter; a copy only if the module has an adapter or its heads are interleaved.
    bias : Tensor, shape (d_out,), or None
        The module's bias.
    """

    weight: Float[Tensor, "d_in d_out"]
    bias: Float[Tensor, " d_out"] | None

    @classmethod
    def of(cls, module: Any) -> Linear:
        """Read a linear module. A module with a forward of its own, such as an adapter, is measured by running it.

        Raises
        ------
        ModelError
            If such a module turns out not to be a linear map of its input.
        """
        kind = type(module)
        if (
            kind is not torch.nn.Linear
            and kind.__name__ != "Conv1D"
            and "forward" in vars(kind)
            and kind.forward is not torch.nn.Linear.forward
        ):
            return cls._measured(module)
        weight, bias = module.weight.detach(), getattr(module, "bias", None)
        by_input = weight if kind.__name__ == "Conv1D" else weight.T
        return cls(by_input, None if bias is None else bias.detach())

    @classmethod
    @torch.no_grad()
    def _measured(cls, module: Any) -> Linear:
        base = getattr(module, "base_layer", module)
        d_in = int(base.weight.shape[0] if type(base).__name__ == "Conv1D" else base.weight.shape[1])
        ones = torch.eye(d_in, device=base.weight.device, dtype=base.weight.dtype)
        bias = module(torch.zeros_like(ones[:1]))[0]
        weight = module(ones) - bias
        probe = torch.linspace(-1, 1, 3 * d_in, device=ones.device, dtype=ones.dtype).view(3, d_in).sin()
        expected = module(probe)
        if not torch.allclose(probe @ weight + bias, expected, atol=1e-4 if ones.element_size() > 2 else 5e-2, rtol=1e-3):  # noqa: PLR2004
            what = f"{type(module).__name__} is not a linear map of its input."
            raise ModelError(what, "Use engine='hooks', which runs the module itself.")
        return cls(weight, bias if bool(bias.any()) else None)

    def columns(self, index: Int[Tensor, "head d_head"]) -> Linear:
        """The map to some of the outputs, in this order; a view if they are adjacent."""
        flat = index.flatten()
        first, last = int(flat[0]), int(flat[-1]) + 1
        if bool((flat == torch.arange(first, last)[: len(flat)]).all()) and last - first == len(flat):
            return Linear(self.weight[:, first:last], None if self.bias is None else self.bias[first:last])
        flat = flat.to(self.weight.device)
        return Linear(self.weight[:, flat], None if self.bias is None else self.bias[flat])

    def __call__(self, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_out"]:
        """Apply the map to the last axis."""
        flat = x.reshape(-1, x.shape[-1])
        out = flat @ self.weight if self.bias is None else torch.addmm(self.bias, flat, self.weight)
        return out.unflatten(0, x.shape[:-1])

    def back(self, gradient: Float[Tensor, "*rows d_out"]) -> Float[Tensor, "*rows d_in"]:
        """Gradient with respect to the input, from the gradient with respect to the output."""
        return gradient @ self.weight.T
