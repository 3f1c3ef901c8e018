"""Receivers of a path: the new input of a head, MLP or residual point when the residual stream changes, and its response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch

from circuitlab.core.nodes import Head, KVHead, Logits, Mlp, Node, Port, Resid
from circuitlab.model.decoder.linear import Linear
from circuitlab.model.decoder.paths import MID, POST, PRE, Change, Point, edited_rows
from circuitlab.model.sites import Edit, Site

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from circuitlab.model.decoder.block import Block
    from circuitlab.model.decoder.decoder import Decoder, Trace
    from circuitlab.model.decoder.layer import LayerTrace
    from circuitlab.model.decoder.rotary import Geometry
    from circuitlab.model.places import Tap

__all__ = ["Receiver", "hop"]

_PORT_SITE: dict[Port | None, Site] = {"q": Site.Q, "k": Site.K, "v": Site.V}
_STAGES = {"pre": PRE, "mid": MID, "post": POST}
_LARGEST = 1 << 25  # most attention weights that are computed at once


@dataclass(frozen=True, slots=True)
class Receiver:
    """An input that a path ends at: a query head's q, a key/value head's k or v, an MLP's input, a residual point, or the logits."""

    node: Node
    port: Port | None = None

    def __str__(self) -> str:
        return f"{self.node}<{self.port}>" if self.port else str(self.node)

    def point(self, decoder: Decoder) -> Point:
        """The point where it reads the residual stream."""
        if isinstance(self.node, Logits):
            return Point(len(decoder.blocks) - 1, POST)
        layer = self._layer
        if isinstance(self.node, Resid):
            return Point(layer, _STAGES[self.node.point])
        if isinstance(self.node, Mlp):
            return Point(layer, PRE if decoder.blocks[layer].parallel else MID)
        return Point(layer, PRE)

    @property
    def site(self) -> Site:
        """The site to edit to give it another value. An MLP's input is edited through the MLP's output."""
        if isinstance(self.node, Mlp):
            return Site.MLP_OUT
        return Site(f"resid_{self.node.point}") if isinstance(self.node, Resid) else _PORT_SITE[self.port]

    @property
    def _layer(self) -> int:
        return cast("Head | KVHead | Mlp | Resid", self.node).layer

    @property
    def _head(self) -> int | None:
        return self.node.head if isinstance(self.node, Head | KVHead) else None

    def unedited(self, run: Trace) -> Float[Tensor, "pair pos width"]:
        """Its value (an MLP's output) in the unedited run."""
        base = run.layers[self._layer]
        if isinstance(self.node, Head | KVHead):
            whole: Tensor = getattr(base, cast("str", self.port))
            return whole[:, :, self._head]
        if isinstance(self.node, Mlp):
            return base.mlp_out
        return {"pre": base.resid_pre, "mid": base.resid_mid, "post": base.resid_post}[self.node.point]  # type: ignore[union-attr]

    def arriving(self, decoder: Decoder, run: Trace, change: Change, rows_per_block: int = 1024) -> Float[Tensor, "row width"]:
        """Its new value (an MLP's output) at every row of a change that was read at its point."""
        base = run.layers[self._layer]
        stream = {PRE: base.resid_pre, MID: base.resid_mid, POST: self.unedited(run)}[self.point(decoder).stage]
        parts = map(change.select, change.blocks(rows_per_block))
        values = [self._value_at(decoder, run, part, part.base(stream) + part.value) for part in parts]
        return torch.cat(values) if values else self.unedited(run)[0, :0]

    def _value_at(self, decoder: Decoder, run: Trace, rows: Change, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row width"]:
        """Its value, given the residual stream at its point; edits of an edited model are applied."""
        if isinstance(self.node, Resid):
            return resid
        block, at = decoder.blocks[self._layer], (self.site, self._layer)
        if isinstance(self.node, Mlp):
            return edited_rows(decoder, run, at, rows, block.mlp(block.norm_mlp.apply(resid)))
        whole: Linear = getattr(block, cast("str", self.port))
        columns = slice(self._head * block.d_head, (self._head + 1) * block.d_head)  # type: ignore[operator]
        head_map = Linear(whole.weight[:, columns], None if whole.bias is None else whole.bias[columns])
        value = head_map(block.norm_attn.apply(resid))
        if at not in run.changed:
            return value
        all_heads = rows.base(run.layers[self._layer].projected["qkv".index(cast("str", self.port))]).clone()
        all_heads[:, self._head] = value
        return edited_rows(decoder, run, at, rows, all_heads)[:, self._head]

    def edit(self, value: Float[Tensor, "pair pos width"], place: Int[Tensor, " pair"] | None = None) -> Edit:
        """The edit that sets its value at all positions, or at one position of each pair (``place``)."""
        if place is None:
            return Edit(self.site, self._layer, value, head=self._head)
        return Edit(self.site, self._layer, value[range(len(place)), place.to(value.device)], head=self._head, positions=place)


@torch.no_grad()
def hop(
    decoder: Decoder,
    run: Trace,
    receiver: Receiver,
    change: Change,
    keep: Bool[Tensor, "pair pos"],
    rows_per_block: int = 1024,
) -> dict[Point, Change]:
    """Let a receiver respond to a change of its input, and return the change of its output: the next sender of a path.

    Parameters
    ----------
    decoder : Decoder
        The model.
    run : Trace
        The unedited run. All other inputs of the receiver are held at their values in it.
    receiver : Receiver
        A head's query, a key/value head's key or value (then every query head of its group responds), or an MLP.
    change : Change
        The change of the residual stream at the receiver's point.
    keep : Tensor of bool, shape (pair, pos)
        Positions at which the output is needed.
    rows_per_block : int
        Rows that a projection or an MLP computes at once. It affects cost, not results.

    Returns
    -------
    dict of Point to Change
        One entry: where the output joins the residual stream.
    """
    layer = cast("Head | KVHead | Mlp", receiver.node).layer
    values = receiver.arriving(decoder, run, change, rows_per_block)
    if isinstance(receiver.node, Mlp):
        out = Change(change.sender, change.pair, change.pos, values - change.base(run.layers[layer].mlp_out))
        return {Point(layer, POST): out.select(keep[out.pair, out.pos] & out.value.any(-1))}
    response = _Response.of(decoder, run, receiver, keep)
    senders = change.sender.unique()
    size = max(1, _LARGEST // response.cost)
    done = []
    for chunk in senders.split(size):
        rows = torch.isin(change.sender, chunk)
        done.append(response(change.select(rows), values[rows], chunk))
    return {Point(layer, MID): Change.joined(done) if done else change.select(slice(0, 0))}


@dataclass(frozen=True, eq=False)
class _Response:
    """The output of the query heads that share an input, as a function of that input."""

    port: Port
    block: Block
    base: LayerTrace
    inputs: dict[str, Tensor]
    heads: slice
    where: Geometry
    keep: Tensor
    taps: Mapping[Site, tuple[Tap, int]]

    @classmethod
    def of(cls, decoder: Decoder, run: Trace, receiver: Receiver, keep: Tensor) -> _Response:
        node = cast("Head | KVHead", receiver.node)
        block, base = decoder.blocks[node.layer], run.layers[node.layer]
        group = base.q.shape[-2] // block.n_kv_heads
        shared = node.head if isinstance(node, KVHead) else node.head // group
        heads = slice(node.head, node.head + 1) if isinstance(node, Head) else slice(shared * group, (shared + 1) * group)
        inputs = {"q": base.q[:, :, heads], "k": base.k[:, :, shared : shared + 1], "v": base.v[:, :, shared : shared + 1]}
        where = decoder.geometry(base.q.shape[1])[node.layer]
        tap = decoder.tap(run.places) if run.changed else None
        taps = {site: (tap, node.layer) for site in (Site.PATTERN, Site.Z) if tap is not None and (site, node.layer) in run.changed}
        return cls(cast("Port", receiver.port), replace(block, n_kv_heads=1), base, inputs, heads, where, keep, taps)

    @property
    def cost(self) -> int:
        """Number of attention weights that are computed for one sender."""
        pairs, length, group = self.inputs["q"].shape[:3]
        return int(pairs * length * length * (self.base.q.shape[-2] if self.taps else group))

    def __call__(self, change: Change, values: Float[Tensor, "row d_head"], senders: Tensor) -> Change:
        """Change of the output caused by some senders, at every position that attends to a changed input."""
        old = self.inputs[self.port]
        new = old[None].repeat(len(senders), 1, 1, 1, 1)
        slot = torch.searchsorted(senders, change.sender)
        new[slot, change.pair, change.pos] = values[:, None]
        inputs = self.inputs | {self.port: new}
        keys = self.block.rotated_k(inputs["k"], self.where.angles_of(0, new.shape[2]))
        pattern = self._edited(Site.PATTERN, self.block.weigh(inputs["q"], keys, self.where), self.base.pattern, -3)
        z = self._edited(Site.Z, self.block.mix(pattern, inputs["v"]), self.base.z, -2)
        touched = torch.zeros(new.shape[:3], dtype=torch.bool, device=new.device)
        touched[slot, change.pair, change.pos] = True
        if self.port != "q":
            touched = touched.int().cumsum(2).bool()  # a key or value reaches every later position
        n, pair, pos = (touched & self.keep).nonzero(as_tuple=True)
        before = self.base.z[pair, pos]
        after = before.clone()
        after[:, self.heads] = z[n, pair, pos]
        out = Change(senders[n], pair, pos, self.block.write(after) - self.block.write(before))
        return out.select(out.value.any(-1))

    def _edited(self, site: Site, value: Tensor, base: Tensor, axis: int) -> Tensor:
        """Values of these heads with the standing edits of an edited model. The tap sees all heads of the layer."""
        if site not in self.taps:
            return value
        tap, layer = self.taps[site]
        all_heads = base.expand(len(value), *base.shape).clone()
        heads = range(base.shape[axis])[self.heads]
        all_heads.narrow(axis, heads.start, len(heads)).copy_(value)
        return tap(site, layer, all_heads).narrow(axis, heads.start, len(heads))
