"""The two measurements: key-value prompts and passages, with the chosen heads masked and with random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.nodes import Head, parse_node
from circuitlab.experiments.attention_influence.masking import compared, influence, masked_losses, welch
from circuitlab.experiments.attention_influence.probe import KeyValue
from circuitlab.experiments.controls import random_heads
from circuitlab.model.prompts import read_prompts
from circuitlab.texts import load_texts

if TYPE_CHECKING:
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.model.protocol import Model

__all__ = ["on_prompts", "on_texts", "passages_of"]

_LENGTH = 64
"""Tokens of a passage that are read."""


def passages_of(model: Model, kinds: Sequence[str], n: int) -> list[tuple[str, tuple[int, ...]]]:
    """Kind and first 64 tokens of the first ``n`` of circuitlab's passages of some kinds that are long enough, kind by kind in turn."""
    texts = load_texts(kinds=kinds)
    ids = read_prompts([text.text for text in texts], model.tokenizer, model.spec).ids
    return [(text.kind, tuple(row[:_LENGTH])) for text, row in zip(texts, ids, strict=True) if len(row) >= _LENGTH][:n]


def on_prompts(context: ExperimentContext, prompts: Sequence[KeyValue], chosen: Mapping[str, Any], n_random: int) -> dict[str, Any]:
    """Rise of the loss of answers, in nats per token, for the chosen heads and for random sets."""
    losses = masked_losses(context.model, prompts, _sets(context, chosen, n_random))
    rises = losses[1:] - losses[0]
    return {"base": float(losses[0].mean()), "rise": compared(rises[0], rises[1:])}


def on_texts(
    context: ExperimentContext, groups: Mapping[str, Sequence[tuple[str, Sequence[int]]]], chosen: Mapping[str, Any], n_random: int
) -> dict[str, Any]:
    """Influence of passages: over all, by group, by kind, and the difference of the first group from the second."""
    every = [(name, kind, row) for name, rows in groups.items() for kind, row in rows]
    scores = influence(context.model, [row for _, _, row in every], _sets(context, chosen, n_random))
    group, kinds = np.array([name for name, _, _ in every]), np.array([kind for _, kind, _ in every])
    first, second = (group == name for name in groups)
    by_group = {name: {**compared(scores[0, group == name], scores[1:, group == name]), "n": int((group == name).sum())} for name in groups}
    by_kind = {
        str(kind): {
            "chosen": float(scores[0, kinds == kind].mean()),
            "random": float(scores[1:, kinds == kind].mean()),
            "n": int((kinds == kind).sum()),
        }
        for kind in dict.fromkeys(kinds.tolist())
    }
    return {
        "influence": compared(scores[0], scores[1:]),
        "groups": by_group,
        "kinds": by_kind,
        "difference": welch(scores[0, first], scores[0, second]),
        "random_differences": [float(values[first].mean() - values[second].mean()) for values in scores[1:]],
    }


def _sets(context: ExperimentContext, chosen: Mapping[str, Any], n_random: int) -> list[tuple[Head, ...]]:
    """The chosen heads, and random sets of as many."""
    heads = tuple(node for node in map(parse_node, chosen["heads"]) if isinstance(node, Head))
    spec = context.model.spec
    return [heads, *random_heads(heads, (spec.n_layers, spec.n_heads), n_random, context.rng("random", *chosen["heads"]))]
