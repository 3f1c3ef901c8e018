"""Whether a task's passages are found, and what selected passages do for it as context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.progress import step
from circuitlab.execute.text_loss import next_token_losses
from circuitlab.experiments.data_selection.features import WAYS, average_precision, ranking
from circuitlab.experiments.data_selection.kinds import Split
from circuitlab.scores.intervals import mean_interval

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["context_gain", "helped", "precisions", "selected"]

_RANDOM_RANKINGS = 200


def selected(vectors: dict[str, np.ndarray], parts: Split, n: int) -> dict[str, list[list[int]]]:
    """The first ``n`` passages of every task's ranking, by way."""
    return {way: [ranking(way, vectors[way], parts, task)[:n] for task in range(len(parts.tasks))] for way in WAYS}


def precisions(vectors: dict[str, np.ndarray], parts: Split, rng: np.random.Generator) -> dict[str, Any]:
    """Average precision of every task's own passages in its ranking, by way, and that of random rankings; paired over tasks."""
    labels = np.array(parts.labels)
    by_way = {
        way: np.array([average_precision(labels[ranking(way, vectors[way], parts, task)] == task) for task in range(len(parts.tasks))])
        for way in WAYS
    }
    of_pool = labels[list(parts.pool)]
    chance = np.array([
        np.mean([average_precision(rng.permutation(of_pool) == task) for _ in range(_RANDOM_RANKINGS)]) for task in range(len(parts.tasks))
    ])  # fmt: skip
    return {
        "tasks": {task: {**{way: float(by_way[way][i]) for way in WAYS}, "random": float(chance[i])} for i, task in enumerate(parts.tasks)},
        "mean": {name: mean_interval(values, within=(0, 1)).as_dict() for name, values in {**by_way, "random": chance}.items()},
        "above": {
            name: mean_interval(by_way["features"] - values).as_dict()
            for name, values in (("random", chance), ("dense", by_way["dense"]), ("tokens", by_way["tokens"]))
        },
    }


def helped(model: Model, parts: Split, chosen: dict[str, list[list[int]]], rng: np.random.Generator, n_random: int) -> dict[str, Any]:
    """Loss of held-out passages after selected ones, after random ones and after none, in nats per token; a mean over each task's.

    Random passages are drawn from all that can be selected, as many for each task.
    """
    count = len(chosen[WAYS[0]][0])
    draws = [[rng.choice(parts.pool, count, replace=False).tolist() for _ in parts.tasks] for _ in range(n_random)]
    contexts = [*(chosen[way] for way in WAYS), *draws]
    losses = []
    for number, context in enumerate(contexts):
        losses.append(_losses(model, parts, context))
        step(number + 1, len(contexts) + 1)
    none = _losses(model, parts, [[] for _ in parts.tasks])
    by_way, random = dict(zip(WAYS, losses, strict=False)), np.stack(losses[len(WAYS) :])
    named = {**by_way, "random": random.mean(0), "none": none}
    return {
        "tasks": {task: {name: float(values[i]) for name, values in named.items()} for i, task in enumerate(parts.tasks)},
        "mean": {name: mean_interval(values).as_dict() for name, values in named.items()},
        "gain": {name: mean_interval(none - values).as_dict() for name, values in named.items() if name != "none"},
        "below": {name: mean_interval(named[name] - by_way["features"]).as_dict() for name in ("random", "dense", "tokens")},
        "random_draws": [float(values.mean()) for values in random],
    }


def _losses(model: Model, parts: Split, contexts: Sequence[Sequence[int]]) -> np.ndarray:
    """Mean loss of each task's held-out passages after its context, shape (task,)."""
    rows, starts, owner = [], [], []
    for task, held in enumerate(parts.held):
        for passage in held:
            before = _joined(parts, contexts[task])
            rows.append((*before, *parts.rows[passage]))
            starts.append(len(before))
            owner.append(task)
    return _means(model, rows, starts, np.array(owner), len(parts.tasks))


def context_gain(model: Model, parts: Split) -> np.ndarray:
    """How much lower the loss of a task's first example is after its other examples than after those of the next task, shape (task,)."""
    losses = []
    for shift in (0, 1):
        rows, starts = [], []
        for task, own in enumerate(parts.examples):
            others = parts.examples[(task + shift) % len(parts.tasks)][1:]
            before = _joined(parts, others)
            rows.append((*before, *parts.rows[own[0]]))
            starts.append(len(before))
        losses.append(_means(model, rows, starts, np.arange(len(rows)), len(rows)))
    return np.asarray(losses[1] - losses[0])


def _joined(parts: Split, context: Sequence[int]) -> tuple[int, ...]:
    return tuple(token for passage in context for token in (*parts.rows[passage], *parts.between))


def _means(model: Model, rows: Sequence[tuple[int, ...]], starts: Sequence[int], owner: np.ndarray, n: int) -> np.ndarray:
    """Mean loss from the second token of the last passage on, averaged by owner: its first token is predicted by the context alone."""
    means = np.array([losses[start:].mean() for losses, start in zip(next_token_losses(model, rows), starts, strict=True)])
    return np.array([means[owner == i].mean() for i in range(n)])
