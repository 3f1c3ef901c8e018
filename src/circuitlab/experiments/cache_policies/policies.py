"""Cache policies by head: some key/value heads keep everything, the others a few keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.core.nodes import KVHead
from circuitlab.model.interventions import KeepKeys

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["ANSWERING", "Streaming", "of_groups", "top_groups"]

ANSWERING = ("last", "generated")
"""Queries that read the compressed cache: the prompt is read in full, as by the papers."""


@dataclass(frozen=True)
class Streaming:
    """Some key/value heads keep everything; the others keep the first keys, the last ones, and a compensation token or none.

    Parameters
    ----------
    others : tuple of KVHead
        Key/value heads that do not keep everything; there may be none.
    sinks, window : int
        Keys that those keep.
    compensate : bool
        Whether one token stands for what they drop.
    """

    others: tuple[KVHead, ...]
    sinks: int
    window: int
    compensate: bool

    def applied(self, model: Model, *, answering: bool) -> Model:
        """The model under this policy: for answers alone, or for every token of a text."""
        if not self.others:
            return model
        positions = ANSWERING if answering else "all"
        return model.edited(KeepKeys(self.others, sinks=self.sinks, window=self.window, compensate=self.compensate, positions=positions))

    def kept(self, length: int, n_groups: int) -> float:
        """Share of a cache of so many tokens that is kept, compensation tokens counted."""
        own = min(1.0, (self.sinks + self.window + self.compensate) / length)
        return 1 - len(self.others) / n_groups * (1 - own)


def of_groups(scores: Sequence[Sequence[float]], n_kv_heads: int) -> np.ndarray:
    """The largest score of each group of query heads, (layer, kv_head)."""
    values = np.array(scores, dtype=float)
    return np.asarray(values.reshape(len(values), n_kv_heads, -1).max(-1))


def top_groups(ranks: Sequence[tuple[np.ndarray, int]]) -> list[KVHead]:
    """Key/value heads that are among the first by any of several scores, each given with how many of its first ones count.

    Examples
    --------
    >>> import numpy as np
    >>> top_groups([(np.array([[0.1, 0.9], [0.5, 0.0]]), 1), (np.array([[0.7, 0.1], [0.2, 0.0]]), 1)])
    [KVHead(layer=0, head=0), KVHead(layer=0, head=1)]
    """
    chosen: set[tuple[int, int]] = set()
    for scores, count in ranks:
        for place in np.argsort(-scores, axis=None, kind="stable")[:count].tolist():
            chosen.add(divmod(place, scores.shape[1]))
    return [KVHead(*place) for place in sorted(chosen)]
