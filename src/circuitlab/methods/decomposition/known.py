"""The values of the unedited run inside one layer, at the positions that are decomposed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from circuitlab.model.decoder import Block, LayerTrace
    from circuitlab.model.decoder.rotary import Geometry

__all__ = ["KnownLayer"]


@dataclass(frozen=True, eq=False)
class KnownLayer:
    """Every activation of a layer: queries and everything after attention from position ``start`` on, keys and values of all positions.

    Parameters
    ----------
    block : Block
        The layer.
    start : int
        First position of the window.
    where : Geometry
        Rotary angles and mask.
    base : LayerTrace
        The layer's trace, cut to the window except ``k``, ``v`` and the keys of ``pattern``.
    rotated_q, rotated_k : Tensor
        Queries and keys after their norms and rotation.
    dots, scores : Tensor, shape (pair, head, window, pos)
        Attention scores before and after the softcap.
    raw_attn, raw_mlp : Tensor, shape (pair, window, d_model)
        Outputs before post-norms.
    gate, gated, up, neurons : Tensor, shape (pair, window, d_mlp)
        Gate before and after its activation (None without a gate), values, and the input of the output projection.
    post : Tensor, shape (pair, window, d_model)
        The residual stream that leaves the layer.
    """

    block: Block
    start: int
    where: Geometry
    base: LayerTrace
    rotated_q: Float[Tensor, "pair window head d_head"]
    rotated_k: Float[Tensor, "pair pos kv_head d_head"]
    dots: Float[Tensor, "pair head window pos"]
    scores: Float[Tensor, "pair head window pos"]
    raw_attn: Float[Tensor, "pair window d_model"]
    gate: Float[Tensor, "pair window d_mlp"] | None
    gated: Float[Tensor, "pair window d_mlp"] | None
    up: Float[Tensor, "pair window d_mlp"]
    neurons: Float[Tensor, "pair window d_mlp"]
    raw_mlp: Float[Tensor, "pair window d_model"]
    post: Float[Tensor, "pair window d_model"]

    @classmethod
    def of(cls, block: Block, trace: LayerTrace, where: Geometry, start: int) -> KnownLayer:
        """Compute the values that the trace does not hold; this costs a fraction of a pass through the layer."""
        length = trace.resid_pre.shape[1]
        angles = _angles(where, 0, length)
        rotated_q, rotated_k = block.rotated_q(trace.q, angles)[:, start:], block.rotated_k(trace.k, angles)
        dots = replace(block, softcap=None).scores(rotated_q, rotated_k)
        window = ("resid_pre", "attn_in", "q", "z", "attn_out", "resid_mid", "mlp_in", "mlp_out")
        cut = {name: getattr(trace, name)[:, start:] for name in window}
        base = replace(trace, **cut, pattern=trace.pattern[..., start:, :])
        up = block.up(base.mlp_in)
        gate = None if block.gate is None else block.gate(base.mlp_in)
        gated = None if gate is None else block.activation(gate)
        neurons = block.activation(up) if gated is None else gated * up
        return cls(
            block=block,
            start=start,
            where=where,
            base=base,
            rotated_q=rotated_q,
            rotated_k=rotated_k,
            dots=dots,
            scores=block.capped(dots),
            raw_attn=block.o(base.z.flatten(-2)),
            gate=gate,
            gated=gated,
            up=up,
            neurons=neurons,
            raw_mlp=block.down(neurons),
            post=base.resid_mid + base.mlp_out,
        )

    @property
    def visible(self) -> Bool[Tensor, "window pos"]:
        """The keys that each query of the window can attend to."""
        length = self.rotated_k.shape[1]
        return self.where.visible[self.start : length, :length]

    @property
    def angles(self) -> tuple[Tensor, Tensor] | None:
        """Rotary angles of the window."""
        return _angles(self.where, self.start, self.rotated_k.shape[1])


def _angles(where: Geometry, start: int, stop: int) -> tuple[Tensor, Tensor] | None:
    """Rotary angles of some positions; None without a rotary embedding."""
    return None if where.angles is None else (where.angles[0][start:stop], where.angles[1][start:stop])
