"""What heads, and any other summands of the last stream, add to the logits of some tokens, with the final norm's scale held."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from circuitlab.execute.head_writes import head_writes
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.protocol import Model

__all__ = ["head_logits", "share_logits"]


@torch.no_grad()
def share_logits(
    model: Model, written: Float[Tensor, "*parts row d_model"], final: Float[Tensor, "row d_model"], ids: Int[Tensor, " token"]
) -> Float[Tensor, "*parts row token"]:
    """Logits that summands of the last stream speak for, in float64.

    Parameters
    ----------
    model : Model
    written : Tensor, shape (..., row, d_model)
        Summands of ``final``.
    final : Tensor, shape (row, d_model)
        The stream that leaves the last layer. The final norm's scale is held at its value there, and a softcap enters as its secant slope.
    ids : Tensor of int, shape (token,)
        Which logits.
    """
    weights, final, ids = model.weights, final.double(), ids.to(final.device)
    columns = weights.unembed(ids).double()
    logits = weights.final_norm.share(written.double(), final) @ columns.T
    if (cap := weights.softcap) is None:
        return logits
    offset = weights.unembed_bias(ids)
    ratio = (weights.final_norm.apply(final) @ columns.T + (0.0 if offset is None else offset.double())) / cap
    return logits * (ratio.tanh() / ratio).nan_to_num(nan=1.0)


@torch.no_grad()
def head_logits(
    model: Model,
    tokens: Int[Tensor, "row pos"],
    at: Int[Tensor, " row"],
    ids: Int[Tensor, " token"],
    *,
    marks: Mapping[str, Int[Tensor, " row"]] | None = None,
) -> Float[Tensor, "row layer head token"]:
    """What every head adds directly to some logits at one position of each row: logit attribution, token by token.

    Parameters
    ----------
    model : Model
    tokens, at : Tensor of int
        Prompts, and the position of each that is read.
    ids : Tensor of int, shape (token,)
        Which logits.
    marks : mapping of str to Tensor of int, optional
        For models whose edits act at marks.

    Notes
    -----
    One forward pass. Effects through later nodes are not included. Attention biases, MLPs and the embedding make up the rest.

    Raises
    ------
    ModelError
        If the model lacks a site that is read, or what a layer adds is not the sum of what its heads write.
    """
    read = model.capture(tokens, (Site.Z, Site.ATTN_OUT, Site.RESID_POST), at=at, marks=marks)
    final = read[Site.RESID_POST][:, -1]
    shares = []
    for layer in range(model.spec.n_layers):
        written = head_writes(model, layer, read[Site.Z][:, layer], read[Site.ATTN_OUT][:, layer])
        shares.append(share_logits(model, written, final, ids).movedim(0, 1))
    return torch.stack(shares, dim=1)
