"""Confidence intervals for a mean over prompt pairs and for a proportion; numpy and scipy only."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from circuitlab.core.errors import BadParameterError

__all__ = [
    "NO_INTERVAL",
    "Interval",
    "IntervalMethod",
    "mean_interval",
    "no_interval",
    "no_pairs",
    "proportion_interval",
    "q_values",
    "rate_change_interval",
    "rate_interval",
]

NO_INTERVAL = "no interval: from weights alone, without prompts"
"""What stands where an interval would, for scores that no prompt was run for."""

IntervalMethod: TypeAlias = Literal["t", "bca"]


class Interval(NamedTuple):
    """An estimate with its confidence limits: three arrays of one shape, or three floats."""

    mean: np.ndarray | np.float64
    low: np.ndarray | np.float64
    high: np.ndarray | np.float64

    def as_dict(self) -> dict[str, float]:
        """``{"mean", "low", "high"}`` of a scalar interval: the shape used in JSON."""
        return {"mean": float(self.mean), "low": float(self.low), "high": float(self.high)}

    def excludes_zero(self) -> np.ndarray:
        """True where the interval does not contain zero."""
        return np.asarray((np.asarray(self.low) > 0) | (np.asarray(self.high) < 0))


def mean_interval(
    values: np.ndarray,
    *,
    confidence: float = 0.95,
    method: IntervalMethod = "t",
    seed: int = 0,
    within: tuple[float, float] | None = None,
) -> Interval:
    """Confidence interval of the mean over axis 0, the pairs, which are treated as independent draws.

    Parameters
    ----------
    values : ndarray, shape (pair, ...)
        One value per pair.
    confidence : float
        Nominal coverage, in (0, 1).
    method : {"t", "bca"}
        ``"t"``: Student's interval; deterministic, exact for normal values and close for 16 or more mildly skewed ones.
        ``"bca"``: bias-corrected and accelerated bootstrap over pairs (2,000 resamples), for strongly skewed values.
    seed : int
        Seed of the bootstrap.
    within : tuple of float or None
        Smallest and largest possible value, such as (0, 1) for an area under a curve. The limits are cut there, which leaves out no value
        that the mean could have.

    Returns
    -------
    Interval
        In the units of ``values``; each array has the shape of ``values`` without its first axis. With a single pair the limits are NaN,
        since one value says nothing about the spread.

    Raises
    ------
    BadParameterError
        If there are no pairs, the confidence is not in (0, 1), or a value is outside of ``within``.
    """
    from scipy import stats  # noqa: PLC0415 - scipy.stats costs 0.3 s that light commands need not pay

    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 0 or values.shape[0] == 0:
        what = f"An interval needs at least one pair; got shape {values.shape}."
        raise BadParameterError(what, "Sample more pairs.")
    if not 0 < confidence < 1:
        what = f"confidence={confidence} is not between 0 and 1."
        raise BadParameterError(what, "Use 0.95.")
    if within is not None and not (values.min() >= within[0] and values.max() <= within[1]):
        what = f"Values from {values.min()} to {values.max()} are not within {within[0]} to {within[1]}."
        raise BadParameterError(what, "Give the smallest and the largest value that is possible.")
    mean = values.mean(axis=0)
    n = values.shape[0]
    if n == 1:
        missing = np.full_like(mean, np.nan)
        return Interval(mean, missing, missing)
    constant = np.ptp(values, axis=0) == 0
    if method == "bca":
        low, high = _bca_limits(values, confidence, seed)
        return Interval(mean, low, high)
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n)
    half = np.where(constant, 0.0, half)
    least, most = within or (-np.inf, np.inf)
    return Interval(mean, np.maximum(mean - half, least), np.minimum(mean + half, most))


def _bca_limits(values: np.ndarray, confidence: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap limits. Entries that are the same for all pairs keep their mean as both limits, because scipy divides by the spread."""
    from scipy import stats  # noqa: PLC0415

    limits = np.stack([values.mean(axis=0)] * 2)
    varies = np.ptp(values, axis=0) > 0
    if varies.any():
        bootstrap = stats.bootstrap(
            (values[:, varies],),
            np.mean,
            axis=0,
            confidence_level=confidence,
            n_resamples=2000,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        limits[0, varies], limits[1, varies] = bootstrap.low.reshape(-1), bootstrap.high.reshape(-1)
    return limits[0], limits[1]


def q_values(values: np.ndarray) -> np.ndarray:
    """Whether each mean over axis 0 is 0: p-values of t-tests, corrected over all entries (Benjamini-Hochberg), shape (...).

    An entry with the same value on every pair has 1 if that is 0, and 0 otherwise. NaN for a single pair, which says nothing.
    """
    from scipy import stats  # noqa: PLC0415

    values = np.asarray(values, dtype=np.float64)
    n = values.shape[0]
    if n == 1:
        return np.full(values.shape[1:], np.nan)
    mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(n)
    error = np.where(np.ptp(values, axis=0) == 0, 0.0, error)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, np.abs(mean) / error, np.where(mean == 0, 0.0, np.inf))
    p = 2 * stats.t.sf(t, n - 1)
    return np.asarray(stats.false_discovery_control(p.ravel(), method="bh")).reshape(mean.shape)


def no_interval(value: np.ndarray | np.float64) -> Interval:
    """Values without an interval: limits are NaN."""
    missing = np.full_like(value, np.nan)
    return Interval(value, missing, missing)


def no_pairs(method: str, wanted: str) -> tuple[str, str]:
    """What an error says where something needs prompt pairs and a method has read weights alone: what happened, and what to do."""
    what = f"Scores of {method!r} come from weights alone: there are no prompt pairs, and so there is no {wanted}."
    return what, "Use the scores themselves (mean, top, TopK), or a method that runs prompts."


def proportion_interval(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a proportion, such as an accuracy.

    Parameters
    ----------
    successes, n : int
        Number of successes among ``n`` independent trials.
    confidence : float
        Nominal coverage, in (0, 1).

    Raises
    ------
    BadParameterError
        If ``n`` is 0 or ``successes`` is outside 0..n.
    """
    from scipy import stats  # noqa: PLC0415

    if n < 1 or not 0 <= successes <= n:
        what = f"{successes} successes of {n} is not a proportion."
        raise BadParameterError(what, "Check that the task yields at least one pair.")
    low, high = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(np.float64(successes / n), np.float64(low), np.float64(high))


def rate_interval(values: np.ndarray, *, confidence: float = 0.95) -> Interval:
    """Confidence interval of the mean of values between 0 and 1, with limits between 0 and 1.

    Where all values are 0 or 1 it is Wilson's interval of a proportion. Otherwise it is Wilson's formula with the number of trials that
    would have given the spread of the values, and Student's quantile in place of the normal one.

    Parameters
    ----------
    values : ndarray, shape (unit,)
        One value for each independent unit, for example the share of a country's prompts that are answered.
    confidence : float
        Nominal coverage, in (0, 1).

    Returns
    -------
    Interval
        Where all values are the same and neither 0 nor 1, both limits are that value; they are NaN for a single such value.

    Raises
    ------
    BadParameterError
        If there is no value, or one is not between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> rate_interval(np.array([1.0, 1.0, 1.0, 0.75])).as_dict()["high"] <= 1
    True
    """
    from scipy import stats  # noqa: PLC0415

    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        what = f"{values.tolist()[:5]} are no rates."
        raise BadParameterError(what, "Give one value between 0 and 1 for each unit; for other values use mean_interval.")
    n, mean, spread = len(values), values.mean(), values.var()
    if np.isin(values, (0.0, 1.0)).all():
        return proportion_interval(int(values.sum()), n, confidence=confidence)
    if np.ptp(values) == 0:
        return mean_interval(values, confidence=confidence)
    trials = n * mean * (1 - mean) / spread
    square = stats.t.ppf((1 + confidence) / 2, n - 1) ** 2 / trials
    centre, half = (mean + square / 2) / (1 + square), np.sqrt(square * mean * (1 - mean) + square**2 / 4) / (1 + square)
    return Interval(mean, np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0))


def rate_change_interval(changes: np.ndarray, *, confidence: float = 0.95) -> Interval:
    """Confidence interval of the mean of paired differences of rates, with limits between -1 and 1: `rate_interval` of (1 + change) / 2.

    Parameters
    ----------
    changes : ndarray, shape (unit,)
        For each independent unit, one rate minus another.
    confidence : float
        Nominal coverage, in (0, 1).

    Raises
    ------
    BadParameterError
        If there is no value, or one is not between -1 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> rate_change_interval(np.array([1.0, 1.0, 1.0, 0.0])).as_dict()["high"] <= 1
    True
    """
    halved = rate_interval((1 + np.asarray(changes, dtype=np.float64)) / 2, confidence=confidence)
    return Interval(2 * halved.mean - 1, 2 * halved.low - 1, 2 * halved.high - 1)
