"""Choose heads on one half of the prompts, scale their attention on the other, beside random heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.nodes import Head
from circuitlab.core.progress import step
from circuitlab.experiments.attention_sinks.labelled import Labelled, Scored
from circuitlab.experiments.attention_sinks.sinks import SinkKeys, calibration, first_token_slopes, sink_keys, sinks_slopes
from circuitlab.experiments.controls import random_heads
from circuitlab.model.interventions import EditPattern
from circuitlab.scores.intervals import mean_interval, rate_change_interval, rate_interval

if TYPE_CHECKING:
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.model.protocol import Model

__all__ = ["MEASURES", "calibrate", "largest", "tune_first_token"]

MEASURES = ("likely", "right")
Halves = tuple[Labelled, Labelled]
Groups = Mapping[str, tuple[Head, ...]]
Factors = Mapping[str, float]


def largest(values: np.ndarray, count: int) -> tuple[Head, ...]:
    """The heads of the largest positive values, at most ``count``, the largest first."""
    order = np.argsort(-values, axis=None, kind="stable")[:count]
    places = (np.unravel_index(int(index), values.shape) for index in order)
    return tuple(Head(int(layer), int(head)) for layer, head in places if values[layer, head] > 0)


def calibrate(
    context: ExperimentContext, halves: Halves, factor: float, threshold: float, n: tuple[int, int], layers: range
) -> dict[str, Any]:
    """ACT: heads whose right label gains when their sinks are scaled down on the first half, calibrated on the second.

    Parameters
    ----------
    context : ExperimentContext
    halves : (Labelled, Labelled)
        Prompts that choose, and prompts that measure.
    factor, threshold : float
        What sinks are multiplied by, and the attention that makes a token one.
    n : (int, int)
        Heads that are chosen, and random sets of as many.
    layers : range
        Layers whose heads may be chosen.
    """
    model, (tuning, held) = context.model, halves
    slopes = sinks_slopes(model, tuning, sink_keys(model, tuning, threshold, layers))
    heads = largest(slopes, n[0])
    keys, plain = sink_keys(model, held, threshold, layers), held.scored(model)
    shape, rng = (model.spec.n_layers, model.spec.n_heads), context.rng("random", "calibration")
    controls = random_heads(heads, shape, n[1], rng) if heads else []
    runs = []
    for number, chosen in enumerate((heads, *controls)):
        runs.append(_calibrated(model, held, keys, chosen, factor))
        step(number + 1, 1 + len(controls))
    return {
        "map": slopes.round(5).tolist(),
        "heads": [str(head) for head in heads],
        "plain": _levels(plain),
        "change": _change(runs[0], plain),
        "random": [_means(run, plain) for run in runs[1:]],
    }


def _calibrated(model: Model, asked: Labelled, keys: Sequence[SinkKeys], heads: Sequence[Head], factor: float) -> Scored:
    edits = [calibration(of_prompt, heads, factor) for of_prompt in keys]
    return asked.scored_by(lambda prompt: model.edited(*edits[prompt]) if edits[prompt] else model)


def tune_first_token(context: ExperimentContext, halves: Halves, factors: Sequence[float], n: tuple[int, int]) -> dict[str, Any]:
    """ZeroTuning: groups of heads by the sign of their slope on the first half, scaled by the factors that are best there.

    Parameters
    ----------
    context : ExperimentContext
    halves : (Labelled, Labelled)
        Prompts that choose, and prompts that measure.
    factors : sequence of float
        Factors of the attention to the first token; 1 is among them.
    n : (int, int)
        Heads in each group, and random groups of as many.
    """
    model, (tuning, held) = context.model, halves
    slopes = first_token_slopes(model, tuning)
    groups = {"up": largest(slopes, n[0]), "down": largest(-slopes, n[0])}
    swept = {name: [held.scored(_scaled(model, groups, _alone(name, by))) for by in factors] for name in groups}
    best, plain = _best(model, tuning, groups, factors), held.scored(model)
    chosen = {name: held.scored(_scaled(model, groups, by)) for name, by in best.items()}
    random: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    controls = _random(context, groups, n[1])
    for number, sets in enumerate(controls):
        for name, by in best.items():
            random[name].append(_means(held.scored(_scaled(model, sets, by)), plain))
        step(number + 1, len(controls))
    return {
        "map": slopes.round(5).tolist(),
        "groups": {name: [str(head) for head in heads] for name, heads in groups.items()},
        "factors": list(factors),
        "plain": _levels(plain),
        "held": {name: [_change(run, plain) for run in runs] for name, runs in swept.items()},
        "chosen": {name: {"factors": best[name], "change": _change(run, plain), "random": random[name]} for name, run in chosen.items()},
    }


def _alone(group: str, factor: float) -> Factors:
    """Factors of both groups of which one is left as it is."""
    return {"up": factor, "down": 1.0} if group == "up" else {"up": 1.0, "down": factor}


def _best(model: Model, asked: Labelled, groups: Groups, factors: Sequence[float]) -> dict[str, Factors]:
    """The best factors of each group alone, and of both together, on the prompts that choose.

    Up-effective heads get factors above 1, down-effective ones below it; together, one of the two may stay as it is.
    """
    ups, downs = ([1.0, *(by for by in factors if by > 1)], [1.0, *(by for by in factors if by < 1)])
    pairs: list[Factors] = [{"up": up, "down": down} for up in ups for down in downs if (up, down) != (1.0, 1.0)]
    values = []
    for number, pair in enumerate(pairs):
        values.append(float(asked.scored(_scaled(model, groups, pair)).likely.mean()))
        step(number + 1, len(pairs))
    order = [pair for _, pair in sorted(zip(values, pairs, strict=True), key=lambda each: -each[0])]
    other = {"up": "down", "down": "up"}
    alone = {name: next(pair for pair in order if pair[other[name]] == 1.0) for name in groups}
    return {**alone, "both": order[0]}


def _random(context: ExperimentContext, groups: Groups, n: int) -> list[Groups]:
    """Random heads for both groups; none is chosen, and none is in both."""
    shape = (context.model.spec.n_layers, context.model.spec.n_heads)
    every = [*groups["up"], *groups["down"]]
    draws = random_heads(every, shape, n, context.rng("random", "first token")) if all(groups.values()) else []
    sets: list[Groups] = []
    for draw in draws:
        left = list(draw)
        up = tuple(_take(left, head) for head in groups["up"])
        sets.append({"up": up, "down": tuple(left)})
    return sets


def _take(left: list[Head], like: Head) -> Head:
    """A head of the same layer if one is left, else any."""
    same = [head for head in left if head.layer == like.layer]
    left.remove(taken := (same or left)[0])
    return taken


def _scaled(model: Model, groups: Groups, factors: Factors) -> Model:
    edits = [EditPattern(heads, "scale", keys=0, factor=factors[name]) for name, heads in groups.items() if heads and factors[name] != 1.0]
    return model.edited(*edits) if edits else model


def _levels(run: Scored) -> dict[str, dict[str, float]]:
    return {"likely": mean_interval(run.likely).as_dict(), "right": rate_interval(run.right).as_dict()}


def _change(run: Scored, plain: Scored) -> dict[str, dict[str, float]]:
    """Paired change of both measures, with its interval over prompts."""
    likely, right = mean_interval(run.likely - plain.likely), rate_change_interval(run.right - plain.right)
    return {"likely": likely.as_dict(), "right": right.as_dict()}


def _means(run: Scored, plain: Scored) -> dict[str, float]:
    return {name: float((getattr(run, name) - getattr(plain, name)).mean()) for name in MEASURES}
