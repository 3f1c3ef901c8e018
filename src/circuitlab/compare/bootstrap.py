"""Intervals for statistics of two tasks' mean scores: resample prompt pairs, recompute the means, recompute the statistic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from circuitlab.errors import BadParameterError
from circuitlab.scores.intervals import Interval

__all__ = ["Bootstrap", "bootstrap", "resampled_means"]

# Means carry 1 standard error of noise, means of resamples sqrt(2): no noise is this many times as far from the data as the
# resamples are, in the other direction.
_TO_NO_NOISE = 1 / (np.sqrt(2) - 1)


def resampled_means(values: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Mean scores of ``n`` resamples of the pairs: (resample, node) from (pair, ...).

    Raises
    ------
    BadParameterError
        If there are fewer than two pairs.
    """
    pairs = values.shape[0]
    if pairs <= 1:
        what = "A bootstrap over pairs needs at least two of them."
        raise BadParameterError(what, "Score more pairs.")
    weights = generator.multinomial(pairs, np.full(pairs, 1 / pairs), size=n) / pairs
    return weights @ values.reshape(pairs, -1)


@dataclass(frozen=True)
class Bootstrap:
    """A statistic of two tasks on all pairs and on resamples of them.

    Both kinds of agreement lie too low when scores are noisy: noise spoils agreement, so the estimate lies below the truth and
    the resamples, noisier still, below the estimate. A percentile interval then misses from below (in simulations with strong
    true agreement it covered 0 to 60 % instead of 95 %). Each method corrects for that in the way that simulation supports;
    ``tests/unit/compare/test_calibration.py`` measures the coverage.

    Parameters
    ----------
    estimate : float
        From all pairs.
    draws : ndarray, shape (resample,)
        From resamples.
    """

    estimate: float
    draws: np.ndarray

    def reflected(self, confidence: float = 0.95) -> Interval:
        """Basic (reflected) interval, widened to hold the estimate: for correlations, which are smooth in the scores.

        Measured coverage of a 95 % interval for Spearman's correlation of 216 heads: 84 to 95 % with 16 to 64 pairs. NaN
        where the statistic is undefined.
        """
        low, high = self._quantiles(confidence)
        low, high = 2 * self.estimate - high, 2 * self.estimate - low
        return self._clipped(low, high, -1.0)

    def extrapolated(self, confidence: float = 0.95) -> Interval:
        """Interval for an overlap of selected sets, which jumps when heads swap places.

        The lower limit is the percentile limit. The upper limit starts from the bias seen between estimate and resamples,
        extrapolated to no noise (simulation extrapolation, Cook and Stefanski 1994, linear in the standard error), plus twice the
        upper half-width of the resamples. Measured coverage of a 95 % interval for the Jaccard index of the top 20 of
        216 heads: 96 to 100 % for weak or moderate agreement, 91 to 98 % for strong agreement of heavy-tailed scores, and down to
        72 % for strong agreement of normal scores with only 16 pairs, where hardly any list is stable.
        """
        low, high = self._quantiles(confidence)
        centre = float(self.draws.mean())
        start = self.estimate + _TO_NO_NOISE * max(0.0, self.estimate - centre)
        return self._clipped(low, max(high, start + 2 * (high - centre)), 0.0)

    def _quantiles(self, confidence: float) -> tuple[float, float]:
        if not 0 < confidence < 1:
            what = f"confidence={confidence} is not between 0 and 1."
            raise BadParameterError(what, "Use 0.95.")
        if np.isnan(self.draws).all():
            return float("nan"), float("nan")
        low, high = np.nanquantile(self.draws, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)

    def _clipped(self, low: float, high: float, floor: float) -> Interval:
        held = sorted((low, high, self.estimate)) if not np.isnan(self.estimate + low + high) else [float("nan")] * 3
        low, high = float(np.clip(held[0], floor, 1.0)), float(np.clip(held[-1], floor, 1.0))
        return Interval(np.float64(self.estimate), np.float64(low), np.float64(high))


def bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    n: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """Evaluate a statistic of two mean-score vectors on resampled pairs; the tasks' pairs are resampled independently.

    Parameters
    ----------
    first, second : ndarray, shape (pair, ...)
        Per-pair scores of the two tasks; pair counts may differ.
    statistic : callable
        From (resample, node) twice to (resample,).
    n : int
        Resamples.
    seed : int
        Seed.

    Raises
    ------
    BadParameterError
        If a task has fewer than two pairs.
    """
    generator = np.random.default_rng(seed)
    first, second = (np.asarray(x, dtype=np.float64).reshape(len(x), -1) for x in (first, second))
    estimate = float(statistic(first.mean(0)[None], second.mean(0)[None])[0])
    return Bootstrap(estimate, statistic(resampled_means(first, n, generator), resampled_means(second, n, generator)))
