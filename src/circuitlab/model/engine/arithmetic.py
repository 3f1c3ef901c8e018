"""How the engine multiplies: exactly, or the difference from the base run in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.decoder import Linear
    from circuitlab.model.engine.window import Window

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
    inputs: list[tuple[Tensor, Tensor]] = []  # an input and its copy: maps that read the same input share one

    def multiply(name: str, linear: Linear, x: Tensor) -> Tensor:
        out = linear(x)
        copy = next((copy for read, copy in inputs if read is x), None)
        if copy is None:
            copy = x[..., first:, :].clone()
            inputs.append((x, copy))
        kept[name] = (copy, out[..., first:, :].clone())
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


@dataclass(frozen=True, eq=False)
class _Rounded:
    """A map's weight in bfloat16, and which weight that was."""

    weight: Tensor
    place: int
    version: int | None

    @classmethod
    def of(cls, weight: Tensor) -> _Rounded:
        return cls(weight.to(torch.bfloat16), weight.data_ptr(), _version(weight))

    def still(self, weight: Tensor) -> bool:
        """Whether it is this weight's, and nothing was written into it since."""
        return self.place == weight.data_ptr() and self.version is not None and self.version == _version(weight)


def _version(weight: Tensor) -> int | None:
    """How often a tensor was written to; tensors made in inference mode do not count."""
    return None if weight.is_inference() else weight._version  # noqa: SLF001 - torch's own name for it


@dataclass(eq=False)
class Difference:
    """``base_out + bf16(x - base_in) @ bf16(W)``: rounding is relative to what an edit changed, not to the activation itself.

    Rounded weights are kept, one copy per map, for as long as this object lives and nothing is written into the weight. The maps
    themselves are the keys and so stay alive: another map that comes to lie at the address of one that is gone is not taken for it.
    Products use memory anew as `Reusing` does, but for the last of a layer, of which several blocks keep theirs.
    """

    rounded: dict[Linear, _Rounded] = field(default_factory=dict)
    memory: dict[tuple[str, torch.dtype], Tensor] = field(default_factory=dict)

    def of(self, base: BaseLinears, place: Window, first: int) -> Multiply:
        """Multiplication for one layer on the positions of ``place``; the base run's values begin at position ``first``."""
        read: list[Tensor] = []  # an input and its rounded change: maps that read the same input share them

        def multiply(name: str, linear: Linear, x: Tensor) -> Tensor:
            whole = name in {"q", "k", "v"}  # projected on the whole window, also where the output is wanted at one position
            entered, left = (place.cut(part, first, whole=whole) for part in base[name])
            if not read or read[0] is not x:
                read[:] = [x, (x - entered).to(torch.bfloat16).reshape(-1, x.shape[-1])]
            weight = self._weight(linear)
            out = torch.mm(read[1], weight, out=self._room("product", read[1], weight.shape[1]))
            wide = out.to(x.dtype) if name == "down" else self._room(name, x, weight.shape[1]).copy_(out)
            return wide.unflatten(0, x.shape[:-1]).add_(left)

        return multiply

    def _weight(self, linear: Linear) -> Tensor:
        """A map's weight in bfloat16."""
        known = self.rounded.get(linear)
        if known is None or not known.still(linear.weight):
            known = self.rounded[linear] = _Rounded.of(linear.weight)
        return known.weight

    def _room(self, name: str, like: Tensor, width: int) -> Tensor:
        """Memory for one product per row of a tensor, in its dtype."""
        rows = like.numel() // like.shape[-1]
        held = self.memory.get((name, like.dtype))
        if held is None or held.numel() < rows * width:
            held = self.memory[name, like.dtype] = like.new_empty(rows * width)
        return held[: rows * width].view(rows, width)
