"""Faithfulness of circuits and its curve over circuit size: ratios of means, their intervals, CPR and CMD. numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np

from circuitlab.core.errors import BadParameterError, EmptyGapError, UnknownNameError
from circuitlab.scores.intervals import Interval

__all__ = ["FRACTIONS", "Axis", "FaithfulnessCurve", "FaithfulnessScale", "area", "sizes_of"]

Axis: TypeAlias = Literal["linear", "log"]

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all nodes or edges at which MIB evaluates a circuit."""

_CONFIDENCE = 0.95
_ROUNDING = 1e-5
"""A gap below this share of the metric itself is rounding."""


@dataclass(frozen=True, eq=False)
class FaithfulnessScale:
    """The metric of the full model and of the empty circuit on every pair: what faithfulness is measured between.

    Parameters
    ----------
    full, empty : ndarray, shape (pair,)
        m(M), nothing ablated, and m(empty), everything of the universe ablated.
    n_resamples, seed : int
        Of the bootstrap over pairs.

    Raises
    ------
    EmptyGapError
        If the two have the same mean up to rounding: there is nothing for a circuit to recover.
    """

    full: np.ndarray
    empty: np.ndarray
    n_resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.full.shape != self.empty.shape or self.full.ndim != 1 or not len(self.full):
            what = f"Full model and empty circuit have metrics of shape {self.full.shape} and {self.empty.shape}."
            raise BadParameterError(what, "Give one value per pair for each.")
        size = np.abs(self.full).mean() + np.abs(self.empty).mean()
        if not abs(self.full.mean() - self.empty.mean()) > _ROUNDING * size:
            what = f"Ablating everything leaves the metric at {self.full.mean():.3g}: there is nothing for a circuit to recover."
            raise EmptyGapError(what, "Use prompts that differ, another ablation, or a larger universe.")

    @cached_property
    def _weights(self) -> np.ndarray:
        """How often each resample holds each pair, (resample, pair); the first row holds each pair once."""
        n = len(self.full)
        drawn = np.random.default_rng(self.seed).multinomial(n, np.full(n, 1 / n), size=self.n_resamples)
        return np.concatenate([np.ones((1, n)), drawn])

    def draws(self, values: np.ndarray) -> np.ndarray:
        """Faithfulness of circuits on all pairs (first row) and on every resample of pairs.

        Parameters
        ----------
        values : ndarray, shape (circuit, pair)
            Metric of each circuit.

        Returns
        -------
        ndarray, shape (1 + n_resamples, circuit)
            ``(mean m(C) - mean m(empty)) / (mean m(M) - mean m(empty))``: a ratio of means, never clamped. The full model is exactly 1
            and the empty circuit exactly 0. A resample in which the gap vanishes gives NaN.
        """
        # Differences first: what is compared with itself gives the same number above and below the line.
        return self.share(np.asarray(values, dtype=np.float64) - self.empty)

    def share(self, changes: np.ndarray) -> np.ndarray:
        """Changes of the metric, (circuit, pair), as a share of the gap: ratios of means, shape (1 + n_resamples, circuit)."""
        changes = np.asarray(changes, dtype=np.float64)
        # One gap for all circuits, added up in the same order as each circuit's changes: equal sums give exactly 1.
        above = np.stack([(self._weights * change).sum(1) for change in changes], axis=1) if len(changes) else self._weights[:, :0]
        gap = (self._weights * (self.full - self.empty)).sum(1)
        return np.divide(above, gap[:, None], out=np.full_like(above, np.nan), where=gap[:, None] != 0)

    def interval(self, draws: np.ndarray) -> Interval:
        """Estimate (the first row of ``draws``) with the percentiles of the resamples; NaN limits where there is one pair only."""
        estimate = draws[0]
        if len(self.full) == 1:
            missing = np.full_like(estimate, np.nan)
            return Interval(estimate, missing, missing)
        tail = (1 - _CONFIDENCE) / 2
        low, high = np.nanquantile(draws[1:], [tail, 1 - tail], axis=0)
        return Interval(estimate, low, high)

    def faithfulness(self, values: np.ndarray) -> Interval:
        """Faithfulness of circuits, (circuit, pair), with a percentile bootstrap over pairs; each array is (circuit,)."""
        return self.interval(self.draws(values))


def sizes_of(n: int, fractions: tuple[float, ...] = FRACTIONS) -> list[int]:
    """How many of ``n`` elements each fraction keeps: rounded down, as MIB does (its smallest circuits may be empty).

    Raises
    ------
    BadParameterError
        If a fraction is not in (0, 1] or they do not grow.
    """
    if not fractions or min(fractions) <= 0 or max(fractions) > 1 or list(fractions) != sorted(set(fractions)):
        what = f"Fractions {fractions} are no sizes of circuits."
        raise BadParameterError(what, "Give growing fractions in (0, 1], such as (0.01, 0.1, 1.0).")
    # 0.29 * 100 is 28.999999999999996 in binary: such a product means 29.
    return [int(fraction * n + 1e-9) for fraction in fractions]


def area(fractions: tuple[float, ...], values: np.ndarray, axis: Axis = "linear") -> np.ndarray:
    """Area under values at growing fractions by the trapezoid rule, not normalised and never clamped.

    Parameters
    ----------
    fractions : tuple of float
        Places along the axis; at least two.
    values : ndarray, shape (..., fraction)
        What is integrated.
    axis : {"linear", "log"}
        Over k, or over the natural logarithm of k.

    Returns
    -------
    ndarray, shape (...)
        From the first to the last fraction. On the linear axis from .001 to 1 a curve that is 1 everywhere has area .999; on the log axis
        6.908.

    References
    ----------
    Mueller et al. (2025), MIB: A Mechanistic Interpretability Benchmark, arXiv:2504.13151.
    """
    if axis not in {"linear", "log"}:
        raise UnknownNameError("axis", axis, ["linear", "log"])
    if len(fractions) < 2:  # noqa: PLR2004 - a trapezoid has two sides
        what = f"An area needs at least two fractions; got {fractions}."
        raise BadParameterError(what, "Give more sizes.")
    places = np.asarray(fractions, dtype=np.float64)
    return np.asarray(np.trapezoid(values, np.log(places) if axis == "log" else places, axis=-1))


@dataclass(frozen=True, eq=False)
class FaithfulnessCurve:
    """Faithfulness of the best circuits of growing size.

    Parameters
    ----------
    fractions : tuple of float
        Shares of all elements.
    sizes : tuple of int
        Elements in each circuit.
    values : ndarray, shape (size, pair)
        Metric of each circuit.
    ends : FaithfulnessScale
        Full model and empty circuit on the same pairs.
    ranking : {"absolute", "positive"}
        How elements were ranked: by magnitude or by signed score.
    """

    fractions: tuple[float, ...]
    sizes: tuple[int, ...]
    values: np.ndarray
    ends: FaithfulnessScale
    ranking: str

    @cached_property
    def draws(self) -> np.ndarray:
        """Faithfulness at each size, on all pairs and on every resample, (1 + n_resamples, size)."""
        return self.ends.draws(self.values)

    def faithfulness(self) -> Interval:
        """Faithfulness at each size with its interval over pairs."""
        return self.ends.interval(self.draws)

    def cpr(self, axis: Axis = "linear") -> Interval:
        """Circuit performance ratio: the area of f over k. Higher is better; it may exceed 1."""
        return self.ends.interval(area(self.fractions, self.draws, axis))

    def cmd(self, axis: Axis = "linear") -> Interval:
        """Circuit-model distance: the area of |1 - f| over k. Lower is better; 0 is a perfect copy at every size."""
        return self.ends.interval(area(self.fractions, np.abs(1 - self.draws), axis))

    def to_list(self) -> list[dict[str, float]]:
        """``[{"fraction", "size", "mean", "low", "high"}]``."""
        mean, low, high = map(np.asarray, self.faithfulness())
        names = ("fraction", "size", "mean", "low", "high")
        rows = zip(self.fractions, self.sizes, mean.tolist(), low.tolist(), high.tolist(), strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]
