"""Mask heads that retrieve, and random heads of the same layers, and see what becomes of answers and of other text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.nodes import Head
from circuitlab.core.progress import step
from circuitlab.execute.continuations import Continuation, likelihoods
from circuitlab.experiments.controls import random_heads
from circuitlab.model.interventions import Knockout
from circuitlab.scores.intervals import Interval, mean_interval, rate_change_interval, rate_interval

if TYPE_CHECKING:
    from circuitlab.experiments.types import ExperimentContext
    from circuitlab.model.protocol import Model

__all__ = ["bands", "beside_induction", "mask_heads", "mask_on_text", "ranked", "sets_of_heads"]

_INTERVALS: dict[str, tuple[Callable[[Any], Interval], Callable[[Any], Interval]]] = {
    "top": (rate_interval, rate_change_interval),
    "logprob": (mean_interval, mean_interval),
}
"""How values, and their changes, get intervals: shares of tokens stay between 0 and 1."""

RETRIEVES, STRONG = 0.1, 0.5
"""The score above which a head is a retrieval head, and a strong one: the paper's."""
_PROTECTED = 0.15
"""Share of heads that RazorAttention keeps for their induction score."""


def ranked(scores: Sequence[Sequence[float]]) -> list[Head]:
    """Heads that copy anything, from the highest score down; equal ones by layer and number."""
    values = np.array(scores)
    order = np.argsort(-values, axis=None, kind="stable")
    places = [divmod(int(i), values.shape[1]) for i in order if values.flat[i] > 0]
    return [Head(*place) for place in places]


def bands(scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Share of heads with a score above 0.5, above 0.1, above 0 and not above 0.1, and of exactly 0."""
    values = np.array(scores)
    shares = {
        f"above {STRONG}": values > STRONG,
        f"above {RETRIEVES}": values > RETRIEVES,
        f"0 to {RETRIEVES}": (values > 0) & (values <= RETRIEVES),
        "0": values == 0,
    }
    return {name: float(inside.mean()) for name, inside in shares.items()}


def beside_induction(scores: Sequence[Sequence[float]], induction: np.ndarray) -> dict[str, Any]:
    """How many retrieval heads are among the top 15 % by induction, with the chance of as many, and the rank correlation."""
    from scipy import stats  # noqa: PLC0415 - slow to load

    values = np.array(scores)
    count = round(_PROTECTED * values.size)
    top = np.zeros(values.size, dtype=bool)
    top[np.argsort(-induction, axis=None, kind="stable")[:count]] = True
    retrieves = values.flatten() > RETRIEVES
    shared, n = int((top & retrieves).sum()), int(retrieves.sum())
    return {
        "retrieval_heads": n,
        "induction_heads": count,
        "shared": shared,
        "expected": n * count / values.size,
        "p": float(stats.hypergeom.sf(shared - 1, values.size, count, n)),
        "spearman": float(stats.spearmanr(values.flatten(), induction.flatten()).statistic),
    }


def sets_of_heads(
    context: ExperimentContext, scores: Sequence[Sequence[float]], sizes: Sequence[int], n_random: int
) -> list[dict[str, Any]]:
    """For each size, the top heads and random heads of the same layers that are no retrieval heads; sizes beyond the heads are left out."""
    order, shape = ranked(scores), np.array(scores).shape
    retrieves = [head for head in order if scores[head.layer][head.head] > RETRIEVES]
    sets = []
    for size in sorted(set(sizes)):
        top = order[:size]
        if len(top) == size and shape[0] * shape[1] - len({*top, *retrieves}) >= size:
            controls = random_heads(top, (shape[0], shape[1]), n_random, context.rng("random", size), without=retrieves)
            sets.append({"size": size, "top": list(map(str, top)), "random": [list(map(str, heads)) for heads in controls]})
    return sets


def mask_heads(model: Model, said: Sequence[Continuation], sets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Answers with no head masked, and with every set of heads masked (their outputs replaced by 0 everywhere).

    Returns
    -------
    dict
        ``unedited`` and, for each size, ``top``, ``random`` (mean over the random sets), ``lost`` (unedited minus top, paired) and
        ``beyond`` (random minus top, paired): intervals over needles of the share of the answer's tokens that come first, and of their
        mean log-probability.
    """
    runs = sum(1 + len(one["random"]) for one in sets)
    whole, rows, done = likelihoods(model, said), [], 0
    for one in sets:
        values = []
        for heads in (one["top"], *one["random"]):
            values.append(likelihoods(model.edited(Knockout(heads, "zero")), said))
            done += 1
            step(done, runs)
        row: dict[str, Any] = {"size": one["size"]}
        for which in ("top", "logprob"):
            before, masked = getattr(whole, which), getattr(values[0], which)
            control = np.mean([getattr(value, which) for value in values[1:]], axis=0)
            of_value, of_change = _INTERVALS[which]
            values_of = {"masked": masked, "random": control}
            changes = {"lost": before - masked, "beyond": control - masked}
            row[which] = {name: of_value(part).as_dict() for name, part in values_of.items()}
            row[which] |= {name: of_change(part).as_dict() for name, part in changes.items()}
        rows.append(row)
    unedited = {which: of_value(getattr(whole, which)).as_dict() for which, (of_value, _) in _INTERVALS.items()}
    return {"unedited": unedited, "sizes": rows}


def mask_on_text(model: Model, passages: Sequence[Continuation], one: dict[str, Any]) -> dict[str, Any]:
    """Rise of the loss on passages (nats per token) with one set of heads masked, for random ones, and the difference, paired."""
    before = -likelihoods(model, passages).logprob
    rises = []
    for number, heads in enumerate((one["top"], *one["random"])):
        rises.append(-likelihoods(model.edited(Knockout(heads, "zero")), passages).logprob - before)
        step(number + 1, 1 + len(one["random"]))
    control = np.mean(rises[1:], axis=0)
    parts = {"loss": before, "masked": rises[0], "random": control, "beyond": rises[0] - control}
    return {"size": one["size"], **{name: mean_interval(part).as_dict() for name, part in parts.items()}}
