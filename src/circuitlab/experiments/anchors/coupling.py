"""Do the signals of an answer go together: values and peaks at peaks of another signal, against positions at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.progress import step
from circuitlab.experiments.anchors.tracks import Answer, HeadSets, Tracks, peaks, tracks
from circuitlab.experiments.controls import random_heads
from circuitlab.scores.intervals import mean_interval

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from circuitlab.experiments.types import ExperimentContext

__all__ = ["coupled", "coupling", "follows"]

_BESIDE, _BEFORE = 1, 3
_SHOWN = 40
Pair = tuple[float, float]
"""What is observed at peaks, and its expectation at as many positions at random."""


def coupled(peak: Int[np.ndarray, " peak"], values: Float[np.ndarray, " pos"], allowed: Float[np.ndarray, " pos"]) -> Pair:
    """The mean of ``values`` at peaks, and at all positions where peaks can be (where ``allowed`` is not NaN); NaN without a peak.

    The second is the expectation under shuffled positions; no shuffle needs to be drawn.

    Examples
    --------
    >>> coupled(np.array([1]), np.array([0.0, 3.0, 0.0, 9.0]), np.array([1, 1, 1, np.nan]))
    (3.0, 1.0)
    """
    known = np.isfinite(allowed)
    return (float(values[peak].mean()) if len(peak) else float("nan"), float(values[known].mean()))


def follows(peak: Int[np.ndarray, " peak"], length: int, before: int, after: int) -> Float[np.ndarray, " pos"]:
    """1 for positions with a peak at most ``before`` tokens earlier or ``after`` tokens later, else 0.

    Examples
    --------
    >>> follows(np.array([2]), 6, before=2, after=0).tolist()
    [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    """
    near = np.zeros(length)
    for at in peak.tolist():
        near[max(0, at - after) : at + before + 1] = 1.0
    return near


def coupling(context: ExperimentContext, answers: Sequence[Answer], sets: HeadSets, n_random: int) -> dict[str, Any]:
    """The three couplings over answers, each observed and at random positions, and the tracks of the first answer.

    ``entropy`` (and ``before``) at WAAD peaks; ``receivers``: peaks of the receivers' FAI within one token of one of the far heads', and
    the same for random heads of the receivers' layers; ``follows``: far heads' FAI peaks at or up to three tokens after a WAAD peak.
    """
    shape = (context.model.spec.n_layers, context.model.spec.n_heads)
    rng = context.rng("random heads")
    controls = random_heads(sets.receivers, shape, n_random, rng, without=sets.far)
    rows, first = [], None
    for number, answer in enumerate(answers):
        signals = tracks(context.model, answer, sets.local, (sets.far, sets.receivers, *controls))
        first = signals if first is None else first
        rows.append(_couplings(signals))
        step(number + 1, len(answers))
    measured = {name: _summary([row[name] for row in rows]) for name in rows[0] if name != "random"}
    measured["receivers"]["random"] = [_excess([row["random"][i] for row in rows]) for i in range(len(controls))]
    return {"couplings": measured, "example": _example(first)}


def _couplings(signals: Tracks) -> dict[str, Any]:
    far, receivers, *controls = signals.fai
    length, look, back = len(far), peaks(signals.waad), peaks(far)
    beside = follows(back, length, _BESIDE, _BESIDE)
    return {
        "entropy": coupled(look, signals.entropy, signals.waad),
        "before": coupled(look, signals.before, signals.waad),
        "receivers": coupled(peaks(receivers), beside, receivers),
        "random": [coupled(peaks(one), beside, one) for one in controls],
        "follows": coupled(back, follows(look, length, _BEFORE, 0), far),
    }


def _summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Intervals over answers; an answer without peaks is left out."""
    known = np.array([pair for pair in pairs if np.isfinite(pair).all()]).reshape(-1, 2)
    if len(known) < 2:  # noqa: PLR2004
        missing = {"mean": None, "low": None, "high": None}
        return {"observed": missing, "shuffled": missing, "difference": missing, "answers": len(known)}
    columns = {"observed": known[:, 0], "shuffled": known[:, 1], "difference": known[:, 0] - known[:, 1]}
    return {**{name: mean_interval(column).as_dict() for name, column in columns.items()}, "answers": len(known)}


def _excess(pairs: Sequence[Pair]) -> float:
    """Mean of observed minus expected over answers with peaks; 0 without any: no peak coincides with another."""
    known = [seen - expected for seen, expected in pairs if np.isfinite(seen)]
    return round(float(np.mean(known)), 5) if known else 0.0


def _example(signals: Tracks | None) -> dict[str, Any]:
    """The tracks of one answer, and the patterns of its first tokens without the keys that cannot be seen, rounded."""
    if signals is None:
        return {}
    shown = {"waad": signals.waad, "fai": signals.fai[0], "entropy": signals.entropy}
    seen = {
        name: [row[: query + 1].round(4).tolist() for query, row in enumerate(pattern[:_SHOWN])]
        for name, pattern in (("near", signals.near), ("far", signals.far))
    }
    return {**{name: np.round(value, 4).tolist() for name, value in shown.items()}, **seen}
