"""Circuits as GraphML files, for Gephi, Cytoscape, yEd or networkx."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuitlab.circuits.circuit import Circuit
from circuitlab.circuits.reading import reading, require_universe
from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Universe

__all__ = ["read_graphml", "write_graphml"]


def write_graphml(circuit: Circuit, path: str | Path) -> Path:
    """Write a circuit's nodes and edges as GraphML and return the path.

    Nodes have the attributes ``kind``, ``layer`` and ``head``, edges have ``port``. Ends of edges that are not nodes of the circuit are
    listed with ``in_circuit`` false. The graph attribute ``circuitlab`` holds the model's shape, the rule and the run ids as JSON, so that
    `read_graphml` returns an equal circuit. Raises `StoreError` if the file cannot be written.

    Examples
    --------
    >>> circuit = Circuit(["a0.h1"], Universe(1, 2, 2), ["a0.h1->logits"])
    >>> read_graphml(write_graphml(circuit, "graph.graphml")) == circuit
    True
    """
    import networkx as nx  # noqa: PLC0415 - takes a quarter of a second; only graph files and pruning need it

    from circuitlab.core.files import replace_file  # noqa: PLC0415

    about = circuit.to_dict() | {"nodes": [], "edges": None if circuit.edges is None else []}
    graph = nx.MultiDiGraph(circuitlab=json.dumps(about))  # an edge into a key and one into a value have the same ends
    edges = sorted(circuit.edges or ())
    for node in sorted({*circuit.nodes, *(end for edge in edges for end in (edge.sender, edge.receiver))}):
        facts = {"kind": type(node).__name__.lower(), "layer": getattr(node, "layer", None), "head": getattr(node, "head", None)}
        facts["in_circuit"] = node in circuit.nodes
        graph.add_node(str(node), **{name: value for name, value in facts.items() if value is not None})
    for edge in edges:
        graph.add_edge(str(edge.sender), str(edge.receiver), key=str(edge), **({"port": edge.port} if edge.port else {}))
    target = Path(path)
    # write_graphml_xml gives the same bytes whether lxml is there or not.
    replace_file(target, lambda temporary: nx.write_graphml_xml(graph, temporary, named_key_ids=True))
    return target


def read_graphml(path: str | Path, universe: Universe | None = None) -> Circuit:
    """Read a circuit from a GraphML file that `write_graphml` or another tool wrote.

    Parameters
    ----------
    path : str or Path
        The file. Node ids are node names (``a9.h6``); ``in_circuit`` is taken as true where it is missing, also for ends of edges that
        are not listed as nodes.
    universe : Universe, optional
        The model's shape. Needed for files of other tools, which do not contain it; the shape in any other file must agree with it.

    Raises
    ------
    BadParameterError
        If the file is no such graph, names unknown nodes or edges, has edges without direction, or holds no shape where none is given.
    IncompatibleError
        If the file's circuit belongs to a model of another shape than ``universe``.

    Examples
    --------
    >>> path = write_graphml(Circuit(["a0.h1", "m0"], Universe(1, 2, 2)), "graph.graphml")
    >>> read_graphml(path)
    Circuit of 2 nodes, given: a0.h1, m0
    """
    with reading(path, "a circuit in GraphML", "Give a file that write_graphml wrote."):
        graph = _graph(Path(path))
        usual = graph.graph.get("node_default", {}).get("in_circuit", True)
        inside = [name for name, data in graph.nodes(data=True) if str(data.get("in_circuit", usual)).lower() != "false"]
        edges = [
            f"{sender}->{receiver}" + (f"<{data['port']}>" if data.get("port") else "") for sender, receiver, data in graph.edges(data=True)
        ]
        about = _about(graph.graph, universe, Path(path).name)
        circuit = Circuit.from_dict(about | {"nodes": inside} | ({"edges": edges} if edges else {}))
    return require_universe(circuit, universe, path)


def _graph(path: Path) -> Any:
    """The graph of a file; one whose edges have no direction is refused, since which end sends would be a guess."""
    import networkx as nx  # noqa: PLC0415

    try:
        graph = nx.read_graphml(path)
    except nx.NetworkXError as error:
        what = f"{str(error).rstrip('.')}."
        raise BadParameterError(what, "Give a file that write_graphml wrote.") from error
    if graph.number_of_edges() and not graph.is_directed():
        raise BadParameterError("its edges have no direction.", 'Say edgedefault="directed".')
    return graph


def _about(kept: Mapping[str, Any], universe: Universe | None, file: str) -> dict[str, Any]:
    """Everything but nodes and edges."""
    if "circuitlab" in kept:
        about: dict[str, Any] = json.loads(kept["circuitlab"])
        return about
    if universe is None:
        raise BadParameterError("it does not say how many layers and heads the model has.", "Give the universe.")
    size = {"n_layers": universe.n_layers, "n_heads": universe.n_heads, "n_kv_heads": universe.n_kv_heads}
    return {"universe": size, "rule": f"read from {file}"}
