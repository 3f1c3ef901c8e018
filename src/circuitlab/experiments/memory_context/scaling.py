"""Choose heads by what they write on one half of the countries, and scale them on the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head, parse_node
from circuitlab.core.progress import step
from circuitlab.experiments.controls import other_heads
from circuitlab.experiments.memory_context.conflict import KINDS, Conflicts
from circuitlab.methods import LogitAttribution
from circuitlab.metrics import LogitDiff
from circuitlab.model.interventions import Scale
from circuitlab.scores.intervals import rate_change_interval, rate_interval

if TYPE_CHECKING:
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.model.protocol import Model

__all__ = ["choose_heads", "scale_heads"]

_OTHER = {"memory": "in_context", "in_context": "memory"}


def choose_heads(model: Model, tuning: Conflicts) -> dict[str, Any]:
    """The memory head and the in-context head, and the map of what every head writes (logits, claimed minus true city)."""
    scores = LogitAttribution()(model, tuning.batch, LogitDiff()).values("heads")
    mean = tuning.by_country(np.moveaxis(scores, 0, -1)).mean(-1)
    ends = (np.unravel_index(index, mean.shape) for index in (mean.argmin(), mean.argmax()))
    memory, in_context = (str(Head(int(layer), int(head))) for layer, head in ends)
    return {"memory": memory, "in_context": in_context, "map": mean.tolist()}


def scale_heads(
    context: ExperimentContext, halves: tuple[Conflicts, Conflicts], chosen: dict[str, Any], factors: Sequence[float], n_random: int
) -> dict[str, Any]:
    """Rates on the second half over the factor for both heads, and their changes at factors chosen on the first, beside random heads."""
    swept = {}
    for i, kind in enumerate(_OTHER):
        with context.share(i / 2, (i + 1) / 2):
            swept[kind] = _scaled(context, halves, _heads(chosen, kind), sorted({*factors, 1.0}), n_random)
    return swept


def _scaled(
    context: ExperimentContext, halves: tuple[Conflicts, Conflicts], heads: tuple[Head, Head], factors: Sequence[float], n_random: int
) -> dict[str, Any]:
    tuning, held = halves
    head, other = heads
    controls = other_heads(head, context.model.spec.n_heads, n_random, context.rng("random", str(head)), without=[other])
    on_tuning = _swept(context.model, tuning, head, factors)
    on_held = _swept(context.model, held, head, factors)
    at_one = factors.index(1.0)
    best = {
        "towards_context": int(on_tuning[:, 0].mean(-1).argmax()),
        "towards_memory": int(on_tuning[:, 1].mean(-1).argmax()),
        "up": int(on_tuning[at_one:, 0].mean(-1).argmax()) + at_one,
    }
    used = sorted(set(best.values()) | {at_one})
    of_controls = []
    for number, control in enumerate(controls):
        of_controls.append(dict(zip(used, _swept(context.model, held, control, [factors[i] for i in used]), strict=True)))
        step(number + 1, len(controls))
    kinds = {"towards_context": 0, "towards_memory": 1, "up": 0}
    picked = {}
    for which, index in best.items():
        kind = kinds[which]
        changes = [float((swept[index][kind] - swept[at_one][kind]).mean()) for swept in of_controls]
        change = rate_change_interval(on_held[index, kind] - on_held[at_one, kind]).as_dict()
        picked[which] = {"factor": factors[index], "change": change, "random": changes}
    rates = {kind: [rate_interval(values).as_dict() for values in on_held[:, i]] for i, kind in enumerate(KINDS)}
    names = list(map(str, controls))
    return {"head": str(head), "factors": list(factors), "rates": rates, "chosen": picked, "random_heads": names}


def _heads(chosen: dict[str, Any], kind: str) -> tuple[Head, Head]:
    """The head of this kind, and the other one."""
    head, other = (parse_node(chosen[name]) for name in (kind, _OTHER[kind]))
    if not isinstance(head, Head) or not isinstance(other, Head):
        raise BadParameterError(f"{head} and {other} are not both query heads.", "Choose heads with choose_heads.")
    return head, other


def _swept(model: Model, asked: Conflicts, head: Head, factors: Sequence[float]) -> np.ndarray:
    """Rates by factor, kind and country."""
    runs = [model if factor == 1.0 else model.edited(Scale(head, factor)) for factor in factors]
    return np.stack([asked.by_country(asked.kinds(run)) for run in runs])
