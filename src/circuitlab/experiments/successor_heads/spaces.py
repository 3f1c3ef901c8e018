"""Index space and domain space: the item of one list at the place of an item of another, put together from both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.experiments.successor_heads.items import Items, Reading
from circuitlab.scores.intervals import rate_interval

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["recombined"]

_FOLDS = 5
_RIDGE = 1e-2
"""Of the mean square of an input."""


def recombined(reading: Reading, items: Items, rng: np.random.Generator) -> dict[str, Any]:
    """Share of held-out items that are decoded from an item of the same index and an item of the same list.

    Two linear maps are fitted by ridge regression such that ``index(x_a) + domain(x_b)`` is the item of b's list with a's index, on four
    fifths of the items; the others are neither inputs nor targets. A vector is decoded as the nearest item of all lists (cosine, less the
    mean of all). The control deals indices out anew within every list.
    """
    read = reading.of(items.tokens).double()
    mean = read.mean(0)
    vectors = (read - mean) / (read - mean).pow(2).mean().sqrt()
    shared = [row for row in range(len(items.tokens)) if len({items.lists[j] for j in np.flatnonzero(items.index == items.index[row])}) > 1]
    held = [np.array(fold) for fold in np.array_split(rng.permutation(shared), _FOLDS) if len(fold)]
    dealt = items.index.copy()
    for name in items.names:
        dealt[items.rows(name)] = rng.permutation(dealt[items.rows(name)])
    share, chance = _decoded(vectors, items, items.index, held), _decoded(vectors, items, dealt, held)
    lengths = [len(items.rows(items.lists[row])) for row in shared]
    return {
        "cells": len(share),
        "right": rate_interval(share).as_dict() if len(share) else None,
        "permuted": float(chance.mean()) if len(chance) else None,
        "chance": float(np.mean([1 / length for length in lengths])) if lengths else None,
    }


def _decoded(vectors: Float[Tensor, "item d"], items: Items, index: np.ndarray, folds: list[np.ndarray]) -> np.ndarray:
    """For each held-out item that can be put together, the share of pairs (a, b) from which it is."""
    lists = np.array(items.lists)
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    shares = []
    for fold in folds:
        train = np.setdiff1d(np.arange(len(lists)), fold)
        maps = _fitted(vectors, _triples(lists, index, train, train))
        if maps is None:
            continue
        triples = _triples(lists, index, fold, train)
        made = torch.cat([vectors[triples[:, 1]], vectors[triples[:, 2]]], 1) @ maps
        nearest = (made @ unit.T).argmax(1).numpy()
        shares += [float((nearest[triples[:, 0] == row] == row).mean()) for row in np.unique(triples[:, 0])]
    return np.array(shares)


def _triples(lists: np.ndarray, index: np.ndarray, targets: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """(target, item of the same index in another list, item of the same list), shape (triple, 3)."""
    rows = [
        (target, a, b)
        for target in targets
        for a in sources[(index[sources] == index[target]) & (lists[sources] != lists[target])]
        for b in sources[(lists[sources] == lists[target]) & (index[sources] != index[target])]
    ]
    return np.array(rows, dtype=int).reshape(-1, 3)


def _fitted(vectors: Float[Tensor, "item d"], triples: np.ndarray) -> Float[Tensor, "two_d d"] | None:
    """Both maps, one above the other; None where nothing can be fitted."""
    if not len(triples):
        return None
    inputs = torch.cat([vectors[triples[:, 1]], vectors[triples[:, 2]]], 1)
    gram = inputs.T @ inputs
    ridge = _RIDGE * float(gram.diagonal().mean())
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), inputs.T @ vectors[triples[:, 0]])
