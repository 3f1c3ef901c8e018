"""Comparison of two score maps: overlap of the circuits selected from them and rank agreement, with intervals, and the same by chance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from circuitlab.circuits.select import Ranking, ranked, top_mask
from circuitlab.comparison.bootstrap import Bootstrap, bootstrap
from circuitlab.comparison.nulls import NullName, known_null, overlap_null, score_null, two_sided
from circuitlab.comparison.overlap import set_overlaps
from circuitlab.comparison.ranks import score_overlap, spearman
from circuitlab.comparison.score_map import ScoreMap
from circuitlab.comparison.shared import SharedCount, resampled_masks, shared_count
from circuitlab.scores.intervals import no_interval

__all__ = ["Comparison", "Sampling"]

_FEW = 1500  # number of elements up to which all are resampled; of more elements, only those that can be selected are
_REACH = 8.0  # standard errors within which an element may reach the top k
_SAMPLED = 40_000_000  # scores that permutations and resamples of whole maps may draw in total


@dataclass(frozen=True)
class Sampling:
    """Numbers of random draws in a comparison, and its null model.

    Parameters
    ----------
    n_boot : int
        Number of resamples for intervals.
    n_null : int
        Number of permutations of scores; reduced for maps of many edges.
    seed : int
        Seed of both.
    null : {"layer_stratified", "uniform", "within_layer_scores"}
        Null model of the Jaccard index's p-value; see `circuitlab.comparison.nulls`.

    Raises
    ------
    UnknownNameError
        If there is no such null model.

    Examples
    --------
    >>> Sampling(n_boot=200, seed=1).null
    'layer_stratified'
    """

    n_boot: int = 1000
    n_null: int = 2000
    seed: int = 0
    null: NullName = "layer_stratified"

    def __post_init__(self) -> None:
        known_null(self.null)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A comparison of the top ``k`` elements of two score maps.

    Parameters
    ----------
    first, second : ScoreMap
        Scores of the same elements.
    k : int
        Number of elements that are selected from each map.
    by : {"absolute", "positive", "negative"}
        Ranking by which they are selected.
    sampling : Sampling
        Numbers of random draws, and the null model.
    """

    first: ScoreMap
    second: ScoreMap
    k: int
    by: Ranking
    sampling: Sampling

    @cached_property
    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """Which elements are selected from each map, two boolean arrays (element,)."""
        return self._top(self.first.mean), self._top(self.second.mean)

    @cached_property
    def overlaps(self) -> dict[str, float]:
        """Every overlap measure of the two selections."""
        return {name: float(value) for name, value in set_overlaps(*self.masks).items()}

    @property
    def shared(self) -> list[str]:
        """Names of the elements in both selections, in forward order."""
        return [str(node) for node in sorted(self.first.element(int(i)) for i in np.flatnonzero(self.masks[0] & self.masks[1]))]

    @cached_property
    def shared_count(self) -> SharedCount:
        """The number of elements in both selections, corrected for noise and with limits; elements are selected again in every resample."""
        elements = self._reachable()
        values = self.first.values[:, elements], self.second.values[:, elements]
        sampling = self.sampling
        resampled = resampled_masks(*values, self._top, paired=self._paired, n=sampling.n_boot, seed=sampling.seed)
        return shared_count(self.masks, resampled, min(len(self.first.values), len(self.second.values)))

    @cached_property
    def rank_correlation(self) -> Bootstrap:
        """Spearman correlation of the magnitudes of mean scores, with resamples of the pairs."""
        n = self._affordable(self.sampling.n_boot)
        return bootstrap(self.first.values, self.second.values, _magnitude_correlation, paired=self._paired, n=n, seed=self.sampling.seed)

    def intervals(self) -> dict[str, dict[str, float]]:
        """Every overlap measure and Spearman's correlation as computed (``mean``), with 95 % limits of the true value.

        The limits are around `corrected`; they are NaN if a map comes from weights alone. Rank-biased overlap has none: it depends on the
        order of the very first heads, and in simulations its intervals contained the true value in only 70 to 90 % of cases.
        """
        if self._without_pairs:
            measures = self.overlaps | {"spearman": self.rank_agreement["spearman"]}
            return {name: no_interval(np.float64(value)).as_dict() for name, value in measures.items()}
        intervals = self.shared_count.intervals() | {"spearman": self.rank_correlation.interval()}
        return {name: interval.as_dict() for name, interval in intervals.items()}

    def corrected(self) -> dict[str, float]:
        """Every overlap measure and Spearman's correlation, corrected for noise: the centre of each interval, or NaN."""
        if self._without_pairs:
            return dict.fromkeys((*self.overlaps, "spearman"), float("nan"))
        return self.shared_count.corrected_overlaps() | {"spearman": self.rank_correlation.corrected}

    @cached_property
    def rank_agreement(self) -> dict[str, float]:
        """Rank-biased overlap by the ranking that selects, and Spearman correlation of magnitudes."""
        first, second = self.first.mean[None], self.second.mean[None]
        return {"rbo": float(self._rbo(first, second)[0]), "spearman": float(_magnitude_correlation(first, second)[0])}

    def nulls(self) -> dict[str, dict[str, dict[str, float]]]:
        """``{"mean", "high", "p"}`` by measure and null model; p is two-sided for Spearman's correlation, one-sided for the others."""
        first, second = self.masks
        strata = self.first.strata
        exact = {
            "layer_stratified": overlap_null(first, second, strata=strata).as_dict(),
            "uniform": overlap_null(first, second, strata=strata, stratified=False).as_dict(),
        }
        statistics = (lambda x, y: set_overlaps(self._top(x), self._top(y))["jaccard"], self._rbo, _magnitude_correlation)
        n = self._affordable(self.sampling.n_null)
        draws = score_null(self.first.mean, self.second.mean, statistics, strata, n=n, seed=self.sampling.seed)
        jaccard, rbo, rank = (_summary(values) for values in draws)
        jaccard["p"] = _one_sided(self.overlaps["jaccard"], draws[0])
        rbo["p"] = _one_sided(self.rank_agreement["rbo"], draws[1])
        rank["p"] = two_sided(self.rank_agreement["spearman"], draws[2])
        sampled = {name: {"within_layer_scores": summary} for name, summary in (("rbo", rbo), ("spearman", rank))}
        return {"jaccard": exact | {"within_layer_scores": jaccard}, **sampled}

    def as_dict(self) -> dict[str, Any]:
        """The fields of a `PairRow`, except the names, ``ready`` and the correction for multiple comparisons."""
        limits, nulls = self.intervals(), self.nulls()
        chance = nulls["jaccard"][self.sampling.null]
        return {
            **self.overlaps,
            **self.rank_agreement,
            "jaccard": limits["jaccard"],
            "spearman": limits["spearman"],
            "spearman_p": nulls["spearman"]["within_layer_scores"]["p"],
            "shared": self.shared,
            "null": self.sampling.null,
            "null_mean": chance["mean"],
            "null_high": chance["high"],
            "p": chance["p"],
            "intervals": limits,
            "corrected": self.corrected(),
            "nulls": nulls,
        }

    @property
    def _without_pairs(self) -> bool:
        """Whether a map comes from weights alone: what noise of prompts does to the comparison is then not measured."""
        return self.first.weights_only or self.second.weights_only

    @property
    def _paired(self) -> bool:
        return self.first.same_prompts(self.second)

    def _top(self, scores: np.ndarray) -> np.ndarray:
        return top_mask(scores, self.k, self.by)

    def _rbo(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return score_overlap(ranked(first, self.by), ranked(second, self.by), p=1 - 1 / max(2, self.k))

    def _affordable(self, n: int) -> int:
        return min(n, max(100, _SAMPLED // self.first.strata.size))

    def _reachable(self) -> np.ndarray:
        """Indices of the elements that resamples may select: of many edges, those with a score near enough to the top of either map."""
        size = self.first.strata.size
        if size <= _FEW:
            return np.arange(size)
        near = np.zeros(size, dtype=bool)
        for scores in (self.first, self.second):
            score, error = ranked(scores.mean, self.by), scores.values.std(axis=0) / np.sqrt(len(scores.values))
            order = np.argsort(-score, kind="stable")
            weakest = score[order[: self.k]].min()
            near |= score + _REACH * error >= weakest - _REACH * error[order[: self.k]].max()
            near[order[: 2 * self.k]] = True
        return np.flatnonzero(near)


def _magnitude_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return spearman(np.abs(first), np.abs(second))


def _summary(null: np.ndarray) -> dict[str, float]:
    if np.isnan(null).all():
        return {"mean": float("nan"), "high": float("nan")}
    return {"mean": float(np.nanmean(null)), "high": float(np.nanquantile(null, 0.95, method="inverted_cdf"))}


def _one_sided(observed: float, null: np.ndarray) -> float:
    return float((1 + np.sum(null >= observed - 1e-12)) / (1 + null.size))
