"""Agreement of two rankings of the same nodes."""

from __future__ import annotations

import numpy as np

from circuitlab.core.errors import BadParameterError, IncompatibleError

__all__ = ["rank_biased_overlap", "score_overlap", "spearman"]


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman rank correlation along the last axis of two arrays of scores; ties get mean ranks, and constant scores give NaN.

    Raises
    ------
    IncompatibleError
        If the arrays have different numbers of nodes.

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
    """Extrapolated rank-biased overlap of two complete rankings without ties.

    Parameters
    ----------
    first, second : ndarray of int, shape (node,)
        Node numbers from most to least important; permutations of the same nodes.
    p : float
        Persistence, in (0, 1): about the top ``1 / (1 - p)`` ranks (20 for 0.95) carry most of the weight.

    Returns
    -------
    float
        1 for identical rankings; near 0 if their tops share nothing.

    Raises
    ------
    BadParameterError
        If the rankings are not permutations of the same nodes, or ``p`` is not in (0, 1).

    References
    ----------
    Webber, Moffat and Zobel (2010), A similarity measure for indefinite rankings, TOIS 28, eq. 32.

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
    return float(_overlap_of_ranks(_ranks(first), _ranks(second), p))


def score_overlap(first: np.ndarray, second: np.ndarray, *, p: float = 0.95) -> np.ndarray:
    """Rank-biased overlap of the rankings of two arrays of scores, (..., node), along the last axis; returns (...).

    The largest score ranks first, and ties go to the earlier node. See `rank_biased_overlap`.
    """
    first_ranks, second_ranks = (_ranks(np.argsort(-np.asarray(scores), axis=-1, kind="stable")) for scores in (first, second))
    return _overlap_of_ranks(first_ranks, second_ranks, p)


def _ranks(order: np.ndarray) -> np.ndarray:
    """Rank of each node along the last axis, from the nodes in the order of their ranks."""
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(order.shape[-1]), order.shape), axis=-1)
    return ranks


def _overlap_of_ranks(first: np.ndarray, second: np.ndarray, p: float) -> np.ndarray:
    """Rank-biased overlap from the rank of each node in both rankings, (..., node)."""
    n = first.shape[-1]
    # A node is shared from the depth at which both rankings contain it.
    later = np.maximum(first, second).reshape(-1, n)
    counts = np.bincount((later + n * np.arange(len(later))[:, None]).ravel(), minlength=later.size).reshape(later.shape)
    depth = np.arange(1, n + 1)
    agreement = counts.cumsum(axis=-1) / depth
    overlap = agreement @ ((1 - p) * p ** (depth - 1.0)) + agreement[:, -1] * p**n
    return np.asarray(overlap.reshape(np.broadcast_shapes(first.shape, second.shape)[:-1]))
