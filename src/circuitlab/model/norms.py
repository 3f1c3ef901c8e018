"""A norm with its scale held fixed: the linear map that direct attribution reads the residual stream through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from circuitlab.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["FrozenNorm"]


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """RMSNorm or LayerNorm as ``gain * (x - centre) / scale(x) + bias``.

    Parameters
    ----------
    kind : {"rms", "layer"}
        LayerNorm subtracts the mean first; RMSNorm does not.
    gain, bias : Tensor, shape (d_model,)
        Elementwise gain (Gemma's stored weight plus one already added) and bias, or None.
    eps : float
        Added to the mean square before the root.
    """

    kind: Literal["rms", "layer"]
    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float

    @classmethod
    def of(cls, module: Any) -> FrozenNorm:
        """Read a norm module by finding the form that reproduces it on random input.

        Raises
        ------
        ModelError
            If it is neither an RMSNorm (with gain w or 1 + w) nor a LayerNorm.
        """
        weight = _at_least_float32(module.weight)
        bias = getattr(module, "bias", None)
        bias = _at_least_float32(bias) if isinstance(bias, torch.Tensor) else None
        eps = next(float(getattr(module, name)) for name in ("eps", "variance_epsilon") if hasattr(module, name))
        probe = torch.linspace(-2.0, 3.0, 3 * weight.numel(), device=weight.device, dtype=weight.dtype).reshape(3, -1).sin() * 1.7 + 0.3
        with torch.no_grad():
            expected = module(probe.to(module.weight.dtype)).to(weight.dtype)
        candidates = (cls("rms", weight, None, eps), cls("rms", 1 + weight, None, eps), cls("layer", weight, bias, eps))
        tolerance = 1e-4 if module.weight.dtype in {torch.float32, torch.float64} else 5e-2
        for candidate in candidates:
            if torch.allclose(candidate.apply(probe), expected, atol=tolerance, rtol=tolerance):
                return candidate
        what = f"{type(module).__name__} is neither an RMSNorm nor a LayerNorm that circuitlab knows."
        raise ModelError(what, "Use a method that does not freeze norms, such as activation_patching.")

    def scale(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """Root mean square of the (centred) input, with eps."""
        return (self._centred(x).pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def apply(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The norm itself."""
        out = self._centred(x) / self.scale(x) * self.gain.to(x.dtype)
        return out if self.bias is None else out + self.bias.to(x.dtype)

    def pull_back(self, direction: Float[Tensor, "*rows d_model"], x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The vector v with ``v . y == direction . norm(y)`` when the scale is that of x and the bias is left out."""
        return self._centred(direction * self.gain.to(direction.dtype)) / self.scale(x)

    def vjp(self, gradient: Float[Tensor, "*rows d_model"], x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Gradient at the input x from a gradient at the output, the change of the scale included."""
        unit = self._centred(x) / self.scale(x)
        weighted = gradient * self.gain.to(gradient.dtype)
        return (self._centred(weighted) - unit * (weighted * unit).mean(-1, keepdim=True)) / self.scale(x)

    def jvp(self, change: Float[Tensor, "*rows d_model"], x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """First-order change of the output for a change of the input x, the change of the scale included."""
        unit = self._centred(x) / self.scale(x)
        return self.gain.to(change.dtype) * (self._centred(change) - unit * (change * unit).mean(-1, keepdim=True)) / self.scale(x)

    def bias_dot(self, direction: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows"]:
        """What the bias adds along a direction; zeros without one."""
        if self.bias is None:
            return direction[..., 0] * 0
        return direction @ self.bias.to(direction.dtype)

    def _centred(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.kind == "layer" else x


def _at_least_float32(value: Tensor) -> Tensor:
    value = value.detach()
    return value if value.dtype == torch.float64 else value.float()
