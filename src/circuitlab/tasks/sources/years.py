"""Spans of years for the greater-than task, drawn digit by digit, since most current tokenizers split numbers into digits."""

from __future__ import annotations

from collections.abc import Iterator

from circuitlab.tasks.sources.context import Context
from circuitlab.tasks.spec import YearSource
from circuitlab.tasks.templates import Row

__all__ = ["rows"]


def rows(source: YearSource, context: Context) -> Iterator[Row]:
    """Draw a noun, a decade, a last digit from 2 to 7 (so that there are digits above and below it), and a low digit 0 or 1."""
    nouns, decades = context.pool(source.nouns), context.pool(source.decades)
    while True:
        y = context.random.randint(2, 7)
        yield {
            "noun": context.random.choice(nouns),
            "decade": context.random.choice(decades),
            "y": str(y),
            "low": str(context.random.randint(0, 1)),
            "above": [str(d) for d in range(y + 1, 10)],
            "upto": [str(d) for d in range(y + 1)],
        }
