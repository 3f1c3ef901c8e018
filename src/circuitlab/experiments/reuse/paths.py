"""Staged discovery whose sweeps are kept in a store one by one, so that an interruption loses one sweep at most."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from circuitlab.methods.path_patching import PathPatching
from circuitlab.workflows.score import score_batch

if TYPE_CHECKING:
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.store import RunStore
    from circuitlab.workflows.staged_paths import Discovery

__all__ = ["StoredPathPatching", "discovery_data"]


@dataclass(frozen=True)
class StoredPathPatching(PathPatching):
    """Path patching that looks for each run in a store first, and keeps it there after; its runs are plain `PathPatching` runs."""

    store: RunStore | None = field(default=None, metadata={"identity": False})

    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """The stored scores, or those computed and stored now."""
        own = {one.name: getattr(self, one.name) for one in dataclasses.fields(PathPatching)}
        return score_batch(model, batch, PathPatching(**own), metric, store=self.store).scores


def discovery_data(found: Discovery) -> dict[str, Any]:
    """A discovery as plain data: for each stage its receivers, kept heads, edges, and every head's effect on its strongest receiver."""
    import numpy as np  # noqa: PLC0415

    stages = []
    for stage in found.stages:
        means = np.stack([scores.mean("heads", mark=scores.marks[0] if scores.marks else None) for scores in stage.scores.values()])
        best = np.abs(means).argmax(0)
        strongest = np.take_along_axis(means, best[None], axis=0)[0]
        edges = [{"edge": str(one.edge), "mean": one.mean, "low": one.low, "high": one.high} for one in stage.edges]
        stages.append(
            {
                "receivers": list(stage.scores),
                "kept": [str(head) for head in stage.kept],
                "effects": strongest.tolist(),
                "edges": edges,
                "runs": [scores.provenance.run_id() for scores in stage.scores.values()],
            }
        )
    return {"stages": stages, "heads": [str(node) for node in found.circuit]}
