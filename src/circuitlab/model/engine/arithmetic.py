"""How the engine multiplies: exactly in the model's dtype, or only the difference from the base run, in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.model.decoder import Linear

__all__ = ["BaseLinears", "Difference", "Multiply", "Reusing", "exact", "keeping"]

Multiply: TypeAlias = Callable[[str, "Linear", "Tensor"], "Tensor"]
"""From the name of a linear map in its layer, the map, and its input (..., pos, d_in) to its output (..., pos, d_out)."""

BaseLinears: TypeAlias = dict[str, tuple["Tensor", "Tensor"]]
"""Input and output of every linear map of one layer in the base run, (prompt, pos, width)."""


def exact(_name: str, linear: Linear, x: Tensor) -> Tensor:
    """Multiply in the model's own dtype."""
    return linear(x)


def keeping(base_linears: BaseLinears, first: int) -> Multiply:
    """Multiply exactly, and keep each map's input and output from position ``first`` on in ``base_linears``."""
    inputs: list[tuple[Tensor, Tensor]] = []  # each input with its copy; maps that read the same input share the copy

    def multiply(name: str, linear: Linear, x: Tensor) -> Tensor:
        out = linear(x)
        copy = next((copy for read, copy in inputs if read is x), None)
        if copy is None:
            copy = x[..., first:, :].clone()
            inputs.append((x, copy))
        base_linears[name] = (copy, out[..., first:, :].clone())
        return out

    return multiply


@dataclass(eq=False)
class Reusing:
    """Multiply exactly, into memory that is reused: allocating memory for large products takes a tenth of their time.

    The next call for a map of the same name overwrites the product, so it must not be kept beyond its layer.

    Parameters
    ----------
    memory : dict of str to Tensor
        The buffer of each map, by name.
    """

    memory: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, name: str, linear: Linear, x: Tensor) -> Tensor:
        """``x @ weight + bias``; matches `Multiply`."""
        flat = x.reshape(-1, x.shape[-1])
        size = len(flat) * linear.weight.shape[1]
        buffer = self.memory.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self.memory[name] = flat.new_empty(size)
        out = buffer[:size].view(len(flat), -1)
        if linear.bias is None:
            torch.mm(flat, linear.weight, out=out)
        else:
            torch.addmm(linear.bias, flat, linear.weight, out=out)
        return out.unflatten(0, x.shape[:-1])


@dataclass(frozen=True, eq=False)
class _Rounded:
    """A weight in bfloat16, and the address and version of the original."""

    weight: Tensor
    address: int
    version: int | None

    @classmethod
    def of(cls, weight: Tensor) -> _Rounded:
        return cls(weight.to(torch.bfloat16), weight.data_ptr(), _version(weight))

    def still(self, weight: Tensor) -> bool:
        """Whether it is the rounded copy of this weight, and the weight has not been written to since."""
        return self.address == weight.data_ptr() and self.version is not None and self.version == _version(weight)


def _version(weight: Tensor) -> int | None:
    """How often a tensor was written to; None for tensors made in inference mode, which do not count writes."""
    return None if weight.is_inference() else weight._version  # noqa: SLF001 - torch's own name for it


@dataclass(eq=False)
class Difference:
    """Multiply as ``base_out + bf16(x - base_in) @ bf16(W)``: rounding is relative to what an edit changed, not to the activation itself.

    One rounded copy of each weight is kept, until the weight is written to. The maps themselves are the keys: they stay alive, so that
    no other map can take the address of one that is gone. Products are written into memory that is reused, as in `Reusing`.

    Parameters
    ----------
    rounded : dict of Linear to rounded weight
        Weights in bfloat16 by map.
    memory : dict of str to Tensor
        The buffers of changes and their products.
    """

    rounded: dict[Linear, _Rounded] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)

    def product(self, name: str, linear: Linear, change: Float[Tensor, "row d_in"]) -> Float[Tensor, "row d_out"]:
        """What a change of a map's input, in bfloat16, changes in its output; the next product of this name overwrites it."""
        weight = self._weight(linear)
        return torch.mm(change, weight, out=self.room(name, len(change), weight.shape[1], change.device))

    def _weight(self, linear: Linear) -> Tensor:
        """A map's weight in bfloat16; one that is stored so is used as it is, and nothing is kept of it."""
        if linear.weight.dtype == torch.bfloat16:
            return linear.weight
        rounded = self.rounded.get(linear)
        if rounded is None or not rounded.still(linear.weight):
            rounded = self.rounded[linear] = _Rounded.of(linear.weight)
        return rounded.weight

    def room(self, name: str, rows: int, width: int, device: torch.device | None = None) -> Tensor:
        """Memory in bfloat16 for so many rows, (row, width), which the next call of this name takes again."""
        buffer = self.memory.get(name)
        if buffer is None or buffer.numel() < rows * width or (device is not None and buffer.device != device):
            buffer = self.memory[name] = torch.empty(rows * width, dtype=torch.bfloat16, device=device)
        return buffer[: rows * width].view(rows, width)
