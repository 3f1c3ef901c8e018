"""Finished rows of a long run, saved outside the method, so that an interrupted run continues where it stopped."""

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
    """Let methods inside the ``with`` block save their finished rows, and load those of an earlier, interrupted run."""
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
        The arrays by name.
    done : ndarray of bool, shape (pair,)
        Whether each row is finished.
    """

    arrays: dict[str, np.ndarray]
    done: np.ndarray
    _saved: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, pairs: int, shapes: Mapping[str, tuple[int, ...]]) -> PairRows:
        """The rows of an interrupted run, or empty rows; saved arrays of another shape are not used."""
        checkpoint = _checkpoint.get()
        saved = checkpoint.load() if checkpoint is not None else {}
        expected = {name: (pairs, *shape) for name, shape in shapes.items()} | {"done": (pairs,)}
        if {name: value.shape for name, value in saved.items()} == expected:
            return cls({name: saved[name] for name in shapes}, saved["done"].astype(bool))
        return cls.empty(pairs, shapes)

    @classmethod
    def empty(cls, pairs: int, shapes: Mapping[str, tuple[int, ...]]) -> PairRows:
        """Rows of zeros, none of them finished."""
        return cls({name: np.zeros((pairs, *shape)) for name, shape in shapes.items()}, np.zeros(pairs, dtype=bool))

    @property
    def todo(self) -> list[int]:
        """Pairs that are not finished."""
        return [int(i) for i in np.flatnonzero(~self.done)]

    def put(self, pairs: Sequence[int], values: Mapping[str, np.ndarray]) -> None:
        """Set rows and mark them as finished; they are saved at most every few seconds."""
        rows = list(pairs)
        for name, value in values.items():
            self.arrays[name][rows] = value
        self.done[rows] = True
        if not self.done.all() and time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Save the finished rows now, inside `keeping_rows`: for a run that cannot continue."""
        checkpoint = _checkpoint.get()
        if checkpoint is not None:
            checkpoint.save({**self.arrays, "done": self.done})
            self._saved = time.monotonic()
