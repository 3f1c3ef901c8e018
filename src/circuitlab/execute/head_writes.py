"""What every head of a layer adds to the stream: its values through the output projection and its share of a norm behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.model.protocol import Model

__all__ = ["allowed_error", "head_writes"]

_CLOSE = {torch.float64: 1e-6, torch.float32: 1e-3}
_CLOSE_16_BIT = 0.1
"""How far two ways to the same numbers may be apart, as a share of the largest or of 1."""


def allowed_error(value: Tensor) -> float:
    """How far another way to these numbers may be off."""
    return _CLOSE.get(value.dtype, _CLOSE_16_BIT) * max(1.0, float(value.abs().max()))


def head_writes(
    model: Model, layer: int, z: Float[Tensor, "*rows head d_head"], out: Float[Tensor, "*rows d_model"]
) -> Float[Tensor, "head *rows d_model"]:
    """What each head of a layer adds to the stream, in float64; the scale of a norm behind the output projection is held.

    Parameters
    ----------
    model : Model
    layer : int
    z, out : Tensor
        What the run has at the sites Z and ATTN_OUT of this layer.

    Raises
    ------
    ModelError
        If ``out`` is not the sum of what the heads write: attention's output was edited.
    """
    weights = model.weights
    parts = torch.einsum("...hd,hdm->...hm", z.double(), weights.output(layer).double()).movedim(-2, 0)
    bias = weights.output_bias(layer)
    whole = parts.sum(0) if bias is None else parts.sum(0) + bias.double()
    post = weights.post_attention_norm(layer)
    apart = float(((whole if post is None else post.apply(whole)) - out.double()).abs().max())
    if not apart <= allowed_error(out):
        what = f"What layer {layer} of {model.spec.name} adds is not the sum of what its heads write (off by {apart:.2g})."
        raise ModelError(what, "Leave edits of attn_out out, or read the stream.")
    return parts if post is None else post.share(parts, whole)
