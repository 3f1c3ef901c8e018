"""What arrives at a head's query, key or value, at an MLP or at a residual point when the residual stream changes, and what it makes."""

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
_LARGEST = 1 << 25  # numbers that a block of attention patterns may hold


@dataclass(frozen=True, slots=True)
class Receiver:
    """An input that a path ends at: a query head's q, a key/value head's k or v, an MLP's input, a residual point, or the logits."""

    node: Node
    port: Port | None = None

    def __str__(self) -> str:
        return f"{self.node}<{self.port}>" if self.port else str(self.node)

    def point(self, decoder: Decoder) -> Point:
        """Where it reads the residual stream."""
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
        """Where a run is edited to give it another value; an MLP's input is given by the output that follows from it."""
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
        """Its new value at every row of a change that was read at its point."""
        base = run.layers[self._layer]
        stream = {PRE: base.resid_pre, MID: base.resid_mid, POST: self.unedited(run)}[self.point(decoder).stage]
        parts = map(change.select, change.blocks(rows_per_block))
        made = [self._made(decoder, run, part, part.base(stream) + part.value) for part in parts]
        return torch.cat(made) if made else self.unedited(run)[0, :0]

    def _made(self, decoder: Decoder, run: Trace, rows: Change, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row width"]:
        """Its value where the residual stream is this; edits of an edited model included."""
        if isinstance(self.node, Resid):
            return resid
        block, at = decoder.blocks[self._layer], (self.site, self._layer)
        if isinstance(self.node, Mlp):
            return edited_rows(decoder, run, at, rows, block.mlp(block.norm_mlp.apply(resid)))
        whole: Linear = getattr(block, cast("str", self.port))
        columns = slice(self._head * block.d_head, (self._head + 1) * block.d_head)  # type: ignore[operator]
        one = Linear(whole.weight[:, columns], None if whole.bias is None else whole.bias[columns])
        own = one(block.norm_attn.apply(resid))
        if at not in run.changed:
            return own
        every = rows.base(run.layers[self._layer].projected["qkv".index(cast("str", self.port))]).clone()
        every[:, self._head] = own
        return edited_rows(decoder, run, at, rows, every)[:, self._head]

    def edit(self, value: Float[Tensor, "pair pos width"], place: Int[Tensor, " pair"] | None = None) -> Edit:
        """The edit that gives it a value: at all positions, or at one of each pair."""
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
    """Let a receiver respond to what arrives at it, and give the change of its own output: the next sender of a path.

    Parameters
    ----------
    decoder : Decoder
    run : Trace
        The unedited run; all other inputs of the receiver keep their values in it.
    receiver : Receiver
        A head's query, a key/value head's key or value (then every query head of its group responds), or an MLP.
    change : Change
        Read at the receiver's point.
    keep : Tensor of bool, shape (pair, pos)
        Positions at which the output is wanted.
    rows_per_block : int
        Rows that a projection or an MLP works on together. Changes cost, not results.

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
    for some in senders.split(size):
        rows = torch.isin(change.sender, some)
        done.append(response(change.select(rows), values[rows], some))
    return {Point(layer, MID): Change.joined(done) if done else change.select(slice(0, 0))}


@dataclass(frozen=True, eq=False)
class _Response:
    """The output of the query heads that share one input, as a function of that input."""

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
        """Attention weights per sender."""
        pairs, length, group = self.inputs["q"].shape[:3]
        return int(pairs * length * length * (self.base.q.shape[-2] if self.taps else group))

    def __call__(self, change: Change, values: Float[Tensor, "row d_head"], senders: Tensor) -> Change:
        """Change of the output for the rows of some senders, at every position that sees a changed input."""
        old = self.inputs[self.port]
        new = old[None].repeat(len(senders), 1, 1, 1, 1)
        slot = torch.searchsorted(senders, change.sender)
        new[slot, change.pair, change.pos] = values[:, None]
        given = self.inputs | {self.port: new}
        keys = self.block.rotated_k(given["k"], self.where.angles_of(0, new.shape[2]))
        pattern = self._edited(Site.PATTERN, self.block.weigh(given["q"], keys, self.where), self.base.pattern, -3)
        z = self._edited(Site.Z, self.block.mix(pattern, given["v"]), self.base.z, -2)
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

    def _edited(self, site: Site, own: Tensor, base: Tensor, axis: int) -> Tensor:
        """Values of these heads with the standing edits of an edited model, which are shown all heads of the layer."""
        if site not in self.taps:
            return own
        tap, layer = self.taps[site]
        every = base.expand(len(own), *base.shape).clone()
        mine = range(base.shape[axis])[self.heads]
        every.narrow(axis, mine.start, len(mine)).copy_(own)
        return tap(site, layer, every).narrow(axis, mine.start, len(mine))
