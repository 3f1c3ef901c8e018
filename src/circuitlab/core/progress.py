"""Progress of a long computation: the code that computes reports every finished step, and a listener, if there is one, is called."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["has_listener", "progress_part", "report_progress", "step"]

_FINE = 10_000  # steps of a bar that is filled in fractions
_listener: contextvars.ContextVar[Callable[[int, int], None] | None] = contextvars.ContextVar("progress", default=None)


@contextmanager
def report_progress(callback: Callable[[int, int], None]) -> Iterator[None]:
    """Call ``callback(done, total)`` after every step that finishes inside the ``with`` block."""
    token = _listener.set(callback)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def progress_part(start: float, end: float) -> Iterator[None]:
    """Let the steps inside the ``with`` block fill the listener's bar from ``start`` to ``end``, both fractions of the whole bar."""
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
    """Report to the listener, if there is one, that ``done`` of ``total`` steps are finished."""
    callback = _listener.get()
    if callback is not None:
        callback(done, total)


def has_listener() -> bool:
    """Whether a listener is set, as inside a `report_progress` block."""
    return _listener.get() is not None
