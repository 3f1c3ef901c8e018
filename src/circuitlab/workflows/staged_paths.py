"""Staged discovery of a circuit by path patching: from the logits backwards, one set of receivers after the other."""

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

_ROUNDING = 1e-6  # of the metric: what float32 cannot tell from no effect


@dataclass(frozen=True, slots=True)
class FoundEdge:
    """An edge with the mean effect of its path and the interval over pairs, in metric units."""

    edge: Edge
    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Stage:
    """One step backwards.

    Parameters
    ----------
    scores : mapping of str to HeadScores
        Every head's score by receiver.
    kept : tuple of Head
        Heads that passed, in forward order.
    edges : tuple of FoundEdge
        From kept heads to receivers, strongest first.
    """

    scores: Mapping[str, HeadScores]
    kept: tuple[Head, ...]
    edges: tuple[FoundEdge, ...]


@dataclass(frozen=True, eq=False)
class Discovery:
    """What a staged discovery found.

    Parameters
    ----------
    stages : tuple of Stage
        From the logits backwards; fewer than asked for where the paths begin earlier.
    circuit : Circuit
        Nodes are all kept heads; edges are those of all stages. Key/value heads that edges enter are ends of edges, not nodes.
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
    """How one receiver of a staged discovery is swept.

    Parameters
    ----------
    method : PathPatching, optional
        Direction, MLP rule, position (one at most) and sizes; senders and receivers are set by the discovery. The defaults otherwise.
    run : callable, optional
        Runs the method; one that keeps scores in a cache lets an interruption lose one sweep at most.
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

    In the first stage every head is a sender to the logits. In each later stage every head is a sender to each input (query, and the keys
    and values that it shares) of the heads that the stage before kept, one input at a time, with everything downstream recomputed. A
    head's score in a stage is that of its strongest edge, by magnitude of the mean. The top share of heads is kept, with all their edges
    that are at least as strong as the weakest of these scores. Heads whose effect is no larger than rounding are never kept.

    Parameters
    ----------
    model, batch, metric : Model, ContrastBatch, Metric
    top : float
        Share of all heads that a stage keeps, in (0, 1]; rounded up to whole heads.
    stages : int or sequence of str
        How many steps backwards, the one from the logits included; or, after that one, the ports that each further step follows:
        ``("q", "v", "k")`` first queries, then values, then keys, ``("q", "kv")`` first queries, then keys and values.
    sweep : Sweep, optional
        How one receiver is swept: the method, and what runs it.

    Raises
    ------
    BadParameterError
        If ``top`` or ``stages`` leave nothing to find, or the method has several positions or a path of its own.
    UnknownNameError
        If a port does not exist.

    Notes
    -----
    Cost: one sweep of path patching per receiver. Wang et al. (2022) set all receivers of a class together; here each has a sweep of its
    own, so that every edge has its own effect and interval. With ``positions=("END",)`` only the answer position is swapped, as by
    Merullo et al. (2024), who keep the top 2 % of heads at each stage. Stages choose the strongest of many: an interval says how sure
    that mean is, not how likely the choice is by chance.

    References
    ----------
    Wang et al. (2022), arXiv:2211.00593. Merullo, Eickhoff and Pavlick (2024), arXiv:2310.08744.
    """
    from circuitlab.methods.path_patching import PathPatching  # noqa: PLC0415 - methods build on this package

    chosen = sweep or Sweep()
    n_kept = math.ceil(top * model.spec.n_layers * model.spec.n_heads)
    search = _Search(model, batch, metric, _checked(chosen.method or PathPatching(), top), n_kept, chosen.run)
    receivers = [Receiver(Logits())]
    found: list[Stage] = []
    steps = [*_followed(stages), ""]
    for number, ports in enumerate(steps):
        with progress_part(number / len(steps), (number + 1) / len(steps)):
            stage = search.stage(receivers)
        if not stage.kept:
            break
        found.append(stage)
        receivers = _inputs(search.universe, stage.kept, ports)
    return Discovery(tuple(found), _circuit(search.universe, found, top))


def _checked(method: PathPatching, top: float) -> PathPatching:
    if not 0 < top <= 1:
        what = f"top={top} is no share of the heads."
        raise BadParameterError(what, "Use 0.02 for the top 2 %.")
    if len(method.positions) > 1 or method.via:
        what = f"A staged discovery cannot use positions={method.positions}, via={method.via}."
        raise BadParameterError(what, "Give one position at most, and no inputs on the way.")
    return replace(method, senders=("heads",), receivers=("logits",))


def _followed(stages: int | Sequence[str]) -> list[str]:
    """The ports that each stage after the first follows."""
    if isinstance(stages, int):
        if stages < 1:
            what = f"stages={stages} finds nothing."
            raise BadParameterError(what, "Use at least 1.")
        return ["qkv"] * (stages - 1)
    for ports in stages:
        if not ports or set(ports) - set("qkv"):
            raise UnknownNameError("port", ports, ["q", "k", "v"])
    return list(stages)


def _inputs(universe: Universe, heads: Sequence[Head], ports: str) -> list[Receiver]:
    """Inputs of heads, those that a group shares once; layer 0 has no head before it."""
    found: dict[Receiver, None] = {}
    for head in heads:
        for port in ports if head.layer else "":
            found[Receiver(head if port == "q" else universe.kv_head_of(head), cast("Port", port))] = None
    return list(found)


@dataclass(frozen=True, eq=False)
class _Search:
    """What every stage shares."""

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
                scored = scores[str(receiver)] = self._run(method)
            least = _ROUNDING * float(np.abs(scored.dataset[["clean", "corrupt"]].to_array().values).max())
            edges += [
                FoundEdge(Edge(one.node, receiver.node, receiver.port), one.mean, one.low, one.high)
                for one in scored.nodes(mark=scored.marks[0] if scored.marks else None)
                if abs(one.mean) > least
            ]
        edges.sort(key=lambda one: -abs(one.mean))
        kept: dict[Node, float] = {}
        for one in edges:
            if len(kept) < self.n_kept:
                kept.setdefault(one.edge.sender, abs(one.mean))
        weakest = min(kept.values(), default=0.0)
        strong = tuple(one for one in edges if one.edge.sender in kept and abs(one.mean) >= weakest)
        return Stage(scores, tuple(sorted(cast("dict[Head, float]", kept))), strong)

    def _run(self, method: PathPatching) -> HeadScores:
        return method(self.model, self.batch, self.metric) if self.run is None else self.run(method, self.batch, self.metric)


def _circuit(universe: Universe, stages: Sequence[Stage], top: float) -> Circuit:
    runs = [scores.provenance for stage in stages for scores in stage.scores.values()]
    return Circuit(
        nodes=frozenset(head for stage in stages for head in stage.kept),
        universe=universe,
        edges=frozenset(one.edge for stage in stages for one in stage.edges),
        rule=f"top {top:.3g} of heads in each of {len(stages)} stages of path patching",
        sources=tuple(run.run_id() for run in runs),
        ready=all(run.fitness is None or run.fitness.ready for run in runs),
    )
