"""Node scores from path patching: follow paths backwards from the logits, and score each node by its strongest path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.core.nodes import Head, Mlp, Node, Universe

if TYPE_CHECKING:
    from circuitlab.methods.path_patching import PathPatching
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["node_means", "strongest_paths"]

_SHARE = 0.1
"""Paths to a node's inputs are followed if its effect is at least this share of the clean-corrupt gap."""


def node_means(scores: HeadScores) -> dict[Node, float]:
    """Mean score over pairs of every head and MLP that was scored."""
    means: dict[Node, float] = {}
    for part, build in (("heads", Head), ("mlps", Mlp)):
        if part in scores.parts:
            mean = scores.mean(part)
            means |= {build(*map(int, index)): float(mean[index]) for index in np.ndindex(mean.shape)}
    return means


def strongest_paths(method: PathPatching, model: Model, batch: ContrastBatch, metric: Metric) -> dict[Node, float]:
    """Score every head and MLP by its strongest path, found stage by stage from the logits backwards (Wang et al. 2022).

    The first stage patches paths to the logits. Each later stage patches paths to each input (query, shared keys, shared values, MLP)
    of the nodes that earlier stages found, with everything downstream recomputed. A node's score is the mean effect of its strongest
    path, by magnitude: a node that acts only through other nodes has no direct path to the logits.

    Parameters
    ----------
    method : PathPatching
        Direction and MLP rule; its receivers are replaced.
    model, batch, metric : Model, ContrastBatch, Metric
        The model, the pairs and the metric.

    Returns
    -------
    dict of Node to float
        Scores in metric units; 0 for nodes at which no followed path starts.
    """
    spec = model.spec
    universe = Universe(spec.n_layers, spec.n_heads, spec.n_kv_heads)
    best: dict[Node, float] = dict.fromkeys((*universe.heads(), *universe.mlps()), 0.0)
    waiting, queued = ["logits"], {"logits"}
    while waiting:
        scores = replace(method, receivers=(waiting.pop(0),))(model, batch, metric)
        least = _SHARE * abs(float(scores.dataset["total"].values.mean()))
        for node, mean in node_means(scores).items():
            if abs(mean) > abs(best[node]):
                best[node] = mean
            if abs(mean) >= least > 0:
                fresh = [name for name in _inputs(universe, node) if name not in queued]
                waiting += fresh
                queued.update(fresh)
    return best


def _inputs(universe: Universe, node: Node) -> Iterator[str]:
    """Names of a node's inputs, except for heads of layer 0, which read only the embedding."""
    if isinstance(node, Head) and node.layer:
        kv = universe.kv_head_of(node)
        yield from (f"{node}<q>", f"{kv}<k>", f"{kv}<v>")
    elif isinstance(node, Mlp):
        yield str(node)
