"""Overlap of two circuits as sets of nodes or edges."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from circuitlab.circuits.circuit import Circuit
from circuitlab.core.errors import BadParameterError, UnknownNameError

__all__ = ["Level", "containment", "count_overlaps", "jaccard", "overlap_coefficient", "set_overlaps"]

Level: TypeAlias = Literal["nodes", "edges"]


def jaccard(first: Circuit, second: Circuit, level: Level = "nodes") -> float:
    """Shared nodes (or edges) over all of them, between 0 and 1.

    Raises
    ------
    IncompatibleError
        If the circuits belong to models of different shape.
    BadParameterError
        If both are empty, or edges are asked for and a circuit has none.

    Examples
    --------
    >>> jaccard(Circuit(["a0.h1", "a1.h0"]), Circuit(["a1.h0", "a1.h3"]))
    0.3333333333333333
    """
    one, two = _sets(first, second, level)
    if not one | two:
        raise BadParameterError("Two empty circuits have no overlap.", "Select at least one node.")
    return len(one & two) / len(one | two)


def containment(first: Circuit, second: Circuit, level: Level = "nodes") -> float:
    """Share of the first circuit that lies in the second, between 0 and 1; not symmetric (Broder 1997). Raises as `jaccard`.

    Examples
    --------
    >>> containment(Circuit(["a1.h0"]), Circuit(["a1.h0", "a1.h3"]))
    1.0
    """
    one, two = _sets(first, second, level)
    if not one:
        raise BadParameterError("An empty circuit has no containment.", "Select at least one node.")
    return len(one & two) / len(one)


def overlap_coefficient(first: Circuit, second: Circuit, level: Level = "nodes") -> float:
    """Shared nodes over the smaller circuit: 1 where one contains the other (Szymkiewicz-Simpson). Raises as `jaccard`.

    Examples
    --------
    >>> overlap_coefficient(Circuit(["a0.h1", "a1.h0", "a2.h2"]), Circuit(["a1.h0", "a1.h3"]))
    0.5
    """
    one, two = _sets(first, second, level)
    if not one or not two:
        raise BadParameterError("An empty circuit has no overlap coefficient.", "Select at least one node.")
    return len(one & two) / min(len(one), len(two))


def set_overlaps(first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """Every measure of sets along the last axis of two arrays of membership; NaN where a circuit that is divided by is empty.

    Returns
    -------
    dict of str to ndarray
        ``jaccard``, ``containment`` (of the first in the second), ``containment_b`` (of the second in the first), ``overlap_coefficient``.
    """
    return count_overlaps((first & second).sum(axis=-1), first.sum(axis=-1), second.sum(axis=-1))


def count_overlaps(both: np.ndarray | float, one: np.ndarray, two: np.ndarray) -> dict[str, np.ndarray]:
    """The same from how many elements both sets hold, and either set."""
    whole = {"jaccard": one + two - both, "containment": one, "containment_b": two, "overlap_coefficient": np.minimum(one, two)}
    return {name: np.divide(both, size, out=np.full(np.shape(both), np.nan), where=size > 0) for name, size in whole.items()}


def _sets(first: Circuit, second: Circuit, level: Level) -> tuple[frozenset[Any], frozenset[Any]]:
    first.require_same_universe(second)
    if level == "nodes":
        return first.nodes, second.nodes
    if level != "edges":
        raise UnknownNameError("level", level, ["nodes", "edges"])
    if first.edges is None or second.edges is None:
        raise BadParameterError("A circuit of nodes alone has no edges to compare.", "Pick both with TopEdges, or compare nodes.")
    return first.edges, second.edges
