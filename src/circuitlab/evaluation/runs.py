"""MaskedRuns, the base of node- and edge-level evaluation: circuits are masks over a universe of elements, and each is run only once."""

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
    """Runs circuits of one universe on one batch. A circuit is a mask over `elements`; all elements outside it are ablated."""

    @property
    @abstractmethod
    def elements(self) -> Sequence[object]:
        """The nodes or edges of the universe, in the order of the masks."""

    @property
    @abstractmethod
    def strata(self) -> np.ndarray:
        """Kind of each element, int, (element,): random circuits have as many elements of each kind as the circuit."""

    @property
    @abstractmethod
    def conventions(self) -> dict[str, str]:
        """How circuits are run, in words."""

    @abstractmethod
    def mask_of(self, circuit: Circuit) -> np.ndarray:
        """The circuit as a boolean mask, (element,)."""

    @abstractmethod
    def run(self, masks: np.ndarray) -> np.ndarray:
        """Metric of each circuit on each pair, (circuit, pair); every circuit is run, including repeated ones."""

    def names(self, mask: np.ndarray) -> tuple[str, ...]:
        """Names of the elements in a mask of shape (element,)."""
        return tuple(str(self.elements[i]) for i in np.flatnonzero(mask).tolist())

    @cached_property
    def _full_and_empty(self) -> list[np.ndarray]:
        """The metric of the full model and of the empty circuit; empty until they are run."""
        return []

    @property
    def full_and_empty(self) -> tuple[np.ndarray, np.ndarray]:
        """Metric of the full model and of the empty circuit, each (pair,)."""
        if not self._full_and_empty:
            self.metric_of(np.zeros((0, len(self.elements)), dtype=bool))
        full, empty = self._full_and_empty
        return full, empty

    def metric_of(self, masks: np.ndarray) -> np.ndarray:
        """Metric of each circuit on each pair, (circuit, pair). Equal circuits are run once.

        The values of the full model and of the empty circuit are exactly those of `full_and_empty`. These two are run together with the
        first circuits, so that the unedited prompts are not run for them alone.

        Parameters
        ----------
        masks : ndarray of bool, shape (circuit, element)
            The circuits.

        Raises
        ------
        BadParameterError
            If the masks do not fit the universe.
        """
        masks = np.asarray(masks, dtype=bool)
        n = len(self.elements)
        if masks.ndim != 2 or masks.shape[1] != n:  # noqa: PLR2004 - circuits and elements
            what = f"Masks of shape {masks.shape} do not fit a universe of {n} elements."
            raise BadParameterError(what, "Give one row per circuit and one column per element.")
        full_and_empty = np.array([[True] * n, [False] * n])
        known = dict(zip(map(np.ndarray.tobytes, full_and_empty), self._full_and_empty, strict=False))
        distinct = {mask.tobytes(): mask for mask in (*full_and_empty, *masks)}
        missing = {key: mask for key, mask in distinct.items() if key not in known}
        if missing:
            known |= zip(missing, self.run(np.stack(list(missing.values()))), strict=True)
        self._full_and_empty[:] = [known[mask.tobytes()] for mask in full_and_empty]
        return np.stack([known[mask.tobytes()] for mask in masks]) if len(masks) else np.empty((0, len(self._full_and_empty[0])))


def require_same_shape(circuit: Circuit, model: Model) -> None:
    """Raise `IncompatibleError` unless the circuit belongs to a model of the same shape as this one."""
    if circuit.universe != universe_of(model):
        what = f"A circuit of {circuit.universe} cannot be run in {model.spec.name}, {universe_of(model)}."
        raise IncompatibleError(what, "Use the model that the circuit was found in.")
