"""LoFiT: choose heads by learnt scalings, and learn offsets there and at random heads of the same layers."""

from __future__ import annotations

from collections.abc import Sequence
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
    from circuitlab.experiments.head_tuning.prompts import TuningTask
    from circuitlab.experiments.types import ExperimentContext

__all__ = ["as_rows", "choose_heads", "every_head", "tune_offsets"]

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


def tune_offsets(context: ExperimentContext, task: TuningTask, names: Sequence[str], steps: int, n_random: int) -> dict[str, Any]:
    """Held-out answers of the unedited model, after tuning the chosen heads, and after tuning each random set."""
    spec = context.model.spec
    chosen = [node for node in map(parse_node, names) if isinstance(node, Head)]
    sets = random_heads(chosen, (spec.n_layers, spec.n_heads), n_random, context.rng("random heads"))
    measured = []
    for number, heads in enumerate([tuple(chosen), *sets]):
        with context.share(number / (1 + len(sets)), (number + 1) / (1 + len(sets))):
            measured.append(as_rows(_tuned(context, task, heads, steps)))
    return {
        "zero_shot": as_rows(task.held.measured(context.model)),
        "few_shot": as_rows(task.shown_held.measured(context.model)),
        "offsets": measured[0],
        "offsets_random": {key: [rows[key] for rows in measured[1:]] for key in measured[0]},
        "random_heads": [[str(head) for head in heads] for heads in sets],
    }


def _tuned(context: ExperimentContext, task: TuningTask, heads: Sequence[Head], steps: int) -> np.ndarray:
    """Held-out answers with offsets trained at some heads, all from the same first values and in the same order of prompts."""
    offsets = torch.nn.Parameter(first_values((len(heads), context.model.spec.d_head), _SPREAD, context.rng("offsets")))
    descent = Descent(context.model, task.train, steps, context.rng("order", "offsets"))
    # With one head, the first axis would be read as positions.
    edited = descent.run(offsets, lambda: [Add(list(heads), offsets if len(heads) > 1 else offsets[0])], _OFFSET_RATE)
    return task.held.measured(edited)
