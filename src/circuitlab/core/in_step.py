"""Work that goes through the layers of a model, as generators that yield each layer's number before they use it.

Such generators can run one after another, or in step: all of them through one layer before any goes to the next. In step, a model of
which one layer is in memory at a time is read once for all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Sequence
from typing import TypeAlias, TypeVar

__all__ = ["ByLayer", "drained", "in_step"]

_Result = TypeVar("_Result")

ByLayer: TypeAlias = Generator[int, None, _Result]
"""Yields the number of a layer before it uses that layer; returns its result."""


def drained(work: ByLayer[_Result]) -> _Result:
    """Run to the end, and return the result.

    Examples
    --------
    >>> def count(layers):
    ...     total = 0
    ...     for layer in layers:
    ...         yield layer
    ...         total += layer
    ...     return total
    >>> drained(count(range(4)))
    6
    """
    while True:
        try:
            next(work)
        except StopIteration as finished:
            result: _Result = finished.value
            return result


def in_step(works: Sequence[ByLayer[_Result]]) -> ByLayer[list[_Result]]:
    """Run several works together, as an elevator does: all that wait for a layer pass it before any goes on.

    Of the layers that are waited for, the nearest in the direction of travel comes next; where none is left in that direction, it turns or
    begins anew at the other end, whichever is nearer.

    Parameters
    ----------
    works : sequence of generators
        Each yields layers in any order.

    Returns
    -------
    generator
        Yields every layer once for all works that wait for it, and returns their results in order. If one of them fails, the others are
        closed.

    Examples
    --------
    >>> def climb(first, seen):
    ...     for layer in range(first, 3):
    ...         yield layer
    ...         seen.append((layer, first))
    ...     return first
    >>> seen = []
    >>> drained(in_step([climb(0, seen), climb(1, seen)])), seen
    ([0, 1], [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)])
    """
    results: dict[int, _Result] = {}
    waiting: dict[int, int] = {}
    try:
        _advance(works, range(len(works)), waiting, results)
        layer, up = min(waiting.values(), default=0), True
        while waiting:
            layer, up = _next_layer(set(waiting.values()), layer, up=up)
            yield layer
            _advance(works, [i for i, wanted in waiting.items() if wanted == layer], waiting, results)
    finally:
        for work in works:
            if inspect.getgeneratorstate(work) != inspect.GEN_CLOSED:
                work.close()
    return [results[i] for i in range(len(works))]


def _advance(works: Sequence[ByLayer[_Result]], which: Sequence[int], waiting: dict[int, int], results: dict[int, _Result]) -> None:
    for index in which:
        try:
            waiting[index] = next(works[index])
        except StopIteration as finished:
            waiting.pop(index, None)
            results[index] = finished.value


def _next_layer(wanted: set[int], layer: int, *, up: bool) -> tuple[int, bool]:
    """The next layer to pass, and whether that is upwards."""
    above, below = [n for n in wanted if n >= layer], [n for n in wanted if n <= layer]
    if up and above:
        return min(above), True
    if not up and below:
        return max(below), False
    if up:  # turn around at the top, or begin again at the bottom
        return (max(below), False) if layer - max(below) <= 1 else (min(below), True)
    return min(above), True
