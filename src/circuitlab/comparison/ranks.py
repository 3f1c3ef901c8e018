"""Agreement of two rankings of the same nodes."""

from __future__ import annotations

import numpy as np

from circuitlab.core.errors import BadParameterError, IncompatibleError

__all__ = ["rank_biased_overlap", "score_overlap", "spearman"]


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman correlation along the last axis of two arrays of scores (ties get mean ranks); NaN where one is constant.

    Examples
    --------
    >>> float(spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 15.0])))
    0.5
    """
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

    Examples
    --------
    >>> first, second = np.array([2, 0, 1]), np.array([1, 0, 2])
    >>> rank_biased_overlap(first, first), round(rank_biased_overlap(first, second), 2)
    (1.0, 0.93)
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or not 0 < p < 1 or set(first.tolist()) != set(second.tolist()):
        what = f"Rankings of {first.size} and {second.size} nodes with p={p} cannot be compared."
        raise BadParameterError(what, "Give two permutations of the same nodes and p between 0 and 1.")
    return float(_overlap_of_places(_places(first), _places(second), p))


def score_overlap(first: np.ndarray, second: np.ndarray, *, p: float = 0.95) -> np.ndarray:
    """Rank-biased overlap of the rankings that scores give along the last axis, (..., node) twice to (...); larger ranks first.

    Ties go to the earlier node. See `rank_biased_overlap`.
    """
    one, two = (_places(np.argsort(-np.asarray(scores), axis=-1, kind="stable")) for scores in (first, second))
    return _overlap_of_places(one, two, p)


def _places(order: np.ndarray) -> np.ndarray:
    """Rank of each node along the last axis, from the nodes in order."""
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(order.shape[-1]), order.shape), axis=-1)
    return place


def _overlap_of_places(first: np.ndarray, second: np.ndarray, p: float) -> np.ndarray:
    n = first.shape[-1]
    # A node is shared from the depth on at which the later of the two lists holds it.
    later = np.maximum(first, second).reshape(-1, n)
    counts = np.bincount((later + n * np.arange(len(later))[:, None]).ravel(), minlength=later.size).reshape(later.shape)
    depth = np.arange(1, n + 1)
    agreement = counts.cumsum(axis=-1) / depth
    found = agreement @ ((1 - p) * p ** (depth - 1.0)) + agreement[:, -1] * p**n
    return np.asarray(found.reshape(np.broadcast_shapes(first.shape, second.shape)[:-1]))
