"""What each token of the vocabulary puts into the residual stream, without the position that it stands at."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import ModelError
from circuitlab.model.anatomy.build import probe_tokens

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.protocol import Model

__all__ = ["token_vectors", "token_vectors_fault"]

_TOKENS, _POSITIONS = 5, 6
"""Of the prompts that tell whether and how positions enter."""

_ROUNDING = 1e-6
"""Of a factor that is 1."""

_CLOSE = {torch.float64: 1e-9, torch.float32: 1e-5}

_TOGETHER = 4096
"""Tokens that the model itself is asked about at once."""


@torch.no_grad()
def token_vectors(model: Model) -> Callable[[Int[Tensor, " token"]], Float[Tensor, "token d_model"]]:
    """A function from token ids to what they put into the residual stream that enters layer 0.

    That is its row of the embedding matrix times a factor of the family (Gemma's root of the width), which is tried on prompts first. Where
    it is more than that (a norm, a projection) the model itself is asked, as long as no position is added.

    Parameters
    ----------
    model : Model
        That can be taken apart; its interventions, if it has any, have no part in this.

    Raises
    ------
    ModelError
        If tokens and positions enter in a way that cannot be told apart.

    Examples
    --------
    >>> import torch
    >>> from circuitlab.testing.tiny import tiny_model
    >>> token_vectors(tiny_model("gpt2"))(torch.tensor([3, 5])).shape
    torch.Size([2, 32])
    """
    table = model.weights.embedding
    some = probe_tokens(min(len(table), model.spec.d_vocab), _TOKENS, 1, table.device)
    streams = model.decoder.embed(some.repeat(1, _POSITIONS))
    anywhere, rows = _near(streams, streams[:, :1], streams), table[some]
    if rows.shape[-1] == streams.shape[-1]:
        seen, expected = (streams, rows) if anywhere else (streams[1:] - streams[:1], rows[1:] - rows[:1])
        seen, expected = seen.double(), expected.double()
        factor = float((seen[:, :1] * expected).sum() / expected.square().sum())
        factor = 1.0 if abs(factor - 1) < _ROUNDING else factor
        if _near(seen, factor * expected, streams):
            return lambda ids: table[ids.to(table.device)] * factor
    if anywhere:
        return lambda ids: torch.cat([model.decoder.embed(some[:, None])[:, 0] for some in ids.to(table.device).split(_TOGETHER)])
    what = f"What {model.spec.name} adds for a token cannot be told from what it adds for its position."
    raise ModelError(what, "Use a method that runs prompts, such as logit_attribution, or a role that is read from attention patterns.")


def token_vectors_fault(model: Model) -> str:
    """Why what a token alone puts into the stream is not known; empty where it is."""
    try:
        token_vectors(model)
    except ModelError as error:
        return error.what
    return ""


def _near(actual: Tensor, expected: Tensor, streams: Tensor) -> bool:
    """Whether numbers agree up to the rounding of residual streams."""
    return bool((actual - expected).abs().max() <= _CLOSE.get(streams.dtype, 3e-2) * streams.abs().max().clamp(min=1e-3))
