"""Circuits as the graph in JSON of other tools."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitlab.circuits import Circuit
from circuitlab.circuits.interchange import read_graph_json, read_graph_scores, to_graph, write_graph_json
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.core.nodes import Attn, Edge, Embed, Head, KVHead, Logits, Mlp, Resid, Universe, parse_edge
from circuitlab.scores.edge_layout import EdgeLayout
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.testing.fakes import fake_provenance

UNIVERSE = Universe(2, 2, 1)
EDGES = frozenset(map(parse_edge, ["embed->a0.h1<q>", "a0.h1->m1", "m1->logits"]))
SHARED = EDGES | frozenset(map(parse_edge, ["embed->a0.kv0<v>", "a0.h1->a1.kv0<k>"]))
CIRCUIT = Circuit(frozenset({Embed(), Head(0, 1), Mlp(1), Logits()}), UNIVERSE, EDGES, "given", ("r1",), ready=False)


def edge_scores() -> EdgeScores:
    about = fake_provenance(2, 2)
    layout = EdgeLayout.of(about.model)
    values = np.random.default_rng(0).normal(size=(3, *layout.shape)) * layout.mask
    return EdgeScores.build({"edges": values, **dict.fromkeys(("total", "clean", "corrupt"), np.ones(3))}, about)


def test_graph_uses_the_names_of_the_format():
    graph = to_graph(CIRCUIT, fake_provenance(2, 2).model)
    assert list(graph["nodes"]) == ["input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "logits"]
    assert [name for name, entry in graph["nodes"].items() if entry["in_graph"]] == ["input", "a0.h1", "m1", "logits"]
    assert set(graph["edges"]) == {"input->a0.h1<q>", "a0.h1->m1", "m1->logits"}
    assert all(entry == {"in_graph": True, "score": 1.0} for entry in graph["edges"].values())
    assert graph["cfg"] == {"n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "d_model": 16, "parallel_attn_mlp": False}
    assert "d_model" not in to_graph(CIRCUIT)["cfg"]


def test_edges_into_a_shared_head_become_edges_into_its_query_heads():
    graph = to_graph(Circuit(CIRCUIT.nodes, UNIVERSE, SHARED))
    ungrouped = {"input->a0.h0<v>", "input->a0.h1<v>", "a0.h1->a1.h0<k>", "a0.h1->a1.h1<k>"}
    assert set(graph["edges"]) == ungrouped | {"input->a0.h1<q>", "a0.h1->m1", "m1->logits"}


@pytest.mark.parametrize("edges", [None, frozenset(), EDGES, SHARED])
@pytest.mark.parametrize("scores", [None, edge_scores()])
def test_own_files_read_back_equal(tmp_path, edges, scores):
    circuit = Circuit(CIRCUIT.nodes, UNIVERSE, edges, "top 4", ("r1",), ready=False)
    path = write_graph_json(circuit, tmp_path / "c.json", scores=scores)
    assert read_graph_json(path) == read_graph_json(path, UNIVERSE) == circuit


LAYOUT = EdgeLayout(2, 4, 2)
SPACE = Universe(2, 4, 2)
NAMED = [Embed(), *SPACE.heads(), *SPACE.mlps(), Logits()]


@given(st.frozensets(st.sampled_from(NAMED)), st.frozensets(st.sampled_from(list(LAYOUT.edges()))), st.text())
def test_any_circuit_of_the_format_reads_back_equal(tmp_path_factory, nodes, edges, rule):
    circuit = Circuit(nodes, SPACE, edges, rule)
    path = write_graph_json(circuit, tmp_path_factory.mktemp("graph") / "c.json")
    assert read_graph_json(path) == circuit
    data = json.loads(path.read_text())
    del data["circuitlab"]  # as another tool would write it
    path.write_text(json.dumps(data))
    again = read_graph_json(path)
    assert again.nodes == nodes and again.edges == (edges or None)
    assert "widened" not in again.rule


def test_scores_are_written_for_every_edge():
    scores = edge_scores()
    graph = to_graph(Circuit(CIRCUIT.nodes, UNIVERSE, SHARED), scores=scores)
    mean = {str(entry.edge): entry.mean for entry in scores.edges()}
    assert graph["edges"]["m1->logits"] == {"in_graph": True, "score": pytest.approx(mean["m1->logits"])}
    assert graph["edges"]["m0->logits"] == {"in_graph": False, "score": pytest.approx(mean["m0->logits"])}
    for head in ("a1.h0", "a1.h1"):
        assert graph["edges"][f"a0.h1->{head}<k>"] == {"in_graph": True, "score": pytest.approx(mean["a0.h1->a1.kv0<k>"])}
    ungrouped = EdgeLayout(2, 2, 2)
    assert len(graph["edges"]) == ungrouped.n_edges
    assert graph["cfg"]["d_model"] == 16
    with pytest.raises(IncompatibleError, match="cannot carry edge scores"):
        to_graph(Circuit(frozenset(), Universe(2, 4, 1)), scores=scores)


@pytest.mark.parametrize("edges", [None, SHARED])
def test_scores_are_read_back(tmp_path, edges):
    scores = edge_scores()
    path = write_graph_json(Circuit(CIRCUIT.nodes, UNIVERSE, edges), tmp_path / "c.json", scores=scores)
    found = read_graph_scores(path, UNIVERSE)
    assert list(found) == sorted(scores.layout.edges())
    mean = dict(zip(scores.layout.edges(), scores.mean()[scores.layout.edge_indices], strict=True))
    assert found == pytest.approx(mean)
    data = json.loads(path.read_text())
    del data["circuitlab"]  # as another tool would write it: each query head's keys and values have scores of their own
    path.write_text(json.dumps(data))
    twice = read_graph_scores(path, UNIVERSE)
    assert twice == pytest.approx({edge: score * (1 + (edge.port in {"k", "v"})) for edge, score in mean.items()})


def test_scores_of_other_tools(tmp_path):
    path = other_tool(
        tmp_path / "other.json", edges={"input->a0.h1<k>": {"score": 0.5}, "a0.h1->logits": {"score": -1, "in_graph": True}, "m0->m1": True}
    )
    path.write_text(path.read_text().replace('{"score": 0.5}', '{"score": 0.5, "in_graph": false}'))
    assert read_graph_scores(path) == {parse_edge("embed->a0.kv1<k>"): 0.5, parse_edge("a0.h1->logits"): -1.0}


@pytest.mark.parametrize(
    ("edges", "told"),
    [
        ({}, "none of its edges has a score"),
        ({"input->m0": True}, "none of its edges has a score"),
        ({"input->m0": {"in_graph": True, "score": "high"}}, "edge input->m0 has the score 'high'"),
        ({"input->m0": {"in_graph": True, "score": float("nan")}}, "edge input->m0 has the score nan"),
        ({"input->m0": {"in_graph": True, "score": True}}, "edge input->m0 has the score True"),
        ({"input->m7": {"in_graph": False, "score": 1.0}}, "m7 lie outside"),
        ({"input->x7": {"in_graph": False, "score": 1.0}}, "'x7' is not a node name"),
    ],
)
def test_scores_that_cannot_be_read_are_refused(tmp_path, edges, told):
    path = other_tool(tmp_path / "bad.json", edges=edges)
    with pytest.raises(BadParameterError, match=r"bad\.json is not a circuit graph with scores") as raised:
        read_graph_scores(path)
    assert told in str(raised.value)
    with pytest.raises(IncompatibleError):
        read_graph_scores(other_tool(tmp_path / "other.json"), Universe(3, 2, 2))


def other_tool(path, **changes):
    nodes = {"input": {"in_graph": True}, "a0.h1": {"in_graph": True}, "m1": {"in_graph": False}, "logits": {"in_graph": True}}
    edges = {"input->a0.h1<k>": {"score": 0.5, "in_graph": True}, "a0.h1->logits": {"score": 0.1, "in_graph": False}}
    cfg = {"n_layers": 2, "n_heads": 2, "d_model": 8}
    path.write_text(json.dumps({"cfg": cfg, "nodes": nodes, "edges": edges} | changes))
    return path


def test_files_of_other_tools_are_read(tmp_path):
    path = other_tool(tmp_path / "other.json")
    circuit = read_graph_json(path)
    assert circuit.nodes == {Embed(), Head(0, 1), Logits()}
    assert circuit.edges == {Edge(Embed(), KVHead(0, 1), "k")}, "keys and values are those of key/value heads"
    assert circuit.universe == Universe(2, 2, 2)
    assert circuit.rule == "read from other.json"


def test_edges_into_part_of_a_group_are_widened_and_counted(tmp_path):
    part = read_graph_json(other_tool(tmp_path / "part.json"), UNIVERSE)
    assert part.universe == UNIVERSE and part.edges == {Edge(Embed(), KVHead(0, 0), "k")}
    assert part.rule == "read from part.json; widened from part of a group to its key/value head: 1 edges"
    both = read_graph_json(other_tool(tmp_path / "both.json", edges={"input->a0.h1<k>": True, "input->a0.h0<k>": True}), UNIVERSE)
    assert both.edges == part.edges and both.rule == "read from both.json"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"cfg":' * 100_000, "RecursionError"),
        ('{"nodes": {}, "edges": {}}', "cfg"),
        ('{"cfg": {"n_layers": 1, "n_heads": 1}, "edges": {}}', "nodes"),
        ('{"cfg": {"n_layers": "1", "n_heads": 1}, "nodes": {}, "edges": {}}', "whole numbers"),
        ('{"cfg": {"n_layers": 1, "n_heads": 3, "n_kv_heads": 2}, "nodes": {}, "edges": {}}', "impossible"),
        ('{"cfg": {"n_layers": 1, "n_heads": 1}, "nodes": {"x9": true}, "edges": {}}', "'x9' is not a node name. Write a9.h6"),
        ('{"cfg": {"n_layers": 1, "n_heads": 1}, "nodes": {"a7.h0": true}, "edges": {}}', "a7.h0 lie outside"),
        ('{"cfg": {"n_layers": 1, "n_heads": 1}, "nodes": {}, "edges": {"input->a7.h0<k>": true}}', "a7.h0 lie outside"),
        ('{"cfg": {"n_layers": 1, "n_heads": 1}, "nodes": {}, "edges": {"m0": true}}', "'m0' is not an edge name"),
        ('{"cfg": {"n_layers": 2, "n_heads": 1}, "nodes": {}, "edges": {"m1->m0": true}}', "runs backwards"),
        ('{"cfg": {"n_layers": 2, "n_heads": 1}, "nodes": {}, "edges": {"m0->a1.h0": true}}', "enters a1.h0 through port None"),
    ],
)
def test_other_files_are_refused_by_name_and_reason(tmp_path, text, told):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(BadParameterError, match=r"bad\.json is not a circuit graph") as raised:
        read_graph_json(path)
    assert told in str(raised.value)


def test_files_that_are_not_there_or_not_text_are_refused(tmp_path):
    (tmp_path / "image.json").write_bytes(b"\x89PNG\xff\xfe")
    for name in ("gone.json", "image.json"):
        with pytest.raises(BadParameterError, match=rf"{name} is not a circuit graph"):
            read_graph_json(tmp_path / name)


def test_a_circuit_of_another_universe_is_refused(tmp_path):
    own, other = write_graph_json(CIRCUIT, tmp_path / "own.json"), other_tool(tmp_path / "other.json")
    for path in (own, other):
        with pytest.raises(IncompatibleError, match=r"holds a circuit of Universe\(n_layers=2, n_heads=2"):
            read_graph_json(path, Universe(3, 2, 1))
    kv = other_tool(tmp_path / "kv.json", cfg={"n_layers": 2, "n_heads": 2, "n_kv_heads": 2})
    with pytest.raises(IncompatibleError, match="one of Universe"):
        read_graph_json(kv, UNIVERSE)


def test_a_graph_that_was_changed_since_is_refused_and_read_without_its_own_key(tmp_path):
    path = write_graph_json(Circuit(CIRCUIT.nodes, UNIVERSE, SHARED), tmp_path / "c.json")
    data = json.loads(path.read_text())
    data["nodes"]["m0"]["in_graph"] = True
    data["edges"]["a0.h1->m1"]["in_graph"] = False
    path.write_text(json.dumps(data))
    with pytest.raises(BadParameterError, match=r"disagree about a0\.h1->m1, m0, .* Remove the key 'circuitlab'"):
        read_graph_json(path)
    del data["circuitlab"]
    path.write_text(json.dumps(data))
    again = read_graph_json(path)
    assert again.nodes == CIRCUIT.nodes | {Mlp(0)} and again.edges == SHARED - {parse_edge("a0.h1->m1")}


@pytest.mark.parametrize(
    "circuit",
    [
        Circuit(frozenset({KVHead(0, 0)}), UNIVERSE),
        Circuit(frozenset({Attn(0)}), UNIVERSE),
        Circuit(frozenset(), UNIVERSE, frozenset({Edge(Embed(), Resid(0, "mid"))})),
        Circuit(frozenset(), UNIVERSE, frozenset({Edge(KVHead(0, 0), Head(1, 0), "q")})),
    ],
)
def test_nodes_the_format_cannot_name_are_refused(circuit):
    with pytest.raises(BadParameterError, match=r"no name for [ar]0"):
        to_graph(circuit)


def test_the_spec_of_another_model_is_not_mixed_up_with_the_scores():
    spec = msgspec.structs.replace(fake_provenance(2, 2).model, d_model=99)
    assert to_graph(CIRCUIT, spec, edge_scores())["cfg"]["d_model"] == 99


@pytest.mark.parametrize(
    "change",
    [{"n_layers": 2.5}, {"n_layers": 10**6, "n_heads": 10**9}, {"n_layers": True}, {"n_layers": "2"}, {"n_heads": 0}],
    ids=["fraction", "huge", "yes", "text", "none"],
)
def test_an_impossible_shape_is_refused_at_once(tmp_path, change) -> None:
    graph = {"cfg": {"n_layers": 2, "n_heads": 2, "d_model": 8, "parallel_attn_mlp": False} | change, "nodes": {}, "edges": {}}
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    with pytest.raises(BadParameterError):
        read_graph_json(tmp_path / "graph.json")


@pytest.mark.parametrize("value", ["false", "yes", 2, None, []])
def test_in_graph_is_true_or_false(tmp_path, value) -> None:
    graph = {"cfg": {"n_layers": 1, "n_heads": 1, "d_model": 8}, "nodes": {"a0.h0": {"in_graph": value}}, "edges": {}}
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    with pytest.raises(BadParameterError, match="in_graph"):
        read_graph_json(tmp_path / "graph.json")
