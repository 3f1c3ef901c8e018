"""Selection rules for edges: from edge scores to a circuit with nodes and edges."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.circuits.circuit import Circuit
from circuitlab.circuits.select import Ranking, ranked
from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Edge, Embed, Head, KVHead, Logits, Node, Universe

if TYPE_CHECKING:
    from circuitlab.scores.edge_layout import EdgeLayout
    from circuitlab.scores.edge_scores import EdgeScores

__all__ = ["GreedyEdges", "TopEdges", "pruned_edges"]


@dataclass(frozen=True)
class TopEdges:
    """The ``k`` edges with the largest mean score, wherever they lie.

    Parameters
    ----------
    k : int
        How many.
    by : {"absolute", "positive", "negative"}
        Magnitude, most helpful, or most harmful.
    prune : bool
        Drop edges that lie on no path from the embedding to the logits (see `pruned_edges`). Without it, as by default, exactly ``k`` edges
        are kept and need not connect: circuits of different tasks then have one size. Graphs of edge attribution patching prune.

    Notes
    -----
    Nodes are the senders and the receivers of the edges. A key/value head that an edge enters is an end of that edge and not a node: it
    stands for the query heads that read it, and these are nodes where they send something on.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")  # a head that copies, and one that works against it
    >>> scores = cl.score_edges(planted.model, planted.batch(4))
    >>> sorted(map(str, TopEdges(2)(scores).edges))
    ['a1.h1->logits', 'embed->a1.kv0<v>']
    """

    k: int = 100
    by: Ranking = "absolute"
    prune: bool = False

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, scores: EdgeScores) -> Circuit:
        """The circuit of the top edges; ties go to the earlier receiver, then to the earlier sender.

        Raises
        ------
        BadParameterError
            If the model has fewer than ``k`` edges.
        """
        layout, order = scores.layout, _order(scores, self)
        senders, receivers = layout.places
        edges = frozenset(layout.edge(int(senders[i]), int(receivers[i])) for i in order[: self.k])
        words = f"top {self.k} edges by {self.by} mean score"
        if self.prune:
            edges = pruned_edges(edges, _universe(scores))
            words += f", {len(edges)} of them on paths from embed to logits"
        return _circuit(scores, edges, words)


@dataclass(frozen=True)
class GreedyEdges:
    """Edges grown backwards from the logits: add the best edge whose receiver is already in the circuit, ``k`` times, then prune.

    The circuit begins as the logits alone. An edge may join once its receiver is in; its sender is in from then on, with the query, key
    and value inputs that it reads (keys and values are those of the key/value head that its group shares). At last nodes without parents
    or children are dropped with their edges, so that fewer than ``k`` edges may remain.

    Parameters
    ----------
    k : int
        How many edges to add before pruning.
    by : {"absolute", "positive", "negative"}
        What makes an edge the best.

    References
    ----------
    Hanna, Pezzelle and Belinkov (2024), Have Faith in Faithfulness, arXiv:2403.17806.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> grown = GreedyEdges(4)(cl.score_edges(planted.model, planted.batch(4)))
    >>> grown.edges == planted.edges
    True
    """

    k: int = 100
    by: Ranking = "absolute"

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, scores: EdgeScores) -> Circuit:
        """The circuit; ties go to the earlier receiver, then to the earlier sender.

        Raises
        ------
        BadParameterError
            If the model has fewer than ``k`` edges.
        """
        layout = scores.layout
        place = np.empty(layout.n_edges, dtype=int)
        place[_order(scores, self)] = np.arange(layout.n_edges)  # 0 for the best edge
        chosen = _grown(layout, place, self.k)
        kept = pruned_edges(chosen, _universe(scores))
        words = f"{self.k} edges grown from the logits by {self.by} mean score, {len(kept)} after pruning"
        return _circuit(scores, kept, words)


def pruned_edges(edges: Iterable[Edge], universe: Universe) -> frozenset[Edge]:
    """The edges that lie on a path from the embedding to the logits: those left when nodes without parents or children are dropped.

    Parameters
    ----------
    edges : iterable of Edge
        Any edges of one model.
    universe : Universe
        Which query heads share a key/value head. An edge into a key/value head is a parent of each of them, and stays while one of them
        sends something on.

    Returns
    -------
    frozenset of Edge
        Every remaining sender but the embedding has an edge into it, and every remaining receiver but the logits has one out of it.
        Residual points and whole attention layers are nodes like any other.

    Examples
    --------
    >>> from circuitlab.core.nodes import parse_edge
    >>> edges = map(parse_edge, ["embed->a0.h1<q>", "a0.h1->logits", "embed->a0.h0<q>"])
    >>> sorted(map(str, pruned_edges(edges, Universe(1, 2, 1))))
    ['a0.h1->logits', 'embed->a0.h1<q>']
    """
    import networkx as nx  # noqa: PLC0415 - takes a quarter of a second; only graph files and pruning need it

    given = frozenset(edges)
    ends = {edge: _readers(edge.receiver, universe) for edge in given}
    graph = nx.DiGraph((edge.sender, reader) for edge, readers in ends.items() for reader in readers)
    graph.add_nodes_from((Embed(), Logits()))
    fed, needed = nx.descendants(graph, Embed()) | {Embed()}, nx.ancestors(graph, Logits()) | {Logits()}
    return frozenset(edge for edge, readers in ends.items() if edge.sender in fed and not needed.isdisjoint(readers))


def _universe(scores: EdgeScores) -> Universe:
    """The shape of the model that edge scores belong to."""
    spec = scores.provenance.model
    return Universe(spec.n_layers, spec.n_heads, spec.n_kv_heads)


def _readers(receiver: Node, universe: Universe) -> tuple[Node, ...]:
    """The nodes that send on what a receiver takes in: the query heads of a key/value head, otherwise itself."""
    if not isinstance(receiver, KVHead):
        return (receiver,)
    size = universe.n_heads // universe.n_kv_heads
    return tuple(Head(receiver.layer, receiver.head * size + i) for i in range(size))


def _grown(layout: EdgeLayout, place: np.ndarray, k: int) -> list[Edge]:
    """Edges in the order they join, backwards from the logits; `place` ranks edges, lowest first."""
    by_receiver = np.full(layout.shape, -1)
    by_receiver[layout.places] = np.arange(layout.n_edges)
    waiting: list[tuple[int, int]] = []
    opened: set[int] = set()
    chosen: list[Edge] = []
    inputs = [len(layout.receivers) - 1]
    while len(chosen) < k:
        for receiver in set(inputs) - opened:
            opened.add(receiver)
            for index in by_receiver[:, receiver]:
                if index >= 0:
                    heapq.heappush(waiting, (int(place[index]), int(index)))
        _, best = heapq.heappop(waiting)
        sender, receiver = (int(axis[best]) for axis in layout.places)
        chosen.append(layout.edge(sender, receiver))
        inputs = _inputs(layout, layout.senders[sender])
    return chosen


def _inputs(layout: EdgeLayout, node: Node) -> list[int]:
    """Where the inputs of a sender lie along the receiver axis."""
    if isinstance(node, Embed):
        return []
    where = layout.inputs(node.layer)  # type: ignore[union-attr]
    if not isinstance(node, Head):
        return [where.stop - 1]
    group = node.head // (layout.n_heads // layout.n_kv_heads)
    keys = where.start + layout.n_heads + group
    return [where.start + node.head, keys, keys + layout.n_kv_heads]


def _order(scores: EdgeScores, rule: TopEdges | GreedyEdges) -> np.ndarray:
    """Indices of the edges, best first, in the numbering of ``layout.places``."""
    layout = scores.layout
    if rule.k > layout.n_edges:
        what = f"{type(rule).__name__}(k={rule.k}) asks for more than the {layout.n_edges} edges there are."
        raise BadParameterError(what, "Use a smaller k.")
    return np.argsort(-ranked(scores.mean()[layout.places], rule.by), kind="stable")


def _check(rule: TopEdges | GreedyEdges) -> None:
    ranked(np.zeros(1), rule.by)
    if rule.k < 1:
        what = f"{type(rule).__name__}(k={rule.k}) selects nothing."
        raise BadParameterError(what, "Use k of at least 1.")


def _circuit(scores: EdgeScores, edges: frozenset[Edge], words: str) -> Circuit:
    ends = {end for edge in edges for end in (edge.sender, edge.receiver)}
    nodes = frozenset(node for node in ends if not isinstance(node, KVHead))
    flag = scores.provenance.fitness
    ready = flag is None or flag.ready
    return Circuit(nodes, _universe(scores), edges, words, (scores.provenance.run_id(),), ready)
