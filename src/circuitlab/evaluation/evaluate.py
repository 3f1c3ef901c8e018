"""Evaluate: the settings of an evaluation, the circuits that it runs, and the measures that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from circuitlab.circuits.chance import random_masks, random_subsets
from circuitlab.circuits.curves import FRACTIONS, FaithfulnessCurve, FaithfulnessScale, sizes_of
from circuitlab.circuits.select import Ranking, mean_of, top_mask
from circuitlab.comparison.runner import run_named
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
    """Measures a circuit: faithfulness, completeness, minimality, the curve over sizes with CPR and CMD, and random circuits.

    A circuit with edges is run as a circuit of edges (`EdgeCircuitRunner`), a circuit of nodes alone as one of nodes (`NodeCircuitRunner`).

    Parameters
    ----------
    ablation : {"resample", "zero", "mean", "mean_by_mark", "mean_by_template"}
        What replaces everything outside a circuit; see `circuitlab.evaluation.values`.
    parts : tuple of str, optional
        Universe of a circuit of nodes: ``("heads",)`` keeps all MLPs, ``("heads", "mlps")`` ablates the MLPs outside the circuit. If not
        given, the kinds of node in the circuit.
    keep_at : mapping of Head, Mlp or Edge to tuple of str
        Marks at which nodes or edges of a circuit are kept, as in `NodeCircuitRunner` and `EdgeCircuitRunner`. Nodes and edges that are not
        listed are kept at every position, in random circuits too.
    n_random : int
        Number of random circuits of the same size.
    matching : {"size", "layer"}
        Whether random circuits have as many heads and MLPs (or edges) as the circuit in total, or in every layer (nodes only).
    n_subsets : int
        Number of random subsets K for completeness.
    classes : mapping of str to frozenset of Node or Edge
        Named subsets K for completeness, such as the classes of a published circuit; elements outside the circuit are ignored.
    n_greedy : int
        Size up to which the worst subset K is grown greedily; each step costs two runs per element of the circuit.
    fractions : tuple of float
        Sizes of the curve, as fractions of the universe.
    most_elements : int
        Largest circuit for which minimality is measured; it costs one run per element.
    seed : int
        Seed of random circuits, subsets and the bootstrap.

    Raises
    ------
    UnknownNameError
        If there is no such ablation or matching.
    BadParameterError
        If a number is negative, or the fractions cannot be sizes.

    Notes
    -----
    Cost: ``1 + 2 x sizes + n_random + 2 x (n_subsets + classes) + (1 + 2 x n_greedy) x elements`` runs per pair; equal circuits are run
    once.

    Evaluate on other pairs than the circuit was selected from: on the same pairs it looks more faithful than it is.

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
        """Run the circuit and everything that it is compared with.

        Parameters
        ----------
        circuit : Circuit
            The circuit, of nodes or of nodes and edges.
        model, batch, metric
            What it is run on, preferably pairs that it was not selected from, and the metric that reads the logits.
        scores : HeadScores or EdgeScores, optional
            Scores that rank nodes (or edges) for the curve; without scores there is no curve, CPR or CMD.

        Returns
        -------
        Evaluation
            The metric of every circuit on every pair, and all measures.

        Raises
        ------
        EmptyGapError
            If ablating everything does not change the mean metric.
        BadParameterError
            If the circuit has elements outside its universe, or the batch does not fit the model.
        IncompatibleError
            If the circuit or the scores belong to a model of another shape, or the scores rank other elements.
        """
        from circuitlab.model.hooks import full_precision  # noqa: PLC0415 - torch

        require_fit(model, batch)
        model.refresh()
        with full_precision():
            return self._evaluate(circuit, self._runner(circuit, model, batch, metric), metric, scores)

    def _evaluate(self, circuit: Circuit, runs: MaskedRuns, metric: Metric, scores: HeadScores | EdgeScores | None) -> Evaluation:
        mask = runs.mask_of(circuit)
        masks: dict[str, np.ndarray] = {"circuit": mask[None]}
        sizes = sizes_of(mask.size, self.fractions)
        if scores is not None:
            means = _mean_scores(runs, scores)
            masks |= {by: np.stack([top_mask(means, size, by) for size in sizes]) for by in _RANKINGS}
        masks["random"] = random_masks(mask, self._strata(runs), self.n_random, seed=self.seed)
        members = np.flatnonzero(mask)
        affordable = members.size <= self.most_elements
        masks["one_less"] = mask & ~np.eye(mask.size, dtype=bool)[members] if affordable else mask[None][:0]
        subsets = self._subsets(runs, mask)
        for kind, removed in subsets.items():
            masks |= {f"{kind}/circuit": mask & ~removed, f"{kind}/model": ~removed}
        values = run_named(runs, masks)
        full, empty = runs.full_and_empty
        scale = FaithfulnessScale(full, empty, seed=self.seed)
        return Evaluation(
            circuit=circuit,
            scale=scale,
            values=values,
            elements=runs.names(mask),
            n_elements=mask.size,
            subsets={kind: self._subset_names(runs, kind, removed) for kind, removed in subsets.items()},
            curves={by: FaithfulnessCurve(self.fractions, tuple(sizes), values[by], scale, by) for by in _RANKINGS if by in values},
            conventions=runs.conventions | {"metric": metric.name, "units": metric.units, "random_circuits": self._describe_random(runs)},
        )

    def _subsets(self, runs: MaskedRuns, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Subsets K of the circuit by kind, each a mask (subset, element)."""
        subsets = {"random": random_subsets(mask, self.n_subsets if mask.any() else 0, seed=self.seed + 1)}
        inside = [[element in members for element in runs.elements] for members in self.classes.values()]
        subsets["classes"] = np.array(inside, dtype=bool).reshape(-1, mask.size) & mask
        subsets["greedy"] = greedy_subsets(runs, mask, self.n_greedy)
        return subsets

    def _subset_names(self, runs: MaskedRuns, kind: str, subsets: np.ndarray) -> tuple[tuple[str, tuple[str, ...]], ...]:
        titles = list(self.classes) if kind == "classes" else [f"{kind} {i + 1}" for i in range(len(subsets))]
        return tuple(zip(titles, map(runs.names, subsets), strict=True))

    def _runner(self, circuit: Circuit, model: Model, batch: ContrastBatch, metric: Metric) -> MaskedRuns:
        if circuit.edges is not None:
            return EdgeCircuitRunner(model, batch, metric, self.ablation, self.keep_at)  # type: ignore[arg-type]
        kinds = {"mlps" if isinstance(node, Mlp) else "heads" for node in circuit.nodes}
        parts = self.parts or tuple(part for part in ("heads", "mlps") if part in kinds) or ("heads",)
        return NodeCircuitRunner(model, batch, metric, parts, self.ablation, self.keep_at)  # type: ignore[arg-type]

    def _strata(self, runs: MaskedRuns) -> np.ndarray:
        if self.matching == "size" or isinstance(runs, EdgeCircuitRunner):
            return runs.strata
        return runs.strata + 2 * np.array([node.layer for node in runs.elements])  # type: ignore[attr-defined]

    def _describe_random(self, runs: MaskedRuns) -> str:
        if isinstance(runs, EdgeCircuitRunner):
            return "as many edges, uniform over all edges"
        return "as many heads and MLPs, uniform over the universe" + (", layer by layer" if self.matching == "layer" else "")


def greedy_subsets(runs: MaskedRuns, mask: np.ndarray, steps: int) -> np.ndarray:
    """Grow a subset K of a circuit so that the circuit and the full model respond as differently as possible when K is ablated.

    Each step adds the element with the largest |mean m(C without K) - mean m(full without K)|. The largest of many differences is selected,
    so the same K would show a smaller difference on other pairs.

    Parameters
    ----------
    runs : MaskedRuns
        Runs circuits.
    mask : ndarray of bool, shape (element,)
        The circuit.
    steps : int
        Number of elements to add.

    Returns
    -------
    ndarray of bool, shape (step, element)
        K after every step; no more steps than the circuit has elements.

    References
    ----------
    Wang et al. (2022), arXiv:2211.00593.
    """
    grown = np.zeros_like(mask)
    subsets = np.zeros((min(steps, int(mask.sum())), mask.size), dtype=bool)
    for row in subsets:
        trials = grown | np.eye(mask.size, dtype=bool)[np.flatnonzero(mask & ~grown)]
        circuit, model = np.split(runs.metric_of(np.concatenate([mask & ~trials, ~trials])), 2)
        grown = trials[np.abs((circuit - model).mean(1)).argmax()]
        row[:] = grown
    return subsets


def _mean_scores(runs: MaskedRuns, scores: HeadScores | EdgeScores) -> np.ndarray:
    """Mean score of every element of the universe, (element,)."""
    if isinstance(runs, EdgeCircuitRunner):
        if not isinstance(scores, EdgeScores):
            what = "A curve over edges needs scores of edges."
            raise IncompatibleError(what, "Give EdgeScores, from eap(...).edges for example, or evaluate a circuit of nodes.")
        return scores.mean()[runs.layout.edge_indices]
    if isinstance(scores, EdgeScores) or not isinstance(runs, NodeCircuitRunner):
        what = "A curve over nodes needs scores of nodes."
        raise IncompatibleError(what, "Give HeadScores, for example EdgeScores.to_head_scores().")
    return np.concatenate([mean_of(scores, part, None).ravel() for part in ("heads", "mlps") if part in runs.parts])
