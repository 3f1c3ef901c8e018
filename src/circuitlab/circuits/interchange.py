"""Circuits as JSON graphs, in the format of EAP-IG and of MIB's circuit track."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitlab.circuits.circuit import Circuit
from circuitlab.circuits.reading import reading, require_universe
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.core.nodes import Edge, Embed, Head, KVHead, Logits, Mlp, Node, Universe, parse_node

if TYPE_CHECKING:
    from circuitlab.core.provenance import ModelSpec
    from circuitlab.scores.edge_scores import EdgeScores

__all__ = ["read_graph_json", "read_graph_scores", "to_graph", "write_graph_json"]

_NAMES: dict[str, Node] = {"input": Embed(), "logits": Logits()}


def to_graph(circuit: Circuit, model: ModelSpec | None = None, scores: EdgeScores | None = None) -> dict[str, Any]:
    """A circuit as a graph in the format of EAP-IG and of MIB's circuit track, as plain data.

    ``"nodes"`` maps every node that the format knows (``input``, ``a0.h1``, ``m0``, ``logits``) to ``{"in_graph": bool}``; ``"edges"``
    maps edges (``a0.h1->a1.h0<q>``, ``m0->logits``) to ``{"in_graph": bool, "score": float}`` and is empty for a circuit of nodes
    alone; ``"cfg"`` is the shape of the model. The format has query heads only, so an edge into a shared key/value head becomes one edge
    into each query head of its group. What the format cannot express is written under ``"circuitlab"``, so that `read_graph_json` returns
    an equal circuit.

    Parameters
    ----------
    circuit : Circuit
        The circuit.
    model : ModelSpec, optional
        Its model; that of the scores if not given. EAP-IG's own reader also needs the width and whether blocks are parallel, which a
        circuit does not know; without a model they are left out.
    scores : EdgeScores, optional
        With scores, every edge of the model is listed with its mean score, those outside the circuit with ``in_graph`` false; an edge into
        a shared key/value head gives its score to each edge that it becomes. Without scores, only the circuit's edges are listed, each with
        score 1.

    Raises
    ------
    BadParameterError
        If the circuit has nodes that the format has no name for (key/value heads as nodes, whole attention layers, residual points), or
        edges from or into them.
    IncompatibleError
        If the scores belong to a model of another shape.

    Examples
    --------
    >>> graph = to_graph(Circuit(["a0.h1"], Universe(1, 2, 2), ["a0.h1->logits"]))
    >>> graph["nodes"]["a0.h1"], graph["edges"]
    ({'in_graph': True}, {'a0.h1->logits': {'in_graph': True, 'score': 1.0}})
    """
    universe, edges = circuit.shape, sorted(circuit.edges or ())
    named = {*circuit.nodes, *(edge.sender for edge in edges), *(edge.receiver for edge in edges if not isinstance(edge.receiver, KVHead))}
    if foreign := sorted(node for node in named if not isinstance(node, Head | Mlp | Embed | Logits)):
        what = f"The graph format has no name for {', '.join(map(str, foreign[:5]))}."
        raise BadParameterError(what, "Use save_circuit, or keep query heads, MLPs, embed and logits as nodes.")
    middle: list[Node] = [*universe.heads(), *universe.mlps()]
    nodes: tuple[Node, ...] = (Embed(), *sorted(middle), Logits())
    entries = {} if scores is None else _scored(scores, universe)
    for name in (name for edge in edges for name in _edge_names(edge, universe)):
        entries[name] = {"in_graph": True, "score": entries[name]["score"] if name in entries else 1.0}
    shape: dict[str, Any] = {"n_layers": universe.n_layers, "n_heads": universe.n_heads, "n_kv_heads": universe.n_kv_heads}
    spec = model if model is not None or scores is None else scores.provenance.model
    if spec is not None:
        shape |= {"d_model": spec.d_model, "parallel_attn_mlp": spec.parallel}
    return {
        "cfg": shape,
        "nodes": {_name(node): {"in_graph": node in circuit.nodes} for node in nodes},
        "edges": entries,
        "circuitlab": circuit.to_dict(),
    }


def write_graph_json(circuit: Circuit, path: str | Path, model: ModelSpec | None = None, scores: EdgeScores | None = None) -> Path:
    """Write the graph of `to_graph` to a JSON file and return its path. Raises `StoreError` if the file cannot be written.

    Examples
    --------
    >>> circuit = Circuit(["a0.h1"], Universe(1, 2, 2), ["a0.h1->logits"])
    >>> read_graph_json(write_graph_json(circuit, "graph.json")) == circuit
    True
    """
    from circuitlab.core.files import replace_file  # noqa: PLC0415 - scores are slow to import

    target, text = Path(path), json.dumps(to_graph(circuit, model, scores), indent=1)
    replace_file(target, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return target


def read_graph_json(path: str | Path, universe: Universe | None = None) -> Circuit:
    """Read a circuit from a graph file that `write_graph_json` or another tool wrote.

    Another tool's edges into the keys and values of a query head (``a0.h1->a1.h0<k>``) become edges into the key/value head that this query
    head reads (``a0.h1->a1.kv0<k>``), as everywhere in circuitlab. If the file has such an edge for only some of the query heads of a
    group, the circuit still has the edge into the head that they share, and its rule says how many edges were widened in this way.

    Parameters
    ----------
    path : str or Path
        The file.
    universe : Universe, optional
        The model's shape. Needed if the file lacks the number of key/value heads and it differs from that of query heads; otherwise the
        shape in the file must agree with it.

    Raises
    ------
    BadParameterError
        If the file is not such a graph, names unknown nodes or edges, or was changed after `write_graph_json` wrote it.
    IncompatibleError
        If the file's circuit belongs to a model of another shape than ``universe``.

    Examples
    --------
    >>> path = write_graph_json(Circuit(["a0.h1"], Universe(1, 2, 2)), "graph.json")
    >>> read_graph_json(path, Universe(1, 2, 2))
    Circuit of 1 nodes, given: a0.h1
    """
    with reading(path, "a circuit graph", "Give a JSON file with cfg, nodes and edges."):
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        names = {part: {name for name, entry in data[part].items() if _in_graph(entry)} for part in ("nodes", "edges")}
        ours = "circuitlab" in data
        circuit = _circuitlab_graph(data["circuitlab"], names) if ours else _foreign_graph(data["cfg"], names, universe, Path(path).name)
    return require_universe(circuit, universe, path)


def read_graph_scores(path: str | Path, universe: Universe | None = None) -> dict[Edge, float]:
    """Read the scores of all edges in a graph file, inside and outside its circuit.

    The format has query heads only. In a file that `write_graph_json` wrote, the edges into the query heads of a group all have the score
    of the one edge into their shared key/value head, and this score is read. In a file of another tool they are separate edges, one for
    each copy of the shared key or value, and their scores are summed. The sum is exact for gradient scores, which add over the copies, but
    not for scores of exact patching.

    Parameters
    ----------
    path, universe
        As in `read_graph_json`.

    Returns
    -------
    dict of Edge to float
        Scores in the units of the file: receiver by receiver, senders in forward order. Edges without a score in the file are left out.

    Raises
    ------
    BadParameterError
        If the file is not such a graph, names unknown nodes or edges, has no scores, or has a score that is not a finite number.
    IncompatibleError
        If the file's circuit belongs to a model of another shape than ``universe``.

    Examples
    --------
    >>> path = write_graph_json(Circuit(["a0.h1"], Universe(1, 2, 2), ["a0.h1->logits"]), "graph.json")
    >>> {str(edge): score for edge, score in read_graph_scores(path).items()}
    {'a0.h1->logits': 1.0}
    """
    space = read_graph_json(path, universe).shape
    with reading(path, "a circuit graph with scores", "Give a file whose edges have scores."):
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        by_name = {name: _score(name, entry) for name, entry in data["edges"].items() if isinstance(entry, dict) and "score" in entry}
        if not by_name:
            raise BadParameterError("none of its edges has a score.", "Give a file whose edges have scores.")
        scores: dict[Edge, float] = {}
        for name, score in by_name.items():
            edge = _with_kv_head(_parse_edge(name), space)
            Circuit(frozenset(), space, frozenset({edge}))  # raises if an end of the edge is outside the model
            scores[edge] = score if "circuitlab" in data else scores.get(edge, 0.0) + score
    return dict(sorted(scores.items()))


def _score(name: str, entry: dict[str, Any]) -> float:
    score = entry["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        what = f"edge {name} has the score {score!r}."
        raise BadParameterError(what, "Scores are finite numbers.")
    return float(score)


def _circuitlab_graph(data: dict[str, Any], names: dict[str, set[str]]) -> Circuit:
    """The circuit that circuitlab wrote, if the graph in the file still agrees with it."""
    circuit = Circuit.from_dict(data)
    nodes = {_name(node) for node in circuit.nodes}
    edges = {name for edge in circuit.edges or () for name in _edge_names(edge, circuit.shape)}
    if changed := sorted((nodes ^ names["nodes"]) | (edges ^ names["edges"])):
        what = f"its graph and its key 'circuitlab' disagree about {', '.join(changed[:5])}, so the file was changed by another tool."
        raise BadParameterError(what, "Remove the key 'circuitlab' to read the graph itself.")
    return circuit


def _foreign_graph(shape: dict[str, int], names: dict[str, set[str]], universe: Universe | None, file: str) -> Circuit:
    """The circuit in a graph that another tool wrote."""
    kv_heads = shape.get("n_kv_heads", universe.n_kv_heads if universe else shape["n_heads"])
    space = Universe(shape["n_layers"], shape["n_heads"], kv_heads)
    readers: dict[Edge, int] = {}
    for edge in map(_parse_edge, sorted(names["edges"])):
        shared = _with_kv_head(edge, space)
        readers[shared] = readers.get(shared, 0) + 1
    group_size = space.n_heads // space.n_kv_heads
    partial = sum(isinstance(edge.receiver, KVHead) and count < group_size for edge, count in readers.items())
    rule = f"read from {file}" + (f"; widened from part of a group to its key/value head: {partial} edges" if partial else "")
    return Circuit(frozenset(map(_parse_node, names["nodes"])), space, frozenset(readers) or None, rule)


def _with_kv_head(edge: Edge, universe: Universe) -> Edge:
    """The same edge, with the key/value head as the receiver if it enters the keys or values of a query head."""
    if isinstance(edge.receiver, Head) and edge.port in {"k", "v"} and edge.receiver in universe:
        return Edge(edge.sender, universe.kv_head_of(edge.receiver), edge.port)
    return edge


def _scored(scores: EdgeScores, universe: Universe) -> dict[str, dict[str, Any]]:
    """The entries of every edge of the model, all outside the graph, with mean scores."""
    layout = scores.layout
    space = Universe(layout.n_layers, layout.n_heads, layout.n_kv_heads)
    if space != universe:
        what = f"A circuit of {universe} cannot carry edge scores of {space}."
        raise IncompatibleError(what, "Give the scores of the model that the circuit belongs to.")
    means = zip(layout.edges(), scores.mean()[layout.edge_indices].tolist(), strict=True)
    return {name: {"in_graph": False, "score": mean} for edge, mean in means for name in _edge_names(edge, universe)}


def _name(node: Node) -> str:
    return "input" if isinstance(node, Embed) else str(node)


def _edge_names(edge: Edge, universe: Universe) -> Iterable[str]:
    """The names of an edge in the format: one, or one for each query head of a shared key/value head."""
    receivers: list[Node] = [edge.receiver]
    if isinstance(edge.receiver, KVHead):
        size = universe.n_heads // universe.n_kv_heads
        receivers = [Head(edge.receiver.layer, edge.receiver.head * size + i) for i in range(size)]
    return [f"{_name(edge.sender)}->{_name(receiver)}" + (f"<{edge.port}>" if edge.port else "") for receiver in receivers]


def _parse_node(name: str) -> Node:
    return _NAMES.get(name) or parse_node(name)


def _parse_edge(name: str) -> Edge:
    match = re.fullmatch(r"(.+?)->([^<]+)(?:<([qkv])>)?", name)
    if match is None:
        what = f"{name!r} is not an edge name."
        raise BadParameterError(what, "Write sender->receiver<port>.")
    return Edge(_parse_node(match[1]), _parse_node(match[2]), match[3])  # type: ignore[arg-type]


def _in_graph(entry: object) -> bool:
    value = entry["in_graph"] if isinstance(entry, dict) else entry
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise BadParameterError(f"in_graph is {value!r}, which is neither true nor false.", "Write true or false.")
    return bool(value)
