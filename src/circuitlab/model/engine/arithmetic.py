"""How the engine multiplies: exactly, or the difference from the base run in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.decoder import Linear
    from circuitlab.model.engine.layer import Place

__all__ = ["BaseLinears", "Difference", "Multiply", "Reusing", "exact", "keeping"]

Multiply: TypeAlias = Callable[[str, "Linear", "Tensor"], "Tensor"]
"""(name of the map in its layer, the map, its input (..., pos, d_in)) -> its output (..., pos, d_out)."""

BaseLinears: TypeAlias = dict[str, tuple["Tensor", "Tensor"]]
"""Input and output of every linear map of one layer in the base run, (prompt, pos, width)."""


def exact(_name: str, linear: Linear, x: Tensor) -> Tensor:
    """Multiply in the model's own dtype."""
    return linear(x)


def keeping(kept: BaseLinears, first: int) -> Multiply:
    """Multiply exactly and keep what went in and what came out, from position ``first`` on."""
    inputs: dict[int, tuple[Tensor, Tensor]] = {}  # maps that read the same input share one copy of it

    def multiply(name: str, linear: Linear, x: Tensor) -> Tensor:
        out = linear(x)
        if id(x) not in inputs:
            inputs[id(x)] = (x, x[..., first:, :].clone())
        kept[name] = (inputs[id(x)][1], out[..., first:, :].clone())
        return out

    return multiply


@dataclass(eq=False)
class Reusing:
    """Multiply exactly, into memory that every block uses anew: large products in fresh memory lose a tenth of their time to it.

    A product is overwritten by the next call for a map of the same name, so nothing may keep one beyond its layer.
    """

    memory: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, name: str, linear: Linear, x: Tensor) -> Tensor:
        """``x @ weight + bias``; matches `Multiply`."""
        flat = x.reshape(-1, x.shape[-1])
        wanted = len(flat) * linear.weight.shape[1]
        held = self.memory.get(name)
        if held is None or held.numel() < wanted:
            held = self.memory[name] = flat.new_empty(wanted)
        out = held[:wanted].view(len(flat), -1)
        if linear.bias is None:
            torch.mm(flat, linear.weight, out=out)
        else:
            torch.addmm(linear.bias, flat, linear.weight, out=out)
        return out.unflatten(0, x.shape[:-1])


@dataclass(eq=False)
class Difference:
    """``base_out + bf16(x - base_in) @ bf16(W)``: rounding is relative to what an edit changed, not to the activation itself.

    Rounded weights are kept, one copy per map, for as long as this object lives.
    """

    rounded: dict[int, Tensor] = field(default_factory=dict)

    def of(self, base: BaseLinears, place: Place, first: int) -> Multiply:
        """Multiplication for one layer on the positions of ``place``; the base run's values begin at position ``first``."""

        def multiply(name: str, linear: Linear, x: Tensor) -> Tensor:
            whole = name in {"q", "k", "v"}  # projected on the whole window, also where the output is wanted at one position
            entered, left = (place.cut(part, first, whole=whole) for part in base[name])
            weight = self.rounded.get(id(linear))
            if weight is None:
                weight = self.rounded[id(linear)] = linear.weight.to(torch.bfloat16)
            change = (x - entered).to(torch.bfloat16)
            out = (change.reshape(-1, change.shape[-1]) @ weight).to(x.dtype).unflatten(0, x.shape[:-1])
            return out.add_(left)

        return multiply
