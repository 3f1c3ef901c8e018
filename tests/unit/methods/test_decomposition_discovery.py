"""Relevance to heads, recursive discovery and local importance, on models whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Head, KVHead
from circuitlab.evaluation import NodeCircuitRunner
from circuitlab.figures.recursion import recursion_diagram
from circuitlab.methods.contextual_decomposition import ContextualDecomposition
from circuitlab.methods.decomposition import Options, Rule, Source
from circuitlab.methods.decomposition.discovery import Search, discover_by_relevance
from circuitlab.methods.decomposition.phrases import Phrase, phrase_relevance, spans_of, words_of
from circuitlab.methods.decomposition.relevance import relevance_to_metric
from circuitlab.methods.decomposition.targets import Target, normalised_by_layer, relevance_to_targets
from circuitlab.metrics import LogitDiff
from circuitlab.model.toy import build_planted
from circuitlab.testing.tiny import shared_tiny_model, tiny_batch, tiny_model

METRIC = LogitDiff()


# Targets


def test_relevance_to_a_later_head_is_the_size_of_its_relevant_part() -> None:
    """z of a last-layer head, for all of the embedding without a baseline: everything is relevant, so that all of z is."""
    model = tiny_model("llama")
    batch = tiny_batch(model, 2)
    targets = [Target.parse("a2.h1"), Target.parse("a2.h1<q>"), Target.parse("a2.kv0<k>", at=("END",))]
    sources = [Source(("embed",)), Source(("a2.h0",)), Source(("m1",))]
    options = Options(Rule(), "zero")
    share = relevance_to_targets(model, batch, sources, targets, options, measure="share")
    assert share.shape == (3, 3, 2)
    np.testing.assert_allclose(share[0, :2], 9.0, atol=1e-4)
    np.testing.assert_allclose(share[0, 2], 1.0, atol=1e-4)
    assert not share[1].any(), "a head of the same layer is not upstream"
    ratio = relevance_to_targets(model, batch, sources[2:], targets[2:], options)
    np.testing.assert_allclose(ratio[0, 0] / (1 + ratio[0, 0]), share[2, 2], rtol=1e-4)


def test_the_right_head_is_measured() -> None:
    """The previous-token head writes what the induction head's key reads, and none of its query."""
    planted = build_planted("induction-gqa")
    writer, reader = sorted(planted.helpers)
    key = KVHead(reader.layer, reader.head // 2)
    targets = [Target(key, "k"), Target(KVHead(reader.layer, 1 - key.head), "k"), Target(reader, "q", ("END",))]
    found = relevance_to_targets(planted.model, planted.batch(4), [Source((writer,))], targets).mean(-1)[0]
    assert found[0] > 10 * max(found[1], found[2])


def test_a_target_is_no_source_of_itself_and_wrong_targets_are_refused() -> None:
    model = tiny_model("llama")
    batch = tiny_batch(model, 2)
    assert not relevance_to_targets(model, batch, [Source(("a1.h0",))], [Target(Head(1, 0))]).any()
    assert [str(Target.parse(text)) for text in ("a1.h0", "a1.h0<q>", "a1.kv1<v>")] == ["a1.h0", "a1.h0<q>", "a1.kv1<v>"]
    for text in ("a1.h0<k>", "a1.kv0", "m1"):
        with pytest.raises(BadParameterError):
            Target.parse(text)
    with pytest.raises(UnknownNameError, match="z"):
        Target.parse("a1.h0<zz>")
    sources = [Source(("m0",))]
    for targets, said in (([], "No target was given"), ([Target(Head(7, 0))], "a7.h0")):
        with pytest.raises(BadParameterError, match=said):
            relevance_to_targets(model, batch, sources, targets)
    with pytest.raises(UnknownNameError, match="ratio"):
        relevance_to_targets(model, batch, sources, [Target(Head(1, 0))], measure="ratios")


def test_relevance_over_the_mean_of_the_layer() -> None:
    sources = [Source((name,)) for name in ("a0.h0", "a0.h1", "a1.h0", "a2.h0")]
    assert normalised_by_layer(np.array([1.0, 3.0, 5.0, 0.0]), sources).tolist() == [0.5, 1.5, 1.0, 0.0]


# Discovery


def discover(name: str, search: Search, rule: str = "exact"):
    planted = build_planted(name)
    batch = planted.batch(6)
    runs = NodeCircuitRunner(planted.model, batch, METRIC, ("heads",))
    return planted, discover_by_relevance(planted.model, batch, METRIC, runs, search=search, method=ContextualDecomposition(rule=rule))


def test_a_copy_head_is_found_and_the_hinderer_pruned() -> None:
    planted, found = discover("copy-gqa", Search(top=0.25))
    assert found.circuit.nodes == planted.helpers
    first = found.stages[0]
    assert first.targets == ("logits",) and set(first.added) == planted.nodes and set(first.dropped) == planted.hinderers
    assert first.value == pytest.approx(5.33, abs=0.01) and first.value > found.full > found.empty
    assert "brought the circuit no closer" in found.stopped and found.stages[1].targets == ("a1.h1",)


def test_without_pruning_the_hinderer_stays_and_the_circuit_is_close() -> None:
    planted, found = discover("copy-gqa", Search(top=0.25, prune=False))
    assert found.circuit.nodes == planted.nodes and "close to the full model" in found.stopped and len(found.stages) == 1
    assert found.stages[0].value == pytest.approx(found.full, abs=0.2)


def test_heads_that_turn_a_later_head_are_found_by_the_ablation_rule() -> None:
    planted, found = discover("names-mha", Search(top=0.25), rule="ablation")
    assert found.circuit.nodes == planted.helpers
    assert found.circuit.nodes > discover("names-mha", Search(top=0.25))[1].circuit.nodes & planted.helpers


def test_every_stage_adds_what_is_most_relevant_to_the_circuit_before() -> None:
    model = tiny_model("gemma3", seed=3)
    batch = tiny_batch(model, 4)
    runs = NodeCircuitRunner(model, batch, METRIC, ("heads",))
    found = discover_by_relevance(model, batch, METRIC, runs, search=Search(top=0.15, close=0.0, prune=False))
    first, second = found.stages[:2]
    scores = ContextualDecomposition(parts=("heads",))(model, batch, METRIC)
    assert set(first.added) == {entry.node for entry in scores.top(2)} and first.circuit == first.added
    assert second.targets == tuple(map(str, first.circuit))
    last = max(first.circuit).layer
    heads = [head for head in runs.elements if head not in first.circuit and head.layer < last]
    sources, targets = [Source((head,)) for head in heads], [Target(head) for head in first.circuit]
    to_each = relevance_to_targets(model, batch, sources, targets, ContextualDecomposition().options).mean(-1)
    expected = dict(zip(heads, normalised_by_layer(to_each.sum(-1), sources), strict=True))
    assert second.relevance == pytest.approx(expected, rel=1e-4)
    assert set(second.added) == set(sorted(heads, key=lambda head: -expected[head])[:2])
    assert second.edges[second.added[0], first.circuit[1]] == pytest.approx(to_each[heads.index(second.added[0]), 1], rel=1e-4)
    for stage in found.stages:
        mask = np.array([head in stage.circuit for head in runs.elements])
        assert stage.value == pytest.approx(runs.metric_of(mask[None]).mean(), abs=1e-5)
    closest = min(found.stages, key=lambda stage: abs(stage.value - found.full))
    assert found.circuit.nodes == set(closest.circuit) and found.circuit.sources == (scores.provenance.run_id(),)
    figure = recursion_diagram(found.stages, found.circuit)
    assert {text for trace in figure.data if trace.meta == "heads" for text in trace.text} == {
        f"{head.layer}.{head.head}" for stage in found.stages for head in stage.added
    }


def test_a_search_for_nothing_is_refused() -> None:
    for wrong in ({"top": 0.0}, {"top": 1.5}, {"close": -1.0}, {"most_stages": 0}):
        with pytest.raises(BadParameterError):
            Search(**wrong)


# Phrases


def test_each_token_of_a_prompt_is_followed_from_its_embedding() -> None:
    model = tiny_model("llama")
    batch = tiny_batch(model, 2, unequal=True)
    found = phrase_relevance(model, batch, METRIC, pair=1)
    assert [phrase.text for phrase in found.phrases] == list(map(str, batch.clean[1, :8].tolist()))
    whole = relevance_to_metric(model, batch, METRIC, [Source(("embed",), at=(place,)) for place in range(7)], Options(baseline="zero"))
    np.testing.assert_allclose(found.values[:7], whole.values[:, 1], atol=1e-5)
    assert found.total == pytest.approx(whole.clean[1], abs=1e-5) and found.invariant.error < 1e-4


def test_the_whole_prompt_is_the_metric_where_nothing_has_a_bias() -> None:
    for family in ("llama", "gemma2", "gpt2"):
        model = shared_tiny_model(family)
        batch = tiny_batch(model, 1)
        found = phrase_relevance(model, batch, METRIC, phrases=[Phrase("all", 0, 9)])
        assert found.values[0] == pytest.approx(found.total, abs=1e-3)
        assert abs(found.total) > 0.1
        torch.testing.assert_close(METRIC(model.logits(batch.clean, batch.end), batch)[0].item(), found.total, atol=1e-4, rtol=0)


def test_words_and_phrases_find_their_tokens() -> None:
    tokens = ["The", " film", " is", " not", " good", ",", " not", " good"]
    assert [word.text for word in words_of(tokens)] == ["The", " film", " is", " not", " good,", " not", " good"]
    first, second = spans_of(tokens, ["not good", "not good"])
    assert (first.start, first.stop, second.start, second.stop) == (3, 5, 6, 8)
    assert words_of([]) == ()
    for wrong in (["bad"], ["good", "film"], [""]):
        with pytest.raises(BadParameterError, match="does not occur"):
            spans_of(tokens, wrong)


def test_phrases_outside_the_prompt_are_refused() -> None:
    model = tiny_model("llama")
    batch = tiny_batch(model, 1)
    for phrase in (Phrase("x", 3, 3), Phrase("x", 0, 10), Phrase("x", -1, 2)):
        with pytest.raises(BadParameterError, match="spans tokens"):
            phrase_relevance(model, batch, METRIC, phrases=[phrase])
    with pytest.raises(BadParameterError, match="no pair 4"):
        phrase_relevance(model, batch, METRIC, pair=4)
