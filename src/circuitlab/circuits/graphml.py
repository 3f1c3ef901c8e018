"""Circuits as GraphML files, for Gephi, Cytoscape, yEd or networkx."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from circuitlab.circuits.circuit import Circuit
from circuitlab.circuits.reading import reading, require_universe
from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Edge, Node, Universe, parse_edge

__all__ = ["read_graphml", "write_graphml"]

_NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
_SPACE = {"g": _NAMESPACE}


def write_graphml(circuit: Circuit, path: str | Path) -> Path:
    """Write a circuit's nodes and edges as GraphML and return the path.

    Nodes have the attributes ``kind``, ``layer`` and ``head``, edges have ``port``. Ends of edges that are not nodes of the circuit are
    listed with ``in_circuit`` false. The graph attribute ``circuitlab`` holds the model's shape, the rule and the run ids as JSON, so that
    `read_graphml` returns an equal circuit.

    Examples
    --------
    >>> circuit = Circuit(["a0.h1"], Universe(1, 2, 2), ["a0.h1->logits"])
    >>> read_graphml(write_graphml(circuit, "graph.graphml")) == circuit
    True
    """
    root = ET.Element("graphml", xmlns=_NAMESPACE)
    keys = {"kind": "string", "layer": "int", "head": "int", "in_circuit": "boolean"}
    for name, kind in keys.items():
        ET.SubElement(root, "key", {"id": name, "for": "node", "attr.name": name, "attr.type": kind})
    for name, owner in (("port", "edge"), ("circuitlab", "graph")):
        ET.SubElement(root, "key", {"id": name, "for": owner, "attr.name": name, "attr.type": "string"})
    graph = ET.SubElement(root, "graph", id="circuit", edgedefault="directed")
    about = circuit.to_dict() | {"nodes": [], "edges": None if circuit.edges is None else []}
    ET.SubElement(graph, "data", key="circuitlab").text = json.dumps(about)
    edges = sorted(circuit.edges or ())
    for node in _all_ends(circuit.nodes, edges):
        entry = ET.SubElement(graph, "node", id=str(node))
        attributes = {"kind": type(node).__name__.lower(), "layer": getattr(node, "layer", None), "head": getattr(node, "head", None)}
        for key, value in (attributes | {"in_circuit": str(node in circuit.nodes).lower()}).items():
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


def read_graphml(path: str | Path, universe: Universe | None = None) -> Circuit:
    """Read a circuit from a GraphML file that `write_graphml` or another tool wrote.

    Parameters
    ----------
    path : str or Path
        The file. Node ids are node names (``a9.h6``); a node without ``in_circuit`` is in the circuit.
    universe : Universe, optional
        The model's shape. Needed for files of other tools, which do not contain it; the shape in any other file must agree with it.

    Raises
    ------
    BadParameterError
        If the file is not such a graph, names unknown nodes or edges, or contains no shape and none is given.
    IncompatibleError
        If the file's circuit belongs to a model of another shape than ``universe``.

    Examples
    --------
    >>> path = write_graphml(Circuit(["a0.h1", "m0"], Universe(1, 2, 2)), "graph.graphml")
    >>> read_graphml(path)
    Circuit of 2 nodes, given: a0.h1, m0
    """
    with reading(path, "a circuit in GraphML", "Give a file that write_graphml wrote."):
        root = ET.parse(Path(path)).getroot()  # noqa: S314 - no external entity is read, and expat limits expansion
        graph = root.find("g:graph", _SPACE)
        if graph is None:
            raise BadParameterError("it holds no graph.", "Give a file that write_graphml wrote.")
        # Other tools number their keys, so data are looked up by the name that a key declares.
        names = {str(key.get("id")): str(key.get("attr.name")) for key in root.findall("g:key", _SPACE)}
        about = _about(graph, names, universe, Path(path).name)
        entries = graph.findall("g:node", _SPACE)
        inside = [entry.attrib["id"] for entry in entries if (_data(entry, "in_circuit", names) or "true").lower() != "false"]
        edges = [str(_edge(entry, names)) for entry in graph.findall("g:edge", _SPACE)]
        circuit = Circuit.from_dict(about | {"nodes": inside} | ({"edges": edges} if edges else {}))
    return require_universe(circuit, universe, path)


def _about(graph: ET.Element, names: dict[str, str], universe: Universe | None, file: str) -> dict[str, Any]:
    """The circuit's data without its nodes and edges, as `Circuit.to_dict` writes them."""
    text = _data(graph, "circuitlab", names)
    if text is not None:
        about: dict[str, Any] = json.loads(text)
        return about
    if universe is None:
        raise BadParameterError("it does not say how many layers and heads the model has.", "Give the universe.")
    size = {"n_layers": universe.n_layers, "n_heads": universe.n_heads, "n_kv_heads": universe.n_kv_heads}
    return {"universe": size, "rule": f"read from {file}"}


def _edge(entry: ET.Element, names: dict[str, str]) -> Edge:
    port = _data(entry, "port", names)
    return parse_edge(f"{entry.attrib['source']}->{entry.attrib['target']}" + (f"<{port}>" if port else ""))


def _data(entry: ET.Element, name: str, names: dict[str, str]) -> str | None:
    return next((child.text for child in entry.findall("g:data", _SPACE) if names.get(str(child.get("key"))) == name), None)


def _all_ends(nodes: Iterable[Node], edges: Iterable[Edge]) -> list[Node]:
    return sorted({*nodes, *(end for edge in edges for end in (edge.sender, edge.receiver))})
