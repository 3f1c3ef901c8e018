"""What stands before the first layer and beside every layer: the embedded prompt, rotary angles and masks, by the model's own code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import ModelError
from circuitlab.model.decoder.build import TOLERANCE
from circuitlab.model.decoder.cache import Cache
from circuitlab.model.decoder.layer import LayerRun
from circuitlab.model.decoder.rotary import Geometry, Rotation
from circuitlab.model.decoder.taps import untouched
from circuitlab.model.hooks import HookedRun, own_modes
from circuitlab.model.sites import Site
from circuitlab.model.streaming.blocks import with_weights
from circuitlab.model.streaming.skeleton import layer_kind

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.decoder.block import Block
    from circuitlab.model.streaming.skeleton import OneLayer, Skeleton

__all__ = ["StreamedGeometry", "require_same_stream"]


def require_same_stream(one: OneLayer, block: Block, where: Geometry, layer: int) -> None:
    """Raise `ModelError` unless a block gives what the model's own layer gives, whose weights are in ``one``, at the length of ``where``.

    One prompt is run; ``layer`` is for the message.
    """
    length = len(where.visible)
    tokens = (torch.arange(length)[None] * 11 + 5) % one.vocabulary
    seen: dict[Site, Tensor] = {}

    def tap(site: Site, _layer: int, value: Tensor) -> Tensor:
        seen[site] = value.detach().clone()
        return value

    with own_modes(one.root):
        at = torch.tensor([length - 1])
        HookedRun(one.root, one.parts).logits(tokens, at, [(Site.RESID_PRE, 0), (Site.RESID_POST, 0)], tap)
        actual = LayerRun(block, 0, where, untouched, Cache())(seen[Site.RESID_PRE]).resid_post
    expected = seen[Site.RESID_POST]
    apart, size = float((actual - expected).abs().max()), float(expected.abs().max())
    if not apart <= TOLERANCE.get(expected.dtype, 0.1) * max(1.0, size):
        what = f"The functional form of layer {layer} is {apart:.2g} away from the model's own (of size {size:.2g}) at {length} tokens."
        raise ModelError(what, "This model cannot be streamed; load it without stream=True.")


@dataclass(eq=False)
class StreamedGeometry:
    """Embedding and geometry of a streamed model. A longer prompt than any before is first checked on one layer of every kind.

    Parameters
    ----------
    skeleton : Skeleton
        The model.
    ones : mapping of str to OneLayer
        A model of one layer for every kind of layer.
    layouts : sequence of (Rotation, float)
        Each layer's layout of rotary angles, and the factor of its position bias.
    outline : sequence of Block
        The layers without their weights.
    weights : sequence of mapping of str to str
        For each layer, names inside the layer by the field of its block.
    """

    skeleton: Skeleton
    ones: Mapping[str, OneLayer]
    layouts: Sequence[tuple[Rotation, float]]
    outline: Sequence[Block]
    weights: Sequence[Mapping[str, str]]
    _longest: list[Geometry] = field(default_factory=list)

    def __call__(self, length: int) -> Sequence[Geometry]:
        """The geometry of every layer, for prompts up to this length."""
        if not self._longest or length > len(self._longest[0].visible):
            by_layer = self._recorded(length)
            for kind, one in self.ones.items():
                layer = next(i for i in range(len(self.outline)) if layer_kind(self.skeleton.config, i) == kind)
                try:
                    require_same_stream(one, self._alone(layer, one), by_layer[layer], layer)
                finally:
                    one.empty()
            self._longest = by_layer
        return self._longest

    def _recorded(self, length: int) -> list[Geometry]:
        calls: list[dict[str, Any]] = []
        with own_modes(self.skeleton.root):
            self.skeleton.watched(torch.zeros(1, length, dtype=torch.long), lambda _layer, _resid, named: calls.append(named))
        shared: dict[tuple[object, ...], Geometry] = {}  # layers of one kind get the same tensors: one table serves them all
        for named, layout in zip(calls, self.layouts, strict=True):
            key = (id(named.get("attention_mask")), id(named["position_embeddings"]), layout)
            if key not in shared:
                shared[key] = Geometry.of_call(named, length).laid_out(*layout)
        return [
            shared[id(named.get("attention_mask")), id(named["position_embeddings"]), layout]
            for named, layout in zip(calls, self.layouts, strict=True)
        ]

    def _alone(self, layer: int, one: OneLayer) -> Block:
        """A layer in memory of its own, also put into the model of one layer; whatever passes the layers is not disturbed."""
        tensors = {name: self.skeleton.shards.read(full, self.skeleton.dtype) for name, full in self.skeleton.layers[layer].items()}
        one.fill(tensors.__getitem__)
        return with_weights(self.outline[layer], {part: tensors[name] for part, name in self.weights[layer].items()})

    def embed(self, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "row pos d_model"]:
        """The residual stream entering the first layer."""
        seen: list[Tensor] = []
        with own_modes(self.skeleton.root):
            self.skeleton.watched(tokens, lambda layer, resid, _named: seen.append(resid.detach()) if not layer else None)
        return seen[0]
