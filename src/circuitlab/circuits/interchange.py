"""Circuits as a graph in JSON that EAP-IG and MIB's circuit track exchange."""

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
    """The circuit as the graph that EAP-IG and MIB's circuit track exchange.

    ``"nodes"`` maps every node that format knows (``input``, ``a0.h1``, ``m0``, ``logits``) to ``{"in_graph": bool}``; ``"edges"``
    maps edges (``a0.h1->a1.h0<q>``, ``m0->logits``) to ``{"in_graph": bool, "score": float}`` and is empty for a circuit of nodes
    alone; ``"cfg"`` holds the shape. The format has query heads only, so an edge into a shared key/value head becomes one into each
    query head of its group. What it has no place for is kept under ``"circuitlab"``, so that `read_graph_json` gives back an equal
    circuit.

    Parameters
    ----------
    circuit : Circuit
        What to write.
    model : ModelSpec, optional
        Its model; that of the scores otherwise. EAP-IG's own reader also wants the width and whether blocks are parallel, which a
        circuit does not know; without a model they are left out.
    scores : EdgeScores, optional
        Then every edge of the model is listed with its mean score, those outside the circuit with ``in_graph`` false; an edge into a
        shared key/value head gives its score to each of the edges it becomes. Without scores only the circuit's edges are listed, all
        with score 1.

    Raises
    ------
    BadParameterError
        If the circuit holds nodes the format has no name for (key/value heads as nodes, whole attention layers, residual points), or
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
    every: tuple[Node, ...] = (Embed(), *sorted(middle), Logits())
    entries = {} if scores is None else _scored(scores, universe)
    for name in (name for edge in edges for name in _edge_names(edge, universe)):
        entries[name] = {"in_graph": True, "score": entries[name]["score"] if name in entries else 1.0}
    shape: dict[str, Any] = {"n_layers": universe.n_layers, "n_heads": universe.n_heads, "n_kv_heads": universe.n_kv_heads}
    spec = model if model is not None or scores is None else scores.provenance.model
    if spec is not None:
        shape |= {"d_model": spec.d_model, "parallel_attn_mlp": spec.parallel}
    return {
        "cfg": shape,
        "nodes": {_name(node): {"in_graph": node in circuit.nodes} for node in every},
        "edges": entries,
        "circuitlab": circuit.to_dict(),
    }


def write_graph_json(circuit: Circuit, path: str | Path, model: ModelSpec | None = None, scores: EdgeScores | None = None) -> Path:
    """Write `to_graph` to a file and return its path; raises `StoreError` if the file cannot be written.

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
    """Read a graph file, written by `write_graph_json` or by another tool.

    Another tool's edges into keys and values (``a0.h1->a1.h0<k>``) are read as edges into the key/value head that the query head reads
    (``a0.h1->a1.kv0<k>``), as everywhere in circuitlab. Where the file has such an edge for some query heads of a group only, it is read
    as one into the head they share, and the circuit's rule says how many were widened in this way.

    Parameters
    ----------
    path : str or Path
        The file.
    universe : Universe, optional
        The model's shape. Needed where the file does not hold the number of key/value heads and it differs from that of query heads;
        otherwise the file must agree with it.

    Raises
    ------
    BadParameterError
        If the file is no such graph, names unknown nodes or edges, or was changed after `write_graph_json` wrote it.
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
        chosen = {part: {name for name, entry in data[part].items() if _chosen(entry)} for part in ("nodes", "edges")}
        circuit = _own(data["circuitlab"], chosen) if "circuitlab" in data else _foreign(data["cfg"], chosen, universe, Path(path).name)
    return require_universe(circuit, universe, path)


def read_graph_scores(path: str | Path, universe: Universe | None = None) -> dict[Edge, float]:
    """Read the scores of a graph file's edges, in and outside its circuit.

    The format has query heads only. In a file that `write_graph_json` wrote, the edges into the query heads of a group all carry the score
    of the one edge into their shared key/value head, and that is read. In a file of another tool they are edges of a model whose heads
    were taken apart, and their scores are added up: exact for gradient scores, which sum over the copies of a key or value, and not for
    the scores of exact patching.

    Parameters
    ----------
    path, universe
        As in `read_graph_json`.

    Returns
    -------
    dict of Edge to float
        Receiver by receiver, senders in forward order; edges without a score in the file are left out.

    Raises
    ------
    BadParameterError
        If the file is no such graph, names unknown nodes or edges, or holds no score, or one that is no finite number.
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
        given = {name: _score(name, entry) for name, entry in data["edges"].items() if isinstance(entry, dict) and "score" in entry}
        if not given:
            raise BadParameterError("none of its edges has a score.", "Give a file whose edges have scores.")
        found: dict[Edge, float] = {}
        for name, score in given.items():
            edge = _shared(_parse_edge(name), space)
            Circuit(frozenset(), space, frozenset({edge}))  # refuses an edge that lies outside the model
            found[edge] = score if "circuitlab" in data else found.get(edge, 0.0) + score
    return dict(sorted(found.items()))


def _score(name: str, entry: dict[str, Any]) -> float:
    score = entry["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        what = f"edge {name} has the score {score!r}."
        raise BadParameterError(what, "Scores are finite numbers.")
    return float(score)


def _own(data: dict[str, Any], chosen: dict[str, set[str]]) -> Circuit:
    """The circuit as circuitlab wrote it, if the graph around it still says the same."""
    circuit = Circuit.from_dict(data)
    nodes = {_name(node) for node in circuit.nodes}
    edges = {name for edge in circuit.edges or () for name in _edge_names(edge, circuit.shape)}
    if changed := sorted((nodes ^ chosen["nodes"]) | (edges ^ chosen["edges"])):
        what = f"its graph and its key 'circuitlab' disagree about {', '.join(changed[:5])}, so the file was changed by another tool."
        raise BadParameterError(what, "Remove the key 'circuitlab' to read the graph itself.")
    return circuit


def _foreign(shape: dict[str, int], chosen: dict[str, set[str]], universe: Universe | None, file: str) -> Circuit:
    """A circuit from another tool's names."""
    kv_heads = shape.get("n_kv_heads", universe.n_kv_heads if universe else shape["n_heads"])
    space = Universe(shape["n_layers"], shape["n_heads"], kv_heads)
    readers: dict[Edge, int] = {}
    for edge in map(_parse_edge, sorted(chosen["edges"])):
        shared = _shared(edge, space)
        readers[shared] = readers.get(shared, 0) + 1
    whole = space.n_heads // space.n_kv_heads
    partial = sum(isinstance(edge.receiver, KVHead) and count < whole for edge, count in readers.items())
    rule = f"read from {file}" + (f"; widened from part of a group to its key/value head: {partial} edges" if partial else "")
    return Circuit(frozenset(map(_parse, chosen["nodes"])), space, frozenset(readers) or None, rule)


def _shared(edge: Edge, universe: Universe) -> Edge:
    """The edge with keys and values at the key/value head."""
    if isinstance(edge.receiver, Head) and edge.port in {"k", "v"} and edge.receiver in universe:
        return Edge(edge.sender, universe.kv_head_of(edge.receiver), edge.port)
    return edge


def _scored(scores: EdgeScores, universe: Universe) -> dict[str, dict[str, Any]]:
    """Every edge of a model outside the graph, with its mean score."""
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
    """What the edge is called: one name, or one for each query head of a shared key/value head."""
    ends: list[Node] = [edge.receiver]
    if isinstance(edge.receiver, KVHead):
        size = universe.n_heads // universe.n_kv_heads
        ends = [Head(edge.receiver.layer, edge.receiver.head * size + i) for i in range(size)]
    return [f"{_name(edge.sender)}->{_name(end)}" + (f"<{edge.port}>" if edge.port else "") for end in ends]


def _parse(name: str) -> Node:
    return _NAMES.get(name) or parse_node(name)


def _parse_edge(name: str) -> Edge:
    match = re.fullmatch(r"(.+?)->([^<]+)(?:<([qkv])>)?", name)
    if match is None:
        what = f"{name!r} is not an edge name."
        raise BadParameterError(what, "Write sender->receiver<port>.")
    return Edge(_parse(match[1]), _parse(match[2]), match[3])  # type: ignore[arg-type]


def _chosen(entry: object) -> bool:
    return bool(entry["in_graph"]) if isinstance(entry, dict) else bool(entry)
