"""Sources of rows: one module for each kind of task data, with a function from (source, context) to an endless stream of rows."""

from __future__ import annotations

from collections.abc import Iterator

from circuitlab.tasks.sources import pools, sequence, sums, table, years
from circuitlab.tasks.sources.context import Context
from circuitlab.tasks.spec import DrawnSource, PoolSource, SequenceSource, SumSource, TableSource
from circuitlab.tasks.templates import Row

__all__ = ["Context", "check_source", "draw_rows"]


def draw_rows(source: DrawnSource, context: Context) -> Iterator[Row]:
    """Endless rows of a source, drawn with the context's random numbers."""
    if isinstance(source, PoolSource):
        return pools.rows(source, context)
    if isinstance(source, TableSource):
        return table.rows(source, context)
    if isinstance(source, SequenceSource):
        return sequence.rows(source, context)
    if isinstance(source, SumSource):
        return sums.rows(source, context)
    return years.rows(source, context)


def check_source(source: DrawnSource, context: Context) -> None:
    """Raise `TaskFileError` if a source cannot yield a row; drawing one row reveals every fault that a source can have."""
    next(draw_rows(source, context))
