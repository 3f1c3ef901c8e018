"""Staged discovery of a circuit by path patching: from the logits backwards, one set of receivers after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from circuitlab.circuits.circuit import Circuit
from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Edge, Head, Logits, Node, Port, Universe
from circuitlab.core.progress import progress_part
from circuitlab.model.decoder.receivers import Receiver

if TYPE_CHECKING:
    from circuitlab.methods.path_patching import PathPatching
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["Discovery", "FoundEdge", "Stage", "Sweep", "discover_paths"]

_ROUNDING = 1e-6  # rounding error of an effect in float32, relative to the metric


@dataclass(frozen=True, slots=True)
class FoundEdge:
    """An edge with the mean effect of its path and the interval over pairs, in metric units."""

    edge: Edge
    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage of a staged discovery.

    Parameters
    ----------
    scores : mapping of str to HeadScores
        Scores of all heads by receiver.
    kept : tuple of Head
        Heads that are kept, in forward order.
    edges : tuple of FoundEdge
        Edges from kept heads to receivers, strongest first.
    """

    scores: Mapping[str, HeadScores]
    kept: tuple[Head, ...]
    edges: tuple[FoundEdge, ...]


@dataclass(frozen=True, eq=False)
class Discovery:
    """The result of a staged discovery.

    Parameters
    ----------
    stages : tuple of Stage
        Stages from the logits backwards; fewer than requested if no head is left.
    circuit : Circuit
        Nodes are all kept heads; edges are those of all stages. Key/value heads are receivers of edges, but not nodes.
    """

    stages: tuple[Stage, ...]
    circuit: Circuit

    @property
    def edges(self) -> tuple[FoundEdge, ...]:
        """Edges of all stages."""
        return tuple(edge for stage in self.stages for edge in stage.edges)


Run: TypeAlias = "Callable[[PathPatching, ContrastBatch, Metric], HeadScores]"


@dataclass(frozen=True)
class Sweep:
    """How path patching is run for each receiver of a staged discovery.

    Parameters
    ----------
    method : PathPatching, optional
        Direction, MLP rule, position (at most one) and sizes; senders and receivers are set by the discovery. Defaults if omitted.
    run : callable, optional
        Runs the method. If it stores scores in a cache, an interruption loses at most one receiver.
    """

    method: PathPatching | None = None
    run: Run | None = None


def discover_paths(
    model: Model,
    batch: ContrastBatch,
    metric: Metric,
    *,
    top: float = 0.02,
    stages: int | Sequence[str] = 2,
    sweep: Sweep | None = None,
) -> Discovery:
    """Find heads stage by stage: those that act on the logits, then those that act on the inputs of these, and so on.

    In the first stage every head is a sender to the logits. In each later stage every head is a sender to each input (query, and the shared
    keys and values) of the heads that the previous stage kept, one input at a time, with everything downstream recomputed. A head's score
    in a stage is that of its strongest edge, by magnitude of the mean. The top share of heads is kept, with all their edges that are at
    least as strong as the weakest of these scores. Heads whose effect is not larger than rounding are never kept.

    Parameters
    ----------
    model, batch, metric : Model, ContrastBatch, Metric
        The model, the pairs and the metric.
    top : float
        Share of all heads that a stage keeps, in (0, 1]; rounded up to whole heads.
    stages : int or sequence of str
        Number of stages, including the one from the logits; or the ports that each later stage follows: ``("q", "v", "k")`` first queries,
        then values, then keys, ``("q", "kv")`` first queries, then keys and values.
    sweep : Sweep, optional
        The method, and what runs it for each receiver.

    Raises
    ------
    BadParameterError
        If ``top`` or ``stages`` is out of range, or the method has several positions or ``via``.
    UnknownNameError
        If a port does not exist.

    Notes
    -----
    Cost: one run of path patching per receiver. Wang et al. (2022) set all receivers of a class together; here receivers are set one at a
    time, so that every edge has its own effect and interval. With ``positions=("END",)`` outputs are replaced at the answer position only,
    as by Merullo et al. (2024), who keep the top 2 % of heads at each stage. A stage selects the strongest of many heads: an interval
    describes the uncertainty of a mean, not the probability of its selection by chance.

    References
    ----------
    Wang et al. (2022), arXiv:2211.00593. Merullo, Eickhoff and Pavlick (2024), arXiv:2310.08744.
    """
    from circuitlab.methods.path_patching import PathPatching  # noqa: PLC0415 - methods build on this package

    settings = sweep or Sweep()
    n_kept = math.ceil(top * model.spec.n_layers * model.spec.n_heads)
    search = _Search(model, batch, metric, _checked(settings.method or PathPatching(), top), n_kept, settings.run)
    receivers = [Receiver(Logits())]
    done: list[Stage] = []
    steps = [*_followed(stages), ""]
    for number, ports in enumerate(steps):
        with progress_part(number / len(steps), (number + 1) / len(steps)):
            stage = search.stage(receivers)
        if not stage.kept:
            break
        done.append(stage)
        receivers = _inputs(search.universe, stage.kept, ports)
    return Discovery(tuple(done), _circuit(search.universe, done, top))


def _checked(method: PathPatching, top: float) -> PathPatching:
    if not 0 < top <= 1:
        what = f"top={top} is not a share of the heads."
        raise BadParameterError(what, "Use 0.02 for the top 2 %.")
    if len(method.positions) > 1 or method.via:
        what = f"A staged discovery cannot use positions={method.positions}, via={method.via}."
        raise BadParameterError(what, "Give at most one position, and no via.")
    return replace(method, senders=("heads",), receivers=("logits",))


def _followed(stages: int | Sequence[str]) -> list[str]:
    """The ports that each stage after the first follows."""
    if isinstance(stages, int):
        if stages < 1:
            what = f"stages={stages} is less than 1."
            raise BadParameterError(what, "Use at least 1.")
        return ["qkv"] * (stages - 1)
    for ports in stages:
        if not ports or set(ports) - set("qkv"):
            raise UnknownNameError("port", ports, ["q", "k", "v"])
    return list(stages)


def _inputs(universe: Universe, heads: Sequence[Head], ports: str) -> list[Receiver]:
    """Inputs of heads, with shared inputs once; heads of layer 0 have no head before them."""
    receivers: dict[Receiver, None] = {}
    for head in heads:
        for port in ports if head.layer else "":
            receivers[Receiver(head if port == "q" else universe.kv_head_of(head), cast("Port", port))] = None
    return list(receivers)


@dataclass(frozen=True, eq=False)
class _Search:
    """The search, with what all stages share."""

    model: Model
    batch: ContrastBatch
    metric: Metric
    method: PathPatching
    n_kept: int
    run: Run | None = None

    @property
    def universe(self) -> Universe:
        spec = self.model.spec
        return Universe(spec.n_layers, spec.n_heads, spec.n_kv_heads)

    def stage(self, receivers: Sequence[Receiver]) -> Stage:
        """Score every head on every receiver, and keep the strongest heads."""
        scores: dict[str, HeadScores] = {}
        edges: list[FoundEdge] = []
        for number, receiver in enumerate(receivers):
            method = replace(self.method, receivers=(str(receiver),))
            with progress_part(number / len(receivers), (number + 1) / len(receivers)):
                receiver_scores = scores[str(receiver)] = self._run(method)
            least = _ROUNDING * float(np.abs(receiver_scores.dataset[["clean", "corrupt"]].to_array().values).max())
            edges += [
                FoundEdge(Edge(entry.node, receiver.node, receiver.port), entry.mean, entry.low, entry.high)
                for entry in receiver_scores.nodes(mark=receiver_scores.marks[0] if receiver_scores.marks else None)
                if abs(entry.mean) > least
            ]
        edges.sort(key=lambda edge: -abs(edge.mean))
        kept: dict[Node, float] = {}
        for edge in edges:
            if len(kept) < self.n_kept:
                kept.setdefault(edge.edge.sender, abs(edge.mean))
        weakest = min(kept.values(), default=0.0)
        strong = tuple(edge for edge in edges if edge.edge.sender in kept and abs(edge.mean) >= weakest)
        return Stage(scores, tuple(sorted(cast("dict[Head, float]", kept))), strong)

    def _run(self, method: PathPatching) -> HeadScores:
        return method(self.model, self.batch, self.metric) if self.run is None else self.run(method, self.batch, self.metric)


def _circuit(universe: Universe, stages: Sequence[Stage], top: float) -> Circuit:
    runs = [scores.provenance for stage in stages for scores in stage.scores.values()]
    return Circuit(
        nodes=frozenset(head for stage in stages for head in stage.kept),
        universe=universe,
        edges=frozenset(edge.edge for stage in stages for edge in stage.edges),
        rule=f"top {top:.3g} of heads in each of {len(stages)} stages of path patching",
        sources=tuple(run.run_id() for run in runs),
        ready=all(run.fitness is None or run.fitness.ready for run in runs),
    )
