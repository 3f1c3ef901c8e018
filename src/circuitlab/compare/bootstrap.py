"""Intervals for statistics of two tasks' mean scores: resample prompt pairs, recompute the means, recompute the statistic."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from circuitlab.errors import BadParameterError
from circuitlab.scores.intervals import Interval

__all__ = ["bootstrap_interval", "resampled_means"]


def resampled_means(values: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Mean scores of ``n`` resamples of the pairs: (resample, node) from (pair, node)."""
    pairs = values.shape[0]
    if pairs < 2:  # noqa: PLR2004
        what = "A bootstrap over pairs needs at least two of them."
        raise BadParameterError(what, "Score more pairs.")
    weights = generator.multinomial(pairs, np.full(pairs, 1 / pairs), size=n) / pairs
    return weights @ values.reshape(pairs, -1)


def bootstrap_interval(
    first: np.ndarray,
    second: np.ndarray,
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    n: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a statistic of two mean-score vectors; the tasks' pairs are resampled independently.

    Parameters
    ----------
    first, second : ndarray, shape (pair, node)
        Per-pair scores of the two tasks.
    statistic : callable
        From (resample, node) twice to (resample,).
    n : int
        Resamples.
    confidence : float
        Nominal coverage.
    seed : int
        Seed.

    Returns
    -------
    Interval
        The estimate from all pairs, with percentile limits widened to include it.

    Notes
    -----
    A resample holds fewer distinct pairs than the data, so its means are noisier and selected sets agree less: for a top-k overlap
    the percentile interval lies low when the overlap is high. The limits are widened to hold the estimate;
    the measured coverage is in the calibration test (``tests/unit/compare/test_calibration.py``).
    """
    generator = np.random.default_rng(seed)
    first, second = first.reshape(first.shape[0], -1), second.reshape(second.shape[0], -1)
    estimate = float(statistic(first.mean(0)[None], second.mean(0)[None])[0])
    draws = statistic(resampled_means(first, n, generator), resampled_means(second, n, generator))
    low, high = np.nanquantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(np.float64(estimate), np.float64(min(low, estimate)), np.float64(max(high, estimate)))
