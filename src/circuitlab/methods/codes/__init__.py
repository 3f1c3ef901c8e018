"""Discrete codes of node outputs from one small sparse autoencoder: outputs, training, codes, counts, inspection, files."""

from circuitlab.methods.codes.counts import edge_counts, label_p_values, listed_edges, pair_shares, unique_counts
from circuitlab.methods.codes.dictionary import Dictionary
from circuitlab.methods.codes.files import load_dictionary, save_dictionary
from circuitlab.methods.codes.inspection import Firing, firings
from circuitlab.methods.codes.learning import Plan, learn_codes
from circuitlab.methods.codes.outputs import node_outputs, nodes_of
from circuitlab.methods.codes.sample import CodeSample
from circuitlab.methods.codes.training import Training, train

__all__ = [
    "CodeSample",
    "Dictionary",
    "Firing",
    "Plan",
    "Training",
    "edge_counts",
    "firings",
    "label_p_values",
    "learn_codes",
    "listed_edges",
    "load_dictionary",
    "node_outputs",
    "nodes_of",
    "pair_shares",
    "save_dictionary",
    "train",
    "unique_counts",
]
