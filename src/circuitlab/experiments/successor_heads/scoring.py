"""Successor scores of all heads, and whether the best head writes later items more than earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.nodes import Head
from circuitlab.experiments.controls import random_heads
from circuitlab.experiments.successor_heads.items import Items, Reading
from circuitlab.methods.roles.successor import Successor
from circuitlab.scores.intervals import mean_interval, rate_change_interval, rate_interval

if TYPE_CHECKING:
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.model.protocol import Model

__all__ = ["matrix_and_bias", "right_items", "score_heads"]

_LEAST_ORDERED = 8
"""Items that a list must have for its earlier and later items to be compared."""


def score_heads(model: Model, items: Items, role: Successor) -> dict[str, Any]:
    """Score of every head, and the best head's share of right items with its lead over the runner-up (interval over items)."""
    scores, shares = role(model), role.by_task(model)
    pooled = shares.scores["pooled"]
    order = np.argsort(-pooled, axis=None, kind="stable")[:2]
    best, second = (Head(*map(int, np.unravel_index(at, pooled.shape))) for at in order)
    right = [right_items(Reading(model, head), items) for head in (best, second)]
    return {
        "map": np.round(pooled, 4).tolist(),
        "head": str(best),
        "second": str(second),
        "score": float(pooled[best.layer, best.head]),
        "second_score": float(pooled[second.layer, second.head]),
        "q": float(scores.q_values()[best.layer, best.head]),
        "above_half": int((pooled > role.threshold).sum()),
        "by_task": {task: float(values[best.layer, best.head]) for task, values in shares.scores.items()},
        "chance": dict(shares.chance),
        "pairs": dict(shares.pairs),
        "items": rate_interval(right[0]).as_dict(),
        "lead": rate_change_interval(right[0] - right[1]).as_dict(),
    }


def right_items(reading: Reading, items: Items) -> np.ndarray:
    """Whether the head writes the next item most of the item's list, for items that have a next one; a tie is wrong."""
    right = []
    for name in items.names:
        rows = items.rows(name)
        tokens = [items.tokens[row] for row in rows]
        logits = reading.logits(reading.of(tokens), tokens)
        for row, values in zip(rows, logits, strict=True):
            if items.following[row] >= 0:
                after = int(np.flatnonzero(rows == items.following[row])[0])
                right.append(bool(values[after] > np.delete(values, after).max()))
    return np.array(right, dtype=float)


def matrix_and_bias(context: ExperimentContext, items: Items, head: Head, n_random: int) -> dict[str, Any]:
    """The effective-OV matrix of the longest list that does not go round, and the greater-than bias beside random heads."""
    ordered = [name for name in items.names if name not in items.round_lists and len(items.rows(name)) >= _LEAST_ORDERED]
    if not ordered:
        return {"lists": []}
    spec = context.model.spec
    controls = dict.fromkeys(random_heads([head], (spec.n_layers, spec.n_heads), n_random, context.rng("bias", str(head))))
    biases = _biases(context.model, items, ordered, head)
    shown = max(ordered, key=lambda name: len(items.rows(name)))
    return {
        "lists": ordered,
        "bias": mean_interval(biases).as_dict(),
        "sources": len(biases),
        "random": [float(_biases(context.model, items, ordered, control).mean()) for (control,) in controls],
        "random_heads": [str(control) for (control,) in controls],
        "shown": shown,
        "matrix": np.round(_matrix(context.model, items, shown, head), 4).tolist(),
        "tokens": [items.tokens[row] for row in items.rows(shown)],
    }


def _matrix(model: Model, items: Items, name: str, head: Head) -> np.ndarray:
    """Effective-OV logits of a list, (source, target), less the mean of each target and of each source, over their spread."""
    tokens = [items.tokens[row] for row in items.rows(name)]
    reading = Reading(model, head)
    centred = reading.logits(reading.of(tokens), tokens)
    centred = centred - centred.mean(0)
    centred = centred - centred.mean(1, keepdims=True)
    spread = float(centred.std())
    return np.asarray(centred / spread if spread > 0 else centred)


def _biases(model: Model, items: Items, names: Sequence[str], head: Head) -> np.ndarray:
    """For each source, the mean of later targets minus that of earlier ones; neighbours on both sides are left out."""
    differences = []
    for name in names:
        matrix = _matrix(model, items, name, head)
        index = items.index[items.rows(name)]
        apart = index[None, :] - index[:, None]
        for row, distance in zip(matrix, apart, strict=True):
            later, earlier = distance >= 2, distance <= -2  # noqa: PLR2004 - not the successor, nor the item before
            if later.any() and earlier.any():
                differences.append(float(row[later].mean() - row[earlier].mean()))
    return np.array(differences)
