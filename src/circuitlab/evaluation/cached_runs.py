"""CachedRuns: the metric of circuits that were run, kept in a checkpoint so that no circuit is run twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.comparison.runner import CircuitRunner
from circuitlab.core.errors import BadParameterError
from circuitlab.core.progress import report_progress, step
from circuitlab.core.provenance import digest
from circuitlab.evaluation.nodes import NodeCircuitRunner
from circuitlab.metrics import metric_params

if TYPE_CHECKING:
    from circuitlab.evaluation.runs import MaskedRuns
    from circuitlab.store import Checkpoint

__all__ = ["CachedRuns", "runs_id"]

_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class CachedRuns(CircuitRunner):
    """Runs circuits and keeps their values, so that analyses of the same prompts share runs and an interruption loses only a few.

    Parameters
    ----------
    runs : MaskedRuns
        Runs the circuits.
    checkpoint : Checkpoint, optional
        Where values are kept; if not given, only in memory. Values for a universe of another size are ignored.
    circuits_per_save : int
        Number of circuits that are run before the checkpoint is saved. Changes the cost, not the results.
    report : callable
        Called with the number of finished circuits and the number of all circuits of one call.

    Raises
    ------
    BadParameterError
        If ``circuits_per_save`` is less than 1.
    """

    runs: MaskedRuns
    checkpoint: Checkpoint | None = None
    circuits_per_save: int = 16
    report: Callable[[int, int], None] = step

    def __post_init__(self) -> None:
        if self.circuits_per_save < 1:
            what = f"circuits_per_save={self.circuits_per_save} runs nothing."
            raise BadParameterError(what, "Use at least 1.")

    @cached_property
    def _known(self) -> dict[bytes, np.ndarray]:
        """The metric of every circuit that was run, (pair,), by its packed mask."""
        saved = self.checkpoint.load() if self.checkpoint is not None else {}
        masks, values = saved.get("masks"), saved.get("values")
        width = len(np.packbits(np.zeros(len(self.runs.elements), dtype=bool)))
        if masks is None or values is None or masks.shape != (len(values), width):
            return {}
        return {mask.tobytes(): value for mask, value in zip(masks, values, strict=True)}

    def metric_of(self, masks: np.ndarray) -> np.ndarray:
        """Metric of each circuit on each pair, (circuit, pair); see `MaskedRuns.metric_of`. Only circuits without a kept value are run.

        Parameters
        ----------
        masks : ndarray of bool, shape (circuit, element)
            The circuits.
        """
        masks = np.asarray(masks, dtype=bool)
        keys = [row.tobytes() for row in np.packbits(masks, axis=1)]
        missing = {key: mask for key, mask in zip(keys, masks, strict=True) if key not in self._known}
        todo = list(missing.items())
        for first in range(0, len(todo), self.circuits_per_save):
            group = todo[first : first + self.circuits_per_save]
            with report_progress(lambda _done, _total: None):  # the steps of one group are not steps of the whole call
                values = self.runs.metric_of(np.stack([mask for _, mask in group]))
            self._known.update({key: value for (key, _), value in zip(group, values, strict=True)})
            self._save()
            self.report(first + len(group), len(todo))
        return np.stack([self._known[key] for key in keys]) if keys else np.empty((0, 0))

    def _save(self) -> None:
        if self.checkpoint is not None:
            masks = np.stack([np.frombuffer(key, dtype=np.uint8) for key in self._known])
            self.checkpoint.save({"masks": masks, "values": np.stack(list(self._known.values()))})


def runs_id(runs: NodeCircuitRunner) -> str:
    """Identity of the values that a `NodeCircuitRunner` returns, sixteen hex digits: model, prompts, metric, universe and ablation."""
    about = {
        "model": runs.model.spec.identity(),
        "task": runs.batch.task.digest,
        "metric": runs.metric.name,
        "metric_params": metric_params(runs.metric),
        "parts": list(runs.parts),
        "ablation": runs.ablation,
        "templates": list(runs.batch.templates) if runs.ablation == "mean_by_template" else [],
        "keep_at": {str(node): list(marks) for node, marks in runs.keep_at.items()},
        "schema": _SCHEMA,
    }
    return digest(about)[:16]
