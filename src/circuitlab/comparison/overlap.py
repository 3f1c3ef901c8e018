"""Overlap of two circuits as sets of nodes or edges."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from circuitlab.circuits.circuit import Circuit
from circuitlab.core.errors import BadParameterError, UnknownNameError

__all__ = ["Level", "containment", "count_overlaps", "jaccard", "overlap_coefficient", "set_overlaps"]

Level: TypeAlias = Literal["nodes", "edges"]


def jaccard(first: Circuit, second: Circuit, level: Level = "nodes") -> float:
    """Jaccard index of two circuits: the number of shared nodes (or edges) divided by the number in either, between 0 and 1.

    Parameters
    ----------
    first, second : Circuit
        The circuits.
    level : {"nodes", "edges"}
        What is compared.

    Raises
    ------
    IncompatibleError
        If the circuits belong to models of different shapes.
    BadParameterError
        If both are empty, or edges are compared and a circuit has nodes alone.
    UnknownNameError
        If there is no such level.

    Examples
    --------
    >>> jaccard(Circuit(["a0.h1", "a1.h0"]), Circuit(["a1.h0", "a1.h3"]))
    0.3333333333333333
    """
    a, b = _sets(first, second, level)
    if not a | b:
        raise BadParameterError("Two empty circuits have no overlap.", "Select at least one node.")
    return len(a & b) / len(a | b)


def containment(first: Circuit, second: Circuit, level: Level = "nodes") -> float:
    """Share of the first circuit that is also in the second, between 0 and 1; not symmetric (Broder 1997).

    Parameters and errors are those of `jaccard`.

    Examples
    --------
    >>> containment(Circuit(["a1.h0"]), Circuit(["a1.h0", "a1.h3"]))
    1.0
    """
    a, b = _sets(first, second, level)
    if not a:
        raise BadParameterError("An empty circuit has no containment.", "Select at least one node.")
    return len(a & b) / len(a)


def overlap_coefficient(first: Circuit, second: Circuit, level: Level = "nodes") -> float:
    """Number of shared nodes (or edges) divided by the size of the smaller circuit: 1 if one circuit contains the other.

    Also called the Szymkiewicz-Simpson coefficient. Parameters and errors are those of `jaccard`.

    Examples
    --------
    >>> overlap_coefficient(Circuit(["a0.h1", "a1.h0", "a2.h2"]), Circuit(["a1.h0", "a1.h3"]))
    0.5
    """
    a, b = _sets(first, second, level)
    if not a or not b:
        raise BadParameterError("An empty circuit has no overlap coefficient.", "Select at least one node.")
    return len(a & b) / min(len(a), len(b))


def set_overlaps(first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """Every overlap measure of two sets, given as membership along the last axis of two boolean arrays.

    Returns
    -------
    dict of str to ndarray, without the last axis
        ``jaccard``, ``containment`` (of the first in the second), ``containment_b`` (of the second in the first) and
        ``overlap_coefficient``; NaN where the number that is divided by is 0.
    """
    return count_overlaps((first & second).sum(axis=-1), first.sum(axis=-1), second.sum(axis=-1))


def count_overlaps(shared: np.ndarray | float, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """The measures of `set_overlaps` from the number of shared elements and the sizes of the two sets."""
    totals = {
        "jaccard": first + second - shared,
        "containment": first,
        "containment_b": second,
        "overlap_coefficient": np.minimum(first, second),
    }
    return {name: np.divide(shared, total, out=np.full(np.shape(shared), np.nan), where=total > 0) for name, total in totals.items()}


def _sets(first: Circuit, second: Circuit, level: Level) -> tuple[frozenset[Any], frozenset[Any]]:
    first.require_same_universe(second)
    if level == "nodes":
        return first.nodes, second.nodes
    if level != "edges":
        raise UnknownNameError("level", level, ["nodes", "edges"])
    if first.edges is None or second.edges is None:
        raise BadParameterError("A circuit of nodes alone has no edges to compare.", "Select both with TopEdges, or compare nodes.")
    return first.edges, second.edges
