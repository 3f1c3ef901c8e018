"""Circuits: sets of nodes, how they are picked from scores, and files other tools read."""

from circuitlab.circuits.circuit import Circuit
from circuitlab.circuits.select import Significant, Threshold, TopK

__all__ = ["Circuit", "Significant", "Threshold", "TopK"]
