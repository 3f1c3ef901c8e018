"""Rank heads by the codes that only clean prompts have, with several autoencoders, and compare the rankings with known heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.nodes import Head
from circuitlab.core.progress import step
from circuitlab.experiments.ranking import own_heads, published_heads, ranked_against
from circuitlab.methods import CodeOverlap
from circuitlab.methods.sae.counts import edge_counts, listed_edges
from circuitlab.model.toy import build_planted
from circuitlab.scores.intervals import mean_interval

if TYPE_CHECKING:
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["Halves", "code_rankings", "on_planted", "on_task"]

LEVELS = ("nodes", "edges")


def code_rankings(model: Model, batch: ContrastBatch, method: CodeOverlap) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Scores of every head with each autoencoder, by level, each (trial, layer, head); and how well the codes can be trusted.

    Returns
    -------
    dict of str to ndarray
        ``"nodes"``: number of codes that only clean prompts have. ``"edges"``: places of a head in the list of the strongest pairs of
        heads, as published: the list has half as many entries as the square of the number of heads in a layer.
    dict
        ``agreement``, the mean rank correlation of node scores between two autoencoders (NaN if scores do not vary), and ``explained``,
        the share of variance that the autoencoders explain.
    """
    sample = method.sample(model, batch)
    shape = (len(sample.positive), model.spec.n_layers, model.spec.n_heads)
    listed = [
        2 * listed_edges(edge_counts(ours[:, 0], theirs[:, 0]), model.spec.n_heads**2 // 2).sum(0)
        for ours, theirs in zip(sample.positive, sample.negative, strict=True)
    ]
    rankings = {"nodes": sample.counts().reshape(shape), "edges": np.stack(listed).reshape(shape)}
    return rankings, {"agreement": sample.agreement(), "explained": float(np.mean(sample.explained))}


def on_planted(names: Sequence[str], method: CodeOverlap, pairs: int) -> dict[str, Any]:
    """Area under the ROC curve on models whose heads are known, by level: for each model over autoencoders, and over models."""
    areas: dict[str, dict[str, np.ndarray]] = {level: {} for level in LEVELS}
    for number, name in enumerate(names):
        planted = build_planted(name)
        rankings, _ = code_rankings(planted.model, planted.batch(pairs), method)
        truth = np.zeros((planted.model.spec.n_layers, planted.model.spec.n_heads), dtype=bool)
        for node in planted.nodes:
            if isinstance(node, Head):
                truth[node.layer, node.head] = True
        for level in LEVELS:
            areas[level][name] = _areas(rankings[level], truth)
        step(number + 1, len(names))
    return {
        level: {
            "models": {name: mean_interval(values, within=(0, 1)).as_dict() for name, values in by_model.items()},
            "all": mean_interval(np.array([values.mean() for values in by_model.values()]), within=(0, 1)).as_dict(),
        }
        for level, by_model in areas.items()
    }


@dataclass(frozen=True, eq=False)
class Halves:
    """Pairs that codes are learned from, and other pairs that choose the model's own heads."""

    codes: ContrastBatch
    effects: ContrastBatch


def on_task(context: ExperimentContext, halves: Halves, method: CodeOverlap, share: float, task: str = "") -> dict[str, Any]:
    """Rankings of one task against the model's own heads, and against published lists where the model is GPT-2 small.

    Returns
    -------
    dict
        ``against``: for each level and each list of heads `ranked_against` of the mean over autoencoders, and ``trials``, the area of each
        with its interval. ``map``: mean node scores, (layer, head). ``agreement`` and ``explained`` as in `code_rankings`.
    """
    with context.share(0.0, 0.6):
        rankings, quality = code_rankings(context.model, halves.codes, method)
    with context.share(0.6, 1.0):
        lists = own_heads(context, halves.effects, share) | published_heads(context, task)
    against: dict[str, dict[str, Any]] = {}
    for level, scores in rankings.items():
        against[level] = {
            name: ranked_against(scores.mean(0), heads, context.rng("shuffles", task, level, name))
            | {"trials": mean_interval(_areas(scores, heads), within=(0, 1)).as_dict()}
            for name, heads in lists.items()
        }
    return {"against": against, "map": np.round(rankings["nodes"].mean(0), 4).tolist(), **quality}


def _areas(scores: np.ndarray, heads: np.ndarray) -> np.ndarray:
    from circuitlab.circuits.roc import roc_of_values  # noqa: PLC0415

    return np.array([roc_of_values(of_trial, heads).auroc for of_trial in scores])
