"""Faithfulness of circuits and its curve over circuit size: ratios of means with intervals, CPR and CMD. numpy only."""

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
"""Fractions of all nodes or edges at which the MIB benchmark evaluates circuits."""

_CONFIDENCE = 0.95
_ROUNDING = 1e-5
"""A gap below this share of the metric's own size counts as rounding error."""


@dataclass(frozen=True, eq=False)
class FaithfulnessScale:
    """The two ends of the scale on which faithfulness is measured: the metric of the full model and of the empty circuit, for every pair.

    Parameters
    ----------
    full, empty : ndarray, shape (pair,)
        m(M), with nothing ablated, and m(empty), with every node or edge of the universe ablated, in units of the metric.
    n_resamples, seed : int
        Number of resamples of the bootstrap over pairs, and its seed.

    Raises
    ------
    BadParameterError
        If the two are not of one shape (pair,) with at least one pair.
    EmptyGapError
        If the two have the same mean up to rounding, so that there is nothing for a circuit to recover.
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
        """How often each pair occurs in each resample, (1 + resample, pair); the first row has every pair once."""
        n = len(self.full)
        drawn = np.random.default_rng(self.seed).multinomial(n, np.full(n, 1 / n), size=self.n_resamples)
        return np.concatenate([np.ones((1, n)), drawn])

    def draws(self, values: np.ndarray) -> np.ndarray:
        """Faithfulness of circuits on all pairs (first row) and on every resample of pairs.

        Parameters
        ----------
        values : ndarray, shape (circuit, pair)
            Metric of each circuit on each pair.

        Returns
        -------
        ndarray, shape (1 + n_resamples, circuit)
            ``(mean m(C) - mean m(empty)) / (mean m(M) - mean m(empty))``: a ratio of means, never clamped. It is exactly 1 for the full
            model and exactly 0 for the empty circuit. A resample in which the gap is 0 gives NaN.
        """
        # Differences first, so that the full model has the same number in numerator and denominator.
        return self.share(np.asarray(values, dtype=np.float64) - self.empty)

    def share(self, changes: np.ndarray) -> np.ndarray:
        """Changes of the metric, shape (circuit, pair), as a share of the gap: ratios of means, shape (1 + n_resamples, circuit)."""
        changes = np.asarray(changes, dtype=np.float64)
        # The gap is summed in the same order as the changes of each circuit, so that equal sums give exactly 1.
        sums = np.stack([(self._weights * change).sum(1) for change in changes], axis=1) if len(changes) else self._weights[:, :0]
        gap = (self._weights * (self.full - self.empty)).sum(1)
        return np.divide(sums, gap[:, None], out=np.full_like(sums, np.nan), where=gap[:, None] != 0)

    def interval(self, draws: np.ndarray) -> Interval:
        """The first row of ``draws`` as the estimate, with a 95 % percentile interval of the others; NaN limits if there is one pair."""
        estimate = draws[0]
        if len(self.full) == 1:
            missing = np.full_like(estimate, np.nan)
            return Interval(estimate, missing, missing)
        tail = (1 - _CONFIDENCE) / 2
        low, high = np.nanquantile(draws[1:], [tail, 1 - tail], axis=0)
        return Interval(estimate, low, high)

    def faithfulness(self, values: np.ndarray) -> Interval:
        """Faithfulness of circuits from their metric, shape (circuit, pair), with a bootstrap over pairs; each array is (circuit,)."""
        return self.interval(self.draws(values))


def sizes_of(n: int, fractions: tuple[float, ...] = FRACTIONS) -> list[int]:
    """Number of elements that each fraction of ``n`` elements keeps, rounded down as in MIB, so that the smallest circuits may be empty.

    Raises
    ------
    BadParameterError
        If there are no fractions, one is not in (0, 1], or they do not increase.
    """
    if not fractions or min(fractions) <= 0 or max(fractions) > 1 or list(fractions) != sorted(set(fractions)):
        what = f"Fractions {fractions} cannot be sizes of circuits."
        raise BadParameterError(what, "Give increasing fractions in (0, 1], such as (0.01, 0.1, 1.0).")
    # 0.29 * 100 is 28.999999999999996 in floating point, but must give 29.
    return [int(fraction * n + 1e-9) for fraction in fractions]


def area(fractions: tuple[float, ...], values: np.ndarray, axis: Axis = "linear") -> np.ndarray:
    """Area under a curve of values over circuit size, by the trapezoid rule; not normalised and never clamped.

    Parameters
    ----------
    fractions : tuple of float
        Sizes of the circuits as fractions k of all elements, increasing; at least two.
    values : ndarray, shape (..., fraction)
        The values to integrate.
    axis : {"linear", "log"}
        Whether to integrate over k or over its natural logarithm.

    Returns
    -------
    ndarray, shape (...)
        Area from the first to the last fraction. From .001 to 1 a curve that is 1 everywhere has area .999 on the linear axis and 6.908 on
        the log axis.

    Raises
    ------
    UnknownNameError
        If there is no such axis.
    BadParameterError
        If there are fewer than two fractions.

    References
    ----------
    Mueller et al. (2025), MIB: A Mechanistic Interpretability Benchmark, arXiv:2504.13151.
    """
    if axis not in {"linear", "log"}:
        raise UnknownNameError("axis", axis, ["linear", "log"])
    if len(fractions) < 2:  # noqa: PLR2004 - a trapezoid has two sides
        what = f"An area needs at least two fractions; got {fractions}."
        raise BadParameterError(what, "Give more sizes.")
    k = np.asarray(fractions, dtype=np.float64)
    return np.asarray(np.trapezoid(values, np.log(k) if axis == "log" else k, axis=-1))


@dataclass(frozen=True, eq=False)
class FaithfulnessCurve:
    """Faithfulness of circuits of increasing size, each made of the highest-ranked elements.

    Parameters
    ----------
    fractions : tuple of float
        Sizes as fractions of all elements.
    sizes : tuple of int
        Number of elements in each circuit.
    values : ndarray, shape (size, pair)
        Metric of each circuit on each pair.
    scale : FaithfulnessScale
        Metric of the full model and of the empty circuit on the same pairs.
    ranking : {"absolute", "positive"}
        How elements were ranked: by magnitude or by signed score.

    References
    ----------
    Mueller et al. (2025), MIB: A Mechanistic Interpretability Benchmark, arXiv:2504.13151.
    """

    fractions: tuple[float, ...]
    sizes: tuple[int, ...]
    values: np.ndarray
    scale: FaithfulnessScale
    ranking: str

    @cached_property
    def draws(self) -> np.ndarray:
        """Faithfulness at each size, on all pairs (first row) and on every resample of pairs, (1 + n_resamples, size)."""
        return self.scale.draws(self.values)

    def faithfulness(self) -> Interval:
        """Faithfulness at each size with its interval over pairs; each array has shape (size,)."""
        return self.scale.interval(self.draws)

    def cpr(self, axis: Axis = "linear") -> Interval:
        """Circuit performance ratio (CPR): the area under faithfulness over size. Higher is better; it can exceed 1."""
        return self.scale.interval(area(self.fractions, self.draws, axis))

    def cmd(self, axis: Axis = "linear") -> Interval:
        """Circuit-model distance (CMD): the area under |1 - faithfulness| over size. Lower is better; 0 is a perfect copy at every size."""
        return self.scale.interval(area(self.fractions, np.abs(1 - self.draws), axis))

    def to_list(self) -> list[dict[str, float]]:
        """Plain data, one entry per size: ``{"fraction", "size", "mean", "low", "high"}``."""
        mean, low, high = map(np.asarray, self.faithfulness())
        names = ("fraction", "size", "mean", "low", "high")
        rows = zip(self.fractions, self.sizes, mean.tolist(), low.tolist(), high.tolist(), strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]
