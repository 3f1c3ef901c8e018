"""Rows whose slots are words from lists."""

from __future__ import annotations

from collections.abc import Iterator

from circuitlab.core.errors import TaskFileError
from circuitlab.tasks.sources.context import Context
from circuitlab.tasks.spec import PoolSource
from circuitlab.tasks.templates import Row

__all__ = ["rows"]


def rows(source: PoolSource, context: Context) -> Iterator[Row]:
    """Draw every slot uniformly; slots of one ``distinct`` group never share a word.

    Raises
    ------
    TaskFileError
        If a group asks for more different words than its pools hold, or names a slot that does not exist.
    """
    words = {slot: context.pool(pool) for slot, pool in source.slots.items()}
    for group in source.distinct:
        if unknown := [slot for slot in group if slot not in words]:
            what = f"distinct = {group} in task {context.task!r} names {unknown}, which is not a slot."
            raise TaskFileError(what, f"Slots are {sorted(words)}.")
        available = {word for slot in group for word in words[slot]}
        if len(available) < len(group):
            what = f"distinct = {group} in task {context.task!r} needs {len(group)} different words; its pools hold {len(available)}."
            raise TaskFileError(what, "Add words, or take a slot out of the group.")
    while True:
        yield _draw_row(source, words, context)


def _draw_row(source: PoolSource, words: dict[str, list[str]], context: Context) -> Row:
    for _attempt in range(1000):
        row = {slot: context.random.choice(pool) for slot, pool in words.items()}
        # Redraw only the slots that clash, in order, so that long groups from short pools still succeed.
        for group in source.distinct:
            taken: set[str] = set()
            for slot in group:
                free = [word for word in words[slot] if word not in taken]
                if not free:
                    break
                if row[slot] in taken:
                    row[slot] = context.random.choice(free)
                taken.add(row[slot])
        if all(len({row[slot] for slot in group}) == len(group) for group in source.distinct):
            return row
    what = f"No row of task {context.task!r} satisfies distinct = {source.distinct} after 1000 draws."
    raise TaskFileError(what, "Add words, or ask for fewer different ones.")
