"""The slow reference for sweeps: whole forward passes of the model, with hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.protocol import Model
    from circuitlab.model.sites import EditSet

__all__ = ["sweep_by_hooks"]


def sweep_by_hooks(
    model: Model,
    tokens: Int[Tensor, "row pos"],
    at: Int[Tensor, " row"],
    edit_sets: Sequence[EditSet],
    *,
    marks: Mapping[str, Int[Tensor, " row"]] | None = None,
    tokens_per_pass: int = 2048,
) -> Float[Tensor, "edit_set row vocab"]:
    """What `Model.sweep` returns, from whole forward passes; several edit sets share a pass as copies of the rows."""
    n, width = tokens.shape
    together = max(1, tokens_per_pass // (n * width))
    logits_of_chunks = []
    for first in range(0, len(edit_sets), together):
        group = edit_sets[first : first + together]
        edits = [replace(edit, rows=slice(i * n, (i + 1) * n)) for i, edit_set in enumerate(group) for edit in edit_set.edits]
        named = {name: places.repeat(len(group)) for name, places in (marks or {}).items()}
        logits = model.with_edits(edits).logits(tokens.repeat(len(group), 1), at.repeat(len(group)), marks=named)
        logits_of_chunks.append(logits.unflatten(0, (len(group), n)))
    return torch.cat(logits_of_chunks)
