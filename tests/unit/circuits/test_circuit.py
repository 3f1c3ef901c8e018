"""Circuits: set algebra, universes, plain data."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitlab.circuits import Circuit
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.core.nodes import Edge, Embed, Head, KVHead, Logits, Mlp, Universe, parse_edge

UNIVERSE = Universe(3, 4, 2)
EVERY_NODE = [*UNIVERSE.heads(), *UNIVERSE.kv_heads(), *UNIVERSE.mlps(), Embed(), Logits()]
EVERY_EDGE = [Edge(h, Logits()) for h in UNIVERSE.heads()] + [parse_edge("a0.h1->a2.h0<q>"), parse_edge("m0->a1.kv1<v>")]

circuits = st.builds(
    lambda nodes, edges, rule, sources, ready: Circuit(nodes, UNIVERSE, edges, rule, tuple(sources), ready),
    st.frozensets(st.sampled_from(EVERY_NODE)),
    st.none() | st.frozensets(st.sampled_from(EVERY_EDGE)),
    st.text(),
    st.lists(st.text(max_size=4), max_size=3),
    st.booleans(),
)


@given(circuits, circuits)
def test_set_algebra_is_that_of_sets(a, b):
    assert (a | b).nodes == a.nodes | b.nodes
    assert (a & b).nodes == a.nodes & b.nodes
    assert (a - b).nodes == a.nodes - b.nodes
    assert (a ^ b).nodes == ((a - b) | (b - a)).nodes
    assert len(a | b) == len(a) + len(b) - len(a & b)
    if a.edges is None or b.edges is None:
        assert (a | b).edges is None
    else:
        assert (a & b).edges == a.edges & b.edges
        assert (a ^ b).edges == a.edges ^ b.edges


@given(circuits)
def test_plain_data_round_trip(circuit):
    assert Circuit.from_dict(json.loads(json.dumps(circuit.to_dict()))) == circuit


@given(circuits)
def test_iteration_follows_the_forward_pass(circuit):
    nodes = list(circuit)
    assert nodes == sorted(circuit.nodes)
    assert len(nodes) == len(circuit)
    assert all(node in circuit and str(node) in circuit for node in nodes)


def test_membership_reads_names():
    circuit = Circuit(frozenset({Head(1, 2)}), UNIVERSE)
    assert "L1H2" in circuit
    assert "a1.h3" not in circuit
    assert Mlp(1) not in circuit


def test_combining_remembers_rules_sources_and_doubt():
    a = Circuit(frozenset({Head(0, 0)}), UNIVERSE, rule="top 1", sources=("r1", "r2"))
    b = Circuit(frozenset({Head(0, 1)}), UNIVERSE, rule="given", sources=("r2", "r3"), ready=False)
    both = a | b
    assert both.rule == "(top 1) | (given)"
    assert both.sources == ("r1", "r2", "r3")
    assert not both.ready
    assert (a | a).ready


@pytest.mark.parametrize("node", [Head(3, 0), Head(0, 4), KVHead(0, 2), Mlp(3)])
def test_nodes_outside_the_universe_are_refused(node):
    with pytest.raises(BadParameterError, match=f"{node} lie outside"):
        Circuit(frozenset({node}), UNIVERSE)


def test_edges_outside_the_universe_are_refused():
    with pytest.raises(BadParameterError, match=r"a7\.h0 lie outside"):
        Circuit(frozenset(), UNIVERSE, frozenset({Edge(Head(7, 0), Logits())}))


@pytest.mark.parametrize("sign", ["__or__", "__and__", "__sub__", "__xor__"])
def test_other_universes_do_not_combine(sign):
    a, b = Circuit(frozenset(), UNIVERSE), Circuit(frozenset(), Universe(3, 4, 4))
    with pytest.raises(IncompatibleError, match="cannot be combined"):
        getattr(a, sign)(b)


def test_from_dict_names_what_is_missing():
    with pytest.raises(BadParameterError, match="lacks universe"):
        Circuit.from_dict({"nodes": []})
