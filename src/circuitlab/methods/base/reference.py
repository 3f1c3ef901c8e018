"""The clean run's distribution, for metrics that compare with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["with_reference"]


def with_reference(model: Model, metric: Metric, batch: ContrastBatch) -> ContrastBatch:
    """The batch with the clean run's log-probabilities, (pair, vocab), if the metric needs them; the same batch otherwise.

    Every method calls this first. One forward pass, and pair x vocab numbers held in the model's dtype (float32 at least). A reference
    that is already there is computed anew: it may be another model's.
    """
    if not metric.needs_reference:
        return batch
    logits = model.logits(batch.clean, batch.end, marks=batch.marks)
    wide = logits if logits.element_size() >= 4 else logits.float()  # noqa: PLR2004 - bytes of float32
    return replace(batch, reference=wide.log_softmax(-1))
