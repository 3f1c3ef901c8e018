"""Rows that a long run has finished, kept outside the method, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from circuitlab.store import Checkpoint

__all__ = ["PairRows", "keeping_rows"]

_SECONDS_BETWEEN_SAVES = 5.0


_checkpoint: contextvars.ContextVar[Checkpoint | None] = contextvars.ContextVar("checkpoint", default=None)


@contextmanager
def keeping_rows(checkpoint: Checkpoint) -> Iterator[None]:
    """Let methods inside the ``with`` block keep their finished rows, and find those of an earlier, interrupted run."""
    token = _checkpoint.set(checkpoint)
    try:
        yield
    finally:
        _checkpoint.reset(token)


@dataclass(eq=False)
class PairRows:
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
    def of(cls, pairs: int, shapes: Mapping[str, tuple[int, ...]]) -> PairRows:
        """Rows as an interrupted run left them, or none finished; what was kept in another shape is not used."""
        checkpoint = _checkpoint.get()
        kept = checkpoint.load() if checkpoint is not None else {}
        wanted = {name: (pairs, *shape) for name, shape in shapes.items()} | {"done": (pairs,)}
        if {name: value.shape for name, value in kept.items()} == wanted:
            return cls({name: kept[name] for name in shapes}, kept["done"].astype(bool))
        return cls.empty(pairs, shapes)

    @classmethod
    def empty(cls, pairs: int, shapes: Mapping[str, tuple[int, ...]]) -> PairRows:
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
        checkpoint = _checkpoint.get()
        if checkpoint is not None:
            checkpoint.save({**self.arrays, "done": self.done})
            self._saved = time.monotonic()
