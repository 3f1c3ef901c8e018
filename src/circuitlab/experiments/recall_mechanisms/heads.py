"""Topic heads and relation heads: what they write at the last token, where they look, and what the answer loses without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.core.nodes import Head, parse_node
from circuitlab.execute.direct_logits import head_logits
from circuitlab.experiments.controls import random_heads
from circuitlab.experiments.recall_mechanisms.facts import Facts
from circuitlab.model.interventions import Replace
from circuitlab.model.sites import Site
from circuitlab.scores.intervals import mean_interval

if TYPE_CHECKING:
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.model.protocol import Model

__all__ = [
    "ablated",
    "above_controls",
    "attention_to_subject",
    "choose_heads",
    "heads_of",
    "measure_heads",
    "relation_writes",
    "topic_writes",
]


def topic_writes(model: Model, facts: Facts) -> np.ndarray:
    """What every head writes of a prompt's own country above the other countries, at the last token; (country, layer, head), logits."""
    logits = head_logits(model, facts.tokens[0], facts.end, facts.words[0]).cpu().numpy()
    return facts.by_country(facts.above_others(logits))


def relation_writes(model: Model, facts: Facts) -> np.ndarray:
    """How much more a head writes capitals than languages where the capital is asked for than where the language is.

    Shape (country, layer, head), logits: means over the capitals of the other countries and over all languages but the row's own.
    """
    sides = [_capitals_over_languages(model, facts, relation) for relation in range(2)]
    return facts.by_country(sides[0] - sides[1])


def _capitals_over_languages(model: Model, facts: Facts, relation: int) -> np.ndarray:
    ids = facts.words[1:].flatten()
    logits = head_logits(model, facts.tokens[relation], facts.end, ids).cpu().numpy()
    capitals, languages = np.split(logits, 2, axis=-1)
    own = facts.words[:, facts.owner].numpy()
    means = []
    for values, tokens, mine in ((capitals, facts.words[1].numpy(), own[1]), (languages, facts.words[2].numpy(), own[2])):
        others = (tokens[None] != mine[:, None])[:, None, None].astype(float)
        means.append((values * others).sum(-1) / others.sum(-1))
    return means[0] - means[1]


def attention_to_subject(model: Model, facts: Facts) -> np.ndarray:
    """Weight of the country's token at the last token, shape (country, layer, head)."""
    pattern = model.capture(facts.tokens[0], [Site.PATTERN], at=facts.end)[Site.PATTERN].cpu()
    row = torch.arange(len(facts.subject))
    return facts.by_country(pattern[row, ..., facts.subject].double().numpy())


def ablated(model: Model, tuning: Facts, held: Facts, sets: Sequence[Sequence[Head]]) -> np.ndarray:
    """What the true capital loses over the other capitals if a set's values at the last token are their means over ``tuning``.

    Shape (set, country), logits.
    """
    z = model.capture(tuning.tokens[0], [Site.Z], at=tuning.end)[Site.Z].mean(0)
    whole = _capital_over_others(model, held)
    fall = []
    for heads in sets:
        means = torch.stack([z[head.layer, head.head] for head in heads])
        value = means[0] if len(heads) == 1 else means
        fall.append(whole - _capital_over_others(model.edited(Replace(list(heads), value, positions="last")), held))
    return np.stack(fall)


def _capital_over_others(model: Model, facts: Facts) -> np.ndarray:
    logits = model.logits(facts.tokens[0], facts.end)[:, facts.words[1]].double().cpu().numpy()
    return facts.by_country(facts.above_others(logits))


def choose_heads(model: Model, tuning: Facts, count: int) -> dict[str, Any]:
    """The heads that write most of the country, and those that write most by relation, with maps of both."""
    chosen: dict[str, Any] = {}
    for kind, writes in (("topic", topic_writes), ("relation", relation_writes)):
        mean = writes(model, tuning).mean(0)
        order = np.argsort(-mean, axis=None, kind="stable")[:count]
        heads = [str(Head(*map(int, np.unravel_index(at, mean.shape)))) for at in order]
        chosen[kind] = {"heads": heads, "map": np.round(mean, 5).tolist()}
    return chosen


def heads_of(names: Sequence[str]) -> tuple[Head, ...]:
    """Heads by their names."""
    return tuple(node for node in map(parse_node, names) if isinstance(node, Head))


def measure_heads(
    context: ExperimentContext, halves: tuple[Facts, Facts], chosen: dict[str, Any], n_random: int
) -> dict[str, dict[str, Any]]:
    """On held-out countries: what chosen heads write, where topic heads look, and what is lost without them, beside random heads."""
    tuning, held = halves
    model, spec = context.model, context.model.spec
    sets = {}
    for kind in ("topic", "relation"):
        heads, others = (heads_of(chosen[each]["heads"]) for each in (kind, "relation" if kind == "topic" else "topic"))
        drawn = random_heads(heads, (spec.n_layers, spec.n_heads), n_random, context.rng(kind), without=others)
        sets[kind] = [heads, *drawn]
    topic, relation = sets["topic"], sets["relation"]
    attention = attention_to_subject(model, held)
    return {
        "writes_topic": above_controls(_summed(topic_writes(model, held), topic)),
        "attends": above_controls(np.stack([values / len(topic[0]) for values in _summed(attention, topic)])),
        "lost": above_controls(ablated(model, tuning, held, topic)),
        "writes_relation": above_controls(_summed(relation_writes(model, held), relation)),
        "attention": {"map": np.round(attention.mean(0), 5).tolist()},
    }


def above_controls(values: np.ndarray) -> dict[str, Any]:
    """From (set, country), the first set chosen and the others random: the interval of the first, and the means of the others."""
    return {"chosen": mean_interval(values[0]).as_dict(), "random": [float(control.mean()) for control in values[1:]]}


def _summed(values: np.ndarray, sets: Sequence[Sequence[Head]]) -> np.ndarray:
    """Sums over the heads of each set: from (country, layer, head) to (set, country)."""
    return np.stack([sum(values[:, head.layer, head.head] for head in heads) for heads in sets])
