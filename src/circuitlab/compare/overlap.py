"""Overlap of two circuits as sets of nodes."""

from __future__ import annotations

from circuitlab.circuits.circuit import Circuit
from circuitlab.errors import BadParameterError

__all__ = ["containment", "jaccard"]


def jaccard(first: Circuit, second: Circuit) -> float:
    """Shared nodes over all nodes, between 0 and 1.

    Raises
    ------
    IncompatibleError
        If the circuits belong to models of different shape.
    BadParameterError
        If both are empty.
    """
    union = first | second
    if not union.nodes:
        raise BadParameterError("Two empty circuits have no overlap.", "Select at least one node.")
    return len(first.nodes & second.nodes) / len(union)


def containment(first: Circuit, second: Circuit) -> float:
    """Shared nodes over the smaller circuit, between 0 and 1: 1 where one contains the other (Szymkiewicz-Simpson)."""
    first.require_same_universe(second)
    smaller = min(len(first), len(second))
    if smaller == 0:
        raise BadParameterError("An empty circuit has no containment.", "Select at least one node.")
    return len(first.nodes & second.nodes) / smaller
