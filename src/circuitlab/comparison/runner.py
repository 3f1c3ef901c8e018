"""The protocol for running circuits of heads: masks over all heads in, the metric of every circuit and pair out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from circuitlab.circuits.circuit import Circuit
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.core.nodes import Embed, Head, Logits, Universe

__all__ = ["CircuitRunner", "common_universe", "head_mask", "run_named", "set_mask"]


class CircuitRunner(Protocol):
    """Runs circuits of heads on the pairs of one task, with all other heads ablated."""

    def metric_of(self, masks: np.ndarray) -> np.ndarray:
        """Metric of each circuit on each pair, (circuit, pair), from boolean masks over all heads in forward order, (circuit, head)."""
        ...


def head_mask(circuit: Circuit) -> np.ndarray:
    """A circuit as a boolean mask over all heads in forward order, (head,).

    Raises
    ------
    BadParameterError
        If the circuit has nodes other than heads. ``embed`` and ``logits`` belong to every circuit and are ignored.
    """
    if other := sorted(str(node) for node in circuit.nodes if not isinstance(node, Head | Embed | Logits)):
        what = f"A circuit holds {', '.join(other[:5])}, but circuits of different tasks are compared by their heads."
        raise BadParameterError(what, "Select circuits of heads, for example with TopK(20).")
    return set_mask(frozenset(node for node in circuit.nodes if isinstance(node, Head)), circuit.shape)


def set_mask(heads: frozenset[Head], universe: Universe) -> np.ndarray:
    """A set of heads as a boolean mask over all heads in forward order, (head,)."""
    return np.array([head in heads for head in universe.heads()])


def common_universe(circuits: Mapping[str, Circuit]) -> Universe:
    """The model shape that all circuits belong to.

    Raises
    ------
    BadParameterError
        If there are fewer than two circuits.
    IncompatibleError
        If they belong to models of different shapes.
    """
    if len(circuits) < 2:  # noqa: PLR2004 - a comparison
        what = f"Comparing needs circuits of at least two tasks; got {list(circuits)}."
        raise BadParameterError(what, "Add another task.")
    first, *rest = circuits.values()
    for other in rest:
        first.require_same_universe(other)
    return first.shape


def run_named(runner: CircuitRunner, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run named groups of masks, each (circuit, head), in one call, and return the metric of each group, (circuit, pair).

    Raises
    ------
    IncompatibleError
        If the runner returns values of another shape.
    """
    values = runner.metric_of(np.concatenate(list(masks.values())))
    if values.ndim != 2 or len(values) != sum(map(len, masks.values())):  # noqa: PLR2004 - circuits and pairs
        what = f"{sum(map(len, masks.values()))} circuits were run and values of shape {values.shape} came back."
        raise IncompatibleError(what, "metric_of must return values of shape (circuit, pair).")
    groups, start = {}, 0
    for name, group in masks.items():
        groups[name] = values[start : start + len(group)]
        start += len(group)
    return groups
