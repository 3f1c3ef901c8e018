"""Evaluate a circuit: which circuits have to be run, and what is read off them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from circuitlab.circuits.chance import random_masks, random_subsets
from circuitlab.circuits.curves import FRACTIONS, FaithfulnessCurve, FaithfulnessScale, sizes_of
from circuitlab.circuits.select import Ranking, mean_of, top_mask
from circuitlab.core.errors import BadParameterError, IncompatibleError, UnknownNameError
from circuitlab.core.nodes import Edge, Head, Mlp, Node
from circuitlab.evaluation.edges import EdgeCircuitRunner
from circuitlab.evaluation.evaluation import Evaluation
from circuitlab.evaluation.nodes import NodeCircuitRunner
from circuitlab.evaluation.runs import MaskedRuns
from circuitlab.evaluation.values import Ablation, require_ablation
from circuitlab.execute.contract import fields_as_tuples
from circuitlab.model.inside import require_fit
from circuitlab.scores.edge_scores import EdgeScores

if TYPE_CHECKING:
    from circuitlab.circuits.circuit import Circuit
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["Evaluate", "greedy_subsets"]

_RANKINGS: tuple[Ranking, ...] = ("absolute", "positive")


@dataclass(frozen=True)
class Evaluate:
    """Measures of one circuit: faithfulness, completeness, minimality, the curve over sizes with CPR and CMD, and random circuits.

    A circuit with edges is run as a circuit of edges (`EdgeCircuitRunner`), one of nodes alone as a circuit of nodes (`NodeCircuitRunner`).

    Parameters
    ----------
    ablation : {"resample", "zero", "mean", "mean_by_mark", "mean_by_template"}
        What everything outside a circuit is given.
    parts : tuple of str, optional
        Universe of a circuit of nodes: ``("heads",)`` keeps all MLPs, ``("heads", "mlps")`` ablates those outside the circuit. The kinds
        of node that the circuit holds otherwise.
    keep_at : mapping of Head, Mlp or Edge to tuple of str
        Marks at which nodes or edges of a circuit are kept, as in `NodeCircuitRunner` and `EdgeCircuitRunner`; random circuits keep
        what it does not name everywhere.
    n_random : int
        Size-matched random circuits.
    matching : {"size", "layer"}
        Random circuits have as many heads and MLPs (or edges) as the circuit, in all or in every layer (nodes only).
    n_subsets : int
        Random subsets K for completeness.
    classes : mapping of str to frozenset of Node or Edge
        Named subsets K for completeness, such as the classes of a published circuit; what lies outside the circuit is left out of them.
    n_greedy : int
        Size up to which a worst subset K is grown greedily; costs two runs per element of the circuit for each step.
    fractions : tuple of float
        Sizes of the curve, as shares of the universe.
    most_elements : int
        Minimality is left out for circuits with more elements: it costs one run for each.
    seed : int
        Of random circuits, subsets and the bootstrap.

    Notes
    -----
    Cost: ``1 + 2 x sizes + n_random + 2 x (n_subsets + classes) + (1 + 2 x n_greedy) x elements`` runs per pair; equal circuits are run
    once.

    Evaluate on other pairs than those the circuit was found on: on the same ones a circuit looks more faithful than it is.

    References
    ----------
    Wang et al. (2022), arXiv:2211.00593 (faithfulness, completeness, minimality). Mueller et al. (2025), MIB, arXiv:2504.13151 (CPR, CMD).
    Shi et al. (2024), Hypothesis Testing the Circuit Hypothesis in LLMs, arXiv:2410.13032 (random circuits).
    """

    ablation: Ablation = "resample"
    parts: tuple[str, ...] | None = None
    keep_at: Mapping[Head | Mlp, tuple[str, ...]] | Mapping[Edge, tuple[str, ...]] = field(default_factory=dict)
    n_random: int = 100
    matching: Literal["size", "layer"] = "size"
    n_subsets: int = 10
    classes: Mapping[str, frozenset[Node] | frozenset[Edge]] = field(default_factory=dict)
    n_greedy: int = 0
    fractions: tuple[float, ...] = FRACTIONS
    most_elements: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        fields_as_tuples(self)
        require_ablation(self.ablation)
        if self.matching not in {"size", "layer"}:
            raise UnknownNameError("matching", self.matching, ["size", "layer"])
        counts = {name: getattr(self, name) for name in ("n_random", "n_subsets", "n_greedy", "most_elements")}
        if min(counts.values()) < 0:
            what = f"{', '.join(f'{name}={count}' for name, count in counts.items())} cannot be run."
            raise BadParameterError(what, "Use 0 to leave a measure out.")
        sizes_of(1, self.fractions)

    def __call__(
        self,
        circuit: Circuit,
        model: Model,
        batch: ContrastBatch,
        metric: Metric,
        scores: HeadScores | EdgeScores | None = None,
    ) -> Evaluation:
        """Run the circuit and everything it is compared with.

        Parameters
        ----------
        circuit : Circuit
            Nodes, or nodes and edges.
        model, batch, metric
            What it is run on; best on pairs that it was not found on.
        scores : HeadScores or EdgeScores, optional
            What ranks nodes (or edges) for the curve; without it there is no curve, CPR or CMD.

        Raises
        ------
        EmptyGapError
            If ablating everything does not change the mean metric.
        BadParameterError, IncompatibleError
            If the circuit holds what its universe does not, or belongs to another model, or the model cannot take the batch.
        """
        from circuitlab.model.hooks import full_precision  # noqa: PLC0415 - torch

        require_fit(model, batch)
        model.refresh()
        with full_precision():
            return self._measured(circuit, self._runs(circuit, model, batch, metric), metric, scores)

    def _measured(self, circuit: Circuit, runs: MaskedRuns, metric: Metric, scores: HeadScores | EdgeScores | None) -> Evaluation:
        mask = runs.mask_of(circuit)
        masks: dict[str, np.ndarray] = {"circuit": mask[None]}
        sizes = sizes_of(mask.size, self.fractions)
        if scores is not None:
            ranks = _values(runs, scores)
            masks |= {by: np.stack([top_mask(ranks, size, by) for size in sizes]) for by in _RANKINGS}
        masks["random"] = random_masks(mask, self._strata(runs), self.n_random, seed=self.seed)
        members = np.flatnonzero(mask)
        measured = members.size <= self.most_elements
        masks["one_less"] = mask & ~np.eye(mask.size, dtype=bool)[members] if measured else mask[None][:0]
        subsets = self._subsets(runs, mask)
        for kind, some in subsets.items():
            masks |= {f"{kind}/circuit": mask & ~some, f"{kind}/model": ~some}
        values = _split(runs, masks)
        full, empty = runs.ends
        ends = FaithfulnessScale(full, empty, seed=self.seed)
        return Evaluation(
            circuit=circuit,
            ends=ends,
            values=values,
            elements=runs.names(mask),
            n_elements=mask.size,
            subsets={kind: self._named(runs, kind, some) for kind, some in subsets.items()},
            curves={by: FaithfulnessCurve(self.fractions, tuple(sizes), values[by], ends, by) for by in _RANKINGS if by in values},
            conventions=runs.conventions | {"metric": metric.name, "units": metric.units, "random_circuits": self._words(runs)},
        )

    def _subsets(self, runs: MaskedRuns, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Subsets K of the circuit by kind, each (subset, element)."""
        found = {"random": random_subsets(mask, self.n_subsets if mask.any() else 0, seed=self.seed + 1)}
        inside = [[element in chosen for element in runs.elements] for chosen in self.classes.values()]
        found["classes"] = np.array(inside, dtype=bool).reshape(-1, mask.size) & mask
        found["greedy"] = greedy_subsets(runs, mask, self.n_greedy)
        return found

    def _named(self, runs: MaskedRuns, kind: str, subsets: np.ndarray) -> tuple[tuple[str, tuple[str, ...]], ...]:
        titles = list(self.classes) if kind == "classes" else [f"{kind} {i + 1}" for i in range(len(subsets))]
        return tuple(zip(titles, map(runs.names, subsets), strict=True))

    def _runs(self, circuit: Circuit, model: Model, batch: ContrastBatch, metric: Metric) -> MaskedRuns:
        if circuit.edges is not None:
            return EdgeCircuitRunner(model, batch, metric, self.ablation, self.keep_at)  # type: ignore[arg-type]
        kinds = {"mlps" if isinstance(node, Mlp) else "heads" for node in circuit.nodes}
        parts = self.parts or tuple(part for part in ("heads", "mlps") if part in kinds) or ("heads",)
        return NodeCircuitRunner(model, batch, metric, parts, self.ablation, self.keep_at)  # type: ignore[arg-type]

    def _strata(self, runs: MaskedRuns) -> np.ndarray:
        if self.matching == "size" or isinstance(runs, EdgeCircuitRunner):
            return runs.strata
        return runs.strata + 2 * np.array([node.layer for node in runs.elements])  # type: ignore[attr-defined]

    def _words(self, runs: MaskedRuns) -> str:
        if isinstance(runs, EdgeCircuitRunner):
            return "as many edges, uniform over all edges"
        return "as many heads and MLPs, uniform over the universe" + (", layer by layer" if self.matching == "layer" else "")


def greedy_subsets(runs: MaskedRuns, mask: np.ndarray, steps: int) -> np.ndarray:
    """Grow a subset K of a circuit, one element at a time, so that circuit and model respond as differently as can be to its loss.

    Each step adds the element with the largest |mean m(C without K) - mean m(full without K)|, as Wang et al. (2022) do. The found
    differences are the largest of many, so that they overstate what the same K would show on other pairs.

    Returns
    -------
    ndarray of bool, shape (step, element)
        K after every step; at most as many as the circuit has elements.
    """
    grown = np.zeros_like(mask)
    path = np.zeros((min(steps, int(mask.sum())), mask.size), dtype=bool)
    for row in path:
        trials = grown | np.eye(mask.size, dtype=bool)[np.flatnonzero(mask & ~grown)]
        circuit, whole = np.split(runs.metric_of(np.concatenate([mask & ~trials, ~trials])), 2)
        grown = trials[np.abs((circuit - whole).mean(1)).argmax()]
        row[:] = grown
    return path


def _values(runs: MaskedRuns, scores: HeadScores | EdgeScores) -> np.ndarray:
    """Mean score of every element of the universe, (element,)."""
    if isinstance(runs, EdgeCircuitRunner):
        if not isinstance(scores, EdgeScores):
            what = "A curve over edges needs scores of edges."
            raise IncompatibleError(what, "Give EdgeScores, from eap(...).edges for example, or evaluate a circuit of nodes.")
        return scores.mean()[runs.layout.places]
    if isinstance(scores, EdgeScores) or not isinstance(runs, NodeCircuitRunner):
        what = "A curve over nodes needs scores of nodes."
        raise IncompatibleError(what, "Give HeadScores, for example EdgeScores.to_head_scores().")
    return np.concatenate([mean_of(scores, part, None).ravel() for part in ("heads", "mlps") if part in runs.parts])


def _split(runs: MaskedRuns, masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run all masks in one go, and give the metric (circuit, pair) by name."""
    stacked = runs.metric_of(np.concatenate(list(masks.values())))
    found, start = {}, 0
    for name, some in masks.items():
        found[name] = stacked[start : start + len(some)]
        start += len(some)
    return found
