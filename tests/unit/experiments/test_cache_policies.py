"""Cache policies on a model whose answers need one planted head, and on one whose answers need none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from circuitlab.core.nodes import KVHead
from circuitlab.execute.continuations import Continuation, likelihoods
from circuitlab.experiments.cache_policies import CachePolicies
from circuitlab.experiments.cache_policies.gates import train_gates
from circuitlab.experiments.cache_policies.policies import Streaming, of_groups, top_groups
from circuitlab.experiments.cache_policies.quality import choose_groups, streamed, token_quality
from circuitlab.experiments.cache_policies.tokens import ChosenTokens, Chunks, Heterogeneous, Reading, n_heterogeneous
from circuitlab.experiments.types import ExperimentContext
from circuitlab.methods.roles.repeats import Induction
from circuitlab.model.interventions import Scale
from circuitlab.model.toy import build_planted
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.store import Cache

PLANTED = "a1.kv2"
PROMPTS = ((2, 3, 1, 5, 4, 0, 2), (2, 7, 1, 5, 4, 0, 2), (5, 6, 0, 1, 2, 3, 5), (3, 5, 1, 6, 2, 0, 3), (6, 1, 4, 2, 3, 0, 6))
SAID = [Continuation((*row, row[1]), 6, (7, 8)) for row in PROMPTS]
TEXT = [Continuation.passage(row) for row in PROMPTS]


def loud():
    """The planted induction head, which copies four times as loud: its output is far from that of the other heads."""
    return build_planted("induction-mha").model.edited(Scale(PLANTED, 4.0, site="v"))


def headless():
    """Small random weights, and no circuit."""
    wiring = Wiring("mha", 2, 8)
    for i, feature in enumerate(wiring.block(8)):
        wiring.embed[i, feature] = 1.0
        wiring.unembed[i, feature] = 4.0
    wiring.background(0.002)
    return serve(wiring, "headless")


def measured(tmp_path: Path, model):
    context = ExperimentContext(CachePolicies(), model, 0, Cache(tmp_path))
    induction = Induction(length=4, rows=4)(model).value
    echo = np.zeros_like(induction)
    echo[np.unravel_index(induction.argmax(), induction.shape)] = 1.0
    gates = train_gates(model, SAID, (1, 2), 110, np.random.default_rng(0))
    scores = {"induction": induction, "echo": echo, "retrieval": induction, "gates": gates["gates"]}
    sets = choose_groups(context, scores, (0.125,), 2)
    far = {rest: Heterogeneous(0.6, rest, sinks=1, recent=1) for rest in ("tokens", "mean", "none")}
    policies = [
        *(("chosen" if head == 2 else "chosen_random", 0.4, ChosenTokens(((0,), (head,)), 3 / 7, window=1, pool=1)) for head in (2, 0, 3)),
        *(("chunks" if seed is None else "chunks_random", 0.4, Chunks(0.43, 1, seed)) for seed in (None, 0, 1, 2, 3)),
        *((f"far_{rest}", 0.6, policy) for rest, policy in far.items()),
        *(("far_random", 0.6, Heterogeneous(0.6, drawn=seed, sinks=1, recent=1)) for seed in (0, 1)),
    ]
    return {
        "gates": gates,
        "sets": sets,
        "answers": streamed(context, SAID, sets, (1, 1), answering=True),
        "text": streamed(context, TEXT, sets, (1, 1), answering=False),
        "tokens": token_quality(model, SAID, policies),
    }


def test_the_planted_head_needs_its_cache_and_the_others_do_not(tmp_path: Path) -> None:
    results = measured(tmp_path, loud())
    (one,) = results["sets"]
    assert one["razor"] == one["retrieval"] == one["gates"] == [[PLANTED]]
    assert [PLANTED] not in one["random"] + one["random_gates"]
    gates = np.array(results["gates"]["gates"])
    assert gates[1, 2] > 0.5 and np.delete(gates.ravel(), 6).max() < 0.1
    razor, whole, _compensation, duo, better, tokens, far, _rest, chunks = CachePolicies().judge(results)
    assert [claim.verdict for claim in (razor, whole, duo, tokens, far, chunks)] == ["replicates"] * 6, results["tokens"]
    assert better.verdict == "does not replicate", "gates and retrieval choose the same head here"
    names = ["answers", "answers-without", "gates", "semantic-heads", "far-heads", "chunks", "passages"]
    assert [drawing.name for drawing in CachePolicies().draw(results, "toy")] == names


def test_where_answers_need_no_head_no_cache_is_missed(tmp_path: Path) -> None:
    results = measured(tmp_path, headless())
    whole = np.array(results["answers"]["full"]["logprob"])
    for policy in results["answers"]["policies"]:
        assert np.abs(np.array(policy["logprob"]) - whole).max() < 0.1
    for policy in results["tokens"]:
        assert np.abs(np.array(policy["logprob"]) - whole).max() < 0.1
    assert np.array(results["gates"]["gates"]).max() < 0.2
    assert CachePolicies().judge(results)[1].verdict == "does not replicate"


def test_a_policy_that_keeps_everything_changes_nothing() -> None:
    model = build_planted("induction-mha").model
    everywhere = tuple(KVHead(layer, head) for layer in range(2) for head in range(4))
    whole = likelihoods(model, SAID).logprob
    for policy in (Streaming(everywhere, 0, 99, True), Streaming((), 0, 1, False)):
        assert np.array_equal(likelihoods(policy.applied(model, answering=True), SAID).logprob, whole)
    reading = Reading.of(model, SAID[0])
    for policy in (ChosenTokens(((0,), (0,)), 1.0, window=2, pool=1), Heterogeneous(1.0), Chunks(1.0, 2)):
        assert policy.kept(reading) == 1.0
        assert likelihoods(model.edited(policy.edit(reading)), SAID[:1]).logprob[0] == whole[0]


def test_each_query_reads_as_many_chunks_as_are_counted_and_far_heads_keep_everything() -> None:
    model = loud()
    reading = Reading.of(model, SAID[0])
    edit = Chunks(0.5, 2).edit(reading)
    keep = np.array(edit.keep)
    assert keep.shape == (8, 8, 7) and keep[:, :6].all()
    assert (keep[:, 6:].sum(-1) <= 5).all() and keep[:, 6:, [0, 1, 6]].all(), "three chunks of two, the last of which has one token"
    full = Heterogeneous(0.6).full(reading)
    assert full[1, 2] and full.sum(1).tolist() == [2, 2] and n_heterogeneous(0, model.spec) == 1
    drawn = Heterogeneous(0.6, drawn=0).full(reading)
    assert not (drawn & full).any() and drawn.sum(1).tolist() == [2, 2]


def test_shares_of_the_cache_and_groups_are_counted() -> None:
    others = (KVHead(0, 0), KVHead(0, 1))
    assert Streaming(others, 2, 7, compensate=True).kept(100, 4) == pytest.approx(1 - 0.5 * 0.9)
    assert Streaming(others, 2, 7, compensate=False).kept(5, 4) == 1.0
    assert of_groups([[0.1, 0.3, 0.2, 0.0]], 2).tolist() == [[0.3, 0.2]]
    assert top_groups([(np.array([[0.3, 0.2]]), 1)]) == [KVHead(0, 0)]
