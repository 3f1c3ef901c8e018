"""The output of every node at the answer position: what a readout of direct contributions needs of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import ModelError
from circuitlab.execute.edge_runs import WindowedRunner
from circuitlab.execute.sweeps import batch_by_length, unedited_together
from circuitlab.model.decoder.taps import NO_SUM, STREAM, in_turn
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["AnswerValues", "answer_values"]


@dataclass(frozen=True, eq=False)
class AnswerValues:
    """Outputs of one run at the answer positions, in float64.

    Parameters
    ----------
    embed : Tensor, shape (pair, d_model)
        The residual stream entering layer 0.
    z : Tensor, shape (pair, layer, head, d_head)
        Each head's attention-weighted values.
    mlp_out : Tensor, shape (pair, layer, d_model)
        What each MLP adds to the residual stream.
    final : Tensor, shape (pair, d_model)
        The residual stream that leaves the last layer.
    total : Tensor, shape (pair,)
        The metric.
    """

    embed: Float[Tensor, "pair d_model"]
    z: Float[Tensor, "pair layer head d_head"]
    mlp_out: Float[Tensor, "pair layer d_model"]
    final: Float[Tensor, "pair d_model"]
    total: Float[Tensor, " pair"]

    @classmethod
    def by_hooks(cls, model: Model, metric: Metric, batch: ContrastBatch, tokens: Int[Tensor, "pair pos"]) -> AnswerValues:
        """For a model without a functional forward: one pass for the values and another for the logits."""
        captured = model.capture(tokens, [Site.Z, Site.MLP_OUT, Site.RESID_PRE, Site.RESID_POST], at=batch.end, marks=batch.marks)
        values = captured[Site.RESID_PRE][:, 0], captured[Site.Z], captured[Site.MLP_OUT], captured[Site.RESID_POST][:, -1]
        embed, z, mlp_out, final = (value.double() for value in values)
        return cls(embed, z, mlp_out, final, metric(model.logits(tokens, batch.end, marks=batch.marks).double(), batch))

    @classmethod
    def on(cls, runs: WindowedRunner, tokens: Int[Tensor, "pair pos"]) -> AnswerValues:
        """From one pass over the window; only the answer positions are kept."""
        batch, rows = runs.batch, torch.arange(runs.batch.n_pairs)
        at = batch.end - runs.start
        at_answer: dict[Site, list[Tensor]] = {Site.Z: [], Site.MLP_OUT: []}

        def record(site: Site, _layer: int, value: Tensor) -> Tensor:
            if site in at_answer:
                at_answer[site].append(value[rows, at])
            return value

        embed = runs.embed(tokens)
        final = runs.decoder.forward(embed, cache=runs.past.copy(), tap=in_turn(runs.tap(tokens), record))[rows, at]
        ids, token_batch = (None, batch) if runs.metric.whole_vocabulary else batch.over_tokens()
        total = runs.metric(runs.model.unembed(final, ids).double(), token_batch)
        z, mlp_out = (torch.stack(at_answer[site], dim=1) for site in at_answer)
        return cls(embed[rows, at].double(), z.double(), mlp_out.double(), final.double(), total)


@torch.no_grad()
def answer_values(model: Model, metric: Metric, batch: ContrastBatch) -> tuple[AnswerValues, AnswerValues]:
    """Values of the clean and of the corrupt run, in about one forward pass each; their common prefix is run once."""
    try:
        decoder = model.decoder.refusing(STREAM, NO_SUM)
    except ModelError:
        decoder = None
    batch = replace(batch, one_length=model.length_dependent)
    values_of_runs: list[list[AnswerValues]] = [[], []]
    order: list[int] = []
    for pairs in batch_by_length(batch, 2 * unedited_together(batch), alike=False):
        group = batch.select(pairs)
        runs = None if decoder is None else WindowedRunner.of(model, metric, group, decoder)
        for values, tokens in zip(values_of_runs, (group.clean, group.corrupt), strict=True):
            values.append(AnswerValues.by_hooks(model, metric, group, tokens) if runs is None else AnswerValues.on(runs, tokens))
        order += pairs
    back = torch.tensor(order).argsort()
    clean, corrupt = (_joined(values, back) for values in values_of_runs)
    return clean, corrupt


def _joined(parts: list[AnswerValues], order: Tensor) -> AnswerValues:
    names = ("embed", "z", "mlp_out", "final", "total")
    return AnswerValues(*(torch.cat([getattr(part, name) for part in parts])[order.to(parts[0].final.device)] for name in names))
