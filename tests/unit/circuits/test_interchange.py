"""Circuits as files of other tools."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest

from circuitlab.circuits import Circuit
from circuitlab.circuits.interchange import read_graph_json, to_graph, write_graph_json, write_graphml
from circuitlab.errors import BadParameterError
from circuitlab.nodes import Embed, Head, KVHead, Logits, Mlp, Universe, parse_edge
from circuitlab.testing.fakes import fake_provenance

UNIVERSE = Universe(2, 2, 1)
EDGES = frozenset(map(parse_edge, ["embed->a0.h1<q>", "a0.h1->m1", "m1->logits"]))
CIRCUIT = Circuit(frozenset({Embed(), Head(0, 1), Mlp(1), Logits()}), UNIVERSE, EDGES, "given", ("r1",), ready=False)


def test_graph_uses_the_names_of_the_format():
    graph = to_graph(CIRCUIT, fake_provenance(2, 2).model)
    assert list(graph["nodes"]) == ["input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "logits"]
    assert [name for name, entry in graph["nodes"].items() if entry["in_graph"]] == ["input", "a0.h1", "m1", "logits"]
    assert set(graph["edges"]) == {"input->a0.h1<q>", "a0.h1->m1", "m1->logits"}
    assert all(entry == {"in_graph": True, "score": 1.0} for entry in graph["edges"].values())
    assert graph["cfg"] == {"n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "d_model": 16, "parallel_attn_mlp": False}
    assert "d_model" not in to_graph(CIRCUIT)["cfg"]


@pytest.mark.parametrize("edges", [None, EDGES])
def test_own_files_read_back_equal(tmp_path, edges):
    circuit = Circuit(CIRCUIT.nodes, UNIVERSE, edges, "top 4", ("r1",), ready=False)
    assert read_graph_json(write_graph_json(circuit, tmp_path / "c.json")) == circuit


def test_files_of_other_tools_are_read(tmp_path):
    nodes = {"input": {"in_graph": True}, "a0.h1": {"in_graph": True}, "m1": {"in_graph": False}, "logits": {"in_graph": True}}
    edges = {"input->a0.h1<k>": {"score": 0.5, "in_graph": True}, "a0.h1->logits": {"score": 0.1, "in_graph": False}}
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"cfg": {"n_layers": 2, "n_heads": 2, "d_model": 8}, "nodes": nodes, "edges": edges}))
    circuit = read_graph_json(path)
    assert circuit.nodes == {Embed(), Head(0, 1), Logits()}
    assert circuit.edges == {parse_edge("embed->a0.h1<k>")}
    assert circuit.universe == Universe(2, 2, 2)
    assert read_graph_json(path, UNIVERSE).universe == UNIVERSE


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"nodes": {}, "edges": {}}',
        '{"cfg": {"n_layers": 1, "n_heads": 1}, "nodes": {"x9": true}, "edges": {}}',
        '{"cfg": {"n_layers": 1, "n_heads": 1}, "nodes": {"a7.h0": true}, "edges": {}}',
        '{"cfg": {"n_layers": 1, "n_heads": 1}, "nodes": {}, "edges": {"m0": true}}',
    ],
)
def test_other_files_are_refused_by_name(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(BadParameterError, match=r"bad\.json is not a circuit graph"):
        read_graph_json(path)
    with pytest.raises(BadParameterError, match=r"gone\.json is not a circuit graph"):
        read_graph_json(tmp_path / "gone.json")


def test_nodes_the_format_cannot_name_are_refused():
    with pytest.raises(BadParameterError, match=r"no name for a0\.kv0"):
        to_graph(Circuit(frozenset({KVHead(0, 0)}), UNIVERSE))


def test_graphml_holds_nodes_edges_and_ports(tmp_path):
    partial = Circuit(frozenset({Head(0, 1)}), UNIVERSE, EDGES)
    root = ET.parse(write_graphml(partial, tmp_path / "c.graphml")).getroot()
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    nodes = {n.get("id"): {d.get("key"): d.text for d in n} for n in root.findall(".//g:node", space)}
    assert list(nodes) == ["embed", "a0.h1", "m1", "logits"]
    assert nodes["a0.h1"] == {"kind": "head", "layer": "0", "head": "1", "in_circuit": "true"}
    assert nodes["m1"]["in_circuit"] == "false"
    found = root.findall(".//g:edge", space)
    edges = {e.get("id"): (e.get("source"), e.get("target"), e.findtext("g:data", None, space)) for e in found}
    assert edges["embed->a0.h1<q>"] == ("embed", "a0.h1", "q")
    assert edges["a0.h1->m1"] == ("a0.h1", "m1", None)
