"""What overlap and rank agreement would be by chance, with each circuit keeping its number of heads in every layer.

Heads that matter sit in the middle and late layers for almost any task, so two unrelated circuits overlap more than two random
sets of heads would. The layer-stratified null keeps every layer's count and lets only the choice of heads inside a layer be
random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitlab.compare.ranks import spearman
from circuitlab.errors import BadParameterError, IncompatibleError

__all__ = ["OverlapNull", "overlap_null", "spearman_null"]


@dataclass(frozen=True)
class OverlapNull:
    """Exact chance distribution of the number of shared heads.

    Parameters
    ----------
    shared : int
        Observed number of shared heads.
    probabilities : ndarray, shape (shared heads possible,)
        Probability of 0, 1, 2, ... shared heads.
    n_first, n_second : int
        Circuit sizes.
    """

    shared: int
    probabilities: np.ndarray
    n_first: int
    n_second: int

    @property
    def jaccards(self) -> np.ndarray:
        """Jaccard index for each possible number of shared heads: sizes are fixed, so it depends on nothing else."""
        possible = np.arange(self.probabilities.size)
        return possible / (self.n_first + self.n_second - possible)

    @property
    def p_value(self) -> float:
        """Chance of sharing at least as many heads as observed (one-sided, exact, conservative because counts are whole)."""
        return float(min(1.0, self.probabilities[self.shared :].sum()))

    @property
    def mean_jaccard(self) -> float:
        """Expected Jaccard index by chance."""
        return float((self.jaccards * self.probabilities).sum())

    def quantile(self, level: float) -> float:
        """Smallest Jaccard index that chance stays at or below with the given probability."""
        index = int(np.searchsorted(np.cumsum(self.probabilities), level - 1e-12))
        return float(self.jaccards[min(index, self.probabilities.size - 1)])


def overlap_null(first: np.ndarray, second: np.ndarray, *, stratified: bool = True) -> OverlapNull:
    """Chance distribution of the overlap of two sets of heads.

    Parameters
    ----------
    first, second : ndarray of bool, shape (layer, head)
        Membership.
    stratified : bool
        Keep each circuit's count per layer (default) or only its size.

    Returns
    -------
    OverlapNull
        Exact: hypergeometric within a layer, convolved over layers; nothing is sampled.

    Raises
    ------
    IncompatibleError, BadParameterError
        If the shapes differ, or a set is empty.
    """
    from scipy import stats  # noqa: PLC0415

    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape:
        what = f"Head sets of shapes {first.shape} and {second.shape} belong to different models."
        raise IncompatibleError(what, "Compare circuits of one model.")
    if not first.any() or not second.any():
        raise BadParameterError("An empty circuit has no chance overlap.", "Select at least one head for each task.")
    rows = zip(first, second, strict=True) if stratified else [(first.ravel(), second.ravel())]
    total = np.ones(1)
    for a, b in rows:
        possible = np.arange(min(a.sum(), b.sum()) + 1)
        total = np.convolve(total, stats.hypergeom.pmf(possible, a.size, a.sum(), b.sum()))
    return OverlapNull(int((first & second).sum()), total, int(first.sum()), int(second.sum()))


def spearman_null(first: np.ndarray, second: np.ndarray, *, n: int = 2000, seed: int = 0) -> tuple[float, np.ndarray]:
    """Two-sided permutation test of rank agreement, heads permuted within their layer.

    Parameters
    ----------
    first, second : ndarray, shape (layer, head)
        Mean scores.
    n : int
        Permutations.
    seed : int
        Seed.

    Returns
    -------
    p_value : float
        Share of permutations (with the observed one counted in) that deviate at least as far from the null's mean.
        1 where the scores of one task are constant: they rank nothing.
    null : ndarray, shape (n,)
        Spearman correlations under the null.
    """
    generator = np.random.default_rng(seed)
    second = np.asarray(second, float)
    order = generator.random((n, *second.shape)).argsort(axis=-1)
    shuffled = np.take_along_axis(np.broadcast_to(second, order.shape), order, axis=-1).reshape(n, -1)
    null = spearman(np.asarray(first, float).reshape(1, -1), shuffled)
    observed = float(spearman(np.asarray(first).ravel(), second.ravel()))
    if np.isnan(observed):
        return 1.0, null
    centre = null.mean()
    beyond = np.abs(null - centre) >= abs(observed - centre) - 1e-12
    return float((1 + beyond.sum()) / (n + 1)), null
