"""What a head reads at a key position, along one direction, split into the writers at that position, and by the tokens they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from circuitlab.core.nodes import Head
from circuitlab.execute.logit_direction import logit_direction
from circuitlab.execute.query_key import HeadInput
from circuitlab.execute.upstream import head_shares, require_sum
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.execute.spots import Spot
    from circuitlab.execute.upstream import Upstream
    from circuitlab.model.decoder import Block
    from circuitlab.model.protocol import Model

__all__ = ["SplitValue", "answer_direction", "head_direction", "split_value"]


@dataclass(frozen=True, eq=False)
class SplitValue:
    """A head's value at one position along a direction, and its terms.

    Parameters
    ----------
    writers : tuple of str
        Those of the stream, then ``bias``, then ``edit`` where an edited model changes values of this layer.
    shares : Tensor, shape (writer,)
        Terms along the direction.
    total : Tensor, shape ()
        The value along it, from the run.
    sources : Tensor, shape (writer, pos), or None
        The shares, those of earlier heads divided among the positions that they read; all others stand at the position itself. None where
        an edit has changed what a head gives out, which then comes from no position.
    scales : dict of str to float
        What was held fixed.
    """

    writers: tuple[str, ...]
    shares: Float[Tensor, " writer"]
    total: Float[Tensor, ""]
    sources: Float[Tensor, "writer pos"] | None
    scales: dict[str, float]


@torch.no_grad()
def split_value(up: Upstream, head: int, key: int, direction: Float[Tensor, " d_head"] | None = None) -> SplitValue:
    """Split the value that a query head reads at a key; along the value itself where no direction is given, which gives its length.

    Raises
    ------
    AdditivityError
        If the terms do not sum to the value.
    """
    group = up.front.q.shape[-2] // up.block.n_kv_heads
    reads = HeadInput(up, "v", head // group, torch.tensor([key], device=up.embed.device))
    value = reads.whole[0]
    along = value / value.norm().clamp(min=torch.finfo(value.dtype).tiny) if direction is None else direction
    kept = slice(None) if reads.edited else slice(0, -1)
    shares = (reads.terms[:, 0] @ along)[kept]
    name = f"What head {head} in layer {up.layer} reads"
    require_sum(shares.sum(), value @ along, value.norm() * along.norm(), up.front.q.dtype, name)
    sources = _sources(up, reads.along(along)[0], shares, key)
    return SplitValue((*up.writers, "bias", "edit")[kept], shares, value @ along, sources, reads.scales())


def _sources(up: Upstream, along: Float[Tensor, " d_model"], shares: Tensor, key: int) -> Float[Tensor, "writer pos"] | None:
    """Shares by the position that they were read from, one step back: a head's output is its pattern times values."""
    if any(site is Site.Z for site, layer in up.changed if layer < up.layer):
        return None
    by_position = shares.new_zeros(len(shares), up.embed.shape[0])
    by_position[:, key] = shares
    place = {name: i for i, name in enumerate(up.writers)}
    for layer, (block, trace) in enumerate(zip(up.blocks, up.below, strict=False)):
        back = along
        if block.post_attn is not None:
            back = block.post_attn.pull_back(along, _before_post_norm(block, trace.z[0, key]))
        reads = (block.o.weight.double() @ back).unflatten(0, (-1, block.d_head))
        values = trace.v[0].double().repeat_interleave(len(reads) // block.n_kv_heads, dim=1)
        start = place[str(Head(layer, 0))]
        by_position[start : start + len(reads)] = trace.pattern[0, :, key].double() * torch.einsum("phd,hd->hp", values, reads)
    return by_position


@torch.no_grad()
def answer_direction(model: Model, spot: Spot, ids: Sequence[int]) -> Float[Tensor, " d_head"]:
    """Along which a head's value raises the logit of a token (minus that of a second one) at the query, norms held at this run's scales.

    Raises
    ------
    ModelError
        If the logits cannot be read off the last layer's stream.
    """
    last = model.spec.n_layers - 1
    final = model.capture(spot.places.tokens, [Site.RESID_POST], layers=[last], marks=dict(spot.places.marks) or None)
    stream = final[Site.RESID_POST][0, 0, spot.query].double()[None]
    signs = torch.tensor([[1.0, -1.0][: len(ids)]])
    direction, _ = logit_direction(model.weights, torch.tensor([list(ids)]), signs, stream)
    along = model.weights.final_norm.pull_back(direction, stream)[0]
    return head_direction(spot.up, spot.head.head, spot.query, along)


def head_direction(up: Upstream, head: int, query: int, along: Float[Tensor, " d_model"]) -> Float[Tensor, " d_head"]:
    """Along which a head's value moves what the head adds to the residual stream at the query in a direction."""
    block, back = up.block, along
    if block.post_attn is not None:
        back = block.post_attn.pull_back(along, _before_post_norm(block, up.front.z[0, query]))
    return block.o.weight.double().unflatten(0, (-1, block.d_head))[head] @ back


def _before_post_norm(block: Block, z: Float[Tensor, "head d_head"]) -> Float[Tensor, " d_model"]:
    raw = head_shares(block, z[None]).sum(0)[0]
    return raw if block.o.bias is None else raw + block.o.bias.double()
