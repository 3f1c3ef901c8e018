"""Attention sinks: which tokens receive attention from everywhere, and what scaling attention to them would change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.core.nodes import Head
from circuitlab.core.progress import step
from circuitlab.experiments.attention_sinks.labelled import Labelled, log_probabilities
from circuitlab.model.interventions import EditPattern, Intervention
from circuitlab.model.sites import Site
from circuitlab.scores.intervals import rate_interval

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from circuitlab.model.protocol import Model

__all__ = ["SinkKeys", "calibration", "first_token_slopes", "sink_keys", "sink_shares", "sinks", "sinks_slopes"]

SinkKeys = dict[Head, tuple[int, ...]]
"""The sinks of every head that has one, on one prompt."""

_QUERIES = 16
"""Least number of queries that a token must receive attention from, where sinks are counted."""


def sinks(pattern: Float[np.ndarray, "*lead query key"], threshold: float, queries: int = 1) -> Bool[np.ndarray, "*lead key"]:
    """Tokens that receive more attention than ``threshold``, the mean over their own and later queries, without the first such token.

    Parameters
    ----------
    pattern : ndarray
        Attention weights.
    threshold : float
        Of the mean weight.
    queries : int
        Tokens with fewer queries are never sinks: what the last tokens receive is local attention.

    Examples
    --------
    >>> pattern = np.array([[1.0, 0, 0], [0.5, 0.5, 0], [0.5, 0.4, 0.1]])
    >>> sinks(pattern, 0.3).tolist(), sinks(pattern, 0.3, queries=3).tolist()
    ([False, True, False], [False, False, False])
    """
    count = np.arange(pattern.shape[-1], 0, -1)
    above = (pattern.sum(-2) / count > threshold) & (count >= queries)
    return np.asarray(above & (above.cumsum(-1) > 1))


def sink_keys(model: Model, asked: Labelled, threshold: float, layers: range) -> list[SinkKeys]:
    """The sinks of every head of some layers, on each prompt."""
    keys: list[SinkKeys] = []
    for row in asked.rows:
        mask = sinks(_pattern(model, row), threshold)
        heads = [Head(layer, head) for layer, head in np.ndindex(*mask.shape[:2]) if layer in layers and mask[layer, head].any()]
        keys.append({head: tuple(np.flatnonzero(mask[head.layer, head.head]).tolist()) for head in heads})
    return keys


def sink_shares(model: Model, asked: Labelled, threshold: float, layers: range) -> dict[str, Any]:
    """How many heads have a sink beyond the first, by prompt and by layer; only tokens with 16 queries or more count.

    ``share``: of the heads of ``layers``, with its interval over prompts. ``by_layer``: of every layer's heads. ``map``: the share of
    prompts on which each head has one. ``even``: the largest number of sinks that even attention would have on a prompt.
    """
    each = np.stack([sinks(_pattern(model, row), threshold, _QUERIES).any(-1) for row in asked.rows]).astype(float)
    even = max(int(sinks(_even(len(row)), threshold, _QUERIES).sum()) for row in asked.rows)
    by_layer = [rate_interval(each[:, layer].mean(-1)).as_dict() for layer in range(each.shape[1])]
    share = rate_interval(each[:, list(layers)].mean((1, 2))).as_dict()
    return {"share": share, "by_layer": by_layer, "map": each.mean(0).round(4).tolist(), "even": even}


def calibration(keys: SinkKeys, heads: Sequence[Head], factor: float) -> list[Intervention]:
    """ACT's calibration of some heads on one prompt: sinks get ``factor`` of their weight, the other keys the rest."""
    return [EditPattern(head, "scale", keys=keys[head], factor=factor, rest="others") for head in heads if head in keys]


def sinks_slopes(model: Model, asked: Labelled, keys: Sequence[SinkKeys]) -> Float[np.ndarray, "layer head"]:
    """How fast the right label gains when a head's sinks are scaled down, the mean over prompts: nats per unit of the factor."""
    total = np.zeros((model.spec.n_layers, model.spec.n_heads))
    for number, of_prompt in enumerate(keys):
        alike: dict[tuple[int, ...], list[Head]] = {}
        for head, positions in of_prompt.items():
            alike.setdefault(positions, []).append(head)
        factors = {positions: torch.nn.Parameter(torch.ones(len(heads))) for positions, heads in alike.items()}
        if not factors:
            continue
        edits = [
            EditPattern(heads, "scale", keys=positions, factor=factors[positions], rest="others") for positions, heads in alike.items()
        ]
        _right(model.edited(*edits), asked.select([number])).backward()  # type: ignore[no-untyped-call]
        for positions, heads in alike.items():
            for head, slope in zip(heads, _slope(factors[positions]), strict=True):
                total[head.layer, head.head] -= slope
        step(number + 1, len(keys))
    return np.asarray(total / len(keys))


def first_token_slopes(model: Model, asked: Labelled) -> Float[np.ndarray, "layer head"]:
    """How fast the right label gains when a head's attention to the first token is scaled up, the mean over prompts: nats per factor."""
    spec = model.spec
    heads = [Head(layer, head) for layer, head in np.ndindex(spec.n_layers, spec.n_heads)]
    factor = torch.nn.Parameter(torch.ones(len(heads)))
    edited = model.edited(EditPattern(heads, "scale", keys=0, factor=factor))
    groups = list(asked.groups())
    for number, group in enumerate(groups):
        _right(edited, asked.select(group)).backward()  # type: ignore[no-untyped-call]
        step(number + 1, len(groups))
    return np.array(_slope(factor)).reshape(spec.n_layers, spec.n_heads) / len(asked.rows)


def _right(model: Model, asked: Labelled) -> torch.Tensor:
    """Sum over prompts of the right label's log-probability, with gradients."""
    values = log_probabilities(model, asked, gradients=True)
    return values[torch.arange(len(values)), torch.tensor(asked.answers)].sum()


def _slope(factor: torch.nn.Parameter) -> list[float]:
    slopes: list[float] = [0.0] * len(factor) if factor.grad is None else factor.grad.double().tolist()
    return slopes


def _pattern(model: Model, row: Sequence[int]) -> Float[np.ndarray, "layer head query key"]:
    return np.asarray(model.capture(torch.tensor([row]), [Site.PATTERN])[Site.PATTERN][0].double().cpu().numpy())


def _even(length: int) -> Float[np.ndarray, "query key"]:
    rows = np.tril(np.ones((length, length)))
    return np.asarray(rows / rows.sum(-1, keepdims=True))
