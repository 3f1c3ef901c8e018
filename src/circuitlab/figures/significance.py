"""Which nodes differ from zero, with a correction for testing all nodes of a figure."""

from __future__ import annotations

import numpy as np

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
    from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

    values = np.asarray(values, dtype=np.float64)
    n = values.shape[0]
    if n == 1:
        return np.zeros(values.shape[1:], dtype=bool)
    mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(n)
    error[np.ptp(values, axis=0) == 0] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, np.abs(mean) / error, np.where(mean == 0, 0.0, np.inf))
    p = 2 * stats.t.sf(t, n - 1)
    return np.asarray(stats.false_discovery_control(p.ravel(), method="bh") <= alpha).reshape(mean.shape)
