"""Tune key heads on sums, beside random heads and all of them, and see what sums gain and what other text loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.execute.continuations import likelihoods
from circuitlab.experiments.controls import random_heads
from circuitlab.experiments.head_tuning.offsets import as_rows, every_head
from circuitlab.experiments.head_tuning.prompts import Questions
from circuitlab.experiments.head_tuning.training import Descent
from circuitlab.model.interventions import Scale
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from circuitlab.core.nodes import Head
    from circuitlab.execute.continuations import Continuation
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.interventions import Intervention
    from circuitlab.model.protocol import Model

__all__ = ["sums", "tune_heads", "unseen"]

_RATE = 5e-3
"""LoFiT's learning rate of factors."""


def sums(batch: ContrastBatch) -> Questions:
    """The clean prompts of a batch with their first answers."""
    return Questions(batch.clean, batch.end, batch.answers[:, 0], tuple(map(str, range(batch.n_pairs))))


def unseen(train: ContrastBatch, held: ContrastBatch, marks: Sequence[str]) -> ContrastBatch:
    """The prompts that train, without those that have the same tokens at all marks as one that measures."""

    def tokens(batch: ContrastBatch) -> list[tuple[int, ...]]:
        at = torch.stack([batch.marks[mark] for mark in marks], 1)
        return [tuple(row) for row in batch.clean.gather(1, at).tolist()]

    taken = set(tokens(held))
    return train.select([i for i, row in enumerate(tokens(train)) if row not in taken])


def tune_heads(
    context: ExperimentContext,
    questions: tuple[Questions, Questions],
    key: Sequence[Head],
    texts: Sequence[Continuation],
    sizes: tuple[int, int],
) -> dict[str, Any]:
    """Held-out sums and other text after a factor was trained for every component of heads' queries and outputs.

    A factor of a query scales a column of the head's query weights, and one of its output a row of its output weights; all start at 1.

    Parameters
    ----------
    context : ExperimentContext
    questions : (Questions, Questions)
        Sums that train, and those that measure.
    key : sequence of Head
        The heads that are tuned.
    texts : sequence of Continuation
        Passages that have nothing to do with sums.
    sizes : (int, int)
        Steps of Adam, on batches of 8 sums, and random sets of as many heads of the same layers.

    Returns
    -------
    dict
        ``unedited``, ``key``, ``random`` (a list) and ``everything`` (all heads): ``right``, ``log_probability`` of the result by sum, and
        ``text``, the log-probability per token by passage. ``numbers``: how many factors each trained.
    """
    spec, (steps, n_random) = context.model.spec, sizes
    every = every_head(spec)
    drawn = random_heads(key, (spec.n_layers, spec.n_heads), n_random, context.rng("random tuning"))
    sets, measured = [tuple(key), *drawn, tuple(every)], []
    for number, heads in enumerate(sets):
        with context.share(number / len(sets), (number + 1) / len(sets)):
            measured.append(_measured(_tuned(context, questions[0], heads, steps), questions[1], texts))
    width = sum(context.model.width(site) for site in _sites(context.model))
    return {
        "unedited": _measured(context.model, questions[1], texts),
        "key": measured[0],
        "random": measured[1:-1],
        "everything": measured[-1],
        "numbers": {"key": len(key) * width, "everything": len(every) * width},
    }


def _sites(model: Model) -> list[Site]:
    return [site for site in (Site.Q, Site.Z) if site in model.sites]


def _tuned(context: ExperimentContext, train: Questions, heads: Sequence[Head], steps: int) -> Model:
    model = context.model
    sites = _sites(model)
    widths = [model.width(site) for site in sites]
    moved = torch.nn.Parameter(torch.zeros(len(heads), sum(widths)))

    def edits() -> list[Intervention]:
        factors = (1.0 + moved).split(widths, 1)
        return [Scale(list(heads), factor, site=site) for site, factor in zip(sites, factors, strict=True)]

    return Descent(model, train, steps, context.rng("order", "sums")).run(moved, edits, _RATE)


def _measured(model: Model, held: Questions, texts: Sequence[Continuation]) -> dict[str, list[float]]:
    return {**as_rows(held.measured(model)), "text": np.round(likelihoods(model, texts).logprob, 5).tolist()}
