"""Circuits: sets of nodes and edges, rules that select them from scores, and files that other tools read.

>>> import circuitlab as cl
>>> cl.circuits.published_circuit("ioi_gpt2_small").of_class("name mover")
Circuit of 3 nodes, published: ioi_gpt2_small, class name mover: a9.h6, a9.h9, a10.h0
"""

from circuitlab.circuits.circuit import Circuit
from circuitlab.circuits.graphml import read_graphml, write_graphml
from circuitlab.circuits.interchange import read_graph_json, read_graph_scores, to_graph, write_graph_json
from circuitlab.circuits.published import PublishedCircuit, list_published, published_circuit
from circuitlab.circuits.saved import SavedCircuit, load_circuit, save_circuit
from circuitlab.circuits.select import Cumulative, Significant, Threshold, TopK, top_heads
from circuitlab.circuits.select_edges import GreedyEdges, TopEdges, pruned_edges

__all__ = [
    "Circuit",
    "Cumulative",
    "GreedyEdges",
    "PublishedCircuit",
    "SavedCircuit",
    "Significant",
    "Threshold",
    "TopEdges",
    "TopK",
    "list_published",
    "load_circuit",
    "pruned_edges",
    "published_circuit",
    "read_graph_json",
    "read_graph_scores",
    "read_graphml",
    "save_circuit",
    "to_graph",
    "top_heads",
    "write_graph_json",
    "write_graphml",
]
