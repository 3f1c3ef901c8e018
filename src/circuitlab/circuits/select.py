"""Selection rules: from scores to a circuit. A rule is a frozen dataclass that is called with scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np

from circuitlab.circuits.circuit import Circuit
from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.scores.parts import PARTS

if TYPE_CHECKING:
    from circuitlab.scores.head_scores import HeadScores

__all__ = [
    "Cumulative",
    "Ranking",
    "Rule",
    "Significant",
    "Threshold",
    "TopK",
    "mean_of",
    "needs_pairs_for",
    "p_values",
    "ranked",
    "top_heads",
    "top_mask",
]

Ranking: TypeAlias = Literal["absolute", "positive", "negative"]
_RANKINGS = ("absolute", "positive", "negative")


class Rule(Protocol):
    """A rule that selects a circuit from scores."""

    def __call__(self, scores: HeadScores) -> Circuit:
        """Select the circuit."""
        ...


def ranked(values: np.ndarray, by: Ranking) -> np.ndarray:
    """The quantity that a ranking sorts by, largest first: the magnitude, the value, or minus the value."""
    if by not in _RANKINGS:
        raise UnknownNameError("ranking", by, _RANKINGS)
    return {"absolute": np.abs(values), "positive": values, "negative": -values}[by]


def top_mask(values: np.ndarray, k: int, by: Ranking = "absolute") -> np.ndarray:
    """True at the ``k`` highest-ranked entries along the last axis of (..., node); ties go to the earlier node, NaN comes last."""
    # Partitioned instead of sorted: null models select a few of many edges thousands of times.
    keys = np.where(np.isnan(values), np.inf, -ranked(values, by))
    k = min(k, keys.shape[-1])
    if k <= 0:
        return np.zeros(values.shape, dtype=bool)
    last = np.partition(keys, k - 1, axis=-1)[..., k - 1 : k]
    mask, tied = keys < last, keys == last
    room = k - mask.sum(axis=-1, keepdims=True)
    return np.asarray(mask | (tied & (tied.cumsum(axis=-1) <= room)))


def mean_of(scores: HeadScores, part: str, mark: str | None) -> np.ndarray:
    """Mean score of each node of a part over pairs, shape (layer, ...), at one mark if the scores are resolved by mark.

    Raises
    ------
    BadParameterError
        If the scores have a mark axis and no mark is given.
    """
    _require_mark(scores, mark)
    return scores.mean(part, mark=mark)


def _require_mark(scores: HeadScores, mark: str | None) -> None:
    if scores.marks is not None and mark is None:
        what = f"These scores are resolved by mark ({', '.join(scores.marks)}), and a circuit is selected at one mark."
        raise BadParameterError(what, "Name it: TopK(..., mark=...).")


@dataclass(frozen=True)
class TopK:
    """The ``k`` nodes with the largest mean score.

    Parameters
    ----------
    k : int
        Number of nodes.
    part : str
        Part of the scores, such as ``"heads"``.
    by : {"absolute", "positive", "negative"}
        Rank by magnitude, by most helpful, or by most harmful.
    mark : str, optional
        The mark; needed if scores are resolved by mark.
    """

    k: int = 20
    part: str = "heads"
    by: Ranking = "absolute"
    mark: str | None = None

    def __post_init__(self) -> None:
        ranked(np.zeros(1), self.by)
        if self.k < 1:
            what = f"TopK(k={self.k}) selects nothing."
            raise BadParameterError(what, "Use k of at least 1.")

    def __call__(self, scores: HeadScores) -> Circuit:
        """The circuit of the top nodes.

        Raises
        ------
        BadParameterError
            If the part has fewer than ``k`` nodes.
        """
        mean = mean_of(scores, self.part, self.mark)
        if self.k > mean.size:
            what = f"TopK(k={self.k}) asks for more than the {mean.size} {PARTS[self.part].title} there are."
            raise BadParameterError(what, "Use a smaller k.")
        mask = top_mask(mean.reshape(-1), self.k, self.by).reshape(mean.shape)
        return _circuit(scores, self, mask, f"top {self.k} {PARTS[self.part].title} by {self.by} mean score")


@dataclass(frozen=True)
class Threshold:
    """The nodes whose mean score reaches a value.

    Parameters
    ----------
    value : float
        The value, in units of the metric or as a fraction of the mean total.
    part : str
        Part of the scores, such as ``"heads"``.
    by : {"absolute", "positive", "negative"}
        What is compared with the value: the magnitude, the mean score, or minus the mean score.
    units : {"raw", "fraction"}
        Units of the value; ``"fraction"`` raises `EmptyGapError` if the total may be 0.
    mark : str, optional
        The mark; needed if scores are resolved by mark.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.testing.fakes import fake_scores
    >>> scores = fake_scores(np.array([[[5.0, 0.1], [3.0, -2.0]]] * 4))  # four pairs, two layers of two heads
    >>> Threshold(2.5)(scores)
    Circuit of 2 nodes, absolute mean score >= 2.5 logits: a0.h0, a1.h0
    """

    value: float
    part: str = "heads"
    by: Ranking = "absolute"
    units: Literal["raw", "fraction"] = "raw"
    mark: str | None = None

    def __post_init__(self) -> None:
        ranked(np.zeros(1), self.by)
        if self.units not in {"raw", "fraction"}:
            raise UnknownNameError("units", self.units, ["raw", "fraction"])

    def __call__(self, scores: HeadScores) -> Circuit:
        """The circuit of the nodes that reach the value."""
        mean = mean_of(scores, self.part, self.mark)
        if self.units == "fraction":
            mean = scores.fraction(self.part, mark=self.mark)
        unit = scores.provenance.units if self.units == "raw" else "of the total"
        return _circuit(scores, self, ranked(mean, self.by) >= self.value, f"{self.by} mean score >= {self.value:g} {unit}")


@dataclass(frozen=True)
class Cumulative:
    """The smallest set of nodes whose absolute mean scores reach a share of the sum over all nodes of the part.

    Parameters
    ----------
    share : float
        Share of the summed magnitude to reach, in (0, 1]; 1 selects every node whose mean is not 0.
    part : str
        Part of the scores, such as ``"heads"``.
    mark : str, optional
        The mark; needed if scores are resolved by mark.

    Notes
    -----
    The share is one of summed magnitudes, not of the clean-corrupt gap: it tells how concentrated the scores are, not how much of the
    behaviour the nodes explain, which is faithfulness. Noise in many small scores makes the set larger.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.testing.fakes import fake_scores
    >>> scores = fake_scores(np.array([[[5.0, 0.1], [3.0, -2.0]]] * 4))  # four pairs, two layers of two heads
    >>> Cumulative(0.75)(scores)
    Circuit of 2 nodes, fewest attention heads with 0.75 of the summed absolute mean score: a0.h0, a1.h0
    """

    share: float = 0.9
    part: str = "heads"
    mark: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            what = f"Cumulative(share={self.share}) is not a share of the summed effect."
            raise BadParameterError(what, "Use a share above 0 and at most 1, such as 0.9.")

    def __call__(self, scores: HeadScores) -> Circuit:
        """The circuit of the fewest nodes that reach the share; empty if every mean is 0."""
        mean = mean_of(scores, self.part, self.mark)
        size = np.abs(mean).ravel().astype(float)
        reached = np.cumsum(np.sort(size)[::-1])
        # Slightly below the share, so that rounding of the sum never requires one node more.
        k = int(np.searchsorted(reached, self.share * reached[-1] * (1 - 1e-12))) + 1 if reached[-1] > 0 else 0
        mask = top_mask(size, k).reshape(mean.shape)
        title = PARTS[self.part].title
        return _circuit(scores, self, mask, f"fewest {title} with {self.share:g} of the summed absolute mean score")


@dataclass(frozen=True)
class Significant:
    """The nodes whose mean score differs from 0, with the false-discovery rate controlled at ``rate`` over the whole part.

    One-sample t-tests over pairs with the Benjamini-Hochberg correction, which is valid under positive dependence. They test whether an
    effect exists, not whether it is large.

    Parameters
    ----------
    rate : float
        Expected share of false discoveries among the selected nodes, in (0, 1).
    part : str
        Part of the scores, such as ``"heads"``.
    mark : str, optional
        The mark; needed if scores are resolved by mark.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.testing.fakes import fake_scores
    >>> steady, shaky = [1.0, 1.1, 0.9, 1.0], [3.0, -2.0, -4.0, 3.5]
    >>> Significant(0.05)(fake_scores(np.array([steady, shaky]).T[:, None]))  # four pairs, one layer of two heads
    Circuit of 1 nodes, mean score not 0 at false-discovery rate 0.05: a0.h0
    """

    rate: float = 0.05
    part: str = "heads"
    mark: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            what = f"Significant(rate={self.rate}) is not a false-discovery rate."
            raise BadParameterError(what, "Use a rate between 0 and 1, such as 0.05.")

    def __call__(self, scores: HeadScores) -> Circuit:
        """The circuit of the significant nodes.

        Raises
        ------
        BadParameterError
            If there are fewer than two pairs (none at all if the scores come from weights alone), or scores are resolved by mark and no
            mark is given.
        """
        from scipy import stats  # noqa: PLC0415

        scores.require_pairs(needs_pairs_for(self))
        _require_mark(scores, self.mark)
        values = scores.values(self.part, mark=self.mark).astype(float)
        if len(values) <= 1:
            what = "One pair cannot show that an effect is significant."
            raise BadParameterError(what, "Score more pairs.")
        p = p_values(values)
        mask = stats.false_discovery_control(p.ravel()).reshape(p.shape) <= self.rate
        return _circuit(scores, self, mask, f"mean score not 0 at false-discovery rate {self.rate:g}")


def needs_pairs_for(rule: object) -> str:
    """What a rule needs that only prompt pairs give, as an error names it; empty for a rule that reads only mean scores.

    It is asked before scores are computed, so that a rule that cannot select from scores of weights alone is refused before work starts.
    """
    if isinstance(rule, Significant):
        return "test whether a score differs from 0"
    return "total that scores are a share of" if isinstance(rule, Threshold) and rule.units == "fraction" else ""


def p_values(values: np.ndarray) -> np.ndarray:
    """Two-sided p-values of one-sample t-tests that the mean over pairs is 0.

    Parameters
    ----------
    values : ndarray, shape (pair, ...)
        One value per pair; at least two pairs.

    Returns
    -------
    ndarray, shape (...)
        The p-values: 1 where all values are 0, and 0 where all values are the same other number.
    """
    from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

    mean, spread = np.abs(values.mean(axis=0)), values.std(axis=0, ddof=1)
    # Without spread, a mean of 0 (a dead head) has t = 0, and any other mean has t = infinity.
    t = np.divide(mean, spread / np.sqrt(len(values)), out=np.where(mean > 0, np.inf, 0.0), where=np.ptp(values, axis=0) > 0)
    return np.asarray(2 * stats.t.sf(t, len(values) - 1))


def _circuit(scores: HeadScores, rule: TopK | Threshold | Cumulative | Significant, mask: np.ndarray, description: str) -> Circuit:
    nodes = frozenset(PARTS[rule.part].node(*map(int, index)) for index in np.argwhere(mask))
    flag = scores.provenance.fitness
    ready = flag is None or flag.ready
    description += f" at {rule.mark}" if rule.mark else ""
    return Circuit(nodes, scores.universe, None, description, (scores.provenance.run_id(),), ready)


def top_heads(scores: HeadScores, k: int = 20, *, by: Ranking = "absolute", mark: str | None = None) -> Circuit:
    """The circuit of the ``k`` strongest heads; short for `TopK`.

    Parameters
    ----------
    scores : HeadScores
        Scores from any method.
    k : int
        Number of heads.
    by : {"absolute", "positive", "negative"}
        Rank by magnitude, by most helpful, or by most harmful.
    mark : str, optional
        The mark; needed if scores are resolved by mark.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.testing.fakes import fake_scores
    >>> top_heads(fake_scores(np.array([[[5.0, 0.1], [3.0, -2.0]]] * 4)), 2, by="positive")
    Circuit of 2 nodes, top 2 attention heads by positive mean score: a0.h0, a1.h0
    """
    return TopK(k, by=by, mark=mark)(scores)
