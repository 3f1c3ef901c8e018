"""Rows that a long run has finished, kept outside the method, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

__all__ = ["FinishedRows", "Keeper", "keeping_rows"]

_SECONDS_BETWEEN_SAVES = 5.0


class Keeper(Protocol):
    """Where finished rows are kept."""

    def load(self) -> dict[str, np.ndarray]:
        """What was saved last; empty if nothing was, or if it cannot be read."""
        ...

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays in place of what was saved before."""
        ...


_keeper: contextvars.ContextVar[Keeper | None] = contextvars.ContextVar("keeper", default=None)


@contextmanager
def keeping_rows(keeper: Keeper) -> Iterator[None]:
    """Let methods inside the ``with`` block keep their finished rows, and find those of an earlier, interrupted run."""
    token = _keeper.set(keeper)
    try:
        yield
    finally:
        _keeper.reset(token)


@dataclass(eq=False)
class FinishedRows:
    """Arrays with one row per pair, and which rows are finished.

    Parameters
    ----------
    arrays : dict of str to ndarray, shape (pair, ...)
    done : ndarray of bool, shape (pair,)
    """

    arrays: dict[str, np.ndarray]
    done: np.ndarray
    _saved: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, pairs: int, shapes: Mapping[str, tuple[int, ...]]) -> FinishedRows:
        """Rows as an interrupted run left them, or none finished; what was kept in another shape is not used."""
        keeper = _keeper.get()
        kept = keeper.load() if keeper is not None else {}
        wanted = {name: (pairs, *shape) for name, shape in shapes.items()} | {"done": (pairs,)}
        if {name: value.shape for name, value in kept.items()} == wanted:
            return cls({name: kept[name] for name in shapes}, kept["done"].astype(bool))
        return cls.empty(pairs, shapes)

    @classmethod
    def empty(cls, pairs: int, shapes: Mapping[str, tuple[int, ...]]) -> FinishedRows:
        """Rows of which none is finished."""
        return cls({name: np.zeros((pairs, *shape)) for name, shape in shapes.items()}, np.zeros(pairs, dtype=bool))

    @property
    def todo(self) -> list[int]:
        """Pairs that are not finished."""
        return [int(i) for i in np.flatnonzero(~self.done)]

    def put(self, pairs: Sequence[int], values: Mapping[str, np.ndarray]) -> None:
        """Finish rows; saved at most every few seconds."""
        rows = list(pairs)
        for name, value in values.items():
            self.arrays[name][rows] = value
        self.done[rows] = True
        if not self.done.all() and time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Keep the finished rows now, where somebody keeps them: for a run that cannot go on."""
        keeper = _keeper.get()
        if keeper is not None:
            keeper.save({**self.arrays, "done": self.done})
            self._saved = time.monotonic()
