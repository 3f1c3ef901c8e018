"""What an analysis is: settings from the study file, cells to run, plain data found, figures drawn from it without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from circuitlab.core.errors import BadParameterError, UnknownNameError

if TYPE_CHECKING:
    from circuitlab.core.provenance import Environment
    from circuitlab.model.protocol import Model
    from circuitlab.store import RunStore
    from circuitlab.studies.collect import Run
    from circuitlab.studies.drawing import Drawing
    from circuitlab.studies.spec import Cell, StudySpec

__all__ = ["Analysis", "Found", "Given", "Table", "Unit", "compared_cells", "number_or_nan", "select_cells", "unsure"]


@dataclass(frozen=True)
class Unit:
    """One cell of an analysis: what is run, stored and resumed as a whole.

    Parameters
    ----------
    key : str
        Name within the analysis, safe in file names once written; "" where the analysis has one cell.
    cells : tuple of Cell
        The score cells that it reads; they are run first.
    cost : float
        About how many forward passes it takes, for the remaining time.
    """

    key: str = ""
    cells: tuple[Cell, ...] = ()
    cost: float = 100.0


@dataclass(frozen=True)
class Given:
    """What a cell of an analysis may use while it runs.

    Parameters
    ----------
    study : StudySpec
        The study.
    unit : Unit
        The cell.
    runs : tuple of Run
        Its score runs, in the order of ``unit.cells``.
    store : RunStore
        For parts of the work that are worth keeping on their own.
    load : callable
        Gives the study's model; `model` calls it once it is needed.
    """

    study: StudySpec
    unit: Unit
    runs: tuple[Run, ...]
    store: RunStore
    load: Callable[[], Model]

    @cached_property
    def model(self) -> Model:
        """The study's model; an analysis of scores alone never asks for it."""
        return self.load()


@dataclass(frozen=True, eq=False)
class Found:
    """A finished cell of an analysis.

    Parameters
    ----------
    unit : Unit
        Which.
    record_id : str
        Name of its file in the store.
    result : dict
        What it found, as it was stored: NaN is None.
    runs : tuple of Run
        The score runs it was made from.
    environment : Environment
        When it was made, and how long it took.
    """

    unit: Unit
    record_id: str
    result: dict[str, Any]
    runs: tuple[Run, ...]
    environment: Environment


@dataclass(frozen=True)
class Table:
    """Numbers of an analysis for the report and for a CSV file: a value per heading in every row."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


class Analysis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every analysis; its fields are what a study file may say about it.

    To add an analysis, add a file to this package with a subclass whose ``name`` is the name of the file. A study file asks for it by a
    table of that name, or by several with ``[[name]]``.

    Attributes
    ----------
    name : str
        Name of its table in a study file, of its module and of its figures.
    title, about : str
        Heading in the report, and what the section answers, in one or two plain sentences.
    place : int
        Order in the report: below 50 before the overlap of tasks, from 50 on after it.
    cite : tuple of str
        Citation keys.
    version : int
        Raised when the same settings give other results: stored ones are then made again.
    choices : tuple of str
        Settings that say which cells there are, and not what is done in one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]
    place: ClassVar[int] = 60
    cite: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    choices: ClassVar[tuple[str, ...]] = ("tasks", "methods")

    def units(self, study: StudySpec) -> list[Unit]:
        """The cells of this analysis in a study.

        Raises
        ------
        CircuitlabError
            If the settings name what the study does not have, or cannot be used.
        """
        raise NotImplementedError

    def run(self, given: Given) -> dict[str, Any]:
        """Do the work of one cell and give plain data: dictionaries, lists, text and numbers."""
        raise NotImplementedError

    def draw(self, found: Sequence[Found]) -> list[Drawing]:
        """The figures of all finished cells; imports neither torch nor transformers."""
        raise NotImplementedError

    def table(self, found: Sequence[Found]) -> Table | None:
        """The numbers of all finished cells; None where the figures say it all."""
        del found
        return None

    def identity(self) -> dict[str, Any]:
        """The settings that a cell's result depends on."""
        return {key: value for key, value in msgspec.to_builtins(self).items() if key not in self.choices}


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
