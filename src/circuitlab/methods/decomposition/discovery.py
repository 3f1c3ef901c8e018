"""Recursive circuit discovery: heads relevant to the logits, then heads relevant to those, pruned each time (Hsu et al. 2024)."""

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
"""Heads that are tried together when a circuit is pruned."""


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
    """How far a recursive discovery goes.

    Parameters
    ----------
    top : float
        Share of all heads that a stage adds before pruning, in (0, 1]; rounded up to whole heads.
    close : float
        Stop when the circuit's mean metric is within this share of the gap between full and empty circuit.
    most_stages : int
        Stages at most.
    measure : {"ratio", "share"}
        Relevance to heads, as in `relevance_to_targets`.
    prune : bool
        Whether heads whose removal raises the metric are dropped.

    Raises
    ------
    BadParameterError
        If nothing could be found.
    """

    top: float = 0.05
    close: float = 0.05
    most_stages: int = 5
    measure: Measure = "ratio"
    prune: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.top <= 1 or self.close < 0 or self.most_stages < 1:
            what = f"top={self.top}, close={self.close}, most_stages={self.most_stages} find nothing."
            raise BadParameterError(what, "Use a share in (0, 1], a distance of at least 0, and at least one stage.")


@dataclass(frozen=True, eq=False)
class RecursionStage:
    """One step backwards.

    Parameters
    ----------
    targets : tuple of str
        What relevance was measured to: ``"logits"``, or the heads of the circuit so far.
    relevance : mapping of Head to float
        Mean relevance of every head that was tried: in metric units to the logits, over the mean of its layer to heads.
    added, dropped : tuple of Head
        Heads that came in, and heads (old or new) that pruning took out.
    circuit : tuple of Head
        The circuit after this stage.
    value : float
        Its mean metric.
    edges : mapping of (Head, Node) to float
        Mean relevance of the heads that came in to each target: in metric units to the logits, as measured to heads.
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
    """Relevance of the heads that a stage may add: to all targets together, and to each."""

    targets: tuple[str, ...]
    relevance: Mapping[Head, float]
    edges: Mapping[tuple[Head, Node], float]


@dataclass(frozen=True, eq=False)
class Recursion:
    """What a recursive discovery found.

    Parameters
    ----------
    stages : tuple of RecursionStage
        From the logits backwards. The last may be one that did not improve on the stage before it: the circuit is then that of the best.
    circuit : Circuit
        Heads of the best stage.
    full, empty : float
        Mean metric with all heads, and with none.
    stopped : str
        Why it ended.
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

    The first stage ranks all heads by the magnitude of their relevance to the logits. Each later stage ranks the heads that are not in
    the circuit by their relevance to z of the circuit's heads, summed over these and divided by the mean of the head's layer. The top
    share comes in; then heads are taken out, one after the other and as often as it helps, whose removal raises the mean metric of the
    circuit (everything outside it ablated, MLPs kept). It ends when the circuit's metric is close to the full model's, when a stage
    brings it no closer, or when no head is left to add.

    Parameters
    ----------
    model, batch, metric : Model, ContrastBatch, Metric
        What relevance is measured on.
    runs : CircuitRuns
        What circuits are judged on, for example ``NodeCircuitRunner(model, batch, metric, ("heads",), "mean")``.
    search : Search, optional
        Sizes and thresholds.
    method : ContextualDecomposition, optional
        Rule and baseline; its parts and positions are set here.

    Notes
    -----
    Cost: one decomposition of every head per stage, and one run per head of the circuit for each round of pruning. A circuit that is
    pruned on some pairs looks better on these than on others: evaluate it on fresh ones.

    References
    ----------
    Hsu et al. (2024), arXiv:2407.00886, algorithm 1.
    """
    from circuitlab.methods.contextual_decomposition import ContextualDecomposition  # noqa: PLC0415 - it builds on this package

    how = replace(method or ContextualDecomposition(), parts=("heads",), positions=("all",))
    return _Search(model, batch, metric, runs, search or Search(), how).run()


@dataclass(frozen=True, eq=False)
class _Search:
    """What every stage shares."""

    model: Model
    batch: ContrastBatch
    metric: Metric
    runs: CircuitRuns
    search: Search
    method: ContextualDecomposition

    def run(self) -> Recursion:
        """Stage after stage until it ends."""
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
        able = sorted((head for head, value in relevance.items() if value and head not in before), key=lambda head: -abs(relevance[head]))
        added = tuple(sorted(able[:count]))
        grown = {*before, *added}
        mask = np.array([element in grown for element in self.runs.elements])
        value = float(self.runs.metric_of(mask[None]).mean())
        if self.search.prune:
            mask, value = _pruned(self.runs, mask, value)
        kept = tuple(cast("Head", self.runs.elements[i]) for i in np.flatnonzero(mask).tolist())
        return RecursionStage(
            targets=ranking.targets,
            relevance=relevance,
            added=added,
            dropped=tuple(sorted(grown - set(kept))),
            circuit=kept,
            value=value,
            edges={ends: value for ends, value in ranking.edges.items() if ends[0] in added},
        )

    def _upstream(self, circuit: Sequence[Head]) -> _Ranking:
        """Relevance to the circuit's heads of every head that is not one of them."""
        last = max((head.layer for head in circuit), default=0)
        heads = [head for head in universe_of(self.model).heads() if head not in circuit and head.layer < last]
        names = tuple(map(str, circuit))
        if not heads:
            return _Ranking(names, {}, {})
        sources = [Source((head,)) for head in heads]
        targets = [Target(head) for head in circuit]
        found = relevance_to_targets(self.model, self.batch, sources, targets, self.method.options, measure=self.search.measure).mean(-1)
        whole = normalised_by_layer(found.sum(-1), sources).tolist()
        edges: dict[tuple[Head, Node], float] = {
            (head, other): float(found[i, j]) for i, head in enumerate(heads) for j, other in enumerate(circuit)
        }
        return _Ranking(names, dict(zip(heads, whole, strict=True)), edges)


def _pruned(runs: CircuitRuns, mask: np.ndarray, value: float) -> tuple[np.ndarray, float]:
    """Take heads out in forward order while that raises the mean metric, until no removal does."""
    mask, changed = mask.copy(), True
    while changed:
        changed, waiting = False, np.flatnonzero(mask).tolist()
        while waiting:
            some = waiting[:_AHEAD]
            trials = mask & ~np.eye(mask.size, dtype=bool)[some]
            values = runs.metric_of(trials).mean(1)
            better = np.flatnonzero(values > value)
            if not better.size:
                waiting = waiting[_AHEAD:]
                continue
            first = int(better[0])
            mask, value, changed = trials[first], float(values[first]), True
            waiting = waiting[first + 1 :]
    return mask, value
