"""What an evaluation depends on: two evaluations of one identity measure the same."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.metrics import metric_params
from circuitlab.scores.edge_scores import EdgeScores

if TYPE_CHECKING:
    from circuitlab.circuits.circuit import Circuit
    from circuitlab.evaluation.evaluate import Evaluate
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["Measured", "batch_identity", "evaluation_identity"]

_VERSION = 1
"""Of what evaluations measure and how; a change makes them new."""


@dataclass(frozen=True)
class Measured:
    """What an evaluation runs: a circuit on a model and prompts, read by a metric, ranked by scores."""

    circuit: Circuit
    model: Model
    batch: ContrastBatch
    metric: Metric
    scores: HeadScores | EdgeScores | None = None


def evaluation_identity(settings: Evaluate, measured: Measured) -> dict[str, Any]:
    """Everything that the measures depend on: settings, nodes and edges, model, prompts, metric, and the ranking's values.

    Not the circuit's rule and sources: the same nodes measure the same, however they were picked.
    """
    drawn, batch = measured.circuit.to_dict(), measured.batch
    return {
        "version": _VERSION,
        "settings": _plain_settings(settings),
        "circuit": {part: drawn[part] for part in ("nodes", "edges", "universe")},
        **batch_identity(measured.model, batch, measured.metric),
        # Only this ablation asks which template a pair is of, and the digest of the prompts does not say.
        "templates": list(batch.templates) if settings.ablation == "mean_by_template" else None,
        "ranking": None if measured.scores is None else _ranking(measured.scores),
    }


def batch_identity(model: Model, batch: ContrastBatch, metric: Metric) -> dict[str, Any]:
    """Identity of what is run and read: weights as they are now, prompts, metric."""
    model.refresh()
    return {"model": model.spec.identity(), "task": batch.task.digest, "metric": metric.name, "metric_params": metric_params(metric)}


def _plain_settings(settings: Evaluate) -> dict[str, Any]:
    found = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    found["keep_at"] = {str(name): sorted(set(marks)) for name, marks in settings.keep_at.items()}
    found["classes"] = [[name, sorted(map(str, members))] for name, members in settings.classes.items()]
    return found


def _ranking(scores: HeadScores | EdgeScores) -> str:
    """Hash of the values that rank nodes or edges."""
    parts = {"edges": scores.values()} if isinstance(scores, EdgeScores) else {part: scores.values(part) for part in scores.parts}
    total = hashlib.sha256()
    for name, values in sorted(parts.items()):
        total.update(f"{name} {values.shape} {values.dtype.str}".encode())
        total.update(np.ascontiguousarray(values).tobytes())
    return total.hexdigest()
