"""Types of a study: entries of its file, cells that are run, contexts and results of analyses, and figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from circuitlab.core.names import require_file_name
from circuitlab.core.provenance import digest
from circuitlab.studies.model_identity import model_identity
from circuitlab.tasks.load import load_pools, load_task, read_tables, task_file

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuitlab.core.provenance import Environment
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.store import Cache
    from circuitlab.tasks import Task

__all__ = [
    "Analysis",
    "AnalysisCell",
    "AnalysisContext",
    "AnalysisResult",
    "Cell",
    "CompareSpec",
    "MethodEntry",
    "ScoredCell",
    "StudyFigure",
    "StudySpec",
    "Table",
    "TaskEntry",
]

_LONGEST_KEY = 60
"""Most characters of a task's or method's short name, of which file names contain two; the end of a long path is kept."""

Count = Annotated[int, msgspec.Meta(ge=1)]


class TaskEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One task of a study; ``n`` overrides the study's number of pairs."""

    id: str
    variant: str | None = None
    n: Count | None = None


class MethodEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One method of a study; ``metric`` overrides the metrics of the tasks."""

    name: str
    metric: str | None = None
    params: dict[str, Any] = {}


class CompareSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How circuits of different tasks are compared: the ``top_k`` heads by ``method``, ranked by ``by``."""

    method: str
    top_k: Count = 20
    by: str = "absolute"


class Cell(msgspec.Struct, frozen=True):
    """One task with one method: the unit of work and of resuming."""

    task: TaskEntry
    method: MethodEntry
    n: int

    @property
    def label(self) -> str:
        """Display name."""
        variant = f"/{self.task.variant}" if self.task.variant else ""
        return f"{self.task.id}{variant} x {self.method.name}"


@dataclass(frozen=True, eq=False)
class ScoredCell:
    """One finished cell: its scores, its task, and short names for files and anchors.

    ``task_key`` and ``method_key`` are unique within the study and safe in file names; ``title`` is the task's title, with its variant if
    the study names one.
    """

    cell: Cell
    run_id: str
    scores: HeadScores
    task: Task
    task_key: str
    method_key: str

    @property
    def slug(self) -> str:
        """File name stem of this run's figures."""
        return f"{self.task_key}.{self.method_key}"

    @property
    def title(self) -> str:
        """Title of the task in headings, as plain text that must be escaped where it is printed."""
        return f"{self.task.title} ({self.cell.task.variant})" if self.cell.task.variant else self.task.title


@dataclass(frozen=True)
class AnalysisCell:
    """One cell of an analysis, which is run, stored and resumed as a whole.

    Parameters
    ----------
    analysis : Analysis
        The analysis.
    key : str
        Name within the analysis, safe in file names; empty if the analysis has a single cell.
    reads : tuple of Cell
        The score cells that it reads; they are run first.
    cost : float
        Estimated number of forward passes, for the remaining time.
    """

    analysis: Analysis
    key: str = ""
    reads: tuple[Cell, ...] = ()
    cost: float = 100.0

    @property
    def label(self) -> str:
        """Display name."""
        return f"{self.analysis.name} of {self.key}" if self.key else self.analysis.name

    def identity(self, study: StudySpec, runs: Iterable[str]) -> dict[str, Any]:
        """Everything that the result depends on, for a study whose score runs have these ids."""
        return {
            "analysis": self.analysis.name,
            "version": self.analysis.version,
            "settings": self.analysis.identity(),
            "cell": self.key,
            "model": model_identity(study.model),
            "seed": study.seed,
            "cells": [study.key(cell) for cell in self.reads],
            "runs": list(runs),
        }


@dataclass(frozen=True)
class AnalysisContext:
    """What an analysis can use while one of its cells runs.

    Parameters
    ----------
    study : StudySpec
        The study.
    cell : AnalysisCell
        The cell that is run.
    runs : tuple of ScoredCell
        Its score runs, in the order of ``cell.reads``.
    store : Cache
        Cache for intermediate results.
    load : callable
        Loads the study's model; `model` calls it on first use.
    """

    study: StudySpec
    cell: AnalysisCell
    runs: tuple[ScoredCell, ...]
    store: Cache
    load: Callable[[], Model]

    @cached_property
    def model(self) -> Model:
        """The study's model, loaded on first use; an analysis that reads only scores does not load it."""
        return self.load()


@dataclass(frozen=True, eq=False)
class AnalysisResult:
    """A finished cell of an analysis.

    Parameters
    ----------
    cell : AnalysisCell
        The cell that was run.
    record_id : str
        Name of its file in the store.
    result : dict
        Plain data as stored, where NaN is None.
    runs : tuple of ScoredCell
        The score runs that it was made from.
    environment : Environment
        When it was made, and how long it took.
    """

    cell: AnalysisCell
    record_id: str
    result: dict[str, Any]
    runs: tuple[ScoredCell, ...]
    environment: Environment


@dataclass(frozen=True)
class Table:
    """Numbers of an analysis for the report and a CSV file; every row has one value for each heading."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


class Analysis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base class of analyses; its fields are the settings in a study file.

    To add an analysis, add a module to `circuitlab.studies.analyses` with a subclass whose ``name`` is the name of the module. A study file
    declares it by a table of that name, or by several with ``[[name]]``.

    Attributes
    ----------
    name : str
        Name of its table in a study file, of its module and of its figures.
    title, about : str
        Heading in the report, and the question that the section answers, in one or two sentences.
    place : int
        Order in the report: below 50 before the overlap of tasks, from 50 on after it.
    cite : tuple of str
        Citation keys.
    version : int
        Increased when the same settings give other results, so that stored results are computed again.
    choices : tuple of str
        Settings that select cells, and do not change the result of a cell.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]
    place: ClassVar[int] = 60
    cite: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1
    choices: ClassVar[tuple[str, ...]] = ("tasks", "methods")

    def cells(self, study: StudySpec) -> list[AnalysisCell]:
        """The cells of this analysis in a study.

        Raises
        ------
        CircuitlabError
            If the settings name something that the study does not have, or are invalid.
        """
        raise NotImplementedError

    def run(self, context: AnalysisContext) -> dict[str, Any]:
        """Run one cell, and return plain data: dictionaries, lists, text and numbers."""
        raise NotImplementedError

    def draw(self, results: Sequence[AnalysisResult]) -> list[StudyFigure]:
        """The figures of all finished cells; imports neither torch nor transformers."""
        raise NotImplementedError

    def table(self, results: Sequence[AnalysisResult]) -> Table | None:
        """The numbers of all finished cells; None if the figures show everything."""
        del results
        return None

    def citations(self) -> tuple[str, ...]:
        """Citation keys of what this analysis stands on."""
        return self.cite

    def identity(self) -> dict[str, Any]:
        """The settings that a cell's result depends on."""
        return {key: value for key, value in msgspec.to_builtins(self).items() if key not in self.choices}


class StudySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A study: every task with every method on one model.

    Parameters
    ----------
    id, title : str
        Identity and heading.
    model : str
        Name or path for `load_model`.
    tasks, methods : list
        Tasks and methods; every combination is a cell.
    n : int
        Prompt pairs for each task.
    seed : int
        Seed of every stream of pairs.
    stream : bool
        Whether one layer of the model at a time is in memory (``load_model(..., stream=True)``). The numbers are the same.
    memory : str, optional
        Most memory of the whole process, such as ``"4GiB"``, as in `circuitlab.score`.
    compare : CompareSpec, optional
        The comparison across tasks.
    analyses : tuple of Analysis
        Further analyses; in a file, one table for each by its name (`circuitlab.studies.analyses`).
    """

    id: str
    title: str
    model: str
    tasks: list[TaskEntry]
    methods: list[MethodEntry]
    n: Count = 16
    seed: int = 0
    stream: bool = False
    memory: str | None = None
    compare: CompareSpec | None = None
    analyses: tuple[Analysis, ...] = ()

    def __post_init__(self) -> None:
        require_file_name("study id", self.id)

    def cells(self) -> list[Cell]:
        """All score cells, method by method in the order of the file."""
        return [Cell(task, method, task.n or self.n) for method in self.methods for task in self.tasks]

    def analysis_cells(self) -> list[AnalysisCell]:
        """Every cell of every analysis, in the order of the study file."""
        return [cell for analysis in self.analyses for cell in analysis.cells(self)]

    def task_key(self, task: TaskEntry) -> str:
        """Short name of a task, unique within the study and safe in file names."""
        names = [f"{entry.id}-{entry.variant}" if entry.variant else entry.id for entry in self.tasks]
        return _unique(names)[self.tasks.index(task)]

    def method_key(self, method: MethodEntry) -> str:
        """Short name of a method, unique within the study and safe in file names."""
        return _unique([entry.name for entry in self.methods])[self.methods.index(method)]

    def slug(self, cell: Cell) -> str:
        """Short name of a cell: the short names of its task and its method."""
        return f"{self.task_key(cell.task)}.{self.method_key(cell.method)}"

    def key(self, cell: Cell) -> str:
        """Identity of a cell's result before the model is loaded: the task's text, tables and word lists, the model, and all settings.

        A change of the task file, a word list, a table of any variant, or the model's folder changes the key, so that cells are computed
        again.
        """
        spec = load_task(cell.task.id)
        folder = task_file(cell.task.id).parent
        tables = read_tables(spec, folder)
        data = tables if len(tables) > 1 else "".join(tables.values())
        about = [spec.identity(), load_pools(folder), data, msgspec.to_builtins(cell), model_identity(self.model), self.seed]
        return digest(about)[:16]


@dataclass(frozen=True)
class StudyFigure:
    """A figure with the stem of its file name, its kind, and the runs that it was drawn from.

    ``kind`` is one of ``heatmap``, ``top_heads``, ``overlap``, ``upset``, ``fitness`` and ``methods``, or the name of an analysis.
    ``caption`` is a sentence on how to read it, and ``records`` are the ids of the analysis records that it was drawn from.
    """

    name: str
    kind: str
    figure: go.Figure
    runs: tuple[ScoredCell, ...]
    caption: str = ""
    records: tuple[str, ...] = ()


def _unique(names: Sequence[str]) -> list[str]:
    """Names made safe for files. Long names are cut, and repeated ones (also if only case differs) get ``-2`` and so on."""
    keys: list[str] = []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[-_LONGEST_KEY:].strip("-") or "unnamed"
        key, number = base, 1
        while key.lower() in {other.lower() for other in keys}:
            number += 1
            key = f"{base}-{number}"
        keys.append(key)
    return keys
