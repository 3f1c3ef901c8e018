"""ScoreMap: the scores per pair of all heads or edges of a model, and which of these elements are exchangeable by chance."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.circuits.select import mean_of
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.core.nodes import Edge, Head, Node
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.intervals import no_pairs

if TYPE_CHECKING:
    from circuitlab.core.provenance import Provenance

__all__ = ["ScoreMap", "score_map"]


@dataclass(frozen=True, eq=False)
class ScoreMap:
    """Scores per pair of every head, or of every edge, of a model; an element is a head or an edge.

    Parameters
    ----------
    values : ndarray, shape (pair, element)
        Scores in units of the metric; a single row for scores from weights alone, which no pair was run for.
    strata : ndarray of int, shape (element,)
        Elements of one stratum are exchangeable by chance: the heads of a layer, or the edges whose senders have the same layer and kind,
        and whose receivers have the same layer, kind and port.
    element : callable
        Returns the head or edge with an index.
    provenance : Provenance
        Where the scores come from.
    """

    values: np.ndarray
    strata: np.ndarray
    element: Callable[[int], Head | Edge]
    provenance: Provenance

    @property
    def weights_only(self) -> bool:
        """Whether the scores come from weights alone."""
        return self.provenance.weights_only

    def require_pairs(self, wanted: str) -> None:
        """Raise `BadParameterError` where the scores come from weights alone; ``wanted`` is what they lack, such as an interval."""
        if self.weights_only:
            raise BadParameterError(*no_pairs(self.provenance.method, wanted))

    @property
    def mean(self) -> np.ndarray:
        """Mean over pairs, (element,)."""
        return np.asarray(self.values.mean(axis=0))

    def same_prompts(self, other: ScoreMap) -> bool:
        """Whether pair i of both maps is the same prompt, so that they share their noise."""
        if self.weights_only or other.weights_only:
            return False
        return self.provenance.task.digest == other.provenance.task.digest and len(self.values) == len(other.values)

    def require_same_elements(self, other: ScoreMap) -> None:
        """Raise `IncompatibleError` unless both maps have scores of the same heads or edges."""
        if not np.array_equal(self.strata, other.strata):
            what = f"Scores of {self.strata.size} and {other.strata.size} elements, of {self._shape()} and {other._shape()}, do not match."
            raise IncompatibleError(what, "Compare heads with heads, or edges with edges, of models of equal shape.")

    def _shape(self) -> str:
        spec = self.provenance.model
        return f"{spec.name} ({spec.n_layers} layers of {spec.n_heads} heads, {spec.n_kv_heads} key/value heads)"


def score_map(scores: HeadScores | EdgeScores, mark: str | None = None) -> ScoreMap:
    """The score map of head scores (at one mark, if they are resolved by mark) or of edge scores.

    Raises
    ------
    BadParameterError
        If the scores have a mark axis and no mark is given.
    """
    if isinstance(scores, EdgeScores):
        return _edges(scores)
    shape = mean_of(scores, "heads", mark).shape
    values = scores.values("heads", mark=mark).reshape(max(1, scores.n_pairs), -1).astype(np.float64)
    strata = np.repeat(np.arange(shape[0]), shape[1])
    return ScoreMap(values, strata, lambda i: Head(*divmod(int(i), shape[1])), scores.provenance)


def _edges(scores: EdgeScores) -> ScoreMap:
    layout = scores.layout
    senders, receivers = layout.edge_indices
    sender_codes = _codes([_kind(node) for node in layout.senders])
    receiver_codes = _codes([(*_kind(node), port) for node, port in layout.receivers])
    codes = sender_codes[senders] * (receiver_codes.max() + 1) + receiver_codes[receivers]
    strata = np.unique(codes, return_inverse=True)[1].ravel()
    values = scores.values()[:, senders, receivers].astype(np.float64)
    return ScoreMap(values, strata, lambda i: layout.edge(int(senders[i]), int(receivers[i])), scores.provenance)


def _kind(node: Node) -> tuple[str, int]:
    return type(node).__name__, getattr(node, "layer", -1)


def _codes(kinds: Sequence[Hashable]) -> np.ndarray:
    """A whole number for each entry, equal for equal kinds."""
    numbers = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
    return np.array([numbers[kind] for kind in kinds])
