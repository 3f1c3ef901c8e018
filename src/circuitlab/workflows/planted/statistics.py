"""How well scores separate true nodes from others: AUROC, average precision, precision at k, and sign accuracy."""

from __future__ import annotations

import numpy as np

from circuitlab.core.errors import BadParameterError

__all__ = ["auroc", "average_precision", "precision_at_k", "sign_accuracy"]


def auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a true node scores above another, ties counted half.

    It is the Mann-Whitney statistic, ``(sum of ranks of the true - n (n + 1) / 2) / (n m)``, with n true nodes, m others and mid-ranks.

    Parameters
    ----------
    scores : ndarray, shape (node,)
        Larger means more likely true.
    truth : ndarray of bool, shape (node,)
        Which nodes are true.

    Raises
    ------
    BadParameterError
        If the shapes differ, a score is not finite, or all or none of the nodes are true.

    References
    ----------
    Hanley and McNeil (1982), The meaning and use of the area under a receiver operating characteristic (ROC) curve.

    Examples
    --------
    >>> import numpy as np
    >>> auroc(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, False, False, True]))
    0.5
    """
    from scipy.stats import rankdata  # noqa: PLC0415 - importing scipy.stats takes 0.3 s

    scores, truth = _checked(scores, truth)
    n, m = int(truth.sum()), int((~truth).sum())
    if not m:
        raise BadParameterError("Every node is true, so there are no others to compare with.", "Score nodes outside the circuit, too.")
    ranks = rankdata(scores)
    return float((ranks[truth].sum() - n * (n + 1) / 2) / (n * m))


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Average precision: precision at every threshold, weighted by the increase in recall; nodes with equal scores share a threshold."""
    scores, truth = _checked(scores, truth)
    levels, where = np.unique(-scores, return_inverse=True)
    hits = np.bincount(where, weights=truth, minlength=len(levels)).cumsum()
    taken = np.bincount(where, minlength=len(levels)).cumsum()
    gained = np.diff(hits, prepend=0.0) / truth.sum()
    return float((gained * hits / taken).sum())


def precision_at_k(scores: np.ndarray, truth: np.ndarray, k: int | None = None) -> float:
    """Share of true nodes among the ``k`` with the highest scores; by default k is the number of true nodes.

    If nodes tie for the last places, the value is the expected share over random orders of the tied nodes.

    Raises
    ------
    BadParameterError
        As `auroc`, and if ``k`` is not between 1 and the number of nodes.
    """
    scores, truth = _checked(scores, truth)
    size = int(truth.sum()) if k is None else k
    if not 0 < size <= len(scores):
        what = f"k={size} cannot be taken from {len(scores)} nodes."
        raise BadParameterError(what, "Use a k from 1 on.")
    last = np.sort(scores)[-size]
    above, tied = scores > last, scores == last
    share = (size - above.sum()) / tied.sum()
    return float((truth[above].sum() + share * truth[tied].sum()) / size)


def sign_accuracy(scores: np.ndarray, signs: np.ndarray) -> float:
    """Share of nodes with a known sign whose score has it; a score of 0 has no sign and counts as wrong.

    Parameters
    ----------
    scores : ndarray, shape (node,)
        Signed scores.
    signs : ndarray, shape (node,)
        1 for a helper, -1 for a hinderer, 0 if unknown.

    Raises
    ------
    BadParameterError
        If no sign is known, or the shapes differ.
    """
    scores, signs = np.asarray(scores, dtype=np.float64), np.asarray(signs)
    _checked(scores, signs != 0)
    known = signs != 0
    return float((np.sign(scores[known]) == np.sign(signs[known])).mean())


def _checked(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, truth = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=bool)
    if scores.shape != truth.shape or scores.ndim != 1:
        what = f"Scores of shape {scores.shape} and truth of shape {truth.shape} do not fit."
        raise BadParameterError(what, "Give one score and one truth value per node.")
    if not np.isfinite(scores).all():
        raise BadParameterError("Some scores are not finite.", "Rank finite numbers.")
    if not truth.any():
        raise BadParameterError("No node is true.", "Name at least one.")
    return scores, truth
