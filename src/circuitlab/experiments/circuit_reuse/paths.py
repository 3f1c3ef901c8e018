"""A staged discovery as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitlab.workflows.staged_paths import Discovery

__all__ = ["discovery_data"]


def discovery_data(discovery: Discovery) -> dict[str, Any]:
    """A discovery as plain data.

    Parameters
    ----------
    discovery : Discovery
        From `circuitlab.workflows.staged_paths.discover_paths`.

    Returns
    -------
    dict
        ``heads``: names of all heads. ``stages``: for each stage its ``receivers``, ``kept`` heads, ``edges`` with their intervals,
        ``runs`` (ids), and ``effects``, shape (layer, head): each head's mean effect on the receiver where it is largest in size.
    """
    import numpy as np  # noqa: PLC0415

    stages = []
    for stage in discovery.stages:
        means = np.stack([scores.mean("heads", mark=scores.marks[0] if scores.marks else None) for scores in stage.scores.values()])
        best = np.abs(means).argmax(0)
        strongest = np.take_along_axis(means, best[None], axis=0)[0]
        edges = [{"edge": str(edge.edge), "mean": edge.mean, "low": edge.low, "high": edge.high} for edge in stage.edges]
        stages.append(
            {
                "receivers": list(stage.scores),
                "kept": [str(head) for head in stage.kept],
                "effects": strongest.tolist(),
                "edges": edges,
                "runs": [scores.provenance.run_id() for scores in stage.scores.values()],
            }
        )
    return {"stages": stages, "heads": [str(node) for node in discovery.circuit]}
