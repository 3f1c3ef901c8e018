"""Edge scores as a tidy table and as a few lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from circuitlab.scores.edge_scores import EdgeScores

__all__ = ["describe_edges", "tidy_edges"]

_TOP = 5


def tidy_edges(scores: EdgeScores, confidence: float) -> pd.DataFrame:
    """One row per edge that exists, with mean, interval and where the number comes from."""
    where, layout = scores.provenance, scores.layout
    senders, receivers = layout.places
    found = scores.interval(confidence=confidence)
    mean, low, high = (np.asarray(part)[senders, receivers] for part in found)
    ports = [layout.receivers[i][1] for i in receivers]
    targets = [str(layout.receivers[i][0]) for i in receivers]
    ready = None if where.fitness is None else where.fitness.ready
    frame = pd.DataFrame(
        {
            "edge": list(map(str, layout.edges())),
            "sender": [layout.sender_names[i] for i in senders],
            "receiver": targets,
            "port": ports,
            "mean": mean,
            "low": low,
            "high": high,
        },
    )
    shared: dict[str, Any] = {"units": where.units, "n": scores.n_pairs, "method": where.method, "task": where.task.id}
    shared |= {"variant": where.task.variant, "model": where.model.name, "run_id": where.run_id(), "task_ready": ready}
    return frame.assign(**shared)


def describe_edges(scores: EdgeScores) -> str:
    """Where the scores come from, what they mean, and the strongest edges, on a few lines."""
    about, layout = scores.provenance, scores.layout
    lines = [
        f"EdgeScores: {about.method} on {about.task.id} ({about.task.variant}), {about.model.name}, {scores.n_pairs} pairs",
        f"  {about.estimand}; in {about.units}; positive helps the answer",
        f"  {layout.n_edges} edges: {layout.shape[0]} senders, {layout.shape[1]} receivers (queries, shared keys and values, MLPs, logits)",
        "  strongest: " + ", ".join(f"{e.edge} {e.mean:+.3g} [{e.low:+.3g}, {e.high:+.3g}]" for e in scores.top(_TOP)),
    ]
    flag = about.fitness
    if flag is not None and not flag.ready:
        lines.append(f"  NOT READY: {flag.reason}")
    return "\n".join(lines)
