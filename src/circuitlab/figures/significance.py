"""Which nodes differ from zero, with a correction for testing all nodes of a figure."""

from __future__ import annotations

import numpy as np

from circuitlab.scores.intervals import q_values

__all__ = ["differs_from_zero"]


def differs_from_zero(values: np.ndarray, *, alpha: float = 0.05) -> np.ndarray:
    """Whether the mean of each node differs from zero: t-tests over pairs, with the false-discovery rate controlled over all nodes.

    Parameters
    ----------
    values : ndarray, shape (pair, ...)
        One score per pair and node.
    alpha : float
        Expected share of false discoveries among the nodes that differ.

    Returns
    -------
    ndarray of bool, shape (...)
        False everywhere if there is a single pair. A node with the same nonzero score on every pair counts as different from zero.

    References
    ----------
    Benjamini and Hochberg (1995), Controlling the false discovery rate.
    """
    return np.asarray(q_values(values) <= alpha)  # NaN of a single pair is not
