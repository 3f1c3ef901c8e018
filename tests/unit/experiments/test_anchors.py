"""Anchors on a model wired to look far back before open tokens and to come back to the tokens that decide, and on one that is not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from circuitlab.core.nodes import Head
from circuitlab.experiments.anchors import Anchors
from circuitlab.experiments.anchors.coupling import coupled, coupling
from circuitlab.experiments.anchors.rollouts import overlap, perturbed
from circuitlab.experiments.anchors.tracks import Answer, choose_heads, fai, peaks, waad
from circuitlab.experiments.types import ExperimentContext
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import D_HEAD, Wiring
from circuitlab.store import Cache

TOPICS, BODY, LENGTH = 6, 8, 90
START, OPEN, FILL, ANCHOR = 0, 1, 2, 3
WORD = ANCHOR + TOPICS
LOCAL, FAR = (Head(0, 0), Head(0, 1)), (Head(1, 0), Head(1, 1))
RECEIVER, OTHER = Head(1, 2), Head(1, 3)


def model(*, wired: bool = True):
    """``OPEN`` is followed by any anchor; an anchor and its words by its word; far heads look back to anchors and write their word."""
    wiring = Wiring("gqa", 2, WORD + TOPICS)
    topic, out, anchors_out = wiring.block(TOPICS), wiring.block(TOPICS), wiring.block()
    is_open, is_anchor, is_any, is_start = (wiring.block() for _ in range(4))
    wiring.embed[:, is_any[0]] = 1.0
    wiring.embed[START, is_start[0]] = 1.0
    wiring.embed[OPEN, is_open[0]] = wiring.embed[OPEN, anchors_out[0]] = 1.0
    for i in range(TOPICS):
        wiring.embed[ANCHOR + i, topic[i]] = wiring.embed[ANCHOR + i, is_anchor[0]] = wiring.embed[WORD + i, topic[i]] = 1.0
        wiring.unembed[ANCHOR + i, anchors_out[0]] = 8.0
        wiring.unembed[WORD + i, topic[i]], wiring.unembed[WORD + i, out[i]] = 4.0, 4.0
    if wired:
        for head in LOCAL:
            near(wiring, head, 3000.0)
            wiring.match(head.layer, head.head, is_open, is_start, 6000.0)
            wiring.carry(head.layer, head.head, is_open, is_open, 0.0)
        for head in (*FAR, RECEIVER):
            wiring.match(head.layer, head.head, is_any, is_anchor, 9.0)
            wiring.carry(head.layer, head.head, topic, out, 0.4)
            near(wiring, head, 3.0 if head == RECEIVER else -3.0)
        near(wiring, OTHER, 1.0)
        wiring.carry(OTHER.layer, OTHER.head, is_any, is_any, 0.0)
    wiring.background(0.01)
    return serve(wiring, "anchors")


def near(wiring: Wiring, head: Head, score: float) -> None:
    """Prefer near tokens (far ones below 0), by the second rotary frequency, which turns by about 1 / 46 radian per token."""
    size = math.sqrt(abs(score) * math.sqrt(D_HEAD)) / wiring.ballast
    wiring.query[head.layer, head.head, 1, 0] = math.copysign(size, score)
    wiring.key[head.layer, wiring.kv_head(head.head), 1, 0] = size


def answers(n: int) -> list[Answer]:
    """Chunks of an open token, an anchor and its words; every answer is about one topic."""
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        row = [START, FILL]
        while len(row) < LENGTH:
            row += [OPEN, ANCHOR + i % TOPICS, *[WORD + i % TOPICS] * int(rng.integers(BODY - 1, BODY + 2))]
        rows.append(Answer(tuple(row[:LENGTH]), 4))
    return rows


def noise(n: int) -> list[Answer]:
    """Tokens at random: nothing opens a chunk, and nothing decides."""
    rng = np.random.default_rng(0)
    return [Answer((START, *rng.integers(OPEN, WORD + TOPICS, LENGTH - 1).tolist()), 4) for _ in range(n)]


def words(before: tuple[int, ...], after: tuple[int, ...]) -> frozenset[str]:
    del before
    return frozenset(str(token) for token in after)


def measured(tmp_path: Path, *, wired: bool) -> dict:
    lab = ExperimentContext(Anchors(), model(wired=wired), 0, Cache(tmp_path))
    every = answers(9) if wired else noise(9)
    sets, distance = choose_heads(lab.model, every[:3])
    rolled = perturbed(lab.model, every[3:], (sets.local, sets.far), (3, 2, 5), words)
    heads = {name: [str(head) for head in getattr(sets, name)] for name in ("local", "far", "receivers")}
    tokens = [str(token) for token in every[3].row[4:]]
    return {"heads": heads, "distance": distance.tolist(), **coupling(lab, every[3:], sets, 8), "rollouts": rolled, "tokens": tokens}


def test_the_wired_heads_are_chosen_and_every_claim_replicates(tmp_path: Path) -> None:
    results = measured(tmp_path, wired=True)
    chosen = {name: set(heads) for name, heads in results["heads"].items()}
    assert chosen == {"local": set(map(str, LOCAL)), "far": set(map(str, FAR)), "receivers": {str(RECEIVER)}}
    claims = Anchors().judge(results)
    assert [claim.verdict for claim in claims] == ["replicates"] * 4, claims
    assert len(Anchors().draw(results, "toy")) == 6


def test_without_wired_heads_no_claim_replicates(tmp_path: Path) -> None:
    results = measured(tmp_path, wired=False)
    assert not [claim for claim in Anchors().judge(results) if claim.verdict == "replicates"]


def test_signals_are_those_of_the_definitions() -> None:
    rng = np.random.default_rng(0)
    pattern = np.tril(rng.random((70, 70)))
    by_hand = [sum(pattern[t, s] * min(t - s, 10) for s in range(t + 1)) for t in range(70)]
    assert waad(pattern) == pytest.approx(by_hand)
    looked = [np.mean([pattern[t, s] for t in range(s + 10, min(69, s + 50) + 1)]) for s in range(60)]
    assert fai(pattern)[:60] == pytest.approx(looked) and np.isnan(fai(pattern)[60:]).all()


def test_shuffled_positions_are_expected_exactly() -> None:
    rng = np.random.default_rng(0)
    track, values = rng.random(200), rng.random(200)
    at = peaks(track)
    seen, expected = coupled(at, values, track)
    draws = [values[rng.permutation(200)[: len(at)]].mean() for _ in range(4000)]
    assert expected == pytest.approx(np.mean(draws), abs=0.01) and seen == pytest.approx(values[at].mean())


def test_overlap_of_words() -> None:
    assert overlap(frozenset("ab"), frozenset("bc")) == pytest.approx(1 / 3)
    assert math.isnan(overlap(frozenset(), frozenset()))
