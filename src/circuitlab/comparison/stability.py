"""How stable a top-k list is: with other prompts, with more prompts, and with another seed or template."""

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
    """How much the top k changes when the prompt pairs are resampled.

    Parameters
    ----------
    jaccard : Interval
        Jaccard index of the top k of a resample with that of all pairs: mean, and 2.5 and 97.5 % quantiles over resamples.
    inclusion : dict of str to float
        Share of resamples that select an element, for every element that is ever selected, most frequent first.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_scores
    >>> stability: SelectionStability = bootstrap_stability(fake_scores(np.arange(12.0).reshape(1, 3, 4) + np.zeros((8, 1, 1))), 2)
    >>> stability.inclusion
    {'a2.h2': 1.0, 'a2.h3': 1.0}
    """

    jaccard: Interval
    inclusion: dict[str, float]


@dataclass(frozen=True, eq=False)
class StabilityCurve:
    """Agreement of two top-k lists from disjoint sets of n pairs, for increasing n.

    Parameters
    ----------
    sizes : ndarray of int, shape (size,)
        Number of pairs in each of the two sets, at most half of all pairs.
    mean, low, high : ndarray, shape (size,)
        Jaccard index of the two lists: mean, and 2.5 and 97.5 % quantiles over draws.
    chance : float
        Expected Jaccard index of two unrelated lists with the same number of heads in each layer.
    k : int
        Length of the lists.

    Examples
    --------
    >>> curve = StabilityCurve(np.array([2, 4, 8]), np.array([0.5, 0.7, 0.9]), np.zeros(3), np.ones(3), chance=0.1, k=20)
    >>> curve.pairs_needed(0.8)
    8
    """

    sizes: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    chance: float
    k: int

    def pairs_needed(self, agreement: float = 0.8) -> int | None:
        """The smallest number of pairs from which the mean Jaccard index stays at or above ``agreement``; None if it never does."""
        reached = np.asarray(self.mean) >= agreement
        below = np.flatnonzero(~reached)
        first = 0 if not below.size else int(below[-1]) + 1
        return int(self.sizes[first]) if first < len(self.sizes) else None


@dataclass(frozen=True, eq=False)
class Sweep:
    """Agreement of the top-k lists of several runs of one task with different seeds or templates.

    Parameters
    ----------
    names : tuple of str
        Names of the runs.
    jaccard : ndarray, shape (run, run)
        Jaccard index of their lists.
    chance : ndarray, shape (run, run)
        Its expectation under the layer-stratified null; NaN on the diagonal.
    inclusion : dict of str to float
        Share of runs that select an element, for every element that is ever selected, most frequent first.

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
        """Names of the elements that every run selects."""
        return tuple(name for name, share in self.inclusion.items() if share == 1)

    @property
    def agreement(self) -> tuple[float, float, float]:
        """Mean, smallest and largest Jaccard index over pairs of runs."""
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
    """Jaccard index of the top k of two random halves of the pairs: mean, and 2.5 and 97.5 % quantiles over splits.

    This is a rough ceiling for the overlap between tasks: a list that other prompts of the same task reproduce poorly cannot agree with
    anything. Each list comes from half the pairs, so the list of all pairs is more stable than this.

    Parameters
    ----------
    scores : HeadScores or EdgeScores
        Scores of one task.
    k : int
        Length of the lists.
    by : {"absolute", "positive", "negative"}
        Ranking of the elements.
    mark : str, optional
        The mark; needed if scores are resolved by mark.
    n, seed : int
        Number of splits, and their seed.

    Raises
    ------
    BadParameterError
        If there are fewer than two pairs.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_scores
    >>> effects = np.zeros((8, 3, 4))
    >>> effects[:, 1, 2] = 2.0  # one head acts on every prompt
    >>> float(top_k_stability(fake_scores(effects), 1).mean)
    1.0
    """
    values = _with_pairs(scores, mark).values
    draws = _disjoint_overlaps(values, len(values) // 2, (k, by), n, seed)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(np.float64(draws.mean()), np.float64(low), np.float64(high))


def bootstrap_stability(
    scores: HeadScores | EdgeScores,
    k: int = 20,
    *,
    by: Ranking = "absolute",
    mark: str | None = None,
    n: int = 1000,
    seed: int = 0,
) -> SelectionStability:
    """Overlap of the top k of resampled pairs with that of all pairs, and how often each element is selected.

    A resample repeats pairs, so it is noisier than a new set of prompts of the same size. The share of resamples that include an element is
    not the probability that the element belongs to the circuit; it tells how much its selection depends on these prompts. Parameters and
    errors are those of `top_k_stability`, with resamples in place of splits.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_scores
    >>> effects = np.zeros((8, 3, 4))
    >>> effects[:, 1, 2], effects[:, 2, 0] = 2.0, 1.0
    >>> bootstrap_stability(fake_scores(effects), 1).inclusion
    {'a1.h2': 1.0}
    """
    elements = _with_pairs(scores, mark)
    masks = top_mask(resampled_means(elements.values, n, np.random.default_rng(seed)), k, by)
    draws = set_overlaps(masks, top_mask(elements.mean, k, by))["jaccard"]
    low, high = np.quantile(draws, [0.025, 0.975])
    return SelectionStability(Interval(np.float64(draws.mean()), np.float64(low), np.float64(high)), _inclusion(masks, elements))


def sample_size_curve(
    scores: HeadScores | EdgeScores,
    k: int = 20,
    sizes: Sequence[int] | None = None,
    *,
    mark: str | None = None,
    n: int = 200,
    seed: int = 0,
) -> StabilityCurve:
    """How many prompts a stable list needs: agreement of two top-k lists from disjoint sets of n pairs, for increasing n.

    Parameters
    ----------
    scores : HeadScores or EdgeScores
        Scores of one task; the curve ends at half its pairs.
    k : int
        Length of the lists, by magnitude.
    sizes : sequence of int, optional
        Numbers of pairs, increasing.
    mark : str, optional
        The mark; needed if scores are resolved by mark.
    n, seed : int
        Number of random draws for each size, and their seed.

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
    elements = _with_pairs(scores, mark)
    most = len(elements.values) // 2
    counts = [size for size in _SIZES if size < most] + [most] if sizes is None else list(sizes)
    if most <= 1 or not counts or counts[0] < 1 or counts[-1] > most or np.any(np.diff(counts) <= 0):
        what = f"Sizes {counts} cannot be drawn twice from {len(elements.values)} pairs."
        raise BadParameterError(what, "Give increasing sizes of at most half the pairs, or score more pairs.")
    draws = [_disjoint_overlaps(elements.values, size, (k, "absolute"), n, seed + i) for i, size in enumerate(counts)]
    low, high = np.quantile(draws, [0.025, 0.975], axis=1)
    top = top_mask(elements.mean, k)
    chance = overlap_null(top, top, strata=elements.strata).mean_jaccard
    return StabilityCurve(np.array(counts), np.mean(draws, axis=1), low, high, chance, k)


def sweep_stability(
    runs: Mapping[str, HeadScores | EdgeScores],
    k: int = 20,
    *,
    by: Ranking = "absolute",
    mark: str | None = None,
) -> Sweep:
    """Agreement of the top-k lists of several runs of one task that differ in the seed of the prompts, or in the template.

    Parameters
    ----------
    runs : mapping of str to HeadScores or EdgeScores
        Scores by the name of the run.
    k : int
        Length of the lists.
    by : {"absolute", "positive", "negative"}
        Ranking of the elements.
    mark : str, optional
        The mark; needed if scores are resolved by mark.

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
    maps = [_with_pairs(run, mark) for run in runs.values()]
    for other in maps:
        maps[0].require_same_elements(other)
    masks = np.stack([top_mask(scores.mean, k, by) for scores in maps])
    chance = np.full((len(names), len(names)), np.nan)
    for i, j in itertools.combinations(range(len(names)), 2):
        chance[i, j] = chance[j, i] = overlap_null(masks[i], masks[j], strata=maps[0].strata).mean_jaccard
    return Sweep(names, set_overlaps(masks[:, None], masks[None])["jaccard"], chance, _inclusion(masks, maps[0]))


def _with_pairs(scores: HeadScores | EdgeScores, mark: str | None) -> ScoreMap:
    """The score map; scores from weights alone are refused, since they are the same whatever the prompts."""
    elements = score_map(scores, mark)
    elements.require_pairs("stability over prompts")
    return elements


def _disjoint_overlaps(values: np.ndarray, size: int, top: tuple[int, Ranking], n: int, seed: int) -> np.ndarray:
    """Jaccard indices, (n,), of the top elements of two random disjoint sets of ``size`` pairs; ``values`` are (pair, element)."""
    pairs = len(values)
    if pairs <= 1:
        what = "The stability of a list needs at least two pairs of prompts; there is one."
        raise BadParameterError(what, "Score more pairs.")
    generator = np.random.default_rng(seed)
    order = generator.random((n, pairs)).argsort(axis=1)
    draws, at_once = np.empty(n), max(1, _AT_ONCE // (size * values.shape[1]))
    for start in range(0, n, at_once):
        rows = order[start : start + at_once]
        first, second = (top_mask(values[part].mean(axis=1), *top) for part in (rows[:, :size], rows[:, size : 2 * size]))
        draws[start : start + at_once] = set_overlaps(first, second)["jaccard"]
    return draws


_AT_ONCE = 2**20
"""Numbers of one half that are taken together: many splits of few heads, one split of many edges."""


def _inclusion(masks: np.ndarray, elements: ScoreMap) -> dict[str, float]:
    share = masks.mean(axis=0)
    order = np.argsort(-share, kind="stable")
    return {str(elements.element(i)): float(share[i]) for i in order if share[i] > 0}
