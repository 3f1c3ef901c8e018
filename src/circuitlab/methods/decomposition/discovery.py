"""Recursive circuit discovery: heads relevant to the logits, then heads relevant to those, with pruning each time (Hsu et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from circuitlab.circuits.circuit import Circuit
from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head, Logits, Node
from circuitlab.execute.routes import universe_of
from circuitlab.methods.decomposition.source import Source
from circuitlab.methods.decomposition.targets import Measure, Target, normalised_by_layer, relevance_to_targets

if TYPE_CHECKING:
    from circuitlab.methods.contextual_decomposition import ContextualDecomposition
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["CircuitRuns", "Recursion", "RecursionStage", "Search", "discover_by_relevance"]

_AHEAD = 8
"""Heads whose removal is tried in one pass when a circuit is pruned."""


class CircuitRuns(Protocol):
    """Runs circuits of heads, such as `circuitlab.evaluation.NodeCircuitRunner` with ``parts=("heads",)``."""

    @property
    def elements(self) -> Sequence[object]:
        """Every head, in the order of the masks."""
        ...

    @property
    def full_and_empty(self) -> tuple[np.ndarray, np.ndarray]:
        """Metric of the full model and of the empty circuit, each (pair,)."""
        ...

    def metric_of(self, masks: np.ndarray) -> np.ndarray:
        """Metric of each circuit, (circuit, pair), all heads outside it ablated."""
        ...


@dataclass(frozen=True)
class Search:
    """Sizes and thresholds of a recursive discovery.

    Parameters
    ----------
    top : float
        Share of all heads that a stage adds before pruning, in (0, 1]; rounded up to whole heads.
    close : float
        Stop when the circuit's mean metric is within this share of the gap between full and empty circuit.
    most_stages : int
        Most stages.
    measure : {"ratio", "share"}
        Measure of relevance to heads, as in `relevance_to_targets`.
    prune : bool
        Whether heads whose removal raises the metric are dropped.

    Raises
    ------
    BadParameterError
        If a value is out of range.
    """

    top: float = 0.05
    close: float = 0.05
    most_stages: int = 5
    measure: Measure = "ratio"
    prune: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.top <= 1 or self.close < 0 or self.most_stages < 1:
            what = f"top={self.top}, close={self.close}, most_stages={self.most_stages} cannot find a circuit."
            raise BadParameterError(what, "Use a share in (0, 1], a distance of at least 0, and at least one stage.")


@dataclass(frozen=True, eq=False)
class RecursionStage:
    """One stage of a recursive discovery.

    Parameters
    ----------
    targets : tuple of str
        The targets of relevance: ``"logits"``, or the heads of the circuit so far.
    relevance : mapping of Head to float
        Mean relevance of every candidate head: to the logits in metric units, to heads relative to the mean of its layer.
    added, dropped : tuple of Head
        Heads that were added, and heads (old or new) that pruning removed.
    circuit : tuple of Head
        The circuit after this stage.
    value : float
        Its mean metric.
    edges : mapping of (Head, Node) to float
        Mean relevance of the added heads to each target: to the logits in metric units, to heads as measured.
    """

    targets: tuple[str, ...]
    relevance: Mapping[Head, float] = field(repr=False)
    added: tuple[Head, ...]
    dropped: tuple[Head, ...]
    circuit: tuple[Head, ...]
    value: float
    edges: Mapping[tuple[Head, Node], float] = field(repr=False)


@dataclass(frozen=True, eq=False)
class _Ranking:
    """Relevance of the heads that a stage can add, to all targets together and to each target."""

    targets: tuple[str, ...]
    relevance: Mapping[Head, float]
    edges: Mapping[tuple[Head, Node], float]


@dataclass(frozen=True, eq=False)
class Recursion:
    """The result of a recursive discovery.

    Parameters
    ----------
    stages : tuple of RecursionStage
        Stages from the logits backwards. The last one may not have improved on the stage before it.
    circuit : Circuit
        Heads of the best stage.
    full, empty : float
        Mean metric with all heads, and with none.
    stopped : str
        Why the search ended.
    """

    stages: tuple[RecursionStage, ...]
    circuit: Circuit
    full: float
    empty: float
    stopped: str


def discover_by_relevance(
    model: Model,
    batch: ContrastBatch,
    metric: Metric,
    runs: CircuitRuns,
    *,
    search: Search | None = None,
    method: ContextualDecomposition | None = None,
) -> Recursion:
    """Find a circuit of heads stage by stage.

    The first stage ranks all heads by the magnitude of their relevance to the logits. Each later stage ranks the heads outside the
    circuit by their relevance to z of the circuit's heads, summed over these and divided by the mean of the head's layer. The top share
    is added. Then heads whose removal raises the mean metric of the circuit (everything outside it ablated, MLPs kept) are removed one
    after another, as long as that helps. The search ends when the circuit's metric is close to the full model's, when a stage brings it
    no closer, or when no head is left to add.

    Parameters
    ----------
    model, batch, metric : Model, ContrastBatch, Metric
        The model, the pairs and the metric of relevance.
    runs : CircuitRuns
        Runs that evaluate circuits, for example ``NodeCircuitRunner(model, batch, metric, ("heads",), "mean")``.
    search : Search, optional
        Sizes and thresholds.
    method : ContextualDecomposition, optional
        Rule and baseline; its parts and positions are replaced.

    Notes
    -----
    Cost: one decomposition of every head per stage, and one run per head of the circuit for each round of pruning. A circuit that is
    pruned on some pairs looks better on them than on others: evaluate it on new pairs.

    References
    ----------
    Hsu et al. (2024), arXiv:2407.00886, algorithm 1.
    """
    from circuitlab.methods.contextual_decomposition import ContextualDecomposition  # noqa: PLC0415 - it builds on this package

    settings = replace(method or ContextualDecomposition(), parts=("heads",), positions=("all",))
    return _Search(model, batch, metric, runs, search or Search(), settings).run()


@dataclass(frozen=True, eq=False)
class _Search:
    """The search, with what all stages share."""

    model: Model
    batch: ContrastBatch
    metric: Metric
    runs: CircuitRuns
    search: Search
    method: ContextualDecomposition

    def run(self) -> Recursion:
        """Run stages until one of the conditions to stop holds."""
        full, empty = (float(metric.mean()) for metric in self.runs.full_and_empty)
        scores = self.method(self.model, self.batch, self.metric)
        relevance = {cast("Head", entry.node): entry.mean for entry in scores.nodes()}
        ranking = _Ranking(("logits",), relevance, {(head, Logits()): value for head, value in relevance.items()})
        stages: list[RecursionStage] = []
        best, stopped = 0, f"{self.search.most_stages} stages were run"
        for number in range(self.search.most_stages):
            stage = self._stage(ranking, stages[best].circuit if stages else ())
            stages.append(stage)
            if number and abs(stage.value - full) >= abs(stages[best].value - full):
                stopped = "the last stage brought the circuit no closer to the full model"
                break
            best = number
            if abs(stage.value - full) <= self.search.close * abs(full - empty):
                stopped = "the circuit is close to the full model"
                break
            ranking = self._upstream(stage.circuit)
            if not any(ranking.relevance.values()):
                stopped = "no head is left that comes before the circuit"
                break
        rule = f"{best + 1} of {len(stages)} stages of relevance by contextual decomposition, top {self.search.top:.3g} of heads each"
        flag = scores.provenance.fitness
        circuit = Circuit(
            frozenset(stages[best].circuit),
            universe_of(self.model),
            rule=rule + (", pruned" if self.search.prune else ""),
            sources=(scores.provenance.run_id(),),
            ready=flag is None or flag.ready,
        )
        return Recursion(tuple(stages), circuit, full, empty, stopped)

    def _stage(self, ranking: _Ranking, before: Sequence[Head]) -> RecursionStage:
        """Add the most relevant heads to a circuit and prune it."""
        relevance = ranking.relevance
        count = math.ceil(self.search.top * len(self.runs.elements))
        candidates = sorted(
            (head for head, value in relevance.items() if value and head not in before), key=lambda head: -abs(relevance[head])
        )
        added = tuple(sorted(candidates[:count]))
        enlarged = {*before, *added}
        mask = np.array([element in enlarged for element in self.runs.elements])
        value = float(self.runs.metric_of(mask[None]).mean())
        if self.search.prune:
            mask, value = _pruned(self.runs, mask, value)
        circuit = tuple(cast("Head", self.runs.elements[i]) for i in np.flatnonzero(mask).tolist())
        return RecursionStage(
            targets=ranking.targets,
            relevance=relevance,
            added=added,
            dropped=tuple(sorted(enlarged - set(circuit))),
            circuit=circuit,
            value=value,
            edges={ends: value for ends, value in ranking.edges.items() if ends[0] in added},
        )

    def _upstream(self, circuit: Sequence[Head]) -> _Ranking:
        """Relevance of every head outside the circuit to the circuit's heads."""
        last = max((head.layer for head in circuit), default=0)
        heads = [head for head in universe_of(self.model).heads() if head not in circuit and head.layer < last]
        names = tuple(map(str, circuit))
        if not heads:
            return _Ranking(names, {}, {})
        sources = [Source((head,)) for head in heads]
        targets = [Target(head) for head in circuit]
        relevance = relevance_to_targets(self.model, self.batch, sources, targets, self.method.options, measure=self.search.measure).mean(
            -1
        )
        normalised = normalised_by_layer(relevance.sum(-1), sources).tolist()
        edges: dict[tuple[Head, Node], float] = {
            (head, other): float(relevance[i, j]) for i, head in enumerate(heads) for j, other in enumerate(circuit)
        }
        return _Ranking(names, dict(zip(heads, normalised, strict=True)), edges)


def _pruned(runs: CircuitRuns, mask: np.ndarray, value: float) -> tuple[np.ndarray, float]:
    """Remove heads in forward order if that raises the mean metric, until no removal does."""
    mask, changed = mask.copy(), True
    while changed:
        changed, waiting = False, np.flatnonzero(mask).tolist()
        while waiting:
            chunk = waiting[:_AHEAD]
            trials = mask & ~np.eye(mask.size, dtype=bool)[chunk]
            values = runs.metric_of(trials).mean(1)
            better = np.flatnonzero(values > value)
            if not better.size:
                waiting = waiting[_AHEAD:]
                continue
            first = int(better[0])
            mask, value, changed = trials[first], float(values[first]), True
            waiting = waiting[first + 1 :]
    return mask, value
