"""Two score maps compared: overlap of what is picked from them, rank agreement, intervals, and what chance would give."""

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
from circuitlab.comparison.shared import SharedCount, resampled_picks, shared_count
from circuitlab.scores.intervals import no_interval

__all__ = ["Comparison", "Sampling"]

_FEW = 1500  # elements up to which every one is resampled; of more, only those that can be picked
_REACH = 8.0  # standard errors within which an element may reach the top
_SAMPLED = 40_000_000  # scores that permutations and resamples of whole maps may touch


@dataclass(frozen=True)
class Sampling:
    """How much is sampled.

    Parameters
    ----------
    n_boot : int
        Draws for intervals.
    n_null : int
        Permutations of scores; fewer for maps of many edges.
    seed : int
        Seed of both.
    null : {"layer_stratified", "uniform", "within_layer_scores"}
        Which null model the p-value of the Jaccard index comes from.

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
    """The top ``k`` elements of two score maps.

    Parameters
    ----------
    first, second : ScoreMap
        Of the same elements.
    k, by : int, str
        How many are picked, and by which ranking.
    sampling : Sampling
        How much is sampled.
    """

    first: ScoreMap
    second: ScoreMap
    k: int
    by: Ranking
    sampling: Sampling

    @cached_property
    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """What is picked from each map, (element,)."""
        return self._top(self.first.mean), self._top(self.second.mean)

    @cached_property
    def overlaps(self) -> dict[str, float]:
        """Every overlap measure of the two picks."""
        return {name: float(value) for name, value in set_overlaps(*self.masks).items()}

    @property
    def shared(self) -> list[str]:
        """Names of what both picks hold, in forward order."""
        return [str(node) for node in sorted(self.first.element(int(i)) for i in np.flatnonzero(self.masks[0] & self.masks[1]))]

    @cached_property
    def shared_count(self) -> SharedCount:
        """How many elements both picks hold, corrected for noise and with limits, selection included."""
        kept = self._reachable()
        values = self.first.values[:, kept], self.second.values[:, kept]
        sampling = self.sampling
        resampled = resampled_picks(*values, self._top, paired=self._paired, n=sampling.n_boot, seed=sampling.seed)
        return shared_count(self.masks, resampled, min(len(self.first.values), len(self.second.values)))

    @cached_property
    def rank_correlation(self) -> Bootstrap:
        """Spearman correlation of magnitudes, on resampled pairs."""
        n = self._affordable(self.sampling.n_boot)
        return bootstrap(self.first.values, self.second.values, _magnitudes, paired=self._paired, n=n, seed=self.sampling.seed)

    def intervals(self) -> dict[str, dict[str, float]]:
        """95 % limits of every overlap measure and of Spearman's correlation, beside the value as it is picked or computed.

        They are limits of the true value and lie around `corrected`; NaN where a map comes from weights alone. Rank-biased overlap has
        none: it hangs on the order of the very first heads, and simulated intervals held the truth in 70 to 90 % of cases only.
        """
        if self._without_pairs:
            known = self.overlaps | {"spearman": self.rank_agreement["spearman"]}
            return {name: no_interval(np.float64(value)).as_dict() for name, value in known.items()}
        found = self.shared_count.intervals() | {"spearman": self.rank_correlation.interval()}
        return {name: one.as_dict() for name, one in found.items()}

    def corrected(self) -> dict[str, float]:
        """What every overlap measure and Spearman's correlation would be without noise: the centre of each interval, or NaN."""
        if self._without_pairs:
            return dict.fromkeys((*self.overlaps, "spearman"), float("nan"))
        return self.shared_count.corrected_overlaps() | {"spearman": self.rank_correlation.corrected}

    @cached_property
    def rank_agreement(self) -> dict[str, float]:
        """Rank-biased overlap by the ranking that picks, and Spearman correlation of magnitudes."""
        one, two = self.first.mean[None], self.second.mean[None]
        return {"rbo": float(self._rbo(one, two)[0]), "spearman": float(_magnitudes(one, two)[0])}

    def nulls(self) -> dict[str, dict[str, dict[str, float]]]:
        """``{"mean", "high", "p"}`` by measure and null model; p of Spearman's correlation is two-sided, the others one-sided."""
        one, two = self.masks
        strata = self.first.strata
        exact = {
            "layer_stratified": overlap_null(one, two, strata=strata).as_dict(),
            "uniform": overlap_null(one, two, strata=strata, stratified=False).as_dict(),
        }
        statistics = (lambda x, y: set_overlaps(self._top(x), self._top(y))["jaccard"], self._rbo, _magnitudes)
        n = self._affordable(self.sampling.n_null)
        drawn = score_null(self.first.mean, self.second.mean, statistics, strata, n=n, seed=self.sampling.seed)
        jaccard, rbo, rank = (_summary(values) for values in drawn)
        jaccard["p"] = _one_sided(self.overlaps["jaccard"], drawn[0])
        rbo["p"] = _one_sided(self.rank_agreement["rbo"], drawn[1])
        rank["p"] = two_sided(self.rank_agreement["spearman"], drawn[2])
        sampled = {name: {"within_layer_scores": found} for name, found in (("rbo", rbo), ("spearman", rank))}
        return {"jaccard": exact | {"within_layer_scores": jaccard}, **sampled}

    def as_dict(self) -> dict[str, Any]:
        """Everything about the two maps but their names and the correction for many comparisons."""
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
        """Elements that resamples may pick: of many edges, those whose score lies near enough to the top of either map."""
        size = self.first.strata.size
        if size <= _FEW:
            return np.arange(size)
        near = np.zeros(size, dtype=bool)
        for one in (self.first, self.second):
            score, error = ranked(one.mean, self.by), one.values.std(axis=0) / np.sqrt(len(one.values))
            order = np.argsort(-score, kind="stable")
            weakest = score[order[: self.k]].min()
            near |= score + _REACH * error >= weakest - _REACH * error[order[: self.k]].max()
            near[order[: 2 * self.k]] = True
        return np.flatnonzero(near)


def _magnitudes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return spearman(np.abs(first), np.abs(second))


def _summary(null: np.ndarray) -> dict[str, float]:
    if np.isnan(null).all():
        return {"mean": float("nan"), "high": float("nan")}
    return {"mean": float(np.nanmean(null)), "high": float(np.nanquantile(null, 0.95, method="inverted_cdf"))}


def _one_sided(observed: float, null: np.ndarray) -> float:
    return float((1 + np.sum(null >= observed - 1e-12)) / (1 + null.size))
