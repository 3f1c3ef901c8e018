"""Carry a change of the residual stream upward through MLPs while every attention head is held fixed.

With all heads frozen nothing moves information between positions, so a change is a set of independent rows: one for each sender, prompt
and position that differ. All rows of all senders go up together in one growing batch. Only MLPs are computed, and no attention.
Freezing every head's q, k and v (Wang et al. 2022, arXiv:2211.00593) or its output z (Merullo et al. 2024, arXiv:2310.08744) is the
same here: either way no head's output changes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch

from circuitlab.core.in_step import ByLayer, drained
from circuitlab.core.nodes import Embed, Head, Mlp
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from circuitlab.model.decoder.block import Block
    from circuitlab.model.decoder.decoder import Decoder, Trace

__all__ = [
    "MID",
    "POST",
    "PRE",
    "Change",
    "Point",
    "Sender",
    "carry",
    "carry_by_layer",
    "edited_rows",
    "join_point",
    "sender_changes",
    "sender_changes_when_asked",
    "writes_of",
]

Sender: TypeAlias = Head | Mlp | Embed
"""A node that writes to the residual stream."""

PRE, MID, POST = 0, 1, 2
"""Stages of a layer's residual stream: entering the layer, between attention and MLP, leaving it."""


class Point(NamedTuple):
    """A point of the residual stream; points sort in forward order."""

    layer: int
    stage: int


@dataclass(frozen=True, eq=False)
class Change:
    """Differences from an unedited run's residual stream at one point; positions without a difference have no row.

    Parameters
    ----------
    sender, pair, pos : Tensor of int, shape (row,)
        The sender that caused each row, its prompt and its position.
    value : Tensor, shape (row, d_model)
        Edited minus unedited residual stream.
    """

    sender: Int[Tensor, " row"]
    pair: Int[Tensor, " row"]
    pos: Int[Tensor, " row"]
    value: Float[Tensor, "row d_model"]

    @classmethod
    def joined(cls, parts: Sequence[Change]) -> Change:
        """All rows of several changes at one point."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("sender", "pair", "pos", "value")))

    def __len__(self) -> int:
        return len(self.sender)

    def select(self, rows: Tensor | slice) -> Change:
        """A subset of the rows, by index, mask or slice."""
        return Change(self.sender[rows], self.pair[rows], self.pos[rows], self.value[rows])

    def base(self, whole: Float[Tensor, "pair pos ..."]) -> Float[Tensor, "row ..."]:
        """The unedited value at each row."""
        return whole[self.pair, self.pos]

    def blocks(self, size: int) -> Iterator[slice]:
        """Slices of about equal length and at most ``size`` rows, so that a matrix product of one slice fits in the CPU cache."""
        count = -(-len(self) // size)
        edges = [len(self) * i // count for i in range(count + 1)] if count else []
        return (slice(start, stop) for start, stop in itertools.pairwise(edges))


def join_point(sender: Sender) -> Point:
    """Where a sender's output enters the residual stream."""
    if isinstance(sender, Embed):
        return Point(0, PRE)
    return Point(sender.layer, MID if isinstance(sender, Head) else POST)


def writes_of(
    block: Block,
    old_z: Float[Tensor, "place head d_head"],
    heads: Int[Tensor, " n"],
    change: Float[Tensor, "n place d_head"],
) -> Float[Tensor, "n place d_model"]:
    """Change of what attention adds to the residual stream, post-norm included, when one head's z changes at a time."""
    weight = block.o.weight.unflatten(0, (-1, block.d_head))[heads]
    raw = torch.bmm(change, weight)
    if block.post_attn is None:
        return raw
    before = block.o(old_z.flatten(-2))
    return block.post_attn.apply(before + raw) - block.post_attn.apply(before)


def sender_changes(
    decoder: Decoder,
    edited: Trace,
    source: Trace,
    senders: Mapping[int, Sender],
    keep: Bool[Tensor, "pair pos"],
) -> dict[Point, Change]:
    """The change that each sender's output from the source run makes in the edited run, where it joins the residual stream.

    Parameters
    ----------
    decoder : Decoder
        The model.
    edited, source : Trace
        The run that is edited, and the run that outputs are taken from; both have the same shapes.
    senders : mapping of int to Head, Mlp or Embed
        Senders by the number that stands in ``Change.sender``.
    keep : Tensor of bool, shape (pair, pos)
        Positions at which outputs are replaced.

    Returns
    -------
    dict of Point to Change
        Changes by point; rows in which nothing differs are left out.
    """
    return {point: change() for point, change in sender_changes_when_asked(decoder, edited, source, senders, keep).items()}


def sender_changes_when_asked(
    decoder: Decoder,
    edited: Trace,
    source: Trace,
    senders: Mapping[int, Sender],
    keep: Bool[Tensor, "pair pos"],
) -> dict[Point, Callable[[], Change]]:
    """`sender_changes`, each computed when it is asked for: those of heads take a weight of their layer."""
    grouped: dict[Point, list[int]] = {}
    for index, sender in senders.items():
        grouped.setdefault(join_point(sender), []).append(index)
    pair, pos = keep.nonzero(as_tuple=True)

    def change_at(point: Point, indices: list[int]) -> Change:
        old, new = edited.layers[point.layer], source.layers[point.layer]
        if point.stage == MID:
            heads = torch.tensor([senders[i].head for i in indices], device=pair.device)  # type: ignore[union-attr]
            before = old.z[pair, pos]
            differs = (new.z[pair, pos] - before)[:, heads].transpose(0, 1)
            value = writes_of(decoder.blocks[point.layer], before, heads, differs)
        else:
            whole = (old.resid_pre, new.resid_pre) if point.stage == PRE else (old.mlp_out, new.mlp_out)
            value = (whole[1] - whole[0])[pair, pos][None]
        return _rows(torch.tensor(indices, device=pair.device), pair, pos, value)

    return {point: functools.partial(change_at, point, indices) for point, indices in grouped.items()}


def _rows(senders: Tensor, pair: Tensor, pos: Tensor, value: Float[Tensor, "n place d_model"]) -> Change:
    n, place = value.any(-1).nonzero(as_tuple=True)
    return Change(senders[n], pair[place], pos[place], value[n, place])


@torch.no_grad()
def carry(
    decoder: Decoder,
    run: Trace,
    joins: Mapping[Point, Change],
    ends: Collection[Point],
    *,
    recompute: bool = True,
    rows_per_block: int = 1024,
) -> dict[Point, Change]:
    """Carry changes up the residual stream with every head frozen, and read them at some points.

    Parameters
    ----------
    decoder : Decoder
        The model.
    run : Trace
        The unedited run.
    joins : mapping of Point to Change
        Changes by the point where they enter the residual stream.
    ends : collection of Point
        Where the accumulated change is read; changes that join at such a point are included.
    recompute : bool
        Whether MLPs (with their post-norm) respond to the change; if not, their outputs are held fixed.
    rows_per_block : int
        Rows that an MLP computes at once. It affects cost, not results.

    Returns
    -------
    dict of Point to Change
        One entry per end; an empty change where nothing arrives.
    """
    ready = {point: functools.partial(_same, change) for point, change in joins.items()}
    return drained(carry_by_layer(decoder, run, ready, ends, recompute=recompute, rows_per_block=rows_per_block))


def _same(change: Change) -> Change:
    return change


@torch.no_grad()
def carry_by_layer(
    decoder: Decoder,
    run: Trace,
    joins: Mapping[Point, Callable[[], Change]],
    ends: Collection[Point],
    *,
    recompute: bool = True,
    rows_per_block: int = 1024,
) -> ByLayer[dict[Point, Change]]:
    """`carry` as work that goes through the layers; ``joins`` are asked for while their layer is passed."""
    last = max(ends)
    width = run.final.shape[-1]
    nothing = run.final.new_zeros(0, dtype=torch.long)
    change = Change(nothing, nothing, nothing, run.final.new_zeros(0, width))
    read: dict[Point, Change] = {}

    def arrive(point: Point) -> None:
        nonlocal change
        if point in joins and len(joining := joins[point]()):
            change = Change.joined([change, joining])
        if point in ends:
            read[point] = change.select(slice(None)) if point == last else _copied(change)

    for layer in range(last.layer + 1):
        yield layer
        block = decoder.blocks[layer]
        arrive(Point(layer, PRE))
        before = len(change)
        arrive(Point(layer, MID))
        if last.stage != POST and layer == last.layer:
            break
        if recompute:
            # In a parallel block the MLP reads what enters the layer, so this layer's own heads do not reach it.
            reads = change.select(slice(before)) if block.parallel else change
            _respond(decoder, run, layer, reads, rows_per_block)
        arrive(Point(layer, POST))
    return read


def _copied(change: Change) -> Change:
    return Change(change.sender, change.pair, change.pos, change.value.clone())


def _respond(decoder: Decoder, run: Trace, layer: int, change: Change, rows_per_block: int) -> None:
    """Add the change of the MLP's output to ``change.value``, in place."""
    block, base = decoder.blocks[layer], run.layers[layer]
    stream = base.resid_pre if block.parallel else base.resid_mid
    for rows in change.blocks(rows_per_block):
        part = change.select(rows)
        out = block.mlp(block.norm_mlp.apply(part.base(stream) + part.value))
        change.value[rows] += edited_rows(decoder, run, (Site.MLP_OUT, layer), part, out) - part.base(base.mlp_out)


def edited_rows(
    decoder: Decoder,
    run: Trace,
    at: tuple[Site, int],
    rows: Change,
    value: Float[Tensor, "row ..."],
) -> Float[Tensor, "row ..."]:
    """Values of one site and layer at the rows of a change, with the standing edits of an edited model applied.

    Each row is one position of one prompt. The tap sees it as a separate prompt of which only that position is computed.
    """
    if at not in run.changed or run.places is None or not len(rows):
        return value
    places = run.places.select(rows.pair.tolist()).window(0, run.places.tokens.shape[1], rows.pos)
    tap = decoder.tap(places)
    return value if tap is None else tap(*at, value[:, None])[:, 0]
