"""Discrete codes of node outputs from a small sparse autoencoder: outputs, training, codes, counts, inspection, files."""

from circuitlab.methods.sae.counts import edge_counts, label_p_values, listed_edges, pair_shares, unique_counts
from circuitlab.methods.sae.dictionary import Dictionary
from circuitlab.methods.sae.files import load_dictionary, save_dictionary
from circuitlab.methods.sae.inspection import Firing, firings
from circuitlab.methods.sae.learning import Plan, learn_codes
from circuitlab.methods.sae.outputs import node_outputs, nodes_of
from circuitlab.methods.sae.sample import CodeSample
from circuitlab.methods.sae.training import Training, train

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
