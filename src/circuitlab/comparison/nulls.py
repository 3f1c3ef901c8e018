"""Overlap and rank agreement by chance: three null models, named after what they hold fixed.

Heads that matter are in the middle and late layers for almost any task, so two unrelated circuits overlap more than two random sets of
heads would. ``layer_stratified`` (the default) keeps the number of selected heads in every layer, so that only the choice within a layer
is random. ``uniform`` keeps only the sizes of the circuits (hypergeometric); it makes unrelated circuits look similar.
``within_layer_scores`` keeps all scores: the heads of a layer exchange them, and circuits are selected and ranked again. For overlaps of
sets that are selected by rank this samples the layer-stratified null; for rank-biased overlap and rank correlation, which depend on the
scores, it is the only null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from circuitlab.comparison.ranks import spearman
from circuitlab.core.errors import BadParameterError, IncompatibleError, UnknownNameError

__all__ = ["NULLS", "NullName", "OverlapNull", "known_null", "overlap_null", "score_null", "shuffled_within", "spearman_null", "two_sided"]

NullName: TypeAlias = Literal["layer_stratified", "uniform", "within_layer_scores"]
NULLS: tuple[NullName, ...] = ("layer_stratified", "uniform", "within_layer_scores")
_AT_ONCE = 4_000_000  # permuted scores kept in memory at a time


@dataclass(frozen=True)
class OverlapNull:
    """Exact distribution of the number of shared heads (or edges) by chance.

    Parameters
    ----------
    shared : int
        Observed number of shared heads.
    probabilities : ndarray, shape (possible number of shared heads + 1,)
        Probability of 0, 1, 2, ... shared heads.
    n_first, n_second : int
        Sizes of the circuits.

    Examples
    --------
    >>> heads = np.array([[True, False, False, False]])  # one layer of four heads
    >>> null: OverlapNull = overlap_null(heads, heads)
    >>> null.shared, null.p_value, null.mean_jaccard
    (1, 0.25, 0.25)
    """

    shared: int
    probabilities: np.ndarray
    n_first: int
    n_second: int

    @property
    def jaccards(self) -> np.ndarray:
        """Jaccard index for each possible number of shared heads; the sizes of the circuits are fixed."""
        possible = np.arange(self.probabilities.size)
        return possible / (self.n_first + self.n_second - possible)

    @property
    def p_value(self) -> float:
        """Probability of sharing at least as many heads as observed: one-sided, exact, conservative because counts are discrete."""
        return float(min(1.0, self.probabilities[self.shared :].sum()))

    @property
    def mean_jaccard(self) -> float:
        """Expected Jaccard index by chance."""
        return float((self.jaccards * self.probabilities).sum())

    @property
    def mean_shared(self) -> float:
        """Expected number of shared heads by chance."""
        return float((np.arange(self.probabilities.size) * self.probabilities).sum())

    @property
    def high_shared(self) -> int:
        """The 95 % quantile: the smallest number of shared heads that chance does not exceed in 95 % of draws."""
        return min(int(np.searchsorted(np.cumsum(self.probabilities), 0.95 - 1e-12)), self.probabilities.size - 1)

    def quantile(self, level: float) -> float:
        """Quantile of the Jaccard index: the smallest value that chance does not exceed with probability ``level``."""
        index = int(np.searchsorted(np.cumsum(self.probabilities), level - 1e-12))
        return float(self.jaccards[min(index, self.probabilities.size - 1)])

    def as_dict(self) -> dict[str, float]:
        """``{"mean", "high", "p"}``: expected Jaccard index, its 95 % quantile, and the p-value."""
        return {"mean": self.mean_jaccard, "high": self.quantile(0.95), "p": self.p_value}


def overlap_null(
    first: np.ndarray,
    second: np.ndarray,
    *,
    stratified: bool = True,
    strata: np.ndarray | None = None,
) -> OverlapNull:
    """Distribution of the overlap of two sets of heads or edges by chance.

    Parameters
    ----------
    first, second : ndarray of bool, shape (layer, head), or (element,) with ``strata``
        Membership in the two sets.
    stratified : bool
        Whether the number of elements in each layer or stratum is held fixed, or only the size of each set (the uniform null).
    strata : ndarray of int, shape (element,), optional
        Stratum of each element: elements of one stratum are exchangeable. The layers if not given.

    Returns
    -------
    OverlapNull
        Exact: hypergeometric within a stratum, convolved over strata; nothing is sampled.

    Raises
    ------
    IncompatibleError
        If the shapes differ.
    BadParameterError
        If a set is empty.

    Examples
    --------
    >>> first = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=bool)  # (layer, head)
    >>> null = overlap_null(first, first)
    >>> round(null.mean_jaccard, 3), round(null.p_value, 3)
    (0.296, 0.042)
    """
    from scipy import stats  # noqa: PLC0415

    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or (strata is not None and np.shape(strata) != first.shape):
        what = f"Head sets of shapes {first.shape} and {second.shape} belong to different models."
        raise IncompatibleError(what, "Compare circuits of one model.")
    if not first.any() or not second.any():
        raise BadParameterError("An empty circuit has no chance overlap.", "Select at least one head for each task.")
    if strata is None:
        strata = np.broadcast_to(np.arange(len(first))[:, None] if first.ndim > 1 else 0, first.shape)
    groups = strata.ravel() if stratified else np.zeros(first.size, dtype=int)
    sizes, in_first, in_second = (np.bincount(groups, weights=w).astype(int) for w in (None, first.ravel(), second.ravel()))
    probabilities = np.ones(1)
    for size, a, b in zip(sizes, in_first, in_second, strict=True):
        if a and b:
            probabilities = np.convolve(probabilities, stats.hypergeom.pmf(np.arange(min(a, b) + 1), size, a, b))
    return OverlapNull(int((first & second).sum()), probabilities, int(first.sum()), int(second.sum()))


def shuffled_within(strata: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Random permutations of elements that keep every element in its stratum, as indices, (n, element)."""
    by_stratum = np.argsort(strata, kind="stable")
    order = np.argsort(strata + generator.random((n, strata.size)), axis=-1)
    permutations = np.empty_like(order)
    permutations[:, by_stratum] = order
    return permutations


def score_null(
    first: np.ndarray,
    second: np.ndarray,
    statistics: Sequence[Callable[[np.ndarray, np.ndarray], np.ndarray]],
    strata: np.ndarray,
    *,
    n: int = 2000,
    seed: int = 0,
) -> list[np.ndarray]:
    """Statistics of two score maps when the elements of a stratum exchange their scores (the null ``within_layer_scores``).

    Parameters
    ----------
    first, second : ndarray, shape (element,)
        Mean scores. The scores within every stratum are held fixed. Only those of ``second`` are permuted, since only the order of one
        relative to the other matters.
    statistics : sequence of callable
        Each maps mean scores (1, element) and (permutation, element) to (permutation,), selection included.
    strata : ndarray of int, shape (element,)
        Stratum of each element, such as its layer: elements of one stratum are exchangeable.
    n, seed : int
        Number of permutations, and their seed.

    Returns
    -------
    list of ndarray, each of shape (n,)
        Each statistic under the null.

    Examples
    --------
    >>> layers = np.repeat([0, 1], 4)
    >>> first, second = np.arange(8.0), np.arange(8.0)[::-1]
    >>> (null,) = score_null(first, second, [spearman], layers, n=100)
    >>> null.shape, bool((null < 0).all())  # the order of the layers alone makes these rankings disagree
    ((100,), True)
    """
    generator = np.random.default_rng(seed)
    draws: list[list[np.ndarray]] = [[] for _ in statistics]
    for rows in np.array_split(np.arange(n), max(1, n * second.size // _AT_ONCE)):
        shuffled = second[shuffled_within(strata, rows.size, generator)]
        for blocks, statistic in zip(draws, statistics, strict=True):
            blocks.append(statistic(first[None], shuffled))
    return [np.concatenate(blocks) for blocks in draws]


def spearman_null(first: np.ndarray, second: np.ndarray, *, n: int = 2000, seed: int = 0) -> tuple[float, np.ndarray]:
    """Two-sided permutation test of rank agreement, with heads permuted within their layer.

    Parameters
    ----------
    first, second : ndarray, shape (layer, head)
        Mean scores.
    n : int
        Number of permutations.
    seed : int
        Seed of the permutations.

    Returns
    -------
    p_value : float
        Share of permutations, with the observed order counted among them, whose correlation is at least as far from the null's mean as the
        observed one. 1 if the scores of a task are constant, since they then have no ranks.
    null : ndarray, shape (n,)
        Spearman correlations under the null.

    Examples
    --------
    >>> scores = np.arange(12.0).reshape(3, 4)  # (layer, head)
    >>> p_value, null = spearman_null(scores, scores, n=199)
    >>> p_value, null.shape
    (0.005, (199,))
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    strata = np.repeat(np.arange(first.shape[0]), first[0].size)
    (null,) = score_null(first.ravel(), second.ravel(), [spearman], strata, n=n, seed=seed)
    return two_sided(float(spearman(first.ravel(), second.ravel())), null), null


def two_sided(observed: float, null: np.ndarray) -> float:
    """Two-sided p-value: the share of a null distribution, observed value included, that is as far from its mean as the observed value."""
    if np.isnan(observed):
        return 1.0
    centre = null.mean()
    beyond = np.abs(null - centre) >= abs(observed - centre) - 1e-12
    return float((1 + beyond.sum()) / (null.size + 1))


def known_null(name: str) -> None:
    """Raise `UnknownNameError` unless a null model has this name."""
    if name not in NULLS:
        raise UnknownNameError("null model", name, NULLS)
