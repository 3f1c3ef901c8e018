"""Edge selection: the best edges, edges grown from the logits, and pruning, against a slow independent search."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from circuitlab.circuits import GreedyEdges, TopEdges, pruned_edges
from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Embed, Head, KVHead, Logits, Mlp, Universe, parse_edge
from circuitlab.scores.edge_layout import EdgeLayout
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.testing.fakes import fake_provenance

LAYERS, HEADS = 3, 4


def scores_of(values: dict[str, float] | None = None, *, kv: int = 2, parallel: bool = False, seed: int = 0) -> EdgeScores:
    """Edge scores of 3 layers and 4 heads: the named edges and 0 elsewhere, or random ones."""
    about = fake_provenance(LAYERS, HEADS)
    model = msgspec.structs.replace(about.model, n_kv_heads=kv, parallel=parallel)
    about = msgspec.structs.replace(about, model=model)
    layout = EdgeLayout.of(model)
    mean = np.zeros(layout.shape)
    if values is None:
        mean = np.random.default_rng(seed).normal(size=layout.shape) * layout.mask
    for name, value in (values or {}).items():
        mean[layout.index(name)] = value
    per_pair = dict.fromkeys(("total", "clean", "corrupt"), np.ones(3))
    return EdgeScores.build({"edges": np.broadcast_to(mean, (3, *layout.shape)), **per_pair}, about)


def edges_of(*names: str) -> frozenset:
    return frozenset(map(parse_edge, names))


SMALL = {
    "a2.h1->logits": 1.0,
    "a0.h2->a2.kv0<v>": -3.0,  # read by a2.h0 and a2.h1
    "embed->a0.h2<q>": 0.5,
    "embed->a1.h0<q>": 9.0,  # a1.h0 sends nothing on
    "m0->logits": -0.6,
    "m1->a2.h3<q>": 5.0,  # a2.h3 sends nothing on
}


def test_top_edges_take_the_strongest_wherever_they_lie():
    circuit = TopEdges(3)(scores_of(SMALL))
    assert circuit.edges == edges_of("embed->a1.h0<q>", "m1->a2.h3<q>", "a0.h2->a2.kv0<v>")
    assert circuit.nodes == {Embed(), Head(1, 0), Mlp(1), Head(2, 3), Head(0, 2)}, "a key/value head is an end and no node"
    assert circuit.rule == "top 3 edges by absolute mean score"
    assert TopEdges(1, by="negative")(scores_of(SMALL)).edges == edges_of("a0.h2->a2.kv0<v>")
    assert TopEdges(2, by="positive")(scores_of(SMALL)).edges == edges_of("embed->a1.h0<q>", "m1->a2.h3<q>")


def test_top_edges_agree_with_scores_top():
    scores = scores_of()
    assert TopEdges(17)(scores).edges == {entry.edge for entry in scores.top(17)}
    assert TopEdges(scores.layout.n_edges)(scores).edges == set(scores.layout.edges())


def test_pruned_top_edges_connect():
    circuit = TopEdges(6, prune=True)(scores_of(SMALL))
    assert circuit.edges == edges_of("a2.h1->logits", "a0.h2->a2.kv0<v>", "embed->a0.h2<q>")
    assert circuit.nodes == {Embed(), Head(0, 2), Head(2, 1), Logits()}
    assert circuit.rule.endswith("3 of them on paths from embed to logits")


def test_greedy_grows_from_the_logits_and_not_from_the_strongest_edge():
    scores = scores_of(SMALL)
    first = GreedyEdges(1)(scores)
    assert len(first) == 0 and first.edges == frozenset(), "a2.h1->logits alone hangs in the air"
    assert GreedyEdges(3)(scores).edges == frozenset(), "the third is m0->logits, and a0.h2 is fed by nothing"
    four = GreedyEdges(4)(scores)
    assert four.edges == edges_of("a2.h1->logits", "a0.h2->a2.kv0<v>", "embed->a0.h2<q>")
    assert four.nodes == {Embed(), Head(0, 2), Head(2, 1), Logits()}
    assert four.rule == "4 edges grown from the logits by absolute mean score, 3 after pruning"


def slow_greedy(scores: EdgeScores, k: int, by: str) -> frozenset:
    """Written from the words of the rule, with nothing shared with what it checks."""
    size = HEADS // scores.provenance.model.n_kv_heads
    value = {"absolute": abs, "positive": float, "negative": lambda x: -x}[by]
    left = {entry.edge: value(entry.mean) for entry in scores.edges()}

    def inside(receiver, nodes):
        if isinstance(receiver, KVHead):
            return any(Head(receiver.layer, receiver.head * size + i) in nodes for i in range(size))
        return receiver in nodes

    nodes, chosen = {Logits()}, set()
    for _ in range(k):
        best = max((edge for edge in left if inside(edge.receiver, nodes)), key=left.get)
        chosen.add(best)
        nodes.add(best.sender)
        del left[best]
    while True:
        fed = {edge.receiver for edge in chosen}
        sends = {edge.sender for edge in chosen} | {Logits()}

        def has_parent(node, fed=fed):
            return node == Embed() or node in fed or (isinstance(node, Head) and KVHead(node.layer, node.head // size) in fed)

        kept = {edge for edge in chosen if has_parent(edge.sender) and inside(edge.receiver, sends)}
        if kept == chosen:
            return frozenset(chosen)
        chosen = kept


@pytest.mark.parametrize("by", ["absolute", "positive", "negative"])
@pytest.mark.parametrize(("kv", "parallel"), [(4, False), (2, False), (1, True)])
def test_greedy_equals_a_slow_search(by, kv, parallel):
    for seed in range(4):
        scores = scores_of(kv=kv, parallel=parallel, seed=seed)
        for k in (1, 5, 20, 60, scores.layout.n_edges):
            assert GreedyEdges(k, by=by)(scores).edges == slow_greedy(scores, k, by)
    assert GreedyEdges(60, by=by)(scores).edges != slow_greedy(scores_of(kv=kv, parallel=parallel, seed=9), 60, by), "other scores fail"


def test_pruning_keeps_a_shared_head_while_one_of_its_readers_sends_on():
    space = Universe(LAYERS, HEADS, 2)
    kept = edges_of("embed->a1.kv0<k>", "a1.h1->logits")
    assert pruned_edges(kept, space) == kept
    assert pruned_edges(edges_of("embed->a1.kv0<k>", "a1.h2->logits"), space) == frozenset()
    assert pruned_edges(kept, Universe(LAYERS, HEADS, 4)) == frozenset(), "without sharing a1.h1 does not read kv0"
    chain = edges_of("embed->m0", "m0->m1", "m1->m2")
    assert pruned_edges(chain, space) == frozenset(), "nothing reaches the logits"
    assert pruned_edges(chain | edges_of("m2->logits"), space) == chain | edges_of("m2->logits")


def test_circuits_of_edges_say_where_they_come_from():
    scores = scores_of(SMALL)
    circuit = TopEdges(2)(scores)
    assert circuit.sources == (scores.provenance.run_id(),)
    assert circuit.universe == Universe(LAYERS, HEADS, 2) and circuit.ready


@pytest.mark.parametrize("rule", [TopEdges, GreedyEdges])
def test_impossible_sizes_and_rankings(rule):
    with pytest.raises(BadParameterError, match=r"\(k=0\) selects nothing"):
        rule(0)
    with pytest.raises(UnknownNameError, match="Did you mean 'absolute'"):
        rule(3, by="absolut")
    scores = scores_of()
    with pytest.raises(BadParameterError, match=f"more than the {scores.layout.n_edges} edges"):
        rule(scores.layout.n_edges + 1)(scores)


def test_the_documentation_says_which_rules_prune_by_default():
    text = " ".join((Path(__file__).parents[3] / "docs" / "circuits.md").read_text().split())
    scores = scores_of(SMALL)
    assert ("`TopEdges(k, prune=True)` then drops" in text) is (len(TopEdges(6)(scores).edges) == 6)
    assert ("`GreedyEdges(k)`" in text and "always prunes" in text) is not hasattr(GreedyEdges(6), "prune")
    assert len(TopEdges(6, prune=True)(scores).edges) < 6
