"""Circuits as files that other tools read: a graph in JSON as in MIB's circuit track, and GraphML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from circuitlab.circuits.circuit import Circuit
from circuitlab.errors import BadParameterError, CircuitlabError
from circuitlab.nodes import Edge, Embed, Head, Logits, Mlp, Node, Universe, parse_node
from circuitlab.provenance import ModelSpec

__all__ = ["read_graph_json", "to_graph", "write_graph_json", "write_graphml"]

_NAMES: dict[str, Node] = {"input": Embed(), "logits": Logits()}


def to_graph(circuit: Circuit, model: ModelSpec | None = None) -> dict[str, Any]:
    """The circuit as the graph that EAP-IG and MIB's circuit track exchange.

    ``"nodes"`` maps every node that tool knows (``input``, ``a0.h1``, ``m0``, ``logits``) to ``{"in_graph": bool}``; ``"edges"``
    maps every edge of the circuit (``a0.h1->a1.h0<q>``, ``m0->logits``) to ``{"in_graph": true, "score": 1.0}`` and is empty for
    a circuit of nodes alone; ``"cfg"`` holds the shape. What that format has no place for is kept under ``"circuitlab"``, so that
    `read_graph_json` gives back an equal circuit.

    Parameters
    ----------
    circuit : Circuit
        What to write.
    model : ModelSpec, optional
        Its model. EAP-IG's own reader also wants the width and whether blocks are parallel, which a circuit does not know;
        without a model they are left out.

    Raises
    ------
    BadParameterError
        If the circuit holds nodes the format has no name for: key/value heads, whole attention layers, residual points.
    """
    ends = {end for edge in circuit.edges or () for end in (edge.sender, edge.receiver)}
    if foreign := sorted(node for node in circuit.nodes | ends if not isinstance(node, Head | Mlp | Embed | Logits)):
        what = f"The graph format has no name for {', '.join(map(str, foreign[:5]))}."
        raise BadParameterError(what, "Use Circuit.to_dict, or keep query heads, MLPs, embed and logits.")
    universe = circuit.universe
    middle: list[Node] = [*universe.heads(), *universe.mlps()]
    every: tuple[Node, ...] = (Embed(), *sorted(middle), Logits())
    shape: dict[str, Any] = {"n_layers": universe.n_layers, "n_heads": universe.n_heads, "n_kv_heads": universe.n_kv_heads}
    if model is not None:
        shape |= {"d_model": model.d_model, "parallel_attn_mlp": model.parallel}
    return {
        "cfg": shape,
        "nodes": {_name(node): {"in_graph": node in circuit.nodes} for node in every},
        "edges": {_edge_name(edge): {"in_graph": True, "score": 1.0} for edge in sorted(circuit.edges or ())},
        "circuitlab": circuit.to_dict(),
    }


def write_graph_json(circuit: Circuit, path: str | Path, model: ModelSpec | None = None) -> Path:
    """Write `to_graph` to a file and return its path."""
    target = Path(path)
    target.write_text(json.dumps(to_graph(circuit, model), indent=1), encoding="utf-8")
    return target


def read_graph_json(path: str | Path, universe: Universe | None = None) -> Circuit:
    """Read a graph file, written by `write_graph_json` or by another tool.

    Parameters
    ----------
    path : str or Path
        The file.
    universe : Universe, optional
        The model's shape, where the file does not hold the number of key/value heads; otherwise as many as query heads are
        assumed.

    Raises
    ------
    BadParameterError
        If the file is no such graph.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if "circuitlab" in data:
            return Circuit.from_dict(data["circuitlab"])
        shape = data["cfg"]
        kv_heads = shape.get("n_kv_heads", shape["n_heads"])
        names = [name for name, entry in data["nodes"].items() if _chosen(entry)]
        edges = [_parse_edge(name) for name, entry in data["edges"].items() if _chosen(entry)]
        nodes = frozenset(map(_parse, names))
        space = universe or Universe(shape["n_layers"], shape["n_heads"], kv_heads)
        return Circuit(nodes, space, frozenset(edges) if edges else None, rule=f"read from {Path(path).name}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{path} is not a circuit graph ({type(error).__name__}: {error})."
        raise BadParameterError(what, "Give a JSON file with cfg, nodes and edges.") from error
    except CircuitlabError as error:
        what = f"{path} is not a circuit graph: {error.what}"
        raise BadParameterError(what, error.fix) from error


def write_graphml(circuit: Circuit, path: str | Path) -> Path:
    """Write the circuit's nodes and edges as GraphML, for Gephi, Cytoscape, yEd or networkx; returns the path.

    Nodes carry ``kind``, ``layer`` and ``head``; edges carry ``port``. Ends of edges are listed also where the circuit does not
    count them as nodes, with ``in_circuit`` false.
    """
    root = ET.Element("graphml", xmlns="http://graphml.graphdrawing.org/xmlns")
    keys = {"kind": "string", "layer": "int", "head": "int", "in_circuit": "boolean"}
    for name, kind in keys.items():
        ET.SubElement(root, "key", {"id": name, "for": "node", "attr.name": name, "attr.type": kind})
    ET.SubElement(root, "key", {"id": "port", "for": "edge", "attr.name": "port", "attr.type": "string"})
    graph = ET.SubElement(root, "graph", id="circuit", edgedefault="directed")
    edges = sorted(circuit.edges or ())
    for node in _all_ends(circuit.nodes, edges):
        entry = ET.SubElement(graph, "node", id=str(node))
        facts = {"kind": type(node).__name__.lower(), "layer": getattr(node, "layer", None), "head": getattr(node, "head", None)}
        for key, value in (facts | {"in_circuit": str(node in circuit.nodes).lower()}).items():
            if value is not None:
                ET.SubElement(entry, "data", key=key).text = str(value)
    for edge in edges:
        entry = ET.SubElement(graph, "edge", id=str(edge), source=str(edge.sender), target=str(edge.receiver))
        if edge.port:
            ET.SubElement(entry, "data", key="port").text = edge.port
    target = Path(path)
    ET.indent(root)
    ET.ElementTree(root).write(target, encoding="utf-8", xml_declaration=True)
    return target


def _all_ends(nodes: Iterable[Node], edges: Iterable[Edge]) -> list[Node]:
    return sorted({*nodes, *(end for edge in edges for end in (edge.sender, edge.receiver))})


def _name(node: Node) -> str:
    return "input" if isinstance(node, Embed) else str(node)


def _edge_name(edge: Edge) -> str:
    return f"{_name(edge.sender)}->{_name(edge.receiver)}" + (f"<{edge.port}>" if edge.port else "")


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
