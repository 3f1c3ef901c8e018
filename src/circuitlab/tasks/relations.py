"""Relations: pairs of words that the tables of tasks hold, such as countries and their capitals."""

from __future__ import annotations

import csv
import io

from circuitlab.core.errors import TaskFileError, UnknownNameError
from circuitlab.tasks.load import list_tasks, load_task, task_file
from circuitlab.tasks.spec import TableSource
from circuitlab.tasks.text import read_text, table_path

__all__ = ["list_relations", "relation_pairs"]


def list_relations() -> list[str]:
    """Ids of the tasks whose prompts are drawn from a table.

    Examples
    --------
    >>> "capitals" in list_relations()
    True
    """
    return [name for name in list_tasks() if isinstance(load_task(name).source, TableSource)]


def relation_pairs(name: str) -> list[tuple[str, str]]:
    """The first column of a task's table beside the column that holds its answers, row by row.

    Raises
    ------
    UnknownNameError
        If the task does not exist, or has no table.
    TaskFileError
        If its table is not there, or has no such column.

    Examples
    --------
    >>> relation_pairs("capitals")[0]
    ('France', 'Paris')
    """
    path = task_file(name) if name in list_tasks() else None
    source = None if path is None else load_task(name).source
    if path is None or not isinstance(source, TableSource):
        raise UnknownNameError("relation", name, list_relations())
    table = table_path(path.parent, source.file)
    if not table.is_file():
        what = f"Task {name!r} reads {source.file}, which does not exist in {path.parent}."
        raise TaskFileError(what, "Put the table beside the task file.")
    rows = list(csv.DictReader(io.StringIO(read_text(table), newline="")))
    if not rows or source.answer not in rows[0]:
        what = f"{source.file} of task {name!r} has {len(rows)} rows with columns {list(rows[0]) if rows else []}."
        raise TaskFileError(what, f"It needs a column {source.answer!r}.")
    first = next(iter(rows[0]))
    return [(row[first], row[source.answer]) for row in rows]
