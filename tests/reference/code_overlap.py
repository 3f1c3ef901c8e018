"""Code overlap straight from its definition: sets in loops, and the dense array of code-pair counts."""

from __future__ import annotations

import numpy as np

__all__ = ["dense_edge_counts", "set_counts"]


def set_counts(positive: np.ndarray, negative: np.ndarray, *, normalise: bool = False) -> list[float]:
    """Codes in the positives' set and not in the negatives', node by node; over the size of the union if asked for."""
    found = []
    for node in range(positive.shape[1]):
        ours, theirs = set(positive[:, node].tolist()), set(negative[:, node].tolist())
        found.append(len(ours - theirs) / (len(ours | theirs) if normalise else 1))
    return found


def dense_edge_counts(positive: np.ndarray, negative: np.ndarray, size: int, *, normalise: bool = False) -> np.ndarray:
    """Count arrays (node, node, code, code) of both sides, filled prompt by prompt; codes run from 0 to ``size``."""
    nodes = positive.shape[1]
    counts = []
    for side in (positive, negative):
        dense = np.zeros((nodes, nodes, size, size))
        for codes in side:
            for g in range(nodes):
                for h in range(nodes):
                    if g != h:
                        dense[g, h, codes[g], codes[h]] += 1
        counts.append(dense / dense.sum((2, 3), keepdims=True).clip(min=1) if normalise else dense)
    ours, theirs = counts
    unique = ((ours > 0) & (theirs == 0)).sum((2, 3)).astype(float)
    if normalise:
        unique /= ((ours > 0).sum((2, 3)) + (theirs > 0).sum((2, 3))).clip(min=1)
    return unique
