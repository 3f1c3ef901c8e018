"""Logits of unedited prompts, and the clean run's log-probabilities for metrics that compare with them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["answer_logits", "with_reference"]

_TOKENS = 4096
"""Tokens in one pass; more would take more memory and be no faster."""


def answer_logits(model: Model, batch: ContrastBatch, tokens: Int[Tensor, "pair pos"]) -> Float[Tensor, "pair vocab"]:
    """Logits at the answer position of a batch's clean or corrupt prompts, a few prompts at a time."""
    import torch  # noqa: PLC0415 - listing methods must not load torch

    rows = max(1, _TOKENS // tokens.shape[1])
    chunks = [slice(first, first + rows) for first in range(0, len(tokens), rows)]
    marks = [{name: positions[chunk] for name, positions in batch.marks.items()} for chunk in chunks]
    return torch.cat([model.logits(tokens[chunk], batch.end[chunk], marks=named) for chunk, named in zip(chunks, marks, strict=True)])


def with_reference(model: Model, metric: Metric, batch: ContrastBatch) -> ContrastBatch:
    """The batch with ``one_length`` set for the model, and with ``reference`` if the metric needs it.

    ``one_length`` is true for models whose rotary angles depend on the length of the prompt. ``reference`` holds the clean run's
    log-probabilities, (pair, vocab), in the model's dtype (at least float32), and costs one forward pass. A reference that is already
    there is computed again, because it may be another model's. Every method calls this first.
    """
    if batch.one_length != model.length_dependent:
        batch = replace(batch, one_length=model.length_dependent)
    if not metric.needs_reference:
        return batch
    logits = answer_logits(model, batch, batch.clean)
    wide = logits if logits.element_size() >= 4 else logits.float()  # noqa: PLR2004 - bytes of float32
    return replace(batch, reference=wide.log_softmax(-1))
