"""The blocks of a streamed model: a sequence of which one block at a time is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.model.decoder.block import Block
from circuitlab.model.decoder.linear import Linear

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.streaming.source import LayerSource

__all__ = ["LINEARS", "StreamedBlocks", "with_weights"]

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
"""Fields of a block that hold linear maps."""


def with_weights(outline: Block, weights: Mapping[str, Tensor]) -> Block:
    """A block with these weights, (out, in) as they are stored, in place of those that its outline lacks."""
    maps = {name: Linear(weight.T, getattr(outline, name).bias) for name, weight in weights.items()}
    return replace(outline, **maps)  # type: ignore[arg-type]


@dataclass(eq=False)
class StreamedBlocks(Sequence[Block]):
    """The layers of a model, each read when it is asked for. A block is valid until another layer is asked for.

    Parameters
    ----------
    source : LayerSource
        Where layers are read.
    outline : sequence of Block
        The layers without their weights.
    weights : sequence of mapping of str to str
        For each layer, names inside the layer by the field of its block.
    dtype : torch.dtype
        Dtype of the weights. Weights in bfloat16 beside norms in float32 serve `Difference`, which multiplies in bfloat16.
    """

    source: LayerSource
    outline: Sequence[Block]
    weights: Sequence[Mapping[str, str]]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        self._now: tuple[int, Block] | None = None

    def __len__(self) -> int:
        return len(self.outline)

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | Sequence[Block]:
        if isinstance(index, slice):
            what = f"Layers {index.start} to {index.stop} of a streamed model were asked for at once; one layer is in memory."
            raise BadParameterError(what, "Go through the layers one by one.")
        layer = range(len(self))[index]
        self.source.load(layer)
        if self._now is None or self._now[0] != self.source.loads:
            self._now = (self.source.loads, self._block(layer))
        return self._now[1]

    def __iter__(self) -> Iterator[Block]:
        return (self[layer] for layer in range(len(self)))

    def _block(self, layer: int) -> Block:
        twice = self.dtype != self.source.dtype == torch.float16  # rounded to float16 first, as the weights of the base run are
        weights = {
            part: self.source.tensor(name).to(self.dtype) if twice else self.source.tensor(name, self.dtype)
            for part, name in self.weights[layer].items()
        }
        return with_weights(self.outline[layer], weights)
