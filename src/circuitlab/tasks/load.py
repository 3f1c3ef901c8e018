"""Finding and reading task files."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import msgspec

from circuitlab.core.errors import TaskFileError, UnknownNameError
from circuitlab.tasks.own_pairs import ENDINGS
from circuitlab.tasks.spec import TableSource, Task
from circuitlab.tasks.text import read_text, read_toml, table_path

__all__ = ["is_task", "list_tasks", "load_pools", "load_task", "read_tables", "task_file", "tasks_folder", "word_list"]

_POOLS = "pools.toml"


def tasks_folder() -> Path:
    """The folder of task files: ``$CIRCUITLAB_TASKS`` if it is set, otherwise the first of ``./tasks``, the checkout's, the package's own.

    Raises
    ------
    TaskFileError
        If none of these exists.
    """
    package = Path(__file__).resolve().parents[1]
    configured = os.environ.get("CIRCUITLAB_TASKS")
    folders = [Path(configured)] if configured else [Path("tasks"), package.parents[1] / "tasks", package / "_tasks"]
    for folder in folders:
        if (folder / _POOLS).is_file():
            return folder.resolve()
    what = f"No task folder with a {_POOLS} found in {', '.join(map(str, folders))}."
    raise TaskFileError(what, "Run inside a checkout, or set CIRCUITLAB_TASKS.")


def list_tasks() -> list[str]:
    """Ids of every task in the task folder, sorted."""
    return sorted(path.stem for path in tasks_folder().glob("*.toml") if path.name != _POOLS)


def task_file(name: str | Path) -> Path:
    """The file of a task: ``name`` is an id, or the path of a TOML file or a table of pairs.

    Raises
    ------
    UnknownNameError
        If no task has this id; the nearest is suggested.
    TaskFileError
        If there is no such file.
    """
    path = Path(name)
    if path.suffix.lower() in {".toml", *ENDINGS}:
        if not path.is_file():
            what = f"There is no task file {path}."
            raise TaskFileError(what, "Check the path, or give a task id.")
        return path.resolve()
    if str(name) not in list_tasks():
        raise UnknownNameError("task", str(name), list_tasks())
    return tasks_folder() / f"{name}.toml"


def is_task(name: str) -> bool:
    """Whether ``name`` is the id of a task, or the path of a task file or table of pairs that exists."""
    return name in list_tasks() or (Path(name).suffix.lower() in {".toml", *ENDINGS} and Path(name).is_file())


def load_task(name: str | Path) -> Task:
    """Read a task by id (``"ioi"``), from the path of a TOML file, or from a table of your own pairs (`Task.from_pairs`).

    Raises
    ------
    UnknownNameError
        If no task has this id; the nearest is suggested.
    TaskFileError
        If the file is not UTF-8 or not TOML, a field is missing, unknown or of the wrong type, the file name is not the id, or the id or
        the name of a variant cannot be a file name.

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
        written = read_toml(path)
        if "folder" in written:
            raise msgspec.ValidationError("Object contains unknown field `folder`")
        spec = msgspec.convert(written, Task)
    except (tomllib.TOMLDecodeError, RecursionError, msgspec.ValidationError) as error:
        what = f"Task file {path} cannot be used: {error}."
        raise TaskFileError(what, "See tasks/README.md for the fields a task has.") from error
    if spec.id != path.stem:
        what = f"Task file {path} says id = {spec.id!r}."
        raise TaskFileError(what, "Give the file the name of its id.")
    if spec.default_variant not in spec.variants:
        raise UnknownNameError(f"default_variant in {path}", spec.default_variant, spec.variants)
    return spec if path.parent.resolve() == tasks_folder() else msgspec.structs.replace(spec, folder=str(path.parent.resolve()))


def load_pools(folder: Path) -> dict[str, list[str]]:
    """The shared word lists: ``pools.toml`` beside a task file, or else that of the task folder. Read from disk at every call.

    Raises
    ------
    TaskFileError
        If the file is not UTF-8, not TOML, or not made of lists of words.
    """
    path = folder / _POOLS
    if not path.is_file():
        path = tasks_folder() / _POOLS
    try:
        return msgspec.convert(read_toml(path), dict[str, list[str]])
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
        If a table is missing, is not UTF-8, or does not lie in the task's folder.
    """
    sources = [spec.source, *(variant.source for variant in spec.variants.values())]
    files = dict.fromkeys(source.file for source in sources if isinstance(source, TableSource))
    return {file: read_text(table_path(folder, file)) for file in files}
