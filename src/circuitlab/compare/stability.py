"""How much of a top-k list would come out again with other prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from circuitlab.circuits.select import Ranking, top_mask
from circuitlab.compare.bootstrap import resampled_means
from circuitlab.scores.intervals import Interval

if TYPE_CHECKING:
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["top_k_stability"]


def top_k_stability(
    scores: HeadScores,
    k: int = 20,
    *,
    by: Ranking = "absolute",
    mark: str | None = None,
    n: int = 400,
    seed: int = 0,
) -> Interval:
    """Jaccard overlap of the top-k heads of two random halves of the pairs: mean, and 2.5 and 97.5 % quantiles over splits.

    This is the ceiling for an overlap between tasks: lists that half the prompts reproduce poorly cannot agree with anything.
    Halves hold half the pairs, so the stability of the full list is higher.
    """
    values = scores.values("heads", mark=mark).reshape(scores.n_pairs, -1)
    generator = np.random.default_rng(seed)
    resampled_means(values, 1, generator)  # the same check and message for a single pair
    half = scores.n_pairs // 2
    found = np.empty(n)
    for i in range(n):
        order = generator.permutation(scores.n_pairs)
        first, second = (top_mask(values[part].mean(0), k, by) for part in (order[:half], order[half:]))
        found[i] = (first & second).sum() / (first | second).sum()
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(np.float64(found.mean()), np.float64(low), np.float64(high))
