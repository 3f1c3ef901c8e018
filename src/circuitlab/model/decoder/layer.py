"""One layer on a window of positions: the only place where the functional forward computes a layer.

It runs in three steps, and a run can start at any of them: attention up to z, what attention and the MLP write, and the stream that
leaves. A tap is called with every site in this order, and the run continues with the value that it returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.model.decoder.block import Block
    from circuitlab.model.decoder.cache import Cache
    from circuitlab.model.decoder.rotary import Geometry
    from circuitlab.model.places import Tap

__all__ = ["AttentionTrace", "LayerRun", "LayerTrace"]


@dataclass(frozen=True, eq=False)
class AttentionTrace:
    """The values of a layer up to z, after any edits.

    Parameters
    ----------
    resid_pre : Tensor, shape (row, pos, d_model)
        The residual stream that enters.
    attn_in : Tensor, shape (row, pos, d_model)
        The same after attention's norm.
    projected : (Tensor, Tensor, Tensor)
        q, k and v as projected, before any edits of them.
    q : Tensor, shape (row, pos, head, d_head)
        Queries after any edits, before their norm and rotation.
    k, v : Tensor, shape (row, pos, kv_head, d_head)
        Keys before their norm and rotation, and values, after any edits.
    pattern : Tensor, shape (row, head, query, key)
        Attention weights.
    z : Tensor, shape (row, pos, head, d_head)
        Attention-weighted values.
    """

    resid_pre: Float[Tensor, "row pos d_model"]
    attn_in: Float[Tensor, "row pos d_model"]
    projected: tuple[Tensor, Tensor, Tensor]
    q: Float[Tensor, "row pos head d_head"]
    k: Float[Tensor, "row pos kv_head d_head"]
    v: Float[Tensor, "row pos kv_head d_head"]
    pattern: Float[Tensor, "row head query key"]
    z: Float[Tensor, "row pos head d_head"]


@dataclass(frozen=True, eq=False)
class LayerTrace(AttentionTrace):
    """Every value of one layer, after any edits.

    Parameters
    ----------
    attn_out : Tensor, shape (row, pos, d_model)
        What attention adds to the residual stream.
    resid_mid : Tensor, shape (row, pos, d_model)
        The residual stream after attention.
    mlp_in, mlp_out : Tensor, shape (row, pos, d_model)
        What the MLP reads, after its norm, and what it adds to the residual stream.
    resid_post : Tensor, shape (row, pos, d_model)
        The residual stream that leaves.
    """

    attn_out: Float[Tensor, "row pos d_model"]
    resid_mid: Float[Tensor, "row pos d_model"]
    mlp_in: Float[Tensor, "row pos d_model"]
    mlp_out: Float[Tensor, "row pos d_model"]
    resid_post: Float[Tensor, "row pos d_model"]


@dataclass(frozen=True, eq=False)
class LayerRun:
    """One layer, ready to be run on a window of positions.

    Parameters
    ----------
    block : Block
        The functions of the layer.
    index : int
        Number of the layer, from 0.
    where : Geometry
        Rotary angles and mask, up to the last position that is run.
    tap : Tap
        Called with every site; the run continues with what it returns.
    cache : Cache
        Keys and values of the positions before the window; those of the window are appended.
    """

    block: Block
    index: int
    where: Geometry
    tap: Tap
    cache: Cache

    def __call__(self, resid: Float[Tensor, "row pos d_model"]) -> LayerTrace:
        """Run the whole layer on the residual stream that enters it."""
        return self.written(self.attended(resid))

    def attended(self, resid: Float[Tensor, "row pos d_model"]) -> AttentionTrace:
        """Attention up to z, from the residual stream that enters."""
        block = self.block
        resid = self._show(Site.RESID_PRE, resid)
        attn_in = block.norm_attn.apply(resid)
        raw = (block.split(block.q(attn_in)), block.split(block.k(attn_in)), block.split(block.v(attn_in)))
        q, k, v = (self._show(site, value) for site, value in zip((Site.Q, Site.K, Site.V), raw, strict=True))
        keys, values = self._appended(k, v)
        pattern = self._show(Site.PATTERN, block.weigh(q, keys, self.where))
        return AttentionTrace(resid, attn_in, raw, q, k, v, pattern, self._show(Site.Z, block.mix(pattern, values)))

    def keys_only(self, resid: Float[Tensor, "row pos d_model"]) -> None:
        """Append keys and values of the window, and compute nothing else. Later positions need nothing more of the last layer."""
        block = self.block
        attn_in = block.norm_attn.apply(self._show(Site.RESID_PRE, resid))
        k, v = block.split(block.k(attn_in)), block.split(block.v(attn_in))
        self._appended(self._show(Site.K, k), self._show(Site.V, v))

    def written(self, attention: AttentionTrace) -> LayerTrace:
        """The rest of the layer, from z: what attention and the MLP write, and the residual stream that leaves."""
        block = self.block
        attn_out = self._show(Site.ATTN_OUT, block.write(attention.z))
        resid_mid = attention.resid_pre + attn_out
        if not block.parallel:
            resid_mid = self._show(Site.RESID_MID, resid_mid)
        mlp_in = block.norm_mlp.apply(attention.resid_pre if block.parallel else resid_mid)
        mlp_out = self._show(Site.MLP_OUT, block.mlp(mlp_in))
        attention_values = (
            attention.resid_pre,
            attention.attn_in,
            attention.projected,
            attention.q,
            attention.k,
            attention.v,
            attention.pattern,
            attention.z,
        )
        return LayerTrace(*attention_values, attn_out, resid_mid, mlp_in, mlp_out, self.left(resid_mid, mlp_out))

    def left(
        self,
        resid_mid: Float[Tensor, "row pos d_model"],
        mlp_out: Float[Tensor, "row pos d_model"],
    ) -> Float[Tensor, "row pos d_model"]:
        """The residual stream that leaves, from the MLP's output."""
        return self._show(Site.RESID_POST, resid_mid + mlp_out)

    def _appended(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated keys and values of all positions up to the last of the window."""
        start = self.cache.length(self.index)
        return self.cache.append(self.index, self.block.rotated_k(k, self.where.angles_of(start, start + k.shape[-3])), v)

    def _show(self, site: Site, value: Tensor) -> Tensor:
        return self.tap(site, self.index, value)
