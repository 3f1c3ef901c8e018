"""Circuits: sets of nodes, how they are picked from scores, and files other tools read."""

from circuitlab.circuits.circuit import Circuit
from circuitlab.circuits.interchange import read_graph_json, to_graph, write_graph_json, write_graphml
from circuitlab.circuits.select import Significant, Threshold, TopK, top_heads

__all__ = ["Circuit", "Significant", "Threshold", "TopK", "read_graph_json", "to_graph", "top_heads", "write_graph_json", "write_graphml"]
