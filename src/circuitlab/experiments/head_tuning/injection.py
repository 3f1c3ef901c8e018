"""Soft Injection: mix heads' means over few-shot prompts into the last token of zero-shot prompts, by learnt gates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from circuitlab.experiments.head_tuning.offsets import as_rows, every_head
from circuitlab.experiments.head_tuning.training import Descent
from circuitlab.model.interventions import Add, Scale
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.experiments.head_tuning.prompts import Questions, TuningTask
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.model.interventions import Intervention
    from circuitlab.model.protocol import Model

__all__ = ["inject"]

_RATE = 0.2
"""The paper's learning rate of the gates' logits, which start at 0."""


def inject(context: ExperimentContext, task: TuningTask, steps: int) -> dict[str, Any]:
    """Held-out answers with gates trained on few-shot means, and on zero-shot means; and the map of the former's gates."""
    spec, results = context.model.spec, {}
    for number, (name, source) in enumerate({"injected": task.shown_train, "injected_blank": task.train}.items()):
        with context.share(number / 2, (number + 1) / 2):
            edited, gates = _trained(context, task, _means(context.model, source), steps)
        results[name] = as_rows(task.held.measured(edited))
        if name == "injected":
            results["gates"] = gates.reshape(spec.n_layers, spec.n_heads).double().numpy().round(5).tolist()
    return results


def _trained(
    context: ExperimentContext, task: TuningTask, means: Float[Tensor, "node d_head"], steps: int
) -> tuple[Model, Float[Tensor, " node"]]:
    heads = every_head(context.model.spec)
    logits = torch.nn.Parameter(torch.zeros(len(heads)))

    def edits() -> list[Intervention]:
        gates = logits.sigmoid()
        mixed = gates[:, None] * means
        return [Scale(heads, 1.0 - gates, positions="last"), Add(heads, mixed, positions="last")]

    edited = Descent(context.model, task.train, steps, context.rng("order", "gates")).run(logits, edits, _RATE)
    return edited, logits.detach().sigmoid()


def _means(model: Model, source: Questions) -> Float[Tensor, "node d_head"]:
    """Mean output of every head at the last token."""
    z = model.capture(source.tokens, [Site.Z], at=source.end)[Site.Z]
    return z.float().mean(0).flatten(0, 1).cpu()
