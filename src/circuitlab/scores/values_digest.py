"""Hash of the values of scores: two runs with the same hash rank heads and edges the same way."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.scores.edge_scores import EdgeScores

if TYPE_CHECKING:
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["values_digest"]


def values_digest(scores: HeadScores | EdgeScores) -> str:
    """SHA-256 (hex) of the values that rank nodes or edges, and nothing of their provenance."""
    parts = {"edges": scores.values()} if isinstance(scores, EdgeScores) else {part: scores.values(part) for part in scores.parts}
    sha256 = hashlib.sha256()
    for name, values in sorted(parts.items()):
        sha256.update(f"{name} {values.shape} {values.dtype.str}".encode())
        sha256.update(np.ascontiguousarray(values).tobytes())
    return sha256.hexdigest()
