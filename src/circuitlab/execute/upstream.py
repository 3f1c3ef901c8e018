"""One prompt run up to the attention of a layer, and what wrote the residual stream that this attention reads.

The stream entering a layer is the sum of what the embedding, every earlier head, every attention bias and every earlier MLP wrote. Behind
a norm of what attention writes (Gemma 2 and 3) a head's summand is its share of that norm's output, the scale held at its value in the run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import AdditivityError, ModelError
from circuitlab.core.nodes import Embed, Head, Mlp
from circuitlab.model.decoder.taps import NO_SUM, STREAM, Watched, untouched
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.decoder import Block
    from circuitlab.model.decoder.layer import AttentionTrace
    from circuitlab.model.decoder.rotary import Geometry
    from circuitlab.model.places import Places
    from circuitlab.model.protocol import Model

__all__ = ["Below", "Upstream", "head_shares", "require_sum"]

_OFF = {torch.float64: 1e-9, torch.float32: 1e-4}
"""How far a sum of summands may be off, as a share of the size of what is summed or of 1; in 16 bits the stream itself is rounded."""
_OFF_16_BIT = 0.05
_NOT_THE_MODEL = {torch.float64: 1e-3, torch.float32: 1e-3}
_NOT_THE_MODEL_16_BIT = 0.1


@dataclass(frozen=True, eq=False)
class Below:
    """What a layer wrote, and what its heads read to write it; nothing else of a layer below is needed, and long prompts have many.

    Parameters
    ----------
    v : Tensor, shape (row, pos, kv_head, d_head)
        Values after any edits.
    pattern : Tensor, shape (row, head, query, key)
        Attention weights.
    z : Tensor, shape (row, pos, head, d_head)
        Attention-weighted values.
    mlp_out : Tensor, shape (row, pos, d_model)
        What the MLP added to the residual stream.
    """

    v: Float[Tensor, "row pos kv_head d_head"]
    pattern: Float[Tensor, "row head query key"]
    z: Float[Tensor, "row pos head d_head"]
    mlp_out: Float[Tensor, "row pos d_model"]


@dataclass(frozen=True, eq=False)
class Upstream:
    """A run of one prompt up to one layer's attention.

    Parameters
    ----------
    layer : int
        The layer that reads.
    blocks : sequence of Block
        All layers of the model.
    embed : Tensor, shape (pos, d_model)
        What entered layer 0.
    below : sequence of Below
        The layers before it.
    front : AttentionTrace
        Its own attention.
    where : Geometry
        Its rotary angles, mask and position bias.
    changed : frozenset of (Site, int)
        Where edits of an edited model changed something.
    """

    layer: int
    blocks: Sequence[Block]
    embed: Float[Tensor, "pos d_model"]
    below: Sequence[Below]
    front: AttentionTrace
    where: Geometry
    changed: frozenset[tuple[Site, int]]

    @classmethod
    def of(cls, model: Model, places: Places, layer: int) -> Upstream:
        """Run one prompt; nothing above the layer is computed.

        Raises
        ------
        ModelError
            If the model cannot be taken apart, or is edited so that its stream is no longer a sum of writes.
        """
        return cls.at_layers(model, places, [layer])[layer]

    @classmethod
    @torch.no_grad()
    def at_layers(cls, model: Model, places: Places, layers: Collection[int]) -> dict[int, Upstream]:
        """Run one prompt once, for questions about several layers; each gets what `of` gives, to the last bit.

        Raises
        ------
        ModelError
            As `of`; also if an edit between two of the layers breaks the sum for the upper one only.
        """
        decoder = model.decoder.refusing(STREAM, NO_SUM)
        watched = Watched(decoder.tap(places) or untouched)
        embed = resid = decoder.embed(places.tokens)
        below: list[Below] = []
        ups: dict[int, Upstream] = {}
        for run in decoder.layers(resid, None, watched):
            front = run.attended(resid)
            if run.index in layers:
                ups[run.index] = cls(run.index, decoder.blocks, embed[0], tuple(below), front, run.where, frozenset(watched.changed))
                if len(ups) == len(set(layers)):
                    return ups
            layer = run.written(front)
            below.append(Below(layer.v, layer.pattern, layer.z, layer.mlp_out))
            resid = layer.resid_post
        what = f"Layer {max(layers)} does not exist; {model.spec.name} has layers 0 to {model.spec.n_layers - 1}."
        raise ModelError(what, "Count layers from 0.")

    @property
    def block(self) -> Block:
        """The layer that reads."""
        return self.blocks[self.layer]

    @property
    def writers(self) -> tuple[str, ...]:
        """Names of what wrote, in forward order: ``embed``, ``a0.h0``, ``a0.bias`` where attention has one, ``m0``."""
        names = [str(Embed())]
        for layer, block in enumerate(self.blocks[: self.layer]):
            n_heads = block.o.weight.shape[0] // block.d_head
            names += [str(Head(layer, head)) for head in range(n_heads)]
            names += [f"a{layer}.bias"] * _has_bias(block)
            names.append(str(Mlp(layer)))
        return tuple(names)

    def writes(self, at: Int[Tensor, " pos"]) -> Iterator[Float[Tensor, "writer pos d_model"]]:
        """What each writer added to the stream at some positions, in float64, a few writers at a time in the order of `writers`."""
        yield self.embed[at].double()[None]
        for block, layer in zip(self.blocks, self.below, strict=False):
            yield _attention_writes(block, layer.z[0, at].double())
            yield layer.mlp_out[0, at].double()[None]

    def require_own_attention(self, name: str, own: Float[Tensor, "head query key"], head: int, query: int) -> Float[Tensor, " pos"]:
        """The weights that the model itself gives a query; raises `ModelError` where this run says something else.

        The functional forward is tried when it is built, on other prompts; here the very row that is to be explained is compared.

        Parameters
        ----------
        name : str
            The model's name.
        own : Tensor, shape (head, query, key)
            The patterns of this layer in the model's own forward pass.
        head, query : int
            Of the row.
        """
        row = own[head, query].double()
        computed = self.front.pattern[0, head, query].double()
        apart = float((row - computed).abs().max())
        if not apart <= _NOT_THE_MODEL.get(self.front.q.dtype, _NOT_THE_MODEL_16_BIT):
            what = f"Attention of {Head(self.layer, head)} at position {query} is {apart:.2g} away from that of {name} itself."
            raise ModelError(what, "`circuitlab doctor MODEL` says which part of this model is not what it seems.")
        return row


def head_shares(block: Block, z: Float[Tensor, "pos head d_head"]) -> Float[Tensor, "head pos d_model"]:
    """What each head puts into the sum that the output projection forms, in float64."""
    weight = block.o.weight.double().unflatten(0, (-1, block.d_head))
    return torch.einsum("phd,hdm->hpm", z.double(), weight)


def _has_bias(block: Block) -> bool:
    return block.o.bias is not None or (block.post_attn is not None and block.post_attn.bias is not None)


def _attention_writes(block: Block, z: Float[Tensor, "pos head d_head"]) -> Float[Tensor, "writer pos d_model"]:
    """Heads, and the bias where there is one, as they reach the stream."""
    parts = head_shares(block, z)
    if _has_bias(block):
        bias = torch.zeros_like(parts[:1]) if block.o.bias is None else block.o.bias.double().expand_as(parts[:1])
        parts = torch.cat([parts, bias])
    if block.post_attn is None:
        return parts
    shares = block.post_attn.share(parts, parts.sum(0))
    if block.post_attn.bias is not None:
        shares[-1] += block.post_attn.bias.double()
    return shares


def require_sum(total: Tensor, whole: Tensor, size: Tensor, dtype: torch.dtype, name: str) -> None:
    """Raise `AdditivityError` unless what was split is the sum of its terms.

    Parameters
    ----------
    total, whole : Tensor
        Sum of the terms, and the value of the run.
    size : Tensor
        Length of what is summed: rounding grows with it, not with a sum in which it has cancelled.
    dtype : torch.dtype
        Of the run.
    name : str
        What was split, as the subject of a sentence.
    """
    apart, most = (total - whole).abs().max(), size.abs().max().clamp(min=1.0)
    if not float(apart) <= _OFF.get(dtype, _OFF_16_BIT) * float(most):
        what = f"{name} is {float(whole.abs().max()):.6g}, and its terms miss it by {float(apart):.2g}."
        raise AdditivityError(what, "`circuitlab doctor MODEL` says which part of this model is not what it seems.")
