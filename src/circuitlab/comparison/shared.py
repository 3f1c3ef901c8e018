"""The number of heads (or edges) that two circuits share, corrected for noise, with limits of the true number.

Noise makes two selections differ, because heads near the end of a ranking swap ranks. Resampling the pairs adds the noise a second time, so
resampled selections share fewer heads than the estimate, and a percentile interval is too low. Here the count is measured at increasing
amounts of added noise and extrapolated back to no noise (simulation extrapolation, Cook and Stefanski 1994).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from circuitlab.comparison.bootstrap import check_confidence, resampling_weights
from circuitlab.comparison.overlap import count_overlaps
from circuitlab.scores.intervals import Interval

__all__ = ["MaskPair", "Selector", "SharedCount", "resampled_masks", "shared_count"]

Selector: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Maps mean scores, (draw, element), to membership in the circuit, boolean, (draw, element)."""

MaskPair: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Membership of each element in the two circuits, boolean, each (element,) or (draw, element)."""

_NOISIER = math.sqrt(2)  # factor on the deviations of the second set of resamples, whose noise has twice the variance
# Noise of the means that circuits are selected from, in standard errors: 1 in the estimate, sqrt(2) in a resample, which adds the same
# noise again, and sqrt(3) in the second set. Near the end of a ranking, the number of swaps is proportional to these numbers.
_EXTRAPOLATION = 1 / (math.sqrt(3 / 2) - 1)


class SharedCount(NamedTuple):
    """The number of elements in both circuits: as selected, corrected for noise, and limits of the true number (whole numbers).

    ``sizes`` are the numbers of elements of the two circuits.
    """

    estimate: int
    corrected: float
    low: float
    high: float
    sizes: tuple[int, int]

    def intervals(self) -> dict[str, Interval]:
        """Every overlap measure of the circuits as selected, with the limits of its true value."""
        overlaps = [count_overlaps(count, *map(np.array, self.sizes)) for count in (self.estimate, self.low, self.high)]
        return {name: Interval(*(np.float64(measures[name]) for measures in overlaps)) for name in overlaps[0]}

    def corrected_overlaps(self) -> dict[str, float]:
        """Every overlap measure, corrected for noise."""
        return {name: float(value) for name, value in count_overlaps(self.corrected, *map(np.array, self.sizes)).items()}


def resampled_masks(
    first: np.ndarray, second: np.ndarray, select: Selector, *, paired: bool, n: int = 1000, seed: int = 0
) -> tuple[MaskPair, MaskPair]:
    """Membership in both circuits when they are selected from resamples of the pairs, and again with twice the variance of the noise.

    Parameters
    ----------
    first, second : ndarray, shape (pair, element)
        Scores per pair of the two tasks; the numbers of pairs may differ unless ``paired``.
    select : callable
        Selects elements by their mean scores; see `Selector`.
    paired : bool
        Whether pair i of both tasks is the same prompt. Pairs are then resampled together, otherwise independently.
    n, seed : int
        Number of resamples, and their seed.

    Returns
    -------
    tuple of tuple of ndarray, each of shape (resample, element)
        For each of the two amounts of noise, membership in the first and in the second circuit.

    Raises
    ------
    BadParameterError
        If a task has fewer than two pairs.
    """
    generator = np.random.default_rng(seed)
    masks = []
    for scale in (1.0, _NOISIER):
        weights = resampling_weights(len(first), n, generator)
        second_weights = weights if paired else resampling_weights(len(second), n, generator)
        first_mean, second_mean = (values.mean(axis=0) for values in (first, second))
        first_means = first_mean + scale * (weights @ first - first_mean)
        second_means = second_mean + scale * (second_weights @ second - second_mean)
        masks.append((select(first_means), select(second_means)))
    return masks[0], masks[1]


def shared_count(estimate: MaskPair, resampled: tuple[MaskPair, MaskPair], pairs: int, confidence: float = 0.95) -> SharedCount:
    r"""The number of shared elements, corrected for noise, with limits of the true number.

    Parameters
    ----------
    estimate : tuple of ndarray, each of shape (element,)
        Membership in the two circuits, selected by the means over all pairs.
    resampled : tuple of tuple of ndarray
        From `resampled_masks`.
    pairs : int
        Number of pairs of the task that has fewer.
    confidence : float
        Nominal coverage, in (0, 1).

    Raises
    ------
    BadParameterError
        If the confidence is not between 0 and 1.

    Notes
    -----
    With :math:`c_1`, :math:`c_2` the mean counts of the two sets of resamples and :math:`c` the estimate, the corrected count is
    :math:`c_1 + (c_1 - c_2) / (\sqrt{3/2} - 1)`. The limits are the corrected count plus and minus Student's quantile times the root mean
    square distance of the counts in the first set from :math:`c`, rounded to whole elements. Resampled counts relate to the estimate as the
    estimate relates to the true count, so their distance measures its error, bias included. Neither limit is tied to the estimate.

    Elements whose distance from the end of a selection is within the noise may belong to it or not, and the scores do not tell. The limits
    hold on average over such near ties, not for every arrangement of them: where many elements just miss one of the two circuits, the true
    count is below the lower limit more often than the confidence says. Pairs are taken as a sample of endlessly many prompts.

    References
    ----------
    Cook and Stefanski (1994), Simulation-extrapolation estimation in parametric measurement error models, JASA 89.
    """
    from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

    check_confidence(confidence)
    count, *counts = ((first & second).sum(axis=-1) for first, second in (estimate, *resampled))
    once, twice = (float(draws.mean()) for draws in counts)  # by how often the noise was added
    error = math.sqrt(float(np.mean((counts[0] - count) ** 2.0)))
    half = float(stats.t.ppf((1 + confidence) / 2, pairs - 1)) * error
    sizes = int(estimate[0].sum()), int(estimate[1].sum())
    corrected = once + _EXTRAPOLATION * (once - twice)
    low, high = (float(np.clip(np.round(corrected + side * half), 0, min(sizes))) for side in (-1, 1))
    return SharedCount(int(count), float(np.clip(corrected, 0, min(sizes))), low, high, sizes)
