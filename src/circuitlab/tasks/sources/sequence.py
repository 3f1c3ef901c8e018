"""Rows that are windows of ordered lists, with the item that comes next."""

from __future__ import annotations

from collections.abc import Iterator

from circuitlab.core.errors import TaskFileError
from circuitlab.tasks.sources.context import Context
from circuitlab.tasks.spec import SequenceSource
from circuitlab.tasks.templates import Row

__all__ = ["rows"]


def rows(source: SequenceSource, context: Context) -> Iterator[Row]:
    """Draw a list, then two different windows of it: ``c0.. c_next`` and ``x0.. x_next``; ``rest`` is the list without ``c_next``.

    Lists are weighted by the square root of the number of windows they hold, so that long lists are drawn more often than short ones.

    Raises
    ------
    TaskFileError
        If there is no list, or one is too short for two windows.
    """
    if not source.pools:
        raise TaskFileError(f"The source of task {context.task!r} names no pool.", "Name at least one ordered list.")
    pools = [context.pool(name) for name in source.pools]
    windows = [len(pool) - source.length for pool in pools]
    if source.length < 1 or min(windows) < 2:  # noqa: PLR2004 - a pair
        short = source.pools[windows.index(min(windows))]
        what = f"Pool {short!r} of task {context.task!r} is too short for two windows of {source.length} items and a successor."
        raise TaskFileError(what, f"It needs at least {source.length + 2} items.")
    while True:
        index = context.random.choices(range(len(pools)), weights=[count**0.5 for count in windows])[0]
        pool, count = pools[index], windows[index]
        first, second = context.random.sample(range(count), 2)
        row: dict[str, str | list[str]] = {}
        for letter, start in (("c", first), ("x", second)):
            row |= {f"{letter}{i}": pool[start + i] for i in range(source.length)}
            row[f"{letter}_next"] = pool[start + source.length]
        row["rest"] = [word for word in pool if word != row["c_next"]]
        yield row
