"""Evaluations are kept beside the runs that circuits were picked from, and found again by what they depend on."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.evaluate.evaluate import Evaluate
from circuitlab.metrics import metric_params
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.store import RunStore

if TYPE_CHECKING:
    from circuitlab.circuits.circuit import Circuit
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["StoredEvaluate", "about_batch"]

_VERSION = 1
"""Of what evaluations measure and how; a change makes them new."""


@dataclass(frozen=True)
class StoredEvaluate:
    """An evaluation that is looked for in a store first, and kept there.

    Parameters
    ----------
    settings : Evaluate
        What is measured.
    store : RunStore
        Evaluations lie in its folder ``evaluations``, one JSON file each.
    """

    settings: Evaluate
    store: RunStore

    def __call__(
        self,
        circuit: Circuit,
        model: Model,
        batch: ContrastBatch,
        metric: Metric,
        scores: HeadScores | EdgeScores | None = None,
    ) -> tuple[dict[str, Any], bool]:
        """The data of `Evaluation.to_dict`, NaN as None, and whether it was stored before; parameters and errors as in `Evaluate`."""
        about = self.about(circuit, model, batch, metric, scores)

        def measure() -> dict[str, Any]:
            return self.settings(circuit, model, batch, metric, scores).to_dict()

        return self.store.documents("evaluations").get_or_compute(about, measure)

    def about(
        self,
        circuit: Circuit,
        model: Model,
        batch: ContrastBatch,
        metric: Metric,
        scores: HeadScores | EdgeScores | None = None,
    ) -> dict[str, Any]:
        """Everything that the measures depend on: settings, nodes and edges, model, prompts, metric, and the ranking's values.

        Not the circuit's rule and sources: the same nodes measure the same, however they were picked.
        """
        drawn = circuit.to_dict()
        return {
            "version": _VERSION,
            "settings": _plain_settings(self.settings),
            "circuit": {part: drawn[part] for part in ("nodes", "edges", "universe")},
            **about_batch(model, batch, metric),
            # Only this ablation asks which template a pair is of, and the digest of the prompts does not say.
            "templates": list(batch.templates) if self.settings.ablation == "mean_by_template" else None,
            "ranking": None if scores is None else _ranking(scores),
        }


def about_batch(model: Model, batch: ContrastBatch, metric: Metric) -> dict[str, Any]:
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
