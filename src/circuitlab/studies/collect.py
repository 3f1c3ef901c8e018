"""The finished runs of a study, read back from the store: what figures, tables and the report are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from circuitlab.core.errors import StoreError
from circuitlab.scores.head_scores import HeadScores
from circuitlab.store import RunStore
from circuitlab.studies.analyse import Planned, planned_units, read_found
from circuitlab.studies.analyses.base import Analysis, Found
from circuitlab.studies.index import StudyIndex
from circuitlab.studies.spec import Cell, StudySpec, load_study
from circuitlab.tasks import TaskSpec, load_task

__all__ = ["Run", "StudyRuns", "collect", "read_runs"]


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
    """A study with every run it declares, and what its analyses have found so far.

    ``found`` holds the finished cells of each analysis, in the order of the study file; ``missing`` those that have not been run.
    """

    study: StudySpec
    file: Path
    runs: tuple[Run, ...]
    found: tuple[tuple[Analysis, tuple[Found, ...]], ...] = ()
    missing: tuple[Planned, ...] = ()

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
    runs = read_runs(study, store, found)
    if len({run.slug for run in runs}) != len(runs):
        what = f"Study file {path} lists the same task and method twice."
        raise StoreError(what, "Remove one, or give it another variant or other parameters.")
    by_slug = {run.slug: run for run in runs}
    results = [(planned, read_found(planned, study, store, by_slug)) for planned in planned_units(study)]
    groups = tuple((one, tuple(r for planned, r in results if planned.analysis is one and r is not None)) for one in study.analyses)
    return StudyRuns(study, path, runs, groups, tuple(planned for planned, result in results if result is None))


def read_runs(study: StudySpec, store: RunStore, found: Sequence[tuple[Cell, str]]) -> tuple[Run, ...]:
    """Finished cells with their scores, in the order given."""
    return tuple(
        Run(
            cell=cell,
            run_id=run_id,
            scores=store.get(run_id),
            task=load_task(cell.task.id),
            task_key=study.task_key(cell.task),
            method_key=study.method_key(cell.method),
        )
        for cell, run_id in found
    )


def _grouped(runs: tuple[Run, ...], key: str) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(getattr(run, key), []).append(run)
    return groups
