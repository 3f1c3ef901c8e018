"""Selection rules: from scores to a circuit. A rule is a frozen dataclass you can call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np

from circuitlab.circuits.circuit import Circuit
from circuitlab.errors import BadParameterError, UnknownNameError
from circuitlab.scores.parts import PARTS

if TYPE_CHECKING:
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["Ranking", "Rule", "Significant", "Threshold", "TopK", "ranked", "top_mask"]

Ranking: TypeAlias = Literal["absolute", "positive", "negative"]
_RANKINGS = ("absolute", "positive", "negative")


class Rule(Protocol):
    """Picks a circuit from scores."""

    def __call__(self, scores: HeadScores) -> Circuit:
        """The circuit."""
        ...


def ranked(values: np.ndarray, by: Ranking) -> np.ndarray:
    """The quantity a ranking sorts by, larger first: magnitude, value, or minus the value."""
    if by not in _RANKINGS:
        raise UnknownNameError("ranking", by, _RANKINGS)
    return {"absolute": np.abs(values), "positive": values, "negative": -values}[by]


def top_mask(values: np.ndarray, k: int, by: Ranking = "absolute") -> np.ndarray:
    """True at the ``k`` highest-ranked entries along the last axis of (..., node); ties go to the earlier node."""
    order = np.argsort(-ranked(values, by), axis=-1, kind="stable")[..., :k]
    mask = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(mask, order, values=True, axis=-1)
    return mask


@dataclass(frozen=True)
class TopK:
    """The ``k`` nodes with the largest mean score.

    Parameters
    ----------
    k : int
        How many.
    part : str
        Which part of the scores.
    by : {"absolute", "positive", "negative"}
        Magnitude, most helpful, or most harmful.
    """

    k: int = 20
    part: str = "heads"
    by: Ranking = "absolute"

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
        mean = scores.mean(self.part)
        if self.k > mean.size:
            what = f"TopK(k={self.k}) asks for more than the {mean.size} {PARTS[self.part].title} there are."
            raise BadParameterError(what, "Use a smaller k.")
        mask = top_mask(mean.reshape(-1), self.k, self.by).reshape(mean.shape)
        return _circuit(scores, self.part, mask, f"top {self.k} {PARTS[self.part].title} by {self.by} mean score")


@dataclass(frozen=True)
class Threshold:
    """Nodes whose mean score passes a value.

    Parameters
    ----------
    value : float
        In metric units, or as a fraction of the mean total.
    part : str
        Which part of the scores.
    by : {"absolute", "positive", "negative"}
        What is compared with the value.
    units : {"raw", "fraction"}
        ``"fraction"`` raises `EmptyGapError` where the total may be 0.
    """

    value: float
    part: str = "heads"
    by: Ranking = "absolute"
    units: Literal["raw", "fraction"] = "raw"

    def __post_init__(self) -> None:
        ranked(np.zeros(1), self.by)
        if self.units not in {"raw", "fraction"}:
            raise UnknownNameError("units", self.units, ["raw", "fraction"])

    def __call__(self, scores: HeadScores) -> Circuit:
        """The circuit of the nodes at or beyond the value."""
        mean = scores.mean(self.part) if self.units == "raw" else scores.fraction(self.part)
        unit = scores.provenance.units if self.units == "raw" else "of the total"
        return _circuit(scores, self.part, ranked(mean, self.by) >= self.value, f"{self.by} mean score >= {self.value:g} {unit}")


@dataclass(frozen=True)
class Significant:
    """Nodes whose mean differs from 0 with the false-discovery rate held at ``rate`` over the whole part.

    One-sample t-tests over pairs with the Benjamini-Hochberg correction (valid under positive dependence). This asks whether
    an effect exists, not whether it is large.

    Parameters
    ----------
    rate : float
        Expected share of false discoveries.
    part : str
        Which part of the scores.
    """

    rate: float = 0.05
    part: str = "heads"

    def __call__(self, scores: HeadScores) -> Circuit:
        """The circuit of the significant nodes; needs at least two pairs."""
        from scipy import stats  # noqa: PLC0415

        values = scores.values(self.part).astype(float)
        if values.shape[0] < 2:  # noqa: PLR2004
            what = "One pair cannot show that an effect is significant."
            raise BadParameterError(what, "Score more pairs.")
        spread = values.std(axis=0, ddof=1)
        t = np.divide(values.mean(axis=0), spread / np.sqrt(len(values)), out=np.zeros(spread.shape), where=spread > 0)
        p = 2 * stats.t.sf(np.abs(t), len(values) - 1)
        mask = stats.false_discovery_control(p.ravel()).reshape(p.shape) <= self.rate
        return _circuit(scores, self.part, mask, f"mean score not 0 at false-discovery rate {self.rate:g}")


def _circuit(scores: HeadScores, part: str, mask: np.ndarray, rule: str) -> Circuit:
    nodes = frozenset(PARTS[part].node(*map(int, index)) for index in np.argwhere(mask))
    flag = scores.provenance.fitness
    ready = flag is None or flag.ready
    return Circuit(nodes, scores.universe, None, rule, (scores.provenance.run_id(),), ready)
