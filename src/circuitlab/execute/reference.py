"""Logits of unedited prompts, and the clean run's distribution for metrics that compare with it."""

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
"""Tokens that are run together: memory grows with them, and more are no faster."""


def answer_logits(model: Model, batch: ContrastBatch, tokens: Int[Tensor, "pair pos"]) -> Float[Tensor, "pair vocab"]:
    """Logits at the answer position of the prompts of a batch (clean or corrupt ones), some prompts at a time."""
    import torch  # noqa: PLC0415 - listing methods must not load torch

    rows = max(1, _TOKENS // tokens.shape[1])
    shares = [slice(first, first + rows) for first in range(0, len(tokens), rows)]
    marks = [{name: places[some] for name, places in batch.marks.items()} for some in shares]
    return torch.cat([model.logits(tokens[some], batch.end[some], marks=named) for some, named in zip(shares, marks, strict=True)])


def with_reference(model: Model, metric: Metric, batch: ContrastBatch) -> ContrastBatch:
    """The batch as a model runs it: prompts of one length only in a pass where positions turn by the length of the prompt.

    And with the clean run's log-probabilities, (pair, vocab), if the metric needs them.

    Every method calls this first. One forward pass, and pair x vocab numbers held in the model's dtype (float32 at least). A reference
    that is already there is computed anew: it may be another model's.
    """
    if batch.one_length != model.length_dependent:
        batch = replace(batch, one_length=model.length_dependent)
    if not metric.needs_reference:
        return batch
    logits = answer_logits(model, batch, batch.clean)
    wide = logits if logits.element_size() >= 4 else logits.float()  # noqa: PLR2004 - bytes of float32
    return replace(batch, reference=wide.log_softmax(-1))
