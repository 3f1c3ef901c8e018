"""Select the cells of a study that an analysis reads, and read numbers back from stored results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from circuitlab.core.errors import BadParameterError, UnknownNameError

if TYPE_CHECKING:
    from circuitlab.studies.types import Cell, StudySpec

__all__ = ["compared_cells", "number_or_nan", "select_cells", "unsure"]


def select_cells(study: StudySpec, tasks: Iterable[str], methods: Iterable[str]) -> list[Cell]:
    """The study's cells of some tasks and methods (all if none are named), task by task.

    Raises
    ------
    UnknownNameError
        If the study has no such task or method.
    """
    named = {"task": list(tasks), "method": list(methods)}
    declared = {"task": [entry.id for entry in study.tasks], "method": [entry.name for entry in study.methods]}
    for kind, names in named.items():
        for name in names:
            if name not in declared[kind]:
                raise UnknownNameError(f"{kind} of study {study.id!r}", name, declared[kind])
    cells = study.cells()
    ordered = [cell for entry in study.tasks for cell in cells if cell.task == entry]
    selected = [
        cell
        for cell in ordered
        if cell.task.id in (named["task"] or declared["task"]) and cell.method.name in (named["method"] or declared["method"])
    ]
    if not selected:
        what = f"Study {study.id!r} has no cell of the tasks {named['task']} and the methods {named['method']}."
        raise BadParameterError(what, "Name other tasks or methods.")
    return selected


def compared_cells(study: StudySpec, tasks: Iterable[str], method: str | None, *, least: int = 2) -> tuple[Cell, ...]:
    """The cells of one method on several tasks; the default method is that of ``[compare]``, or else the study's first.

    Raises
    ------
    UnknownNameError
        If the study has no such task or method.
    BadParameterError
        If there are fewer than ``least`` tasks.
    """
    name = method or (study.compare.method if study.compare else study.methods[0].name)
    cells = tuple(cell for cell in select_cells(study, tasks, [name]) if cell.method == next(m for m in study.methods if m.name == name))
    if len(cells) < least:
        what = f"Study {study.id!r} has {len(cells)} of the tasks named, and a comparison needs {least}."
        raise BadParameterError(what, "Add a task.")
    return cells


def number_or_nan(value: float | None) -> float:
    """A stored number, where null stands for NaN."""
    return float("nan") if value is None else float(value)


def unsure(interval: dict[str, float | None]) -> dict[str, float]:
    """A stored interval ``{"mean", "low", "high"}`` with NaN where a limit is unknown."""
    return {name: number_or_nan(interval[name]) for name in ("mean", "low", "high")}
