"""From a decomposed residual stream to relevances: the final norm, the unembedding, the metric."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitlab.methods.decomposition import steps
from circuitlab.methods.decomposition.parts import Parts
from circuitlab.model.decoder.linear import Linear

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.methods.decomposition.rule import Rule
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder import Trace
    from circuitlab.model.protocol import Model

__all__ = ["Readout"]


@dataclass(frozen=True, eq=False)
class Readout:
    """The readout of a model, for some prompts.

    Parameters
    ----------
    model, metric : Model, Metric
        The model and the metric.
    batch : ContrastBatch
        The prompts, with a reference if the metric needs one.
    """

    model: Model
    metric: Metric
    batch: ContrastBatch

    def logits(self, rule: Rule, final: Parts, end: Tensor) -> Parts:
        """Logits at the answer position, (source, pair, token), for answers and foils only if the metric reads no others."""
        weights, rows = self.model.weights, torch.arange(len(end), device=end.device)
        last = Parts(
            final.relevant[:, rows, end],
            final.true[rows, end],
            None if final.carried is None else final.carried[:, rows, end],
        )
        ids: Tensor | slice = slice(None) if self.metric.whole_vocabulary else self.batch.over_tokens()[0]
        unembed = Linear(weights.unembed(ids).T, weights.unembed_bias(ids))
        normed = steps.norm(rule, last, weights.final_norm, weights.final_norm.apply(last.true))
        logits = steps.linear(rule, normed, unembed, unembed(normed.true))
        if weights.softcap is None:
            return logits
        cap = partial(_capped, cap=weights.softcap)
        return steps.activation(rule, logits, cap, cap(logits.true))

    def relevance(self, logits: Parts) -> Float[np.ndarray, "source pair"]:
        """The part of the metric that is due to each source, in metric units.

        A metric that is linear in the logits is evaluated on their relevant part (published). Any other is treated like an activation: its
        value minus its value on the irrelevant logits.
        """
        if self.metric.linear:
            return self._metric(logits.relevant)
        return self._metric(logits.total.double()) - self._metric(logits.irrelevant)

    def of_run(self, run: Trace) -> Float[np.ndarray, " pair"]:
        """The metric of an unedited run."""
        end = self.batch.end.to(run.final.device)
        last = run.final[torch.arange(len(end), device=end.device), end]
        return self._metric(self.model.unembed(last, None if self.metric.whole_vocabulary else self.batch.over_tokens()[0]))

    def _metric(self, logits: Tensor) -> np.ndarray:
        token_batch = self.batch if self.metric.whole_vocabulary else self.batch.over_tokens()[1]
        return np.asarray(self.metric(logits.double(), token_batch).cpu())


def _capped(logits: Tensor, cap: float) -> Tensor:
    return torch.tanh(logits / cap) * cap
