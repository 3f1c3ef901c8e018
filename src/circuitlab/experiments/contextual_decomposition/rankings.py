"""Rank heads by contextual decomposition, and compare rankings with known heads and circuits with random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.circuits import Circuit
from circuitlab.circuits.select import top_mask
from circuitlab.core.nodes import Head, Universe
from circuitlab.core.progress import step
from circuitlab.evaluation import Evaluate
from circuitlab.experiments.ranking import own_heads, published_heads, ranked_against
from circuitlab.methods import ContextualDecomposition
from circuitlab.metrics import get_metric
from circuitlab.workflows.planted import scoreboard
from circuitlab.workflows.score import score_batch

if TYPE_CHECKING:
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.model.batch import ContrastBatch

__all__ = ["Parts", "on_planted", "on_task"]

METHOD = ContextualDecomposition(parts=("heads",))


@dataclass(frozen=True, eq=False)
class Parts:
    """Pairs that are decomposed, pairs that choose the model's own heads, and pairs that circuits are run on."""

    decomposed: ContrastBatch
    effects: ContrastBatch
    held: ContrastBatch


def on_planted(seeds: int, pairs: int, models: Sequence[str] = ()) -> dict[str, Any]:
    """Area under the ROC curve over heads and MLPs of planted models, by model over sets of prompts."""
    results = scoreboard(["contextual_decomposition"], models, seeds=seeds, pairs=pairs, progress=step)
    return {result.model: result.auroc for result in results}


def on_task(context: ExperimentContext, parts: Parts, share: float, sizes: tuple[Sequence[float], int], task: str = "") -> dict[str, Any]:
    """The ranking of one task against the model's own heads, and the faithfulness of its circuits beside that of random ones.

    Parameters
    ----------
    context : ExperimentContext
    parts : Parts
        Prompts for each purpose, without a common pair.
    share : float
        Share of all heads that count as the model's own.
    sizes : (sequence of float, int)
        Shares of all heads that circuits keep, and the number of random circuits of each size.
    task : str
        Published lists of this task are compared with, where the model is GPT-2 small.

    Returns
    -------
    dict
        ``against``: `ranked_against` by list of heads. ``faithfulness``: for each size its ``share``, number of ``heads``, interval, and
        the ``mean``, ``low``, ``high`` and ``p`` of random circuits. ``map``: mean scores, (layer, head).
    """
    with context.share(0.0, 0.4):
        metric = get_metric(parts.decomposed.metric)
        mean = score_batch(context.model, parts.decomposed, METHOD, metric, store=context.store).scores.mean("heads")
    with context.share(0.4, 0.7):
        lists = own_heads(context, parts.effects, share) | published_heads(context, task)
    against = {name: ranked_against(np.abs(mean), heads, context.rng("shuffles", task, name)) for name, heads in lists.items()}
    with context.share(0.7, 1.0):
        faithfulness = [_faithfulness(context, parts.held, mean, fraction, sizes[1]) for fraction in sizes[0]]
    return {"against": against, "faithfulness": faithfulness, "map": np.round(mean, 5).tolist()}


def _faithfulness(context: ExperimentContext, held: ContrastBatch, mean: np.ndarray, fraction: float, n_random: int) -> dict[str, Any]:
    """Faithfulness of the top share of heads on fresh pairs, all MLPs kept, and of random circuits of as many heads."""
    spec, count = context.model.spec, max(1, round(fraction * mean.size))
    kept = np.argwhere(top_mask(mean.ravel(), count).reshape(mean.shape))
    nodes = frozenset(Head(int(layer), int(head)) for layer, head in kept)
    circuit = Circuit(nodes, Universe(spec.n_layers, spec.n_heads, spec.n_kv_heads), rule=f"top {count} by contextual decomposition")
    run = Evaluate(n_random=n_random, n_subsets=0, most_elements=0, seed=context.seed)
    measured = run(circuit, context.model, held, get_metric(held.metric)).to_dict()
    return {"share": fraction, "heads": count, "circuit": measured["faithfulness"], "random": measured["random"]}
