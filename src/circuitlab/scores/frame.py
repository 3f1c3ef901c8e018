"""Scores as a tidy table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from circuitlab.nodes import Head, KVHead

if TYPE_CHECKING:
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["tidy"]


def tidy(scores: HeadScores, confidence: float) -> pd.DataFrame:
    """One row per node and mark with mean, interval and where the number comes from."""
    where = scores.provenance
    ready = None if where.fitness is None else where.fitness.ready
    shared = {"units": where.units, "n": scores.n_pairs, "method": where.method, "task": where.task.id, "variant": where.task.variant}
    shared |= {"model": where.model.name, "run_id": where.run_id(), "task_ready": ready}
    rows: list[dict[str, Any]] = []
    for part in scores.parts:
        for mark in scores.marks or (None,):
            for entry in scores.nodes(part, mark=mark, confidence=confidence):
                index = entry.node.head if isinstance(entry.node, Head | KVHead) else None
                row = {"part": part, "node": str(entry.node), "layer": getattr(entry.node, "layer", None), "head": index}
                rows.append(row | {"mark": mark or "all", "mean": entry.mean, "low": entry.low, "high": entry.high} | shared)
    frame = pd.DataFrame(rows)
    return frame.astype({"layer": "Int64", "head": "Int64"})
