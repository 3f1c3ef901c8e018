"""Finding and reading task files."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import msgspec

from circuitlab.core.errors import TaskFileError, UnknownNameError
from circuitlab.tasks.own_pairs import ENDINGS
from circuitlab.tasks.spec import TableSource, Task
from circuitlab.tasks.text import read_text

__all__ = ["is_task", "list_tasks", "load_pools", "load_task", "read_tables", "task_file", "tasks_folder", "word_list"]

_POOLS = "pools.toml"


def tasks_folder() -> Path:
    """The folder of task files: ``$CIRCUITLAB_TASKS``, ``./tasks``, the checkout's, or the one inside the installed package.

    Raises
    ------
    TaskFileError
        If none of these exists.
    """
    package = Path(__file__).resolve().parents[1]
    chosen = os.environ.get("CIRCUITLAB_TASKS")
    places = [Path(chosen)] if chosen else [Path("tasks"), package.parents[1] / "tasks", package / "_tasks"]
    for place in places:
        if (place / _POOLS).is_file():
            return place.resolve()
    what = f"No task folder with a {_POOLS} found in {', '.join(map(str, places))}."
    raise TaskFileError(what, "Run inside a checkout, or set CIRCUITLAB_TASKS.")


def list_tasks() -> list[str]:
    """Ids of every task in the task folder, sorted."""
    return sorted(path.stem for path in tasks_folder().glob("*.toml") if path.name != _POOLS)


def task_file(name: str | Path) -> Path:
    """The file of a task given by id or by path, a table of pairs included."""
    given = Path(name)
    if given.suffix.lower() in {".toml", *ENDINGS}:
        if not given.is_file():
            what = f"There is no task file {given}."
            raise TaskFileError(what, "Check the path, or give a task id.")
        return given.resolve()
    if str(name) not in list_tasks():
        raise UnknownNameError("task", str(name), list_tasks())
    return tasks_folder() / f"{name}.toml"


def is_task(name: str) -> bool:
    """Whether a word names a task: an id, or a file of one."""
    return name in list_tasks() or (Path(name).suffix.lower() in {".toml", *ENDINGS} and Path(name).is_file())


def load_task(name: str | Path) -> Task:
    """Read a task by id (``"ioi"``), from a path to a TOML file, or from a table of one's own pairs (`Task.from_pairs`).

    Raises
    ------
    UnknownNameError
        If no task has this id; the nearest is suggested.
    TaskFileError
        If the file is not UTF-8 or no TOML, a field is missing, unknown or of the wrong kind, the file name is not the id, or a name could
        not be that of a file.

    Examples
    --------
    >>> task = load_task("ioi")
    >>> task.title, task.default_variant
    ('Indirect object identification', 's2_io')
    """
    path = task_file(name)
    if path.suffix.lower() in ENDINGS:
        return Task.from_pairs(path)
    try:
        spec = msgspec.convert(tomllib.loads(read_text(path)), Task)
    except (tomllib.TOMLDecodeError, RecursionError, msgspec.ValidationError) as error:
        what = f"Task file {path} cannot be used: {error}."
        raise TaskFileError(what, "See tasks/README.md for the fields a task has.") from error
    if spec.id != path.stem:
        what = f"Task file {path} says id = {spec.id!r}."
        raise TaskFileError(what, "Give the file the name of its id.")
    if spec.default_variant not in spec.variants:
        raise UnknownNameError(f"default_variant in {path}", spec.default_variant, spec.variants)
    return spec


def load_pools(folder: Path) -> dict[str, list[str]]:
    """The shared word lists beside a task file (falling back to those of the task folder), as they are on disk now."""
    path = folder / _POOLS
    if not path.is_file():
        path = tasks_folder() / _POOLS
    try:
        return msgspec.convert(tomllib.loads(read_text(path)), dict[str, list[str]])
    except (tomllib.TOMLDecodeError, RecursionError, msgspec.ValidationError) as error:
        what = f"Word lists {path} cannot be used: {error}."
        raise TaskFileError(what, 'Write each list as name = ["word", ...].') from error


def word_list(name: str) -> list[str]:
    """A shared word list of the task folder by its name, such as ``"names"``.

    Raises
    ------
    UnknownNameError
        If there is no such list.
    """
    pools = load_pools(tasks_folder())
    if name not in pools:
        raise UnknownNameError("word list", name, pools)
    return pools[name]


def read_tables(spec: Task, folder: Path) -> dict[str, str]:
    """The text of every table that a task or one of its variants draws rows from, by file name.

    Raises
    ------
    TaskFileError
        If a table is missing or is not UTF-8.
    """
    sources = [spec.source, *(variant.source for variant in spec.variants.values())]
    files = dict.fromkeys(source.file for source in sources if isinstance(source, TableSource))
    return {file: read_text(folder / file) for file in files}
