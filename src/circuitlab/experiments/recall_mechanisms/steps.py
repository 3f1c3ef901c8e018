"""The experiment in stored steps, on prompts and passages that are given as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from circuitlab.experiments.controls import random_heads
from circuitlab.experiments.recall_mechanisms.confidence import frequent_writes, scaled_down, text_cost
from circuitlab.experiments.recall_mechanisms.heads import choose_heads, heads_of, measure_heads
from circuitlab.experiments.recall_mechanisms.mlps import coefficients, decompose

if TYPE_CHECKING:
    from circuitlab.experiments.recall_mechanisms.facts import Facts
    from circuitlab.experiments.types import ExperimentContext

__all__ = ["measured"]


def measured(context: ExperimentContext, facts: Facts, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Everything, from prompts and from rows of natural text; the experiment's settings are those of the context."""
    settings: Any = context.experiment
    model, spec = context.model, context.model.spec
    halves = tuning, held = facts.halves(context.rng("halves"))
    with context.share(0.0, 0.1):
        chosen = context.stored("choose", lambda: choose_heads(model, tuning, settings.heads))
    with context.share(0.1, 0.4):
        heads = context.stored("heads", lambda: measure_heads(context, halves, chosen, settings.random_sets))
    topic, relation = (heads_of(chosen[kind]["heads"]) for kind in ("topic", "relation"))
    drawn = random_heads(topic, (spec.n_layers, spec.n_heads), settings.random_sets, context.rng("topic"), without=relation)
    with context.share(0.4, 0.5):
        fits = context.stored("coefficients", lambda: coefficients(model, held, [topic, *drawn], context.rng("resampled")))
        parts = context.stored("decomposition", lambda: decompose(model, tuning, held))
    with context.share(0.5, 0.9):
        late = context.stored("late", lambda: scaled_down(model, tuning, held, settings.factors))
    with context.share(0.9, 1.0):
        final = late["layers"][0]
        cost = context.stored("cost", lambda: text_cost(model, final["part"], final["factor"], rows))
        frequent = context.stored("frequent", lambda: frequent_writes(model, held, rows))
    countries = {"chosen_on": list(tuning.names), "measured_on": list(held.names)}
    return {
        "countries": countries,
        "chosen": chosen,
        "heads": heads,
        "coefficients": fits,
        "decomposition": parts,
        "late": {**late, "cost": cost},
        "frequent": frequent,
    }
