"""StudySpec: what a study file declares."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from circuitlab.errors import BadParameterError, UnknownNameError
from circuitlab.provenance import digest
from circuitlab.tasks.load import load_pools, load_task, task_file

__all__ = ["Cell", "CompareSpec", "MethodEntry", "StudySpec", "TaskEntry", "load_study"]

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
    """

    id: str
    title: str
    model: str
    tasks: list[TaskEntry]
    methods: list[MethodEntry]
    n: Count = 16
    seed: int = 0
    compare: CompareSpec | None = None

    def cells(self) -> list[Cell]:
        """All cells; the cheap methods come first where the file lists them first."""
        return [Cell(task, method, task.n or self.n) for method in self.methods for task in self.tasks]

    def key(self, cell: Cell) -> str:
        """What identifies a cell's result before the model is loaded: the task's text and word lists, and all settings.

        A changed task file or word list changes the key, so its cells are computed again.
        """
        spec = load_task(cell.task.id)
        folder = task_file(cell.task.id).parent
        table = getattr(spec.source, "file", None)
        data = (folder / table).read_text(encoding="utf-8") if table else ""
        about = [spec.identity(), load_pools(folder), data, msgspec.to_builtins(cell), self.model, self.seed]
        return digest(about)[:16]


def load_study(path: str | Path) -> StudySpec:
    """Read a study file and check every name in it.

    Raises
    ------
    BadParameterError
        If the file is missing, no TOML, or has missing, unknown or wrong fields.
    UnknownNameError
        If a task, variant, or method does not exist; the nearest is suggested.
    """
    path = Path(path)
    if not path.is_file():
        what = f"There is no study file {path}."
        raise BadParameterError(what, "Check the path; figures/core.toml is the main study.")
    try:
        spec = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), StudySpec)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
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
    return spec
