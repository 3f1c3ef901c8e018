"""What node- and edge-level evaluation share: circuits as masks over a universe of elements, and the two ends of the scale."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.comparison.runner import CircuitRunner
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.execute.routes import universe_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from circuitlab.circuits.circuit import Circuit
    from circuitlab.model.protocol import Model

__all__ = ["MaskedRuns", "require_same_shape"]


class MaskedRuns(CircuitRunner, ABC):
    """Runs circuits of one universe on one batch. A circuit is a mask over `elements`; what is outside it is ablated."""

    @property
    @abstractmethod
    def elements(self) -> Sequence[object]:
        """Nodes or edges that a circuit may hold or leave out, in the order of the masks."""

    @property
    @abstractmethod
    def strata(self) -> np.ndarray:
        """Kind of each element, (element,): random circuits have as many of each kind as the circuit they match."""

    @property
    @abstractmethod
    def conventions(self) -> dict[str, str]:
        """How circuits are run, in words."""

    @abstractmethod
    def mask_of(self, circuit: Circuit) -> np.ndarray:
        """The circuit as a mask, (element,)."""

    @abstractmethod
    def run(self, masks: np.ndarray) -> np.ndarray:
        """Metric of each circuit, (circuit, pair), every one of them run."""

    def names(self, mask: np.ndarray) -> tuple[str, ...]:
        """Names of the elements in a mask, (element,)."""
        return tuple(str(self.elements[i]) for i in np.flatnonzero(mask).tolist())

    @cached_property
    def _ends(self) -> list[np.ndarray]:
        """The full model's and the empty circuit's metric, once they were run."""
        return []

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Metric of the full model and of the empty circuit, each (pair,)."""
        if not self._ends:
            self.metric_of(np.zeros((0, len(self.elements)), dtype=bool))
        full, empty = self._ends
        return full, empty

    def metric_of(self, masks: np.ndarray) -> np.ndarray:
        """Metric of each circuit, (circuit, pair). Equal circuits are run once; the full and the empty one are exactly `ends`.

        The ends are run with the first circuits, so that the unedited prompts need not be run for them alone.

        Parameters
        ----------
        masks : ndarray of bool, shape (circuit, element)
        """
        masks = np.asarray(masks, dtype=bool)
        n = len(self.elements)
        if masks.ndim != 2 or masks.shape[1] != n:  # noqa: PLR2004 - circuits and elements
            what = f"Masks of shape {masks.shape} do not fit a universe of {n} elements."
            raise BadParameterError(what, "Give one row per circuit and one column per element.")
        both = np.array([[True] * n, [False] * n])
        known = dict(zip(map(np.ndarray.tobytes, both), self._ends, strict=False))
        asked = {mask.tobytes(): mask for mask in (*both, *masks)}
        fresh = {key: mask for key, mask in asked.items() if key not in known}
        if fresh:
            known |= zip(fresh, self.run(np.stack(list(fresh.values()))), strict=True)
        self._ends[:] = [known[end.tobytes()] for end in both]
        return np.stack([known[mask.tobytes()] for mask in masks]) if len(masks) else np.empty((0, len(self._ends[0])))


def require_same_shape(circuit: Circuit, model: Model) -> None:
    """Raise `IncompatibleError` unless the circuit belongs to a model of this shape."""
    if circuit.universe != universe_of(model):
        what = f"A circuit of {circuit.universe} cannot be run in {model.spec.name}, {universe_of(model)}."
        raise IncompatibleError(what, "Use the model that the circuit was found in.")
