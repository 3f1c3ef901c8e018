"""The finished runs of a study, read back from the store: what figures, tables and the report are made from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from circuitlab.errors import StoreError
from circuitlab.scores.head_scores import HeadScores
from circuitlab.store import RunStore
from circuitlab.study.index import StudyIndex
from circuitlab.study.spec import Cell, StudySpec, load_study
from circuitlab.tasks import TaskSpec, load_task

__all__ = ["Run", "StudyRuns", "collect"]


@dataclass(frozen=True, eq=False)
class Run:
    """One finished cell: its scores, the task it scored, and short names for files and anchors.

    ``task_key`` and ``method_key`` are unique within the study and safe in file names; ``title`` is the task's title, with its
    variant where the study names one.
    """

    cell: Cell
    run_id: str
    scores: HeadScores
    task: TaskSpec
    task_key: str
    method_key: str

    @property
    def slug(self) -> str:
        """File name stem of this run's figures."""
        return f"{self.task_key}.{self.method_key}"

    @property
    def title(self) -> str:
        """What to call the task in headings; plain text, to be escaped where it is printed."""
        return f"{self.task.title} ({self.cell.task.variant})" if self.cell.task.variant else self.task.title


@dataclass(frozen=True, eq=False)
class StudyRuns:
    """A study with every run it declares."""

    study: StudySpec
    file: Path
    runs: tuple[Run, ...]

    def tasks(self) -> dict[str, list[Run]]:
        """Runs by task, in the order of the study file."""
        return _grouped(self.runs, "task_key")

    def methods(self) -> dict[str, list[Run]]:
        """Runs by method, in the order of the study file."""
        return _grouped(self.runs, "method_key")


def collect(file: str | Path, store: RunStore) -> StudyRuns:
    """Read every run of a study; no model is loaded.

    Parameters
    ----------
    file : str or Path
        Study file.
    store : RunStore
        Where its runs are.

    Raises
    ------
    StoreError
        If cells are not finished; the message names them and the command that runs them.
    ScoreFileError
        If a stored run cannot be read.
    """
    study, path = load_study(file), Path(file)
    cells = study.cells()
    found = StudyIndex(store, study).require(cells, f"circuitlab study run {path}")
    task_keys = _unique([f"{entry.id}-{entry.variant}" if entry.variant else entry.id for entry in study.tasks])
    method_keys = _unique([entry.name for entry in study.methods])
    runs = [
        Run(
            cell=cell,
            run_id=run_id,
            scores=store.get(run_id),
            task=load_task(cell.task.id),
            task_key=task_keys[study.tasks.index(cell.task)],
            method_key=method_keys[study.methods.index(cell.method)],
        )
        for cell, run_id in found
    ]
    if len({run.slug for run in runs}) != len(runs):
        what = f"Study file {path} lists the same task and method twice."
        raise StoreError(what, "Remove one, or give it another variant or other parameters.")
    return StudyRuns(study, path, tuple(runs))


def _grouped(runs: tuple[Run, ...], key: str) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(getattr(run, key), []).append(run)
    return groups


def _unique(names: list[str]) -> list[str]:
    """Names made safe for files; the second method of a name gets ``-2`` and so on."""
    keys: list[str] = []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "unnamed"
        key, number = base, 1
        while key in keys:
            number += 1
            key = f"{base}-{number}"
        keys.append(key)
    return keys
