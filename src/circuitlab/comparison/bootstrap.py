"""Bootstrap over prompt pairs: the pairs are resampled, and the means and the statistic are computed again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.scores.intervals import Interval

__all__ = ["Bootstrap", "bootstrap", "check_confidence", "resampled_means", "resampling_weights"]

_AT_ONCE = 4_000_000  # resampled means kept in memory at a time


def resampling_weights(pairs: int, n: int, generator: np.random.Generator) -> np.ndarray:
    """Weight of each pair in ``n`` resamples of the pairs, shape (resample, pair); each row sums to 1.

    Raises
    ------
    BadParameterError
        If there are fewer than two pairs.
    """
    if pairs <= 1:
        what = f"A bootstrap over pairs needs at least two pairs; got {pairs}."
        raise BadParameterError(what, "Score more pairs.")
    return generator.multinomial(pairs, np.full(pairs, 1 / pairs), size=n) / pairs


def resampled_means(values: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Mean scores in ``n`` resamples of the pairs, shape (resample, node), from scores per pair, shape (pair, ...)."""
    return resampling_weights(len(values), n, generator) @ values.reshape(len(values), -1)


@dataclass(frozen=True)
class Bootstrap:
    """A statistic of the mean scores of two tasks, such as a rank correlation, on all pairs and on resamples of the pairs.

    Noise in the scores lowers agreement: the estimate is below the true value, and the resamples, which are noisier still, are below the
    estimate. A percentile interval is therefore too low, and limits around a corrected estimate are used instead. For overlaps of selected
    heads, which jump when heads swap ranks, see `circuitlab.comparison.shared`.

    Parameters
    ----------
    estimate : float
        The statistic on all pairs.
    draws : ndarray, shape (resample,)
        The statistic on each resample.
    standard_error : float
        Standard error of the estimate by the jackknife over pairs.
    degrees_of_freedom : int
        Degrees of freedom of the standard error.
    """

    estimate: float
    draws: np.ndarray
    standard_error: float
    degrees_of_freedom: int

    @property
    def corrected(self) -> float:
        """The estimate minus its bias, estimated from the resamples; NaN if the statistic is undefined."""
        return 2 * self.estimate - float(np.nanmean(self.draws)) if self._defined else float("nan")

    def interval(self, confidence: float = 0.95) -> Interval:
        """The estimate, with limits at the corrected estimate plus and minus Student's quantile times the jackknife's standard error.

        The limits are clipped to [-1, 1], and NaN if the statistic is undefined. They are limits of the true value, so an estimate whose
        bias exceeds its error is outside them. The jackknife changes the means only slightly, so it keeps the kink of a magnitude at 0,
        which resampling would smooth. ``tests/unit/comparison/test_calibration.py`` measures the coverage.

        Raises
        ------
        BadParameterError
            If the confidence is not between 0 and 1.
        """
        from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

        check_confidence(confidence)
        half = float(stats.t.ppf((1 + confidence) / 2, self.degrees_of_freedom)) * self.standard_error
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
    """Evaluate a statistic of two vectors of mean scores on all pairs and on resampled pairs.

    Parameters
    ----------
    first, second : ndarray, shape (pair, ...)
        Scores per pair of the two tasks; the numbers of pairs may differ unless ``paired``.
    statistic : callable
        Maps two arrays of mean scores, (resample, node), to (resample,).
    paired : bool
        Whether pair i of both tasks is the same prompt. Pairs are then resampled together, otherwise independently.
    n : int
        Number of resamples.
    seed : int
        Seed of the resamples.

    Raises
    ------
    BadParameterError
        If a task has fewer than two pairs.
    """
    generator = np.random.default_rng(seed)
    first, second = (np.asarray(x, dtype=np.float64).reshape(len(x), -1) for x in (first, second))
    estimate = float(statistic(first.mean(0)[None], second.mean(0)[None])[0])
    weights = resampling_weights(len(first), n, generator)
    second_weights = weights if paired else resampling_weights(len(second), n, generator)
    blocks = np.array_split(np.arange(n), max(1, n * first.shape[1] // _AT_ONCE))
    draws = np.concatenate([statistic(weights[rows] @ first, second_weights[rows] @ second) for rows in blocks])
    samples = [(first, second)] if paired else [(first, second.mean(0)[None]), (first.mean(0)[None], second)]
    error = np.sqrt(sum(_jackknife_variance(a, b, statistic) for a, b in samples))
    degrees_of_freedom = len(first) - 1 if paired else len(first) + len(second) - 2
    return Bootstrap(estimate, draws, float(error), degrees_of_freedom)


def _jackknife_variance(first: np.ndarray, second: np.ndarray, statistic: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """Variance of a statistic from leaving out one pair at a time; a task that is given by its mean alone is held fixed."""
    means = [values if len(values) == 1 else (values.sum(axis=0) - values) / (len(values) - 1) for values in (first, second)]
    draws = statistic(*means)
    return float((len(draws) - 1) * np.nanmean((draws - np.nanmean(draws)) ** 2)) if not np.isnan(draws).all() else float("nan")


def check_confidence(confidence: float) -> None:
    """Raise `BadParameterError` unless a confidence is between 0 and 1."""
    if not 0 < confidence < 1:
        what = f"confidence={confidence} is not between 0 and 1."
        raise BadParameterError(what, "Use 0.95.")
