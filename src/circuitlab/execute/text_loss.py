"""Cross-entropy of the next tokens of texts, token by token, under any model, edited or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["next_token_losses"]

_TOGETHER = 512
"""Tokens in one pass; a pass is never less than one row."""


def next_token_losses(model: Model, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Cross-entropy, in nats, of every token of each row but its first.

    Parameters
    ----------
    model : Model
        Its edits apply.
    rows : sequence of sequence of int
        Token ids; lengths may differ, and nothing is padded.

    Returns
    -------
    list of ndarray, each (token - 1,)
        In the order of the rows.

    Examples
    --------
    >>> from circuitlab.testing.tiny import tiny_model
    >>> [len(losses) for losses in next_token_losses(tiny_model("llama"), [(3, 1, 5, 2), (4, 0)])]
    [3, 1]
    """
    import torch  # noqa: PLC0415 - listing roles must not load torch

    from circuitlab.execute.on_text import grouped_by_length  # noqa: PLC0415

    losses: list[np.ndarray] = [np.zeros(0)] * len(rows)
    for which, tokens in grouped_by_length([tuple(row) for row in rows], _TOGETHER):
        last = model.capture(tokens, [Site.RESID_POST], layers=[model.spec.n_layers - 1])[Site.RESID_POST][:, 0, :-1]
        for number, resid, row in zip(which, last, tokens, strict=True):
            logs = model.unembed(resid).double().log_softmax(-1).detach().cpu()
            losses[number] = -torch.gather(logs, -1, row[1:, None])[:, 0].numpy()
    return losses
