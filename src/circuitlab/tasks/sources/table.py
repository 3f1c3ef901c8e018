"""Rows that are drawn from a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from circuitlab.core.errors import TaskFileError
from circuitlab.tasks.sources.context import Context
from circuitlab.tasks.spec import TableSource
from circuitlab.tasks.templates import Row
from circuitlab.tasks.text import read_text, table_path

__all__ = ["rows"]


def rows(source: TableSource, context: Context) -> Iterator[Row]:
    """Draw different rows with different answers; slots are ``name.column``, and ``others`` lists every other answer.

    Raises
    ------
    TaskFileError
        If no row is named, the file is missing or not UTF-8, its rows differ in length, a column is missing or repeated, a cell is empty,
        or there are too few different answers.
    """
    if not source.rows:
        raise TaskFileError(f"The source of task {context.task!r} draws no row.", 'Name at least one: rows = ["item"].')
    table, key = _read(table_path(context.folder, source.file), source, context)
    shots: dict[str, str] = {}
    for i, name in enumerate(source.shots):
        matches = [row for row in table if row[key] == name]
        if not matches:
            what = f"Task {context.task!r} uses {name!r} as an example; {source.file} has no such row."
            raise TaskFileError(what, "Name a value of the first column.")
        shots |= {f"shot{i}.{column}": value for column, value in matches[0].items()}
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
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        what = f"{source.file} of task {context.task!r} is not a CSV table: {error} (line {reader.line_num})."
        raise TaskFileError(what, "Quote cells that hold commas or line ends, and double the quotes inside them.") from error
    columns = lines[0][1] if lines else []
    ragged = [line for line, cells in lines if len(cells) != len(columns)]
    if len(lines) < 2 or source.answer not in columns or ragged:  # noqa: PLR2004 - a header and a row
        what = f"{source.file} of task {context.task!r}: {max(0, len(lines) - 1)} rows, columns {columns}, ragged lines {ragged[:5]}."
        raise TaskFileError(what, f"It needs rows of equal length and a column {source.answer!r}.")
    if repeated := sorted({name for name in columns if columns.count(name) > 1}):
        what = f"{source.file} of task {context.task!r} has two columns called {', '.join(map(repr, repeated))}."
        raise TaskFileError(what, "Give every column its own name.")
    # An empty cell would become a bare space in a prompt or an answer: a token that a model may well predict.
    empty = [f"line {line}, {name!r}" for line, cells in lines for name, cell in zip(columns, cells, strict=True) if not cell.strip()]
    if empty:
        what = f"{source.file} of task {context.task!r} has {len(empty)} empty cells ({'; '.join(empty[:5])})."
        raise TaskFileError(what, "Fill them, or take the rows out.")
    return [dict(zip(columns, cells, strict=True)) for _, cells in lines[1:]], columns[0]
