"""LoFiT: choose heads by learnt scalings, and learn offsets there, at random heads of the same layers, and at other places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head, parse_node
from circuitlab.experiments.controls import random_heads
from circuitlab.experiments.head_tuning.training import Descent, first_values
from circuitlab.model.interventions import Add, Scale

if TYPE_CHECKING:
    from circuitlab.core.provenance import ModelSpec
    from circuitlab.experiments.head_tuning.prompts import Questions, TuningTask
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.model.interventions import Intervention
    from circuitlab.model.protocol import Model

__all__ = ["as_rows", "choose_heads", "every_head", "tune_elsewhere", "tune_offsets"]

_SCALING_RATE, _OFFSET_RATE, _SPARSITY, _SPREAD = 5e-3, 8e-3, 5e-4, 1e-3
"""LoFiT's learning rates, weight of the L1 norm, and standard deviation of the first values."""


def every_head(spec: ModelSpec) -> list[Head]:
    """All query heads, layer by layer."""
    return [Head(layer, head) for layer in range(spec.n_layers) for head in range(spec.n_heads)]


def as_rows(values: np.ndarray) -> dict[str, list[float]]:
    """Values of `Questions.measured` as plain data."""
    return {"right": values[0].tolist(), "log_probability": np.round(values[1], 5).tolist()}


def choose_heads(context: ExperimentContext, task: TuningTask, count: int, steps: int) -> dict[str, Any]:
    """The heads whose learnt factors are furthest from 1 in L2 norm, and the map of these distances.

    Raises
    ------
    BadParameterError
        If more than half of the heads would be chosen, which leaves too few for a random control.
    """
    spec = context.model.spec
    heads = every_head(spec)
    if count > len(heads) // 2:
        what = f"{count} of {len(heads)} heads leave too few for a random control."
        raise BadParameterError(what, f"Use heads={len(heads) // 2} or fewer.")
    moved = torch.nn.Parameter(first_values((len(heads), spec.d_head), _SPREAD, context.rng("factors")))
    descent = Descent(context.model, task.train, steps, context.rng("order", "factors"))
    descent.run(moved, lambda: [Scale(heads, 1.0 + moved)], _SCALING_RATE, lambda: _SPARSITY * moved.abs().sum())  # type: ignore[arg-type]
    distance = moved.detach().norm(dim=-1)
    best = distance.argsort(descending=True, stable=True)[:count].tolist()
    grid = distance.reshape(spec.n_layers, spec.n_heads).double().numpy().round(5).tolist()
    return {"heads": [str(heads[i]) for i in sorted(best)], "map": grid}


def tune_offsets(
    context: ExperimentContext, task: TuningTask, names: Sequence[str], steps: int, n_random: int, others: Mapping[str, Questions]
) -> dict[str, Any]:
    """Held-out answers of the unedited model, after tuning the chosen heads, and after tuning each random set.

    Returns
    -------
    dict
        ``zero_shot``, ``few_shot`` and ``offsets``; ``offsets_random``, by set; and the same, but demonstrations, of questions of other
        tasks, ``elsewhere``, by name: what was learnt on this task, asked about another one.
    """
    spec = context.model.spec
    chosen = _heads(names)
    sets = random_heads(chosen, (spec.n_layers, spec.n_heads), n_random, context.rng("random heads"))
    asked: dict[str, Questions] = {"": task.held, **others}
    rows: dict[str, dict[str, Any]] = {name: {"zero_shot": as_rows(held.measured(context.model))} for name, held in asked.items()}
    measured: dict[str, list[dict[str, list[float]]]] = {name: [] for name in asked}
    for number, heads in enumerate([tuple(chosen), *sets]):
        with context.share(number / (1 + len(sets)), (number + 1) / (1 + len(sets))):
            edited = _tuned(context, task, heads, steps)
        for name, held in asked.items():
            measured[name].append(as_rows(held.measured(edited)))
    for name, (first, *controls) in measured.items():
        rows[name] |= {"offsets": first, "offsets_random": {key: [one[key] for one in controls] for key in first}}
    return {
        **rows.pop(""),
        "few_shot": as_rows(task.shown_held.measured(context.model)),
        "random_heads": [[str(head) for head in heads] for heads in sets],
        "elsewhere": rows,
    }


def tune_elsewhere(context: ExperimentContext, task: TuningTask, others: Sequence[Sequence[str]], count: int, steps: int) -> dict[str, Any]:
    """Held-out answers with offsets at heads that other tasks chose, and with as many numbers spread over all heads.

    Returns
    -------
    dict
        ``offsets_other``, by set of heads; ``offsets_spread``: as many components as ``count`` heads have, drawn from those of all heads.
    """
    by_set = []
    for number, names in enumerate(others):
        with context.share(number / (1 + len(others)), (number + 1) / (1 + len(others))):
            by_set.append(as_rows(task.held.measured(_tuned(context, task, _heads(names), steps))))
    with context.share(len(others) / (1 + len(others)), 1.0):
        spread = as_rows(task.held.measured(_spread(context, task, count, steps)))
    return {"offsets_other": {key: [one[key] for one in by_set] for key in spread}, "offsets_spread": spread}


def _heads(names: Sequence[str]) -> list[Head]:
    return [node for node in map(parse_node, names) if isinstance(node, Head)]


def _tuned(context: ExperimentContext, task: TuningTask, heads: Sequence[Head], steps: int) -> Model:
    """The model with offsets trained at some heads, all from the same first values and in the same order of prompts."""
    offsets = torch.nn.Parameter(first_values((len(heads), context.model.spec.d_head), _SPREAD, context.rng("offsets")))
    descent = Descent(context.model, task.train, steps, context.rng("order", "offsets"))
    # With one head, the first axis would be read as positions.
    return descent.run(offsets, lambda: [Add(list(heads), offsets if len(heads) > 1 else offsets[0])], _OFFSET_RATE)


def _spread(context: ExperimentContext, task: TuningTask, count: int, steps: int) -> Model:
    spec = context.model.spec
    heads, width = every_head(spec), spec.d_head
    drawn = context.rng("spread").choice(len(heads) * width, count * width, replace=False)
    places, values = torch.from_numpy(np.sort(drawn)), torch.nn.Parameter(first_values((count * width,), _SPREAD, context.rng("offsets")))

    def edits() -> list[Intervention]:
        return [Add(heads, torch.zeros(len(heads) * width).index_put((places,), values).view(len(heads), width))]

    return Descent(context.model, task.train, steps, context.rng("order", "offsets")).run(values, edits, _OFFSET_RATE)
