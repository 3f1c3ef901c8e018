"""The identity of an evaluation: everything that its measures depend on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from circuitlab.metrics import metric_params
from circuitlab.scores.values_digest import values_digest

if TYPE_CHECKING:
    from circuitlab.circuits.circuit import Circuit
    from circuitlab.evaluation.evaluate import Evaluate
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.edge_scores import EdgeScores
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["EvaluationInput", "batch_identity", "evaluation_identity"]

_VERSION = 1
"""Version of what evaluations measure and how; with a new version they are computed again."""


@dataclass(frozen=True)
class EvaluationInput:
    """The input of an evaluation.

    Parameters
    ----------
    circuit : Circuit
        The circuit.
    model, batch, metric
        What it is run on, and the metric that reads the logits.
    scores : HeadScores or EdgeScores, optional
        Scores that rank nodes or edges for the curve over sizes.
    """

    circuit: Circuit
    model: Model
    batch: ContrastBatch
    metric: Metric
    scores: HeadScores | EdgeScores | None = None


def evaluation_identity(settings: Evaluate, source: EvaluationInput) -> dict[str, Any]:
    """Everything that the measures depend on: settings, nodes and edges, model, prompts, metric, and the values that rank elements.

    The circuit's rule and sources are not part of it, since the same nodes give the same measures however they were selected.
    """
    circuit, batch = source.circuit.to_dict(), source.batch
    return {
        "version": _VERSION,
        "settings": _plain_settings(settings),
        "circuit": {part: circuit[part] for part in ("nodes", "edges", "universe")},
        **batch_identity(source.model, batch, source.metric),
        # Only this ablation depends on the templates of the pairs, which the digest of the prompts does not include.
        "templates": list(batch.templates) if settings.ablation == "mean_by_template" else None,
        "ranking": None if source.scores is None else values_digest(source.scores),
    }


def batch_identity(model: Model, batch: ContrastBatch, metric: Metric) -> dict[str, Any]:
    """The identity of the model as it is now, the prompts and the metric."""
    model.refresh()
    return {"model": model.spec.identity(), "task": batch.task.digest, "metric": metric.name, "metric_params": metric_params(metric)}


def _plain_settings(settings: Evaluate) -> dict[str, Any]:
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    fields["keep_at"] = {str(name): sorted(set(marks)) for name, marks in settings.keep_at.items()}
    fields["classes"] = [[name, sorted(map(str, members))] for name, members in settings.classes.items()]
    return fields
