"""A staged discovery as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitlab.workflows.staged_paths import Discovery

__all__ = ["discovery_data"]


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
