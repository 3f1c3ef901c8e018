"""The steps of the experiment, on questions that the caller makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head, parse_node
from circuitlab.experiments.controls import random_heads
from circuitlab.experiments.multiple_choice.forms import AS_CHOSEN
from circuitlab.experiments.multiple_choice.heads import (
    choose_letter_heads,
    direct_and_total,
    label_attention,
    letter_scores,
    side_by_side,
    typology,
)
from circuitlab.experiments.multiple_choice.ranks import loss_by_rank, subspaces
from circuitlab.scores.intervals import mean_interval, proportion_interval

if TYPE_CHECKING:
    from circuitlab.experiments.multiple_choice.questions import Choices
    from circuitlab.experiments.types import ExperimentContext

__all__ = ["measured"]

_RANDOM_SUBSPACES = 1


def measured(
    context: ExperimentContext, tuning: Choices, by_labels: Mapping[str, Choices], sizes: tuple[int, int, Sequence[int]]
) -> dict[str, Any]:
    """Everything that is judged.

    Parameters
    ----------
    context : ExperimentContext
    tuning : Choices
        Questions that choose heads and subspaces.
    by_labels : mapping of str to Choices
        The questions that measure them, with every set of labels, row by row; those of `AS_CHOSEN` come first.
    sizes : (int, int, sequence of int)
        Number of heads, of random sets of heads, and the ranks.
    """
    n_heads, n_random, ranks = sizes
    model, held = context.model, by_labels[AS_CHOSEN]
    halves = (tuning, held)
    with context.share(0.0, 0.1):
        letter = context.stored("letter_heads", lambda: choose_letter_heads(model, tuning, n_heads))
    heads = _heads(letter["heads"])
    controls = random_heads(heads, (model.spec.n_layers, model.spec.n_heads), n_random, context.rng("random"))
    about = {"heads": letter["heads"]}
    with context.share(0.1, 0.2):
        looks = context.stored("attention", lambda: _attention(context, halves, heads, controls), about=about)
    with context.share(0.2, 0.4):
        effects = context.stored("effects", lambda: direct_and_total(model, halves, context.rng("effects")))
    with context.share(0.4, 0.55):
        labels = context.stored("labels", lambda: _labels(context, by_labels, heads, controls), about=about)
    with context.share(0.55, 1.0):
        about |= {"read": looks["read"]}
        kept = context.stored("ranks", lambda: _ranks(context, halves, heads, (looks["read"], ranks)), about=about)
    return {"letter": letter, "attention": looks, "effects": effects, "labels": labels, "ranks": kept}


def _ranks(
    context: ExperimentContext, halves: tuple[Choices, Choices], heads: Sequence[Head], how: tuple[str, Sequence[int]]
) -> dict[str, Any]:
    (tuning, held), (read, ranks) = halves, how
    spaces = subspaces(context.model, tuning, heads, read)
    return loss_by_rank(context.model, held, spaces, ranks, (_RANDOM_SUBSPACES, context.rng("subspaces")))


def _heads(names: Sequence[str]) -> list[Head]:
    heads = [node for node in map(parse_node, names) if isinstance(node, Head)]
    if len(heads) != len(names):
        raise BadParameterError(f"{list(names)} are not all query heads.", "Choose heads with choose_letter_heads.")
    return heads


def _attention(
    context: ExperimentContext, halves: tuple[Choices, Choices], heads: Sequence[Head], controls: Sequence[Sequence[Head]]
) -> dict[str, Any]:
    """Attention to the right option's label and content on the second half; which of them is read is decided on the first."""
    first, second = (label_attention(context.model, half) for half in halves)
    means = {kind: side_by_side(values, heads, controls)["chosen"]["mean"] for kind, values in first.items()}
    both = {kind: side_by_side(values, heads, controls) for kind, values in second.items()}
    either = side_by_side(second["L"] + second["C"], heads, controls)
    return {"read": max(means, key=lambda kind: means[kind]), "label": both["L"], "content": both["C"], "either": either}


def _labels(
    context: ExperimentContext, sets: Mapping[str, Choices], heads: Sequence[Head], controls: Sequence[Sequence[Head]]
) -> dict[str, Any]:
    """What the chosen heads write for the right label with every set of labels, with differences that are paired by question."""
    rows: dict[str, Any] = {}
    writes: dict[str, np.ndarray] = {}
    for name, asked in sets.items():
        matrix, own = letter_scores(typology(context.model, asked), asked.true)
        writes[name] = np.mean([own[:, head.layer, head.head] for head in heads], axis=0)
        right = asked.correct(context.model)
        rows[name] = {
            **side_by_side(own, heads, controls),
            "accuracy": proportion_interval(int(right.sum()), len(right)).as_dict(),
            "matrices": {str(head): np.round(matrix[head.layer, head.head], 5).tolist() for head in heads},
            "diagonal": np.diagonal(np.mean([matrix[head.layer, head.head] for head in heads], axis=0)).tolist(),
        }
    names = list(sets)
    lost = {name: mean_interval(writes[names[0]] - writes[name]).as_dict() for name in names[1:]}
    between = {f"{a} - {b}": mean_interval(writes[a] - writes[b]).as_dict() for a in names[1:] for b in names[1:] if a != b}
    return {"sets": rows, "lost": lost, "between": between}
