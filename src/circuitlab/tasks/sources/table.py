"""Rows from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from circuitlab.errors import TaskFileError
from circuitlab.tasks.sources.context import Context
from circuitlab.tasks.spec import TableSource
from circuitlab.tasks.templates import Row

__all__ = ["rows"]


def rows(source: TableSource, context: Context) -> Iterator[Row]:
    """Draw different rows with different answers; slots are ``name.column``, and ``others`` lists every other answer.

    Raises
    ------
    TaskFileError
        If the file is missing, ragged, lacks a column, or holds too few different answers.
    """
    table, key = _read(context.folder / source.file, source, context)
    shots: dict[str, str] = {}
    for i, name in enumerate(source.shots):
        found = [row for row in table if row[key] == name]
        if not found:
            what = f"Task {context.task!r} wants {name!r} as an example; {source.file} has no such row."
            raise TaskFileError(what, "Name a value of the first column.")
        shots |= {f"shot{i}.{column}": value for column, value in found[0].items()}
    table = [row for row in table if row[key] not in source.shots]
    answers = list(dict.fromkeys(row[source.answer] for row in table))
    if len(answers) < len(source.rows):
        what = f"{source.file} holds {len(answers)} different answers; task {context.task!r} draws {len(source.rows)} at once."
        raise TaskFileError(what, "Add rows.")
    while True:
        drawn = context.random.sample(table, len(source.rows))
        if len({row[source.answer] for row in drawn}) < len(drawn):
            continue
        named = {f"{name}.{column}": value for name, row in zip(source.rows, drawn, strict=True) for column, value in row.items()}
        yield {**shots, **named, "others": [answer for answer in answers if answer != drawn[0][source.answer]]}


def _read(path: Path, source: TableSource, context: Context) -> tuple[list[dict[str, str]], str]:
    if not path.is_file():
        what = f"Task {context.task!r} reads {source.file}, which does not exist in {path.parent}."
        raise TaskFileError(what, "Put the table beside the task file.")
    with path.open(newline="", encoding="utf-8") as handle:
        reader = csv.DictReader(handle, strict=True)
        table = list(reader)
        columns = list(reader.fieldnames or [])
    ragged = [i + 2 for i, row in enumerate(table) if None in row or None in row.values()]
    if not table or source.answer not in columns or ragged:
        what = f"{source.file} of task {context.task!r}: {len(table)} rows, columns {columns}, ragged lines {ragged[:5]}."
        raise TaskFileError(what, f"It needs rows of equal length and a column {source.answer!r}.")
    return table, columns[0]
