"""A norm with its scale held fixed: the linear map that direct attribution reads the residual stream through."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from circuitlab.core.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["FrozenNorm"]

_KINDS: tuple[Literal["rms", "layer"], ...] = ("rms", "layer")


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """RMSNorm or LayerNorm as ``gain * (x - centre) / scale(x) + bias``.

    Parameters
    ----------
    kind : {"rms", "layer", "none"}
        LayerNorm subtracts the mean first; RMSNorm does not. ``"none"`` is the identity, for families without a norm there.
    gain, bias : Tensor, shape (d_model,)
        Elementwise gain (for Gemma, the stored weight plus 1) and bias; the bias may be None.
    eps : float
        Added to the mean square before the square root.
    """

    kind: Literal["rms", "layer", "none"]
    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float

    @classmethod
    def of(cls, module: Any, width: int) -> FrozenNorm:
        """Read a norm module by finding the formula that reproduces its output on test vectors; None gives the identity.

        Parameters
        ----------
        module : Module or None
            The norm.
        width : int
            Size of the vectors that it normalises.

        Raises
        ------
        ModelError
            If it is neither an RMSNorm nor a LayerNorm (with gain w or 1 + w, or without weights).
        """
        if module is None:
            return cls("none", torch.ones(width), None, 0.0)
        weight = getattr(module, "weight", None)
        gain = torch.ones(width) if weight is None else _at_least_float32(weight).flatten()
        bias = getattr(module, "bias", None)
        bias = _at_least_float32(bias).flatten() if isinstance(bias, torch.Tensor) else None
        dtype = gain.dtype if weight is None else weight.dtype
        probe = torch.linspace(-2.0, 3.0, 3 * width, device=gain.device, dtype=gain.dtype).reshape(3, -1).sin() * 1.7 + 0.3
        try:
            with torch.no_grad():
                expected = module(probe.to(dtype)).to(gain.dtype)
        except RuntimeError as error:
            what = f"{type(module).__name__} does not normalise vectors of {width} numbers: {error}"
            raise ModelError(what, "Use a method that does not freeze norms, such as activation_patching.") from error
        tolerance = 1e-4 if dtype in {torch.float32, torch.float64} else 5e-2
        for kind, factor, eps in itertools.product(_KINDS, (gain, 1 + gain), _epsilons(module)):
            candidate = cls(kind, factor, bias, eps)
            if factor.numel() == width and torch.allclose(candidate.apply(probe), expected, atol=tolerance, rtol=tolerance):
                return candidate
        what = f"{type(module).__name__} is neither an RMSNorm nor a LayerNorm that circuitlab knows."
        raise ModelError(what, "Use a method that does not freeze norms, such as activation_patching.")

    def times(self, factor: float) -> FrozenNorm:
        """The norm followed by a factor."""
        if factor == 1:
            return self
        return FrozenNorm(self.kind, self.gain * factor, None if self.bias is None else self.bias * factor, self.eps)

    def scale(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """Root mean square of the (centred) input, with eps."""
        if self.kind == "none":
            return torch.ones_like(x[..., :1])
        return (self._centred(x).pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def apply(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The norm of x."""
        if self.kind == "none":
            return x
        out = self.unit(x) * self.gain.to(x.dtype)
        return out if self.bias is None else out + self.bias.to(x.dtype)

    def unit(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The (centred) input over its scale: the norm before gain and bias."""
        return self._centred(x) / self.scale(x)

    def transposed(self, direction: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The vector v with ``v . y == direction . norm(y)`` when the scale is 1 and the bias is left out: gain and centring alone."""
        return self._centred(direction * self.gain.to(direction.dtype))

    def share(self, part: Float[Tensor, "*rows d_model"], x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What a summand of x puts into ``norm(x)`` when the scale is that of x: shares of all summands and the bias sum to it."""
        if self.kind == "none":
            return part
        return self._centred(part) / self.scale(x) * self.gain.to(part.dtype)

    def linear(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """What is linear in the input: the norm with a scale of 1 and without its bias. Its own output differs by a positive factor."""
        return x if self.kind == "none" else self._centred(x) * self.gain.to(x.dtype)

    def folded_into(self, weight: Float[Tensor, "*maps d_model out"]) -> Float[Tensor, "*maps d_model out"]:
        """The map that does to an input what ``weight`` does to `linear` of it."""
        if self.kind == "none":
            return weight
        gained = weight * self.gain.to(weight.dtype)[:, None]
        return gained - gained.mean(-2, keepdim=True) if self.kind == "layer" else gained

    def pull_back(self, direction: Float[Tensor, "*rows d_model"], x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The vector v with ``v . y == direction . norm(y)`` for every y, with the scale held at that of x and without the bias."""
        return self.transposed(direction) / self.scale(x)

    def vjp(self, gradient: Float[Tensor, "*rows d_model"], x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Gradient with respect to the input at x, from the gradient with respect to the output; the scale is not held fixed."""
        if self.kind == "none":
            return gradient
        unit = self.unit(x)
        weighted = gradient * self.gain.to(gradient.dtype)
        return (self._centred(weighted) - unit * (weighted * unit).mean(-1, keepdim=True)) / self.scale(x)

    def jvp(self, change: Float[Tensor, "*rows d_model"], x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """First-order change of the output for a change of the input at x; the scale is not held fixed."""
        if self.kind == "none":
            return change
        unit = self.unit(x)
        return self.gain.to(change.dtype) * (self._centred(change) - unit * (change * unit).mean(-1, keepdim=True)) / self.scale(x)

    def bias_dot(self, direction: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows"]:
        """Dot product of the bias with a direction; zeros without a bias."""
        if self.bias is None:
            return direction[..., 0] * 0
        return direction @ self.bias.to(direction.dtype)

    def _centred(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.kind == "layer" else x


def _at_least_float32(value: Tensor) -> Tensor:
    value = value.detach()
    return value if value.dtype == torch.float64 else value.float()


def _epsilons(module: Any) -> Iterator[float]:
    """Values of eps to try: the module's own attribute, or else those in common use."""
    eps = [
        float(getattr(module, name)) for name in ("eps", "variance_epsilon", "norm_eps") if isinstance(getattr(module, name, None), float)
    ]
    yield from eps or (1e-5, 1e-6, 1e-8, 1e-12)
