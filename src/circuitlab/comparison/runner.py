"""What the functional comparisons ask of whoever runs circuits: masks over all heads in, one value per circuit and pair out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from circuitlab.circuits.circuit import Circuit
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.core.nodes import Embed, Head, Logits, Universe

__all__ = ["CircuitRunner", "common_universe", "head_mask", "run_named", "set_mask"]


class CircuitRunner(Protocol):
    """Runs circuits of heads on the pairs of one task, every other head ablated."""

    def metric_of(self, masks: np.ndarray) -> np.ndarray:
        """Metric of each circuit, (circuit, pair), from masks over all heads in forward order, (circuit, head)."""
        ...


def head_mask(circuit: Circuit) -> np.ndarray:
    """The circuit as a mask over all heads in forward order, (head,).

    Raises
    ------
    BadParameterError
        If it holds nodes other than heads; ``embed`` and ``logits`` belong to every circuit and are passed over.
    """
    if other := sorted(str(node) for node in circuit.nodes if not isinstance(node, Head | Embed | Logits)):
        what = f"A circuit holds {', '.join(other[:5])}, and circuits of different tasks are run by their heads."
        raise BadParameterError(what, "Pick circuits of heads, for example with TopK(20).")
    return set_mask(frozenset(node for node in circuit.nodes if isinstance(node, Head)), circuit.shape)


def set_mask(heads: frozenset[Head], universe: Universe) -> np.ndarray:
    """Heads as a mask over all heads in forward order, (head,)."""
    return np.array([head in heads for head in universe.heads()])


def common_universe(circuits: Mapping[str, Circuit]) -> Universe:
    """The model shape that all circuits share.

    Raises
    ------
    BadParameterError
        If there are fewer than two circuits.
    IncompatibleError
        If they belong to models of different shape.
    """
    if len(circuits) < 2:  # noqa: PLR2004 - a comparison
        what = f"Comparing needs circuits of at least two tasks; got {list(circuits)}."
        raise BadParameterError(what, "Add another task.")
    first, *rest = circuits.values()
    for other in rest:
        first.require_same_universe(other)
    return first.shape


def run_named(runner: CircuitRunner, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run groups of masks, each (circuit, head), in one go; the metric of each group, (circuit, pair).

    Raises
    ------
    IncompatibleError
        If the runner gives values of another shape.
    """
    values = runner.metric_of(np.concatenate(list(masks.values())))
    if values.ndim != 2 or len(values) != sum(map(len, masks.values())):  # noqa: PLR2004 - circuits and pairs
        what = f"{sum(map(len, masks.values()))} circuits were run and values of shape {values.shape} came back."
        raise IncompatibleError(what, "metric_of must give (circuit, pair).")
    found, start = {}, 0
    for name, some in masks.items():
        found[name] = values[start : start + len(some)]
        start += len(some)
    return found
