"""Circuits that were found in stages of path patching: overlap stage by stage, and of the union of all stages."""

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
from circuitlab.comparison.shared import Picks, resampled_picks, shared_count
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.scores.head_scores import HeadScores

__all__ = ["Stages", "compare_stages", "stage_circuits", "union_of_stages"]

Stages: TypeAlias = Sequence[Mapping[str, HeadScores]]
"""For each stage, from the logits backwards, every head's score by receiver: ``[stage.scores for stage in discovery.stages]``."""


def stage_circuits(stages: Stages, top: float = 0.02) -> list[Circuit]:
    """The heads of each stage: the top share by their strongest receiver.

    Parameters
    ----------
    stages : sequence of mapping of str to HeadScores
        Scores of every head by receiver, stage by stage.
    top : float
        Share of all heads that a stage keeps, in (0, 1]; rounded up to whole heads.

    Raises
    ------
    BadParameterError
        If there is no stage, a stage has no receiver, or ``top`` keeps nothing.

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
    found = []
    for number, one in enumerate(_strongest(stages, top)):
        source = next(iter(stages[number].values()))
        mask = top_mask(one.mean, _kept(one, top))
        nodes = frozenset(one.element(int(i)) for i in np.flatnonzero(mask))
        flag, runs = one.provenance.fitness, tuple(scores.provenance.run_id() for scores in stages[number].values())
        words = f"top {top:.3g} of heads in stage {number + 1} of path patching"
        found.append(Circuit(nodes, source.universe, None, words, runs, flag is None or flag.ready))  # type: ignore[arg-type]
    return found


def union_of_stages(stages: Stages, top: float = 0.02) -> Circuit:
    """Every head that some stage keeps; see `stage_circuits`.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_scores
    >>> first, second = np.zeros((4, 2, 3)), np.zeros((4, 2, 3))
    >>> first[:, 1, 2], second[:, 0, 1] = 2.0, 1.0
    >>> union_of_stages([{"logits": fake_scores(first)}, {"a1.h2<q>": fake_scores(second)}], top=0.1)
    Circuit of 2 nodes, top 0.1 of heads in each of 2 stages of path patching: a0.h1, a1.h2
    """
    circuits = stage_circuits(stages, top)
    whole = circuits[0]
    for one in circuits[1:]:
        whole = whole | one
    return replace(whole, rule=f"top {top:.3g} of heads in each of {len(circuits)} stages of path patching")


def compare_stages(tasks: Mapping[str, Stages], top: float = 0.02, sampling: Sampling | None = None) -> dict[str, object]:
    """Overlap of tasks' staged circuits, in each stage and over the union of stages.

    Parameters
    ----------
    tasks : mapping of str to stages
        Task name to its stages; see `Stages`.
    top : float
        Share of all heads that a stage keeps.
    sampling : Sampling, optional
        Draws and seed; the null model is the layer-stratified one.

    Returns
    -------
    dict
        ``{"pairs": [...], "top", "circuits": {task: {stage or "union": [head, ...]}}}``; each pair has ``task_a``, ``task_b``, and under
        ``stages`` one entry per common stage and one for ``"union"``: the overlap measures, ``intervals``, ``corrected``, ``shared``,
        ``null_mean``, ``null_high``, ``p``, and ``q``, corrected over all pairs of the same stage. The published figure, shared heads
        over all heads of both unions, is the union's ``jaccard``.

    Raises
    ------
    BadParameterError
        If there are fewer than two tasks.
    IncompatibleError
        If models differ.

    Notes
    -----
    Intervals resample pairs and pick each stage's heads again. What is held fixed: the receivers, which the stage before chose, and each
    head's strongest receiver.

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
    named = {task: {stage: [str(node) for node in one] for stage, one in found.items()} for task, found in circuits.items()}
    return {"pairs": pairs, "top": top, "circuits": named}


def _numbered(circuits: Sequence[Circuit]) -> list[tuple[str, Circuit]]:
    return [(str(number), one) for number, one in enumerate(circuits, start=1)]


def _strongest(stages: Stages, top: float) -> list[ScoreMap]:
    """For each stage, every head's scores on the receiver it acts on most."""
    if not stages or not all(stages) or not 0 < top <= 1:
        what = f"{len(stages)} stages with {[len(stage) for stage in stages]} receivers and top={top} hold no circuit."
        raise BadParameterError(what, "Give each stage's scores by receiver, and top=0.02 for the top 2 %.")
    found = []
    for stage in stages:
        maps = [score_map(scores, scores.marks[0] if scores.marks else None) for scores in stage.values()]
        for one in maps:
            one.require_pairs("interval of a stage")
            maps[0].require_same_elements(one)
        best = np.abs([one.mean for one in maps]).argmax(axis=0)
        values = np.take_along_axis(np.stack([one.values for one in maps]), best[None, None], axis=0)[0]
        found.append(replace(maps[0], values=values))
    return found


def _kept(one: ScoreMap, top: float) -> int:
    return math.ceil(top * one.strata.size)


def _compare(first: Sequence[ScoreMap], second: Sequence[ScoreMap], top: float, sampling: Sampling) -> dict[str, dict[str, object]]:
    picks: dict[str, list[Picks]] = {}  # the estimate, then both sets of resamples
    for number, (a, b) in enumerate(zip(first, second, strict=False), start=1):

        def pick(means: np.ndarray, k: int = _kept(a, top)) -> np.ndarray:
            return top_mask(means, k)

        paired, seed = a.same_prompts(b), sampling.seed + number
        resampled = resampled_picks(a.values, b.values, pick, paired=paired, n=sampling.n_boot, seed=seed)
        picks[str(number)] = [(pick(a.mean), pick(b.mean)), *resampled]
    picks["union"] = [_union(stages) for stages in zip(*picks.values(), strict=True)]
    pairs = min(len(one.values) for one in (*first, *second))
    return {stage: _row(found, pairs, first[0]) for stage, found in picks.items()}


def _union(stages: Sequence[Picks]) -> Picks:
    one, two = zip(*stages, strict=True)
    return np.logical_or.reduce(one), np.logical_or.reduce(two)


def _row(picks: Sequence[Picks], pairs: int, where: ScoreMap) -> dict[str, object]:
    (one, two), *resampled = picks
    count = shared_count((one, two), (resampled[0], resampled[1]), pairs)
    null = overlap_null(one, two, strata=where.strata)
    return {
        **{name: float(value) for name, value in set_overlaps(one, two).items()},
        "intervals": {name: found.as_dict() for name, found in count.intervals().items()},
        "corrected": count.corrected_overlaps(),
        "shared": [str(where.element(int(i))) for i in np.flatnonzero(one & two)],
        "null_mean": null.mean_jaccard,
        "null_high": null.quantile(0.95),
        "p": null.p_value,
    }


def _one_model(maps: Mapping[str, Sequence[ScoreMap]]) -> None:
    (name, first), *others = maps.items()
    for other, found in others:
        first[0].require_same_elements(found[0])
        if first[0].provenance.model.identity() != found[0].provenance.model.identity():
            what = f"{name!r} and {other!r} were found in different models."
            raise IncompatibleError(what, "Compare tasks on one model.")
