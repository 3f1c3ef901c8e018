"""How many heads (or edges) two circuits share when noise is taken out: a corrected count, and limits of the true one.

Noise makes two lists differ: heads near the end of a list swap places. Resampling the pairs adds the noise a second time, so resampled
lists share less than the estimate, and a percentile interval lies too low. Here the count is followed as noise is added, and extrapolated
back to none (simulation extrapolation, Cook and Stefanski 1994).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from circuitlab.comparison.bootstrap import check_confidence, resampling_weights
from circuitlab.comparison.overlap import count_overlaps
from circuitlab.scores.intervals import Interval

__all__ = ["Pick", "SharedCount", "resampled_picks", "shared_count"]

Pick: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""From mean scores (draw, element) to membership (draw, element)."""

Picks: TypeAlias = tuple[np.ndarray, np.ndarray]

_MORE = math.sqrt(2)  # the second set of resamples deviates this much more: their noise has twice the variance
# Noise of the means that lists are picked from, in standard errors: 1 in the estimate, sqrt(2) in a resample, which adds the same noise
# again, and sqrt(3) in the second set. The count falls by what swaps at the end of the lists, in proportion to these numbers.
_REACH = 1 / (math.sqrt(3 / 2) - 1)


class SharedCount(NamedTuple):
    """Elements that both circuits hold: as picked, corrected for noise, and limits of the true count (whole numbers); and both sizes."""

    estimate: int
    corrected: float
    low: float
    high: float
    sizes: tuple[int, int]

    def intervals(self) -> dict[str, Interval]:
        """Every overlap measure of circuits of these sizes, as picked, with its limits."""
        found = [count_overlaps(count, *map(np.array, self.sizes)) for count in (self.estimate, self.low, self.high)]
        return {name: Interval(*(np.float64(one[name]) for one in found)) for name in found[0]}

    def corrected_overlaps(self) -> dict[str, float]:
        """Every overlap measure, corrected for noise."""
        return {name: float(value) for name, value in count_overlaps(self.corrected, *map(np.array, self.sizes)).items()}


def resampled_picks(
    first: np.ndarray, second: np.ndarray, pick: Pick, *, paired: bool, n: int = 1000, seed: int = 0
) -> tuple[Picks, Picks]:
    """Membership in both circuits, picked from resamples of the pairs, and once more with twice the variance of the noise.

    Parameters
    ----------
    first, second : ndarray, shape (pair, element)
        Scores per pair; pair counts may differ unless ``paired``.
    pick : callable
        How elements are picked from mean scores.
    paired : bool
        Whether pair i of both is the same prompt: pairs are then resampled together, otherwise independently.
    n, seed : int
        Resamples, and the seed.

    Raises
    ------
    BadParameterError
        If a map has fewer than two pairs.
    """
    generator = np.random.default_rng(seed)
    found = []
    for scale in (1.0, _MORE):
        weights = resampling_weights(len(first), n, generator)
        others = weights if paired else resampling_weights(len(second), n, generator)
        one, two = (x.mean(axis=0) for x in (first, second))
        found.append((pick(one + scale * (weights @ first - one)), pick(two + scale * (others @ second - two))))
    return found[0], found[1]


def shared_count(estimate: Picks, resampled: tuple[Picks, Picks], pairs: int, confidence: float = 0.95) -> SharedCount:
    r"""Number of shared elements, corrected for noise, with limits.

    Parameters
    ----------
    estimate : tuple of ndarray, each of shape (element,)
        Membership in the two circuits, picked from the means over all pairs.
    resampled : tuple of tuple of ndarray
        From `resampled_picks`.
    pairs : int
        Pairs of the smaller map.
    confidence : float
        Coverage wanted, in (0, 1).

    Notes
    -----
    With :math:`c_1`, :math:`c_2` the mean counts of the two sets of resamples and :math:`c` the estimate, the corrected count is
    :math:`c_1 + (c_1 - c_2) / (\sqrt{3/2} - 1)`, and the limits are that plus and minus Student's quantile times the root mean square
    of the resampled counts around :math:`c`, rounded to whole elements. Resampled counts stand to the estimate as the estimate stands to
    the truth, so their distance measures its error, bias included. Neither limit is tied to the estimate.

    References
    ----------
    Cook and Stefanski (1994), Simulation-extrapolation estimation in parametric measurement error models, JASA 89.
    """
    from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

    check_confidence(confidence)
    count, *counts = ((one & two).sum(axis=-1) for one, two in (estimate, *resampled))
    near, far = (float(found.mean()) for found in counts)
    error = math.sqrt(float(np.mean((counts[0] - count) ** 2.0)))
    half = float(stats.t.ppf((1 + confidence) / 2, pairs - 1)) * error
    sizes = int(estimate[0].sum()), int(estimate[1].sum())
    corrected = near + _REACH * (near - far)
    low, high = (float(np.clip(np.round(corrected + side * half), 0, min(sizes))) for side in (-1, 1))
    return SharedCount(int(count), float(np.clip(corrected, 0, min(sizes))), low, high, sizes)
