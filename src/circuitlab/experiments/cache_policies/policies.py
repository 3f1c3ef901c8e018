"""Cache policies: which keys each key/value head keeps while an answer is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitlab.core.nodes import KVHead
from circuitlab.model.interventions import KeepKeys
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from circuitlab.execute.continuations import Continuation
    from circuitlab.model.protocol import Model

__all__ = ["ChosenTokens", "Streaming", "of_groups", "top_groups"]

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


@dataclass(frozen=True)
class ChosenTokens:
    """Every layer keeps the tokens that some of its heads attend to most at the end of the prompt (CompressKV).

    Parameters
    ----------
    heads : tuple of tuple of int, one for each layer
        The query heads that choose.
    share : float
        Share of the prompt's tokens that is kept, the last ones counted.
    window : int
        Last queries whose attention is averaged; their keys are kept.
    pool : int
        Odd number of neighbouring keys over which attention is averaged.
    """

    heads: tuple[tuple[int, ...], ...]
    share: float
    window: int = 8
    pool: int = 5

    def applied(self, model: Model, said: Continuation) -> Model:
        """The model with the keys of one prompt chosen, on the unedited model, and the others dropped while it is answered."""
        spec, length = model.spec, said.end + 1
        seen = model.capture(torch.tensor([said.tokens[:length]]), [Site.PATTERN])[Site.PATTERN][0]
        budget = max(1, round(self.share * length) - self.window)
        keep = torch.zeros(spec.n_layers, length, dtype=torch.bool)
        for layer, heads in enumerate(self.heads):
            looked = seen[layer, list(heads), -self.window :, : length - self.window].double().mean((0, 1))
            pooled = torch.nn.functional.avg_pool1d(looked[None, None], self.pool, 1, self.pool // 2)[0, 0]
            keep[layer, pooled.topk(min(budget, len(pooled))).indices] = True
        keep[:, length - self.window :] = True
        groups = [KVHead(layer, head) for layer in range(spec.n_layers) for head in range(spec.n_kv_heads)]
        return model.edited(KeepKeys(groups, keep=keep.repeat_interleave(spec.n_kv_heads, 0), positions=ANSWERING))


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
