"""StudySpec: what a study file declares."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.names import require_file_name
from circuitlab.core.provenance import digest
from circuitlab.studies.analyses import Analysis, analysis_classes, get_analyses
from circuitlab.studies.model_identity import model_identity
from circuitlab.tasks.load import load_pools, load_task, read_tables, task_file
from circuitlab.tasks.text import read_text

__all__ = ["Cell", "CompareSpec", "MethodEntry", "StudySpec", "TaskEntry", "load_study"]

_LONGEST_KEY = 60
"""Characters of a task's or method's short name; files are called after two of them and more. The end of a path says most."""

Count = Annotated[int, msgspec.Meta(ge=1)]


class TaskEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One task of a study; ``n`` overrides the study's number of pairs."""

    id: str
    variant: str | None = None
    n: Count | None = None


class MethodEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One method of a study; ``metric`` overrides the tasks' own."""

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
        """Name for people."""
        variant = f"/{self.task.variant}" if self.task.variant else ""
        return f"{self.task.id}{variant} x {self.method.name}"


class StudySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A study: every task with every method on one model.

    Parameters
    ----------
    id, title : str
        Identity and heading.
    model : str
        What `load_model` loads.
    tasks, methods : list
        The two sides of the table of cells.
    n : int
        Prompt pairs for each task.
    seed : int
        Seed of every stream of pairs.
    compare : CompareSpec, optional
        The comparison across tasks.
    analyses : tuple of Analysis
        What else is found out; in a file, one table for each by its name (`circuitlab.studies.analyses`).
    """

    id: str
    title: str
    model: str
    tasks: list[TaskEntry]
    methods: list[MethodEntry]
    n: Count = 16
    seed: int = 0
    compare: CompareSpec | None = None
    analyses: tuple[Analysis, ...] = ()

    def __post_init__(self) -> None:
        require_file_name("study id", self.id)

    def cells(self) -> list[Cell]:
        """All cells; the cheap methods come first where the file lists them first."""
        return [Cell(task, method, task.n or self.n) for method in self.methods for task in self.tasks]

    def task_key(self, task: TaskEntry) -> str:
        """Short name of a task, unique within the study and safe in file names."""
        names = [f"{entry.id}-{entry.variant}" if entry.variant else entry.id for entry in self.tasks]
        return _unique(names)[self.tasks.index(task)]

    def method_key(self, method: MethodEntry) -> str:
        """Short name of a method, unique within the study and safe in file names."""
        return _unique([entry.name for entry in self.methods])[self.methods.index(method)]

    def slug(self, cell: Cell) -> str:
        """Short name of a cell: its task's and its method's."""
        return f"{self.task_key(cell.task)}.{self.method_key(cell.method)}"

    def key(self, cell: Cell) -> str:
        """What identifies a cell's result before the model is loaded: the task's text, tables and word lists, the model, and all settings.

        A changed task file, word list, table of any of its variants, or folder of a model changes the key, so its cells are computed again.
        """
        spec = load_task(cell.task.id)
        folder = task_file(cell.task.id).parent
        tables = read_tables(spec, folder)
        data = tables if len(tables) > 1 else "".join(tables.values())
        about = [spec.identity(), load_pools(folder), data, msgspec.to_builtins(cell), model_identity(self.model), self.seed]
        return digest(about)[:16]


def load_study(path: str | Path) -> StudySpec:
    """Read a study file and check every name in it.

    Raises
    ------
    BadParameterError
        If the file is missing, not UTF-8, no TOML, has missing, unknown or wrong fields, or its id cannot be the name of a file.
    UnknownNameError
        If a task, variant, or method does not exist; the nearest is suggested.
    """
    path = Path(path)
    if not path.is_file():
        what = f"There is no study file {path}."
        raise BadParameterError(what, "Check the path; figures/core.toml is the main study.")
    try:
        spec = _converted(tomllib.loads(read_text(path, BadParameterError)))
    except (tomllib.TOMLDecodeError, RecursionError, msgspec.ValidationError) as error:
        what = f"Study file {path} cannot be used: {error}."
        raise BadParameterError(what, "See figures/core.toml for the fields a study has.") from error
    for entry in spec.tasks:
        variants = load_task(entry.id).variants
        if entry.variant is not None and entry.variant not in variants:
            raise UnknownNameError(f"variant of task {entry.id!r}", entry.variant, variants)
    if not spec.tasks or not spec.methods:
        what = f"Study file {path} has {len(spec.tasks)} tasks and {len(spec.methods)} methods."
        raise BadParameterError(what, "List at least one of each.")
    from circuitlab.methods import get_method  # noqa: PLC0415 - only needed once the file is sound

    for method in spec.methods:
        get_method(method.name, method.params)
    if spec.compare and spec.compare.method not in {method.name for method in spec.methods}:
        raise UnknownNameError("method in compare", spec.compare.method, {method.name for method in spec.methods})
    _check_analyses(spec)
    return spec


def _converted(raw: dict[str, Any]) -> StudySpec:
    """The study of a file: tables named after an analysis are its settings, everything else are the study's own fields."""
    own = [name for name in StudySpec.__struct_fields__ if name != "analyses"]
    for name, value in raw.items():
        if name not in {*own, *analysis_classes()} and isinstance(value, dict | list):
            raise UnknownNameError("table of a study file", name, [*own, *analysis_classes()])
    spec = msgspec.convert({name: value for name, value in raw.items() if name not in analysis_classes()}, StudySpec)
    found = [one for name, value in raw.items() if name in analysis_classes() for one in get_analyses(name, value)]
    return msgspec.structs.replace(spec, analyses=tuple(found))


def _check_analyses(spec: StudySpec) -> None:
    """Raise unless every analysis fits the study and no two of its cells have one name."""
    seen: set[tuple[str, str]] = set()
    for analysis in spec.analyses:
        for unit in analysis.units(spec):
            if (analysis.name, unit.key) in seen:
                what = f"Study {spec.id!r} asks for {analysis.name} of {unit.key or 'everything'} twice."
                raise BadParameterError(what, "Give the two tables other tasks, methods or rules.")
            seen.add((analysis.name, unit.key))


def _unique(names: Sequence[str]) -> list[str]:
    """Names made safe for files; long ones are cut, and the second of a name gets ``-2`` and so on, also where only case differs."""
    keys: list[str] = []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[-_LONGEST_KEY:].strip("-") or "unnamed"
        key, number = base, 1
        while key.lower() in {other.lower() for other in keys}:
            number += 1
            key = f"{base}-{number}"
        keys.append(key)
    return keys
