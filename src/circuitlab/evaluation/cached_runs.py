"""Circuits that have been run are not run again: values by circuit, kept in a file as they come."""

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
    """Runs circuits and keeps what it has run, so that analyses of the same prompts share runs and an interruption loses few.

    Parameters
    ----------
    runs : MaskedRuns
        What runs circuits.
    checkpoint : Checkpoint, optional
        Where values are kept; in memory only otherwise. What was kept for a universe of another size is not used.
    together : int
        Circuits that are run between two savings. Changes cost, not results.
    report : callable
        Told how many of the circuits of one call are done.
    """

    runs: MaskedRuns
    checkpoint: Checkpoint | None = None
    together: int = 16
    report: Callable[[int, int], None] = step

    def __post_init__(self) -> None:
        if self.together < 1:
            what = f"together={self.together} runs nothing."
            raise BadParameterError(what, "Use at least 1.")

    @cached_property
    def _known(self) -> dict[bytes, np.ndarray]:
        """Values of every circuit that was run, (pair,), by its packed mask."""
        kept = self.checkpoint.load() if self.checkpoint is not None else {}
        masks, values = kept.get("masks"), kept.get("values")
        width = len(np.packbits(np.zeros(len(self.runs.elements), dtype=bool)))
        if masks is None or values is None or masks.shape != (len(values), width):
            return {}
        return {mask.tobytes(): value for mask, value in zip(masks, values, strict=True)}

    def metric_of(self, masks: np.ndarray) -> np.ndarray:
        """Metric of each circuit, (circuit, pair); see `MaskedRuns.metric_of`. Only circuits that are not kept are run.

        Parameters
        ----------
        masks : ndarray of bool, shape (circuit, element)
        """
        masks = np.asarray(masks, dtype=bool)
        keys = [row.tobytes() for row in np.packbits(masks, axis=1)]
        missing = {key: mask for key, mask in zip(keys, masks, strict=True) if key not in self._known}
        todo = list(missing.items())
        for first in range(0, len(todo), self.together):
            some = todo[first : first + self.together]
            with report_progress(lambda _done, _total: None):  # steps of one group say nothing about the whole
                found = self.runs.metric_of(np.stack([mask for _, mask in some]))
            self._known.update({key: value for (key, _), value in zip(some, found, strict=True)})
            self._save()
            self.report(first + len(some), len(todo))
        return np.stack([self._known[key] for key in keys]) if keys else np.empty((0, 0))

    def _save(self) -> None:
        if self.checkpoint is not None:
            masks = np.stack([np.frombuffer(key, dtype=np.uint8) for key in self._known])
            self.checkpoint.save({"masks": masks, "values": np.stack(list(self._known.values()))})


def runs_id(runs: NodeCircuitRunner) -> str:
    """Identity of what `NodeCircuitRunner` gives for a circuit: model, prompts, metric, universe and ablation; sixteen hex digits."""
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
