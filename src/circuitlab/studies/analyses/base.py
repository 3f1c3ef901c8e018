"""Which cells of a study an analysis reads, and numbers read back from stored results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from circuitlab.core.errors import BadParameterError, UnknownNameError

if TYPE_CHECKING:
    from circuitlab.studies.types import Cell, StudySpec

__all__ = ["compared_cells", "number_or_nan", "select_cells", "unsure"]


def select_cells(study: StudySpec, tasks: Iterable[str], methods: Iterable[str]) -> list[Cell]:
    """The study's cells of some tasks and methods, all where none are named, task by task.

    Raises
    ------
    UnknownNameError
        If the study has no such task or method.
    """
    wanted = {"task": list(tasks), "method": list(methods)}
    known = {"task": [entry.id for entry in study.tasks], "method": [entry.name for entry in study.methods]}
    for kind, names in wanted.items():
        for name in names:
            if name not in known[kind]:
                raise UnknownNameError(f"{kind} of study {study.id!r}", name, known[kind])
    cells = study.cells()
    ordered = [cell for entry in study.tasks for cell in cells if cell.task == entry]
    kept = [
        cell
        for cell in ordered
        if cell.task.id in (wanted["task"] or known["task"]) and cell.method.name in (wanted["method"] or known["method"])
    ]
    if not kept:
        what = f"Study {study.id!r} has no cell of the tasks {wanted['task']} and the methods {wanted['method']}."
        raise BadParameterError(what, "Name others.")
    return kept


def compared_cells(study: StudySpec, tasks: Iterable[str], method: str | None, *, least: int = 2) -> tuple[Cell, ...]:
    """The cells of one method on several tasks: that of ``[compare]``, or the study's first, where none is named.

    Raises
    ------
    UnknownNameError
        If the study has no such task or method.
    BadParameterError
        If there are fewer tasks than ``least``.
    """
    name = method or (study.compare.method if study.compare else study.methods[0].name)
    cells = tuple(cell for cell in select_cells(study, tasks, [name]) if cell.method == next(m for m in study.methods if m.name == name))
    if len(cells) < least:
        what = f"Study {study.id!r} has {len(cells)} of the tasks named, and a comparison needs {least}."
        raise BadParameterError(what, "Add a task.")
    return cells


def number_or_nan(value: float | None) -> float:
    """A stored number; NaN was stored as null."""
    return float("nan") if value is None else float(value)


def unsure(interval: dict[str, float | None]) -> dict[str, float]:
    """A stored interval ``{"mean", "low", "high"}`` with NaN where a limit is unknown."""
    return {name: number_or_nan(interval[name]) for name in ("mean", "low", "high")}
