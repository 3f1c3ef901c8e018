"""What a token puts into the residual stream before its position: where the two can be told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.protocol import Model

__all__ = ["token_embedding_fault", "token_embeddings"]

_CLOSE = {torch.float64: 1e-6, torch.float32: 1e-5}
_ROWS = 4096


@torch.no_grad()
def token_embeddings(model: Model, ids: Int[Tensor, " token"]) -> Float[Tensor, "token d_model"]:
    """The residual stream that enters layer 0 at a token, without what its position adds to it.

    A family's factor of the embedding (Gemma, Granite) is included, as is a norm of the embedding (BLOOM). The functional forward is asked,
    so that no family needs code of its own; learned positions are taken out by comparing with the embedding's rows.

    Raises
    ------
    ModelError
        If token and position cannot be told apart: a norm of their sum (mBART), or a projection between them (OPT 350M).
    """
    decoder, factor = model.decoder, _factor(model)
    device = model.weights.unembed(slice(0, 1)).device
    ids = ids.to(device)
    if factor is not None:
        return model.weights.embed(ids) * factor
    return torch.cat([decoder.embed(some[:, None])[:, 0] for some in ids.split(_ROWS)])


def token_embedding_fault(model: Model) -> str:
    """Why what a token puts into the stream is not known; empty where it is."""
    try:
        _factor(model)
    except ModelError as error:
        return error.what
    return ""


@torch.no_grad()
def _factor(model: Model) -> float | None:
    """What the embedding's rows are multiplied with before positions are added; None where positions add nothing."""
    size = model.spec.d_vocab
    tokens = torch.tensor([[3, 7, 3, 11], [5, 1, 2, 9]]).to(model.weights.unembed(slice(0, 1)).device) % size
    stream = model.decoder.embed(tokens)
    close = _CLOSE.get(stream.dtype, 3e-2) * float(stream.abs().max())
    if float((stream[0, 0] - stream[0, 2]).abs().max()) <= close:
        return None
    rows = model.weights.embed(tokens)
    if rows.shape == stream.shape:
        apart, own = (stream[0] - stream[1]).float(), (rows[0] - rows[1]).float()
        factor = float((apart * own).sum() / (own * own).sum())
        if float((apart - factor * own).abs().max()) <= close:
            return factor
    what = f"{model.spec.name} mixes tokens with positions before the first layer, so that a token alone has no place in its stream."
    raise ModelError(what, "Use a role that is read from attention patterns.")
