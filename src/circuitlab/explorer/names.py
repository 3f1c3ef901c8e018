"""Names by which the parts of a payload refer to each other: short where that is unique."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from circuitlab.core.provenance import digest

if TYPE_CHECKING:
    from circuitlab.core.provenance import ModelSpec, Provenance, TaskRef
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["Names", "score_id", "task_key"]

TaskKey = tuple[str, str, int, int, str]


def task_key(task: TaskRef) -> TaskKey:
    """What makes prompts those of one task: id, variant, version and seed; of token ids, also what they are.

    The number of pairs is no part of it: the first pairs of a stream are the same however many follow.
    """
    return (task.id, task.variant, task.version, task.seed, task.digest if task.id == "tokens" else "")


def score_id(run_id: str, mark: str | None) -> str:
    """Name of scores: the run, and the mark where they are resolved by mark."""
    return run_id if mark is None else f"{run_id}@{mark}"


@dataclass(frozen=True, eq=False)
class Names:
    """Names of the models and tasks of some runs.

    Parameters
    ----------
    runs : tuple of HeadScores
        The runs.
    """

    runs: tuple[HeadScores, ...]

    @cached_property
    def models(self) -> dict[str, ModelSpec]:
        """Every model by name, in the order of the runs: its own name, said to be edited, with part of a hash where two share that."""
        specs = {digest(run.provenance.model.identity()): run.provenance.model for run in self.runs}
        own = {key: f"{spec.name} (edited)" if spec.edits else spec.name for key, spec in specs.items()}
        labels = _unique([[name, f"{name}#{key[:8]}", key] for key, name in own.items()])
        return dict(zip(labels, specs.values(), strict=True))

    @cached_property
    def tasks(self) -> dict[str, TaskRef]:
        """Every task by name, in the order of the runs, as its longest run has it."""
        refs: dict[TaskKey, TaskRef] = {}
        for run in self.runs:
            task = run.provenance.task
            if not run.weights_only and (task_key(task) not in refs or refs[task_key(task)].n_pairs < task.n_pairs):
                refs[task_key(task)] = task
        labels = _unique(
            [
                [one.id, f"{one.id}:{one.variant}", f"{one.id}:{one.variant}@{one.seed}", f"{one.id}#{one.digest[:8]}", one.digest]
                for one in refs.values()
            ]
        )
        return dict(zip(labels, refs.values(), strict=True))

    @cached_property
    def _model_of(self) -> dict[str, str]:
        return {digest(spec.identity()): name for name, spec in self.models.items()}

    @cached_property
    def _task_of(self) -> dict[TaskKey, str]:
        return {task_key(ref): name for name, ref in self.tasks.items()}

    def model(self, identity: Mapping[str, str]) -> str | None:
        """Name of the model with this identity; None if no run is of it."""
        return self._model_of.get(digest(dict(identity)))

    def task(self, about: Provenance) -> str | None:
        """Name of a run's task; None for weights alone."""
        return None if about.weights_only else self._task_of[task_key(about.task)]

    def task_of_prompts(self, task: Mapping[str, Any]) -> str | None:
        """Name of the task that stored prompts are of; None if no run is of them."""
        key = (task["id"], task["variant"], task["version"], task["seed"], task["digest"] if task["id"] == "tokens" else "")
        return self._task_of.get(key)


def _unique(levels: Sequence[Sequence[str]]) -> list[str]:
    """For every entry its first label that no other entry has."""
    labels: list[str] = []
    for number, candidates in enumerate(levels):
        others = set(_flat(levels[:number])) | set(_flat(levels[number + 1 :]))
        labels.append(next((label for label in candidates if label not in others), candidates[-1]))
    return labels


def _flat(levels: Iterable[Sequence[str]]) -> Iterable[str]:
    return (label for labels in levels for label in labels)
