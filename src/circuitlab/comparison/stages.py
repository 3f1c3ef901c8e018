"""Circuits from staged path patching: their overlap in each stage, and of the union of all stages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from circuitlab.circuits.circuit import Circuit
from circuitlab.circuits.select import top_mask
from circuitlab.comparison.matrix import corrected
from circuitlab.comparison.nulls import overlap_null
from circuitlab.comparison.overlap import set_overlaps
from circuitlab.comparison.pairwise import Sampling
from circuitlab.comparison.score_map import ScoreMap, score_map
from circuitlab.comparison.shared import MaskPair, resampled_masks, shared_count
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.scores.head_scores import HeadScores

__all__ = ["Stages", "compare_stages", "stage_circuits", "union_of_stages"]

Stages: TypeAlias = Sequence[Mapping[str, HeadScores]]
"""For each stage, from the logits backwards, the scores of all heads by receiver: ``[stage.scores for stage in discovery.stages]``."""


def stage_circuits(stages: Stages, top: float = 0.02) -> list[Circuit]:
    """The heads of each stage: the top share of all heads by the magnitude of their mean effect on the receiver they act on most.

    Parameters
    ----------
    stages : sequence of mapping of str to HeadScores
        Scores of all heads by receiver, stage by stage.
    top : float
        Share of all heads that a stage selects, in (0, 1]; rounded up to whole heads.

    Raises
    ------
    BadParameterError
        If there are no stages, a stage has no receivers, or ``top`` is not in (0, 1].

    References
    ----------
    Merullo, Eickhoff and Pavlick (2024), arXiv:2310.08744.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_scores
    >>> first, second = np.zeros((4, 2, 3)), np.zeros((4, 2, 3))
    >>> first[:, 1, 2], second[:, 0, 1] = 2.0, 1.0
    >>> stages = [{"logits": fake_scores(first)}, {"a1.h2<q>": fake_scores(second)}]
    >>> [[str(head) for head in circuit] for circuit in stage_circuits(stages, top=0.1)]
    [['a1.h2'], ['a0.h1']]
    """
    circuits = []
    for number, strongest in enumerate(_strongest(stages, top)):
        first = next(iter(stages[number].values()))
        mask = top_mask(strongest.mean, _size(strongest, top))
        nodes = frozenset(strongest.element(int(i)) for i in np.flatnonzero(mask))
        flag, runs = strongest.provenance.fitness, tuple(scores.provenance.run_id() for scores in stages[number].values())
        rule = f"top {top:.3g} of heads in stage {number + 1} of path patching"
        circuits.append(Circuit(nodes, first.universe, None, rule, runs, flag is None or flag.ready))  # type: ignore[arg-type]
    return circuits


def union_of_stages(stages: Stages, top: float = 0.02) -> Circuit:
    """The heads that any stage selects; see `stage_circuits`.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_scores
    >>> first, second = np.zeros((4, 2, 3)), np.zeros((4, 2, 3))
    >>> first[:, 1, 2], second[:, 0, 1] = 2.0, 1.0
    >>> union_of_stages([{"logits": fake_scores(first)}, {"a1.h2<q>": fake_scores(second)}], top=0.1)
    Circuit of 2 nodes, top 0.1 of heads in each of 2 stages of path patching: a0.h1, a1.h2
    """
    circuits = stage_circuits(stages, top)
    union = circuits[0]
    for circuit in circuits[1:]:
        union = union | circuit
    return replace(union, rule=f"top {top:.3g} of heads in each of {len(circuits)} stages of path patching")


def compare_stages(tasks: Mapping[str, Stages], top: float = 0.02, sampling: Sampling | None = None) -> dict[str, object]:
    """Overlap of the staged circuits of several tasks, in each stage and for the union of all stages.

    Parameters
    ----------
    tasks : mapping of str to stages
        Stages by task name; see `Stages`.
    top : float
        Share of all heads that a stage selects.
    sampling : Sampling, optional
        Number of resamples and seed; the null model is always the layer-stratified one.

    Returns
    -------
    dict
        ``{"pairs": [...], "top", "circuits": {task: {stage or "union": [head, ...]}}}``. Each pair has ``task_a``, ``task_b``, and under
        ``stages`` one entry per common stage and one for ``"union"``: the overlap measures, ``intervals``, ``corrected``, ``shared``,
        ``null_mean``, ``null_high``, ``p``, and ``q``, corrected over all pairs of the same stage. The published quantity, shared heads
        divided by all heads of both unions, is the ``jaccard`` of the union.

    Raises
    ------
    BadParameterError
        If there are fewer than two tasks, a task has no stages, or ``top`` is not in (0, 1].
    IncompatibleError
        If the tasks were scored on different models.

    Notes
    -----
    Intervals resample the pairs and select the heads of each stage again. Held fixed are the receivers, which the previous stage selected,
    and the receiver that each head acts on most.

    References
    ----------
    Merullo, Eickhoff and Pavlick (2024), arXiv:2310.08744.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_scores
    >>> effects = np.random.default_rng(0).normal(size=(8, 2, 3)) + np.arange(3)
    >>> tasks = {name: [{"logits": fake_scores(effects, task=name)}] for name in ["a", "b"]}
    >>> compare_stages(tasks, top=0.3, sampling=Sampling(n_boot=200))["pairs"][0]["stages"]["union"]["jaccard"]
    1.0
    """
    if len(tasks) <= 1:
        what = f"Comparing needs at least two tasks; got {list(tasks)}."
        raise BadParameterError(what, "Name another task.")
    sampling = sampling or Sampling()
    maps = {name: _strongest(stages, top) for name, stages in tasks.items()}
    _one_model(maps)
    pairs = [{"task_a": a, "task_b": b, "stages": _compare(maps[a], maps[b], top, sampling)} for a, b in itertools.combinations(tasks, 2)]
    for stage in {stage for pair in pairs for stage in pair["stages"]}:  # type: ignore[attr-defined]
        rows = [pair["stages"][stage] for pair in pairs if stage in pair["stages"]]  # type: ignore[index, operator]
        for row, q in zip(rows, corrected([row["p"] for row in rows]), strict=True):
            row["q"] = q
    circuits = {name: {**dict(_numbered(stage_circuits(s, top))), "union": union_of_stages(s, top)} for name, s in tasks.items()}
    names = {task: {stage: [str(node) for node in circuit] for stage, circuit in by_stage.items()} for task, by_stage in circuits.items()}
    return {"pairs": pairs, "top": top, "circuits": names}


def _numbered(circuits: Sequence[Circuit]) -> list[tuple[str, Circuit]]:
    return [(str(number), circuit) for number, circuit in enumerate(circuits, start=1)]


def _strongest(stages: Stages, top: float) -> list[ScoreMap]:
    """For each stage, the scores of every head on the receiver that it acts on most."""
    if not stages or not all(stages) or not 0 < top <= 1:
        what = f"{len(stages)} stages with {[len(stage) for stage in stages]} receivers and top={top} hold no circuit."
        raise BadParameterError(what, "Give each stage's scores by receiver, and top=0.02 for the top 2 %.")
    strongest = []
    for stage in stages:
        maps = [score_map(scores, scores.marks[0] if scores.marks else None) for scores in stage.values()]
        for other in maps:
            other.require_pairs("interval of a stage")
            maps[0].require_same_elements(other)
        best = np.abs([scores.mean for scores in maps]).argmax(axis=0)
        values = np.take_along_axis(np.stack([scores.values for scores in maps]), best[None, None], axis=0)[0]
        strongest.append(replace(maps[0], values=values))
    return strongest


def _size(scores: ScoreMap, top: float) -> int:
    return math.ceil(top * scores.strata.size)


def _compare(first: Sequence[ScoreMap], second: Sequence[ScoreMap], top: float, sampling: Sampling) -> dict[str, dict[str, object]]:
    masks: dict[str, list[MaskPair]] = {}  # the estimate, then both sets of resamples
    for number, (a, b) in enumerate(zip(first, second, strict=False), start=1):

        def select(means: np.ndarray, k: int = _size(a, top)) -> np.ndarray:
            return top_mask(means, k)

        paired, seed = a.same_prompts(b), sampling.seed + number
        resampled = resampled_masks(a.values, b.values, select, paired=paired, n=sampling.n_boot, seed=seed)
        masks[str(number)] = [(select(a.mean), select(b.mean)), *resampled]
    masks["union"] = [_union(stages) for stages in zip(*masks.values(), strict=True)]
    pairs = min(len(scores.values) for scores in (*first, *second))
    return {stage: _row(selected, pairs, first[0]) for stage, selected in masks.items()}


def _union(stages: Sequence[MaskPair]) -> MaskPair:
    first, second = zip(*stages, strict=True)
    return np.logical_or.reduce(first), np.logical_or.reduce(second)


def _row(masks: Sequence[MaskPair], pairs: int, elements: ScoreMap) -> dict[str, object]:
    (first, second), *resampled = masks
    count = shared_count((first, second), (resampled[0], resampled[1]), pairs)
    null = overlap_null(first, second, strata=elements.strata)
    return {
        **{name: float(value) for name, value in set_overlaps(first, second).items()},
        "intervals": {name: interval.as_dict() for name, interval in count.intervals().items()},
        "corrected": count.corrected_overlaps(),
        "shared": [str(elements.element(int(i))) for i in np.flatnonzero(first & second)],
        "null_mean": null.mean_jaccard,
        "null_high": null.quantile(0.95),
        "p": null.p_value,
    }


def _one_model(maps: Mapping[str, Sequence[ScoreMap]]) -> None:
    (name, first), *others = maps.items()
    for other, second in others:
        first[0].require_same_elements(second[0])
        if first[0].provenance.model.identity() != second[0].provenance.model.identity():
            what = f"{name!r} and {other!r} were scored on different models."
            raise IncompatibleError(what, "Compare tasks on one model.")
