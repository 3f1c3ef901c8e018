"""How much of a top-k list would come out again: with other prompts, with more of them, with another seed or template."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from circuitlab.circuits.select import Ranking, top_mask
from circuitlab.comparison.bootstrap import resampled_means
from circuitlab.comparison.nulls import overlap_null
from circuitlab.comparison.overlap import set_overlaps
from circuitlab.comparison.score_map import ScoreMap, score_map
from circuitlab.core.errors import BadParameterError
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.intervals import Interval

__all__ = [
    "SelectionStability",
    "StabilityCurve",
    "Sweep",
    "bootstrap_stability",
    "sample_size_curve",
    "sweep_stability",
    "top_k_stability",
]

_SIZES = (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512)


@dataclass(frozen=True, eq=False)
class SelectionStability:
    """How often resampled prompts give the same top k.

    Parameters
    ----------
    jaccard : Interval
        Jaccard index of a resample's top k with that of all pairs: mean, and 2.5 and 97.5 % quantiles.
    inclusion : dict of str to float
        Share of resamples that pick an element, for all that any picks, most often picked first.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_scores
    >>> found: SelectionStability = bootstrap_stability(fake_scores(np.arange(12.0).reshape(1, 3, 4) + np.zeros((8, 1, 1))), 2)
    >>> found.inclusion
    {'a2.h2': 1.0, 'a2.h3': 1.0}
    """

    jaccard: Interval
    inclusion: dict[str, float]


@dataclass(frozen=True, eq=False)
class StabilityCurve:
    """Agreement of two lists found with n pairs each, no pair in common, as n grows.

    Parameters
    ----------
    sizes : ndarray of int, shape (size,)
        Pairs in each of the two sets, at most half of all.
    mean, low, high : ndarray, shape (size,)
        Jaccard index of the two lists: mean, and 2.5 and 97.5 % quantiles over draws.
    chance : float
        What two unrelated lists with as many heads in each layer would share.
    k : int
        Length of the lists.

    Examples
    --------
    >>> curve = StabilityCurve(np.array([2, 4, 8]), np.array([0.5, 0.7, 0.9]), np.zeros(3), np.ones(3), chance=0.1, k=20)
    >>> curve.enough(0.8)
    8
    """

    sizes: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    chance: float
    k: int

    def enough(self, wanted: float = 0.8) -> int | None:
        """The least number of pairs from which on the mean agreement reaches a value; None where it never does."""
        reached = np.asarray(self.mean) >= wanted
        below = np.flatnonzero(~reached)
        first = 0 if not below.size else int(below[-1]) + 1
        return int(self.sizes[first]) if first < len(self.sizes) else None


@dataclass(frozen=True, eq=False)
class Sweep:
    """The lists of several runs of one task, with other seeds or other templates.

    Parameters
    ----------
    names : tuple of str
        The runs.
    jaccard : ndarray, shape (run, run)
        Overlap of their lists.
    chance : ndarray, shape (run, run)
        Its layer-stratified expectation; NaN on the diagonal.
    inclusion : dict of str to float
        Share of runs that pick an element, most often picked first.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_scores
    >>> effects = np.random.default_rng(0).normal(size=(8, 3, 4)) + 5 * np.arange(4)
    >>> sweep: Sweep = sweep_stability({"seed 0": fake_scores(effects), "seed 1": fake_scores(effects[::-1])}, 3)
    >>> sweep.core == tuple(sweep.inclusion), sweep.agreement
    (True, (1.0, 1.0, 1.0))
    """

    names: tuple[str, ...]
    jaccard: np.ndarray
    chance: np.ndarray
    inclusion: dict[str, float]

    @property
    def core(self) -> tuple[str, ...]:
        """What every run picks."""
        return tuple(name for name, share in self.inclusion.items() if share == 1)

    @property
    def agreement(self) -> tuple[float, float, float]:
        """Mean, least and largest Jaccard index over pairs of runs."""
        values = self.jaccard[np.triu_indices(len(self.names), 1)]
        return float(values.mean()), float(values.min()), float(values.max())


def top_k_stability(
    scores: HeadScores | EdgeScores,
    k: int = 20,
    *,
    by: Ranking = "absolute",
    mark: str | None = None,
    n: int = 400,
    seed: int = 0,
) -> Interval:
    """Jaccard overlap of the top k of two random halves of the pairs: mean, and 2.5 and 97.5 % quantiles over splits.

    This is the ceiling for an overlap between tasks: lists that half the prompts reproduce poorly cannot agree with anything.
    Halves hold half the pairs, so the stability of the full list is higher.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_scores
    >>> effects = np.zeros((8, 3, 4))
    >>> effects[:, 1, 2] = 2.0  # one head acts on every prompt
    >>> float(top_k_stability(fake_scores(effects), 1).mean)
    1.0
    """
    one = _with_pairs(scores, mark)
    found = _disjoint(one, len(one.values) // 2, (k, by), n, seed)
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(np.float64(found.mean()), np.float64(low), np.float64(high))


def bootstrap_stability(
    scores: HeadScores | EdgeScores,
    k: int = 20,
    *,
    by: Ranking = "absolute",
    mark: str | None = None,
    n: int = 1000,
    seed: int = 0,
) -> SelectionStability:
    """Overlap of the top k of resampled pairs with that of all pairs, and how often each element is picked.

    A resample repeats pairs, so it is noisier than a new set of prompts of the same size would be. An inclusion share is not the
    probability that an element belongs to the circuit; it says how much the pick depends on the prompts at hand.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_scores
    >>> effects = np.zeros((8, 3, 4))
    >>> effects[:, 1, 2], effects[:, 2, 0] = 2.0, 1.0
    >>> bootstrap_stability(fake_scores(effects), 1).inclusion
    {'a1.h2': 1.0}
    """
    one = _with_pairs(scores, mark)
    masks = top_mask(resampled_means(one.values, n, np.random.default_rng(seed)), k, by)
    found = set_overlaps(masks, top_mask(one.mean, k, by))["jaccard"]
    low, high = np.quantile(found, [0.025, 0.975])
    return SelectionStability(Interval(np.float64(found.mean()), np.float64(low), np.float64(high)), _inclusion(masks, one))


def sample_size_curve(
    scores: HeadScores | EdgeScores,
    k: int = 20,
    sizes: Sequence[int] | None = None,
    *,
    mark: str | None = None,
    n: int = 200,
    seed: int = 0,
) -> StabilityCurve:
    """How many prompts until the list stops changing: agreement of two lists from n pairs each, for growing n.

    Parameters
    ----------
    scores : HeadScores or EdgeScores
        One run; the curve reaches half its pairs.
    k, mark : int, str
        What is picked, by magnitude.
    sizes : sequence of int, optional
        Numbers of pairs, increasing.
    n, seed : int
        Random draws for each size, and the seed.

    Raises
    ------
    BadParameterError
        If there are fewer than four pairs, or none at all (weights alone), or sizes do not increase from at least 1 to at most half the
        pairs.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_scores
    >>> effects = np.random.default_rng(0).normal(size=(32, 3, 4)) + np.arange(4)
    >>> curve = sample_size_curve(fake_scores(effects), 3, sizes=[2, 16])
    >>> curve.sizes.tolist(), bool(curve.mean[1] > curve.mean[0])
    ([2, 16], True)
    """
    one = _with_pairs(scores, mark)
    most = len(one.values) // 2
    wanted = [size for size in _SIZES if size < most] + [most] if sizes is None else list(sizes)
    if most <= 1 or not wanted or wanted[0] < 1 or wanted[-1] > most or np.any(np.diff(wanted) <= 0):
        what = f"Sizes {wanted} cannot be drawn twice from {len(one.values)} pairs."
        raise BadParameterError(what, "Give increasing sizes of at most half the pairs, or score more pairs.")
    found = [_disjoint(one, size, (k, "absolute"), n, seed + i) for i, size in enumerate(wanted)]
    low, high = np.quantile(found, [0.025, 0.975], axis=1)
    top = top_mask(one.mean, k)
    chance = overlap_null(top, top, strata=one.strata).mean_jaccard
    return StabilityCurve(np.array(wanted), np.mean(found, axis=1), low, high, chance, k)


def sweep_stability(
    runs: Mapping[str, HeadScores | EdgeScores],
    k: int = 20,
    *,
    by: Ranking = "absolute",
    mark: str | None = None,
) -> Sweep:
    """Agreement of runs of one task that differ in one thing: the seed of the prompts, or the template.

    Raises
    ------
    BadParameterError
        If there are fewer than two runs, or one comes from weights alone.
    IncompatibleError
        If they score different elements.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_scores
    >>> effects = np.zeros((8, 3, 4))
    >>> effects[:, 1, 2] = 2.0
    >>> sweep_stability({"seed 0": fake_scores(effects), "seed 1": fake_scores(effects)}, 1).core
    ('a1.h2',)
    """
    names = tuple(runs)
    if len(names) <= 1:
        what = f"A sweep needs at least two runs; got {list(names)}."
        raise BadParameterError(what, "Score the task with another seed or template.")
    maps = [_with_pairs(one, mark) for one in runs.values()]
    for one in maps:
        maps[0].require_same_elements(one)
    masks = np.stack([top_mask(one.mean, k, by) for one in maps])
    chance = np.full((len(names), len(names)), np.nan)
    for i, j in itertools.combinations(range(len(names)), 2):
        chance[i, j] = chance[j, i] = overlap_null(masks[i], masks[j], strata=maps[0].strata).mean_jaccard
    return Sweep(names, set_overlaps(masks[:, None], masks[None])["jaccard"], chance, _inclusion(masks, maps[0]))


def _with_pairs(scores: HeadScores | EdgeScores, mark: str | None) -> ScoreMap:
    """The score map; scores from weights alone are refused, since they would come out the same whatever the prompts."""
    one = score_map(scores, mark)
    one.require_pairs("stability over prompts")
    return one


def _disjoint(one: ScoreMap, size: int, pick: tuple[int, Ranking], n: int, seed: int) -> np.ndarray:
    """Jaccard indices of the picks of two random sets of ``size`` pairs without a common one."""
    pairs = len(one.values)
    if pairs <= 1:
        what = "The stability of a list needs at least two of the pairs it is drawn from; there is one."
        raise BadParameterError(what, "Score more pairs.")
    generator = np.random.default_rng(seed)
    order = generator.random((n, pairs)).argsort(axis=1)
    found = np.empty(n)
    for i, row in enumerate(order):
        first, second = (top_mask(one.values[part].mean(axis=0), *pick) for part in (row[:size], row[size : 2 * size]))
        found[i] = set_overlaps(first, second)["jaccard"]
    return found


def _inclusion(masks: np.ndarray, one: ScoreMap) -> dict[str, float]:
    share = masks.mean(axis=0)
    order = np.argsort(-share, kind="stable")
    return {str(one.element(i)): float(share[i]) for i in order if share[i] > 0}
