"""The whole decoder as a function of its residual stream, with every intermediate value in one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from circuitlab.model.decoder.block import Block
from circuitlab.model.decoder.rotary import Geometry

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["Decoder", "LayerTrace", "Trace"]


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """Every value of one layer, on whole prompts. q, k, v are as projected (before their norms and rotation)."""

    resid_pre: Float[Tensor, "row pos d_model"]
    attn_in: Float[Tensor, "row pos d_model"]
    q: Float[Tensor, "row pos head d_head"]
    k: Float[Tensor, "row pos kv_head d_head"]
    v: Float[Tensor, "row pos kv_head d_head"]
    pattern: Float[Tensor, "row head query key"]
    z: Float[Tensor, "row pos head d_head"]
    attn_out: Float[Tensor, "row pos d_model"]
    resid_mid: Float[Tensor, "row pos d_model"]
    mlp_in: Float[Tensor, "row pos d_model"]
    mlp_out: Float[Tensor, "row pos d_model"]


@dataclass(frozen=True, eq=False)
class Trace:
    """Every layer, and the residual stream that leaves the last one."""

    layers: list[LayerTrace]
    final: Float[Tensor, "row pos d_model"]


@dataclass(frozen=True, eq=False)
class Decoder:
    """A model as blocks and the geometry of their attention.

    Parameters
    ----------
    blocks : sequence of Block
    embed : callable
        Token ids -> the residual stream entering layer 0, (row, pos, d_model).
    measure : callable
        Length -> the geometry of every layer for prompts up to that length.
    """

    blocks: Sequence[Block]
    embed: Callable[[Int[Tensor, "row pos"]], Float[Tensor, "row pos d_model"]]
    measure: Callable[[int], Sequence[Geometry]]

    def layer(self, index: int, resid: Float[Tensor, "row pos d_model"], where: Geometry) -> LayerTrace:
        """Run one layer on whole prompts."""
        block = self.blocks[index]
        attn_in = block.norm_attn.apply(resid)
        q, k, v = (block.split(part(attn_in)) for part in (block.q, block.k, block.v))
        pattern, z = block.attend(q, k, v, where)
        attn_out = block.write(z)
        resid_mid = resid + attn_out
        mlp_in = block.norm_mlp.apply(resid if block.parallel else resid_mid)
        return LayerTrace(resid, attn_in, q, k, v, pattern, z, attn_out, resid_mid, mlp_in, block.mlp(mlp_in))

    def trace(self, resid: Float[Tensor, "row pos d_model"]) -> Trace:
        """Run every layer from the residual stream entering layer 0; gradients flow if it asks for them.

        Right-padded rows are exact: a causal model never looks right.
        """
        layers = []
        for index, where in enumerate(self.measure(resid.shape[1])):
            layers.append(self.layer(index, resid, where))
            resid = layers[-1].resid_mid + layers[-1].mlp_out
        return Trace(layers, resid)

    @torch.no_grad()
    def final(self, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "row pos d_model"]:
        """The residual stream leaving the last layer, nothing kept on the way."""
        resid = self.embed(tokens)
        for index, where in enumerate(self.measure(tokens.shape[1])):
            found = self.layer(index, resid, where)
            resid = found.resid_mid + found.mlp_out
        return resid
