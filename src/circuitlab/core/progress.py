"""How far a long computation is: whoever computes says so step by step, whoever wants to know listens."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["is_listened_to", "progress_part", "report_progress", "step"]

_FINE = 10_000  # steps of a bar whose parts are told in shares
_listener: contextvars.ContextVar[Callable[[int, int], None] | None] = contextvars.ContextVar("progress", default=None)


@contextmanager
def report_progress(callback: Callable[[int, int], None]) -> Iterator[None]:
    """Call ``callback(done, total)`` for every step that a method finishes inside the ``with`` block."""
    token = _listener.set(callback)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def progress_part(start: float, end: float) -> Iterator[None]:
    """Steps inside the ``with`` block fill the listener's bar from ``start`` to ``end``, both shares of it."""
    outer = _listener.get()
    if outer is None:
        yield
        return

    def part(done: int, total: int) -> None:
        outer(round(_FINE * (start + (end - start) * done / max(1, total))), _FINE)

    with report_progress(part):
        yield
    outer(round(_FINE * end), _FINE)


def step(done: int, total: int) -> None:
    """Tell the listener, if any, that ``done`` of ``total`` steps are finished; called by methods."""
    callback = _listener.get()
    if callback is not None:
        callback(done, total)


def is_listened_to() -> bool:
    """Whether somebody is told of steps already."""
    return _listener.get() is not None
