"""Agreement of two rankings of the same nodes."""

from __future__ import annotations

import numpy as np

from circuitlab.errors import BadParameterError, IncompatibleError

__all__ = ["rank_biased_overlap", "spearman"]


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman correlation along the last axis of two arrays of scores (ties get mean ranks); NaN where one is constant."""
    from scipy import stats  # noqa: PLC0415

    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape[-1] != second.shape[-1]:
        what = f"{first.shape[-1]} and {second.shape[-1]} nodes cannot be ranked against each other."
        raise IncompatibleError(what, "Score the same nodes of one model.")
    a, b = stats.rankdata(first, axis=-1), stats.rankdata(second, axis=-1)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    size = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.divide((a * b).sum(-1), size, out=np.full(np.shape(size), np.nan), where=size > 0)


def rank_biased_overlap(first: np.ndarray, second: np.ndarray, *, p: float = 0.95) -> float:
    """Extrapolated rank-biased overlap of two complete rankings without ties (Webber, Moffat and Zobel 2010, eq. 32).

    Parameters
    ----------
    first, second : ndarray of int, shape (node,)
        Node numbers from most to least important; permutations of each other.
    p : float
        Persistence in (0, 1): the top ``1 / (1 - p)`` or so ranks carry most of the weight (20 for 0.95).

    Returns
    -------
    float
        1 for identical rankings; near 0 where the tops share nothing.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or not 0 < p < 1 or set(first.tolist()) != set(second.tolist()):
        what = f"Rankings of {first.size} and {second.size} nodes with p={p} cannot be compared."
        raise BadParameterError(what, "Give two permutations of the same nodes and p between 0 and 1.")
    place = {int(node): rank for rank, node in enumerate(second)}
    later = np.array([max(rank, place[int(node)]) for rank, node in enumerate(first)])
    depth = np.arange(1, first.size + 1)
    agreement = np.cumsum(np.bincount(later, minlength=first.size)) / depth
    weights = (1 - p) * p ** (depth - 1)
    return float((weights * agreement).sum() + agreement[-1] * p**first.size)
