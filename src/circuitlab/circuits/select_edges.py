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
    """The ``k`` edges with the largest mean score, anywhere in the model.

    Parameters
    ----------
    k : int
        Number of edges.
    by : {"absolute", "positive", "negative"}
        Rank by magnitude, by most helpful, or by most harmful.
    prune : bool
        Drop edges that are on no path from the embedding to the logits (see `pruned_edges`), as edge attribution patching does. Without
        pruning, as by default, exactly ``k`` edges are kept, so that circuits of different tasks have one size; they need not connect.

    Notes
    -----
    Nodes are the senders and the receivers of the edges. A key/value head that an edge enters is an end of that edge but not a node: it
    represents the query heads that read it, and these are nodes if one of their outgoing edges is selected.

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
        senders, receivers = layout.edge_indices
        edges = frozenset(layout.edge(int(senders[i]), int(receivers[i])) for i in order[: self.k])
        description = f"top {self.k} edges by {self.by} mean score"
        if self.prune:
            edges = pruned_edges(edges, _universe(scores))
            description += f", {len(edges)} of them on paths from embed to logits"
        return _circuit(scores, edges, description)


@dataclass(frozen=True)
class GreedyEdges:
    """Edges added greedily, backwards from the logits: ``k`` times the best edge whose receiver is already in the circuit; then pruned.

    The circuit starts as the logits alone. An edge can be added once its receiver is in the circuit; its sender is then in the circuit too,
    with the query, key and value inputs that it reads (keys and values are those of the key/value head that its group shares). Finally
    nodes without parents or children are dropped with their edges, so that fewer than ``k`` edges may remain.

    Parameters
    ----------
    k : int
        Number of edges to add before pruning.
    by : {"absolute", "positive", "negative"}
        What makes an edge the best: magnitude, most helpful, or most harmful.

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
        """Select the circuit; ties go to the earlier receiver, then to the earlier sender.

        Raises
        ------
        BadParameterError
            If the model has fewer than ``k`` edges.
        """
        layout = scores.layout
        rank = np.empty(layout.n_edges, dtype=int)
        rank[_order(scores, self)] = np.arange(layout.n_edges)  # 0 for the best edge
        pruned = pruned_edges(_grow(layout, rank, self.k), _universe(scores))
        description = f"{self.k} edges grown from the logits by {self.by} mean score, {len(pruned)} after pruning"
        return _circuit(scores, pruned, description)


def pruned_edges(edges: Iterable[Edge], universe: Universe) -> frozenset[Edge]:
    """The edges that lie on a path from the embedding to the logits: those left when nodes without parents or children are dropped.

    Parameters
    ----------
    edges : iterable of Edge
        Any edges of one model.
    universe : Universe
        Shape of the model, which tells the query heads that share a key/value head. An edge into a key/value head is an edge into each of
        them, and remains while one of them has an outgoing edge.

    Returns
    -------
    frozenset of Edge
        Every remaining sender except the embedding has an incoming edge, and every remaining receiver except the logits an outgoing one.
        Residual points and whole attention layers are treated like all other nodes.

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
    """The nodes whose output depends on a receiver's input: the query heads of a key/value head, otherwise the receiver itself."""
    if not isinstance(receiver, KVHead):
        return (receiver,)
    size = universe.n_heads // universe.n_kv_heads
    return tuple(Head(receiver.layer, receiver.head * size + i) for i in range(size))


def _grow(layout: EdgeLayout, rank: np.ndarray, k: int) -> list[Edge]:
    """Edges in the order in which they are added, backwards from the logits; ``rank`` is the rank of each edge, (edge,), 0 for the best."""
    numbers = np.full(layout.shape, -1)
    numbers[layout.edge_indices] = np.arange(layout.n_edges)
    candidates: list[tuple[int, int]] = []
    reached: set[int] = set()
    edges: list[Edge] = []
    inputs = [len(layout.receivers) - 1]
    while len(edges) < k:
        for receiver in set(inputs) - reached:
            reached.add(receiver)
            for number in numbers[:, receiver]:
                if number >= 0:
                    heapq.heappush(candidates, (int(rank[number]), int(number)))
        _, best = heapq.heappop(candidates)
        sender, receiver = (int(axis[best]) for axis in layout.edge_indices)
        edges.append(layout.edge(sender, receiver))
        inputs = _inputs(layout, layout.senders[sender])
    return edges


def _inputs(layout: EdgeLayout, node: Node) -> list[int]:
    """Indices of a sender's own inputs along the receiver axis."""
    if isinstance(node, Embed):
        return []
    layer = layout.inputs(node.layer)  # type: ignore[union-attr]
    if not isinstance(node, Head):
        return [layer.stop - 1]
    group = node.head // (layout.n_heads // layout.n_kv_heads)
    keys = layer.start + layout.n_heads + group
    return [layer.start + node.head, keys, keys + layout.n_kv_heads]


def _order(scores: EdgeScores, rule: TopEdges | GreedyEdges) -> np.ndarray:
    """Numbers of the edges in ``layout.edge_indices``, best edge first."""
    layout = scores.layout
    if rule.k > layout.n_edges:
        what = f"{type(rule).__name__}(k={rule.k}) asks for more than the {layout.n_edges} edges there are."
        raise BadParameterError(what, "Use a smaller k.")
    return np.argsort(-ranked(scores.mean()[layout.edge_indices], rule.by), kind="stable")


def _check(rule: TopEdges | GreedyEdges) -> None:
    ranked(np.zeros(1), rule.by)
    if rule.k < 1:
        what = f"{type(rule).__name__}(k={rule.k}) selects nothing."
        raise BadParameterError(what, "Use k of at least 1.")


def _circuit(scores: EdgeScores, edges: frozenset[Edge], description: str) -> Circuit:
    ends = {end for edge in edges for end in (edge.sender, edge.receiver)}
    nodes = frozenset(node for node in ends if not isinstance(node, KVHead))
    flag = scores.provenance.fitness
    ready = flag is None or flag.ready
    return Circuit(nodes, _universe(scores), edges, description, (scores.provenance.run_id(),), ready)
