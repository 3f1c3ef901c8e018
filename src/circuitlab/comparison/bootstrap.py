"""Bootstrap over prompt pairs: resample the pairs, recompute the means, recompute the statistic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.scores.intervals import Interval

__all__ = ["Bootstrap", "bootstrap", "check_confidence", "resampled_means", "resampling_weights"]

_AT_ONCE = 4_000_000  # resampled means held in memory


def resampling_weights(pairs: int, n: int, generator: np.random.Generator) -> np.ndarray:
    """Weight of each pair in ``n`` resamples of the pairs, (resample, pair); each row sums to 1.

    Raises
    ------
    BadParameterError
        If there are fewer than two pairs.
    """
    if pairs <= 1:
        what = "A bootstrap over pairs needs at least two of them."
        raise BadParameterError(what, "Score more pairs.")
    return generator.multinomial(pairs, np.full(pairs, 1 / pairs), size=n) / pairs


def resampled_means(values: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Mean scores of ``n`` resamples of the pairs: (resample, node) from (pair, ...)."""
    return resampling_weights(len(values), n, generator) @ values.reshape(len(values), -1)


@dataclass(frozen=True)
class Bootstrap:
    """A statistic of two tasks' mean scores, such as a rank correlation, on all pairs and on resamples of them.

    Agreement lies too low when scores are noisy: the estimate lies below the truth and the resamples, noisier still, below the estimate.
    A percentile interval then misses from below. For overlaps of selected heads, which jump when heads swap places, see
    `circuitlab.comparison.shared`.

    Parameters
    ----------
    estimate : float
        From all pairs.
    draws : ndarray, shape (resample,)
        From resamples.
    error : float
        Standard error by the jackknife over pairs.
    freedom : int
        Degrees of freedom of the standard error.
    """

    estimate: float
    draws: np.ndarray
    error: float
    freedom: int

    @property
    def corrected(self) -> float:
        """Estimate minus the bias that the resamples show."""
        return 2 * self.estimate - float(np.nanmean(self.draws)) if self._defined else float("nan")

    def interval(self, confidence: float = 0.95) -> Interval:
        """The estimate, with limits around the corrected one: Student's quantile of the jackknife's standard error on either side.

        The limits stay within -1 and 1; NaN where the statistic is undefined. They belong to the true value, and an estimate that is
        biased by more than its error lies outside. The jackknife moves means by little, so that it sees the kink of a magnitude at 0,
        which resamples smooth away. ``tests/unit/comparison/test_calibration.py`` measures the coverage.
        """
        from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

        check_confidence(confidence)
        half = float(stats.t.ppf((1 + confidence) / 2, self.freedom)) * self.error
        low, high = (np.clip(self.corrected + side * half, -1.0, 1.0) for side in (-1, 1))
        return Interval(np.float64(self.estimate), np.float64(low), np.float64(high))

    @property
    def _defined(self) -> bool:
        return not (np.isnan(self.estimate) or np.isnan(self.draws).all())


def bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    paired: bool = False,
    n: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """Evaluate a statistic of two mean-score vectors on resampled pairs.

    Parameters
    ----------
    first, second : ndarray, shape (pair, ...)
        Per-pair scores of the two tasks; pair counts may differ unless ``paired``.
    statistic : callable
        From (resample, node) twice to (resample,).
    paired : bool
        Whether pair i of both is the same prompt: pairs are then resampled together, otherwise independently.
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
    weights = resampling_weights(len(first), n, generator)
    others = weights if paired else resampling_weights(len(second), n, generator)
    blocks = np.array_split(np.arange(n), max(1, n * first.shape[1] // _AT_ONCE))
    draws = np.concatenate([statistic(weights[rows] @ first, others[rows] @ second) for rows in blocks])
    parts = [(first, second)] if paired else [(first, second.mean(0)[None]), (first.mean(0)[None], second)]
    error = np.sqrt(sum(_jackknife_variance(one, two, statistic) for one, two in parts))
    freedom = len(first) - 1 if paired else len(first) + len(second) - 2
    return Bootstrap(estimate, draws, float(error), freedom)


def _jackknife_variance(first: np.ndarray, second: np.ndarray, statistic: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """Variance of a statistic from leaving out one pair at a time, of both maps where both have several."""
    left_out = [one if len(one) == 1 else (one.sum(axis=0) - one) / (len(one) - 1) for one in (first, second)]
    found = statistic(*left_out)
    return float((len(found) - 1) * np.nanmean((found - np.nanmean(found)) ** 2)) if not np.isnan(found).all() else float("nan")


def check_confidence(confidence: float) -> None:
    """Raise `BadParameterError` unless a confidence lies between 0 and 1."""
    if not 0 < confidence < 1:
        what = f"confidence={confidence} is not between 0 and 1."
        raise BadParameterError(what, "Use 0.95.")
