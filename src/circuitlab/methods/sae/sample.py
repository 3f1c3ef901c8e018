"""CodeSample: the codes of a batch by several dictionaries, and statistics of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.circuits.roc import roc_of_values
from circuitlab.core.errors import UnknownNameError
from circuitlab.methods.sae.counts import edge_counts, label_p_values, unique_counts

if TYPE_CHECKING:
    from circuitlab.core.nodes import Node
    from circuitlab.methods.sae.dictionary import Dictionary

__all__ = ["CodeSample"]


@dataclass(frozen=True, eq=False)
class CodeSample:
    """Integer codes of every prompt and node.

    Parameters
    ----------
    positive, negative : ndarray of int, shape (trial, pair, place, node)
        Codes of the clean and the corrupt prompts by each trial's dictionary; -1 if no unit is active.
    nodes : tuple of Node
        Nodes along the last axis, layer by layer.
    places : tuple of str
        ``"mean"`` for the mean over positions, or marks.
    dictionaries : tuple of Dictionary
        One dictionary per trial.
    explained : tuple of float
        Share of the outputs' variance that each dictionary explains, on all prompts.
    """

    positive: np.ndarray
    negative: np.ndarray
    nodes: tuple[Node, ...]
    places: tuple[str, ...]
    dictionaries: tuple[Dictionary, ...]
    explained: tuple[float, ...]

    def counts(self, place: str | None = None, *, normalise: bool = False) -> np.ndarray:
        """The published node score in every trial, shape (trial, node): the number of codes unique to positives."""
        at = self._place(place)
        sides = zip(self.positive[:, :, at], self.negative[:, :, at], strict=True)
        return np.stack([unique_counts(ours, theirs, normalise=normalise) for ours, theirs in sides])

    def spread(self, place: str | None = None, *, normalise: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over trials of the node score, each (node,); one trial has a deviation of NaN."""
        counts = self.counts(place, normalise=normalise)
        nothing = np.full(counts.shape[1], np.nan)
        return counts.mean(0), counts.std(0, ddof=1) if len(counts) > 1 else nothing

    def agreement(self, place: str | None = None) -> float:
        """Mean Spearman correlation of node scores between two trials; NaN with one trial, or if scores do not vary."""
        from scipy.stats import rankdata  # noqa: PLC0415 - importing scipy.stats takes 0.3 s

        ranks = np.stack([rankdata(row) for row in self.counts(place)])
        ranks = ranks[ranks.std(1) > 0]
        if len(ranks) < 2:  # noqa: PLR2004 - a correlation needs two
            return float("nan")
        return float(np.corrcoef(ranks)[np.triu_indices(len(ranks), 1)].mean())

    def aurocs(self, circuit: Collection[Node], place: str | None = None, *, normalise: bool = False) -> np.ndarray:
        """Area under the ROC curve of every trial's node scores against the nodes of a known circuit, shape (trial,).

        Raises
        ------
        BadParameterError
            If the circuit holds all or none of the scored nodes.
        """
        truth = np.array([node in circuit for node in self.nodes])
        return np.array([roc_of_values(counts, truth).auroc for counts in self.counts(place, normalise=normalise)])

    def edges(self, place: str | None = None, *, normalise: bool = False) -> np.ndarray:
        """Mean over trials of the code pairs that only positives have, shape (node, node); see `edge_counts`."""
        at = self._place(place)
        sides = zip(self.positive[:, :, at], self.negative[:, :, at], strict=True)
        return np.mean([edge_counts(ours, theirs, normalise=normalise) for ours, theirs in sides], axis=0)

    def p_values(self, place: str | None = None, *, permutations: int = 2000, paired: bool = True, seed: int = 0) -> np.ndarray:
        """P-values of the mean node score, shape (node,), by shuffling clean and corrupt; see `label_p_values`."""
        at = self._place(place)
        return label_p_values(
            self.positive[:, :, at],
            self.negative[:, :, at],
            permutations=permutations,
            paired=paired,
            seed=seed,
        )

    def q_values(self, place: str | None = None, *, permutations: int = 2000, seed: int = 0) -> np.ndarray:
        """P-values of all nodes, corrected for a false-discovery rate (Benjamini and Hochberg 1995), shape (node,)."""
        from scipy.stats import false_discovery_control  # noqa: PLC0415

        corrected: np.ndarray = false_discovery_control(self.p_values(place, permutations=permutations, seed=seed))
        return corrected

    def codes_of(self, node: Node, place: str | None = None, *, trial: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Codes of one node for the clean and for the corrupt prompts, each (pair,)."""
        if node not in self.nodes:
            raise UnknownNameError("node", str(node), map(str, self.nodes))
        where = (trial, slice(None), self._place(place), self.nodes.index(node))
        return self.positive[where], self.negative[where]

    def sharing(self, node: Node, place: str | None = None, *, trial: int = 0) -> dict[int, tuple[list[int], list[int]]]:
        """Prompts by code: for each code, the pairs whose clean prompt has it and the pairs whose corrupt prompt has it."""
        ours, theirs = self.codes_of(node, place, trial=trial)
        every = sorted({*ours.tolist(), *theirs.tolist()})
        return {code: (np.flatnonzero(ours == code).tolist(), np.flatnonzero(theirs == code).tolist()) for code in every}

    def _place(self, place: str | None) -> int:
        if place is None:
            return 0
        if place not in self.places:
            raise UnknownNameError("place", place, self.places)
        return self.places.index(place)
