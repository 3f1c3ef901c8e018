"""The weights that a linear readout needs, read from a model's modules."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import ModelError
from circuitlab.model.decoder.linear import Linear
from circuitlab.model.norms import FrozenNorm

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.anatomy import ModelParts

__all__ = ["Readout"]


class Readout:
    """Implements `circuitlab.model.protocol.Weights`.

    Parameters
    ----------
    parts : ModelParts
        The model's parts.
    d_model : int
        Width of the residual stream.
    embedding : Module
        The token embedding.
    """

    def __init__(self, parts: ModelParts, d_model: int, embedding: Any) -> None:
        self._parts, self._d_model, self._embedding = parts, d_model, embedding
        self.softcap = parts.softcap

    def _need(self) -> ModelParts:
        if self._parts.readout_lacks:
            what = f"The logits cannot be computed from the residual stream leaving the last layer: {self._parts.readout_lacks}."
            raise ModelError(what, "Use activation_patching with engine='hooks', which runs the model itself.")
        return self._parts

    @property
    def embedding(self) -> Float[Tensor, "token width"]:
        """Embedding matrix as it is stored."""
        weight: Tensor = self._embedding.weight
        return weight.detach()

    @cached_property
    def final_norm(self) -> FrozenNorm:
        """Norm before the unembedding."""
        return FrozenNorm.of(self._need().final_norm, self._d_model)

    def output(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Output projection W_O of each query head, times the family's residual multiplier."""
        part = self._parts.layers[layer]
        weight = Linear.of(part.o).weight.reshape(part.n_heads, part.d_value, -1)
        return weight * self._scale(layer)

    def output_bias(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """Output bias b_O, or None."""
        bias = Linear.of(self._parts.layers[layer].o).bias
        return None if bias is None else bias * self._scale(layer)

    def _scale(self, layer: int) -> float:
        """Factor between the output of attention and what it adds to the stream; 1 before a post-norm, which would undo it."""
        write = self._parts.layers[layer].attn_out
        return 1.0 if write is None or self._parts.layers[layer].attn_post else write.scale

    def post_attention_norm(self, layer: int) -> FrozenNorm | None:
        """Norm between the output projection and the residual stream, or None."""
        part = self._parts.layers[layer]
        if not part.attn_post or part.attn_out is None or part.attn_out.module is not part.attn_post[-1]:
            return None
        return FrozenNorm.of(part.attn_post[-1], self._d_model).times(part.attn_out.scale)

    def embed(self, ids: Int[Tensor, ...]) -> Float[Tensor, "... d_embed"]:
        """Rows of the embedding of tokens, as its module gives them."""
        if self._parts.embed is None:
            raise ModelError("This model has no embedding of tokens.", "Give it vectors, not tokens.")
        with torch.no_grad():
            rows: Tensor = self._parts.embed(ids)
        return rows

    def unembed(self, ids: Int[Tensor, ...] | slice) -> Float[Tensor, "... d_model"]:
        """Unembedding column of each token id, times the factor of the final logits."""
        weight: Tensor = self._need().unembed.weight.detach()
        columns = weight[ids if isinstance(ids, slice) else ids.to(weight.device)]
        return columns if self._parts.logit_scale == 1 else columns * self._parts.logit_scale

    def unembed_bias(self, ids: Int[Tensor, ...] | slice) -> Float[Tensor, ...] | None:
        """Unembedding bias of each token id, or None."""
        bias: Tensor | None = getattr(self._need().unembed, "bias", None)
        if bias is None:
            return None
        selected = bias.detach()[ids if isinstance(ids, slice) else ids.to(bias.device)]
        return selected if self._parts.logit_scale == 1 else selected * self._parts.logit_scale
