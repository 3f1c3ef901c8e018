"""Circuits as GraphML."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitlab.circuits import Circuit, read_graphml, write_graphml
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.core.nodes import Embed, Head, Logits, Universe, parse_edge
from circuitlab.scores.edge_layout import EdgeLayout

UNIVERSE = Universe(2, 4, 2)
EDGES = frozenset(map(parse_edge, ["embed->a0.h1<q>", "a0.h1->a1.kv0<k>", "a0.h1->m1", "m1->logits"]))
PARTIAL = Circuit(frozenset({Head(0, 1)}), UNIVERSE, EDGES)
SPACE = {"g": "http://graphml.graphdrawing.org/xmlns"}

START = f'<graphml xmlns="{SPACE["g"]}">'
# Entities that hold ten of the one before each: a gigabyte, where an XML reader lets them grow.
LAUGHS = '<!ENTITY l0 "ha">' + "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))

EVERY_NODE = [*UNIVERSE.heads(), *UNIVERSE.kv_heads(), *UNIVERSE.mlps(), Embed(), Logits()]
circuits = st.builds(
    lambda nodes, edges, rule, sources, ready: Circuit(nodes, UNIVERSE, edges, rule, tuple(sources), ready),
    st.frozensets(st.sampled_from(EVERY_NODE)),
    st.none() | st.frozensets(st.sampled_from(list(EdgeLayout(2, 4, 2).edges()))),
    st.text(),
    st.lists(st.text(max_size=4), max_size=3),
    st.booleans(),
)


def test_graphml_holds_nodes_edges_and_ports(tmp_path):
    root = ET.parse(write_graphml(PARTIAL, tmp_path / "c.graphml")).getroot()
    nodes = {n.get("id"): {d.get("key"): d.text for d in n} for n in root.findall(".//g:node", SPACE)}
    assert list(nodes) == ["embed", "a0.h1", "a1.kv0", "m1", "logits"]
    assert nodes["a0.h1"] == {"kind": "head", "layer": "0", "head": "1", "in_circuit": "True"}
    assert nodes["m1"]["in_circuit"] == nodes["a1.kv0"]["in_circuit"] == "False"
    found = root.findall(".//g:edge", SPACE)
    edges = {e.get("id"): (e.get("source"), e.get("target"), e.findtext("g:data", None, SPACE)) for e in found}
    assert edges["embed->a0.h1<q>"] == ("embed", "a0.h1", "q")
    assert edges["a0.h1->a1.kv0<k>"] == ("a0.h1", "a1.kv0", "k")
    assert edges["a0.h1->m1"] == ("a0.h1", "m1", None)


@given(circuits)
def test_files_read_back_equal(tmp_path_factory, circuit):
    path = write_graphml(circuit, tmp_path_factory.mktemp("graphml") / "c.graphml")
    assert read_graphml(path) == read_graphml(path, UNIVERSE) == circuit


def test_changes_made_by_another_tool_are_read(tmp_path):
    path = write_graphml(PARTIAL, tmp_path / "c.graphml")
    text = path.read_text()
    assert 'key="in_circuit">False' in text
    # Numbered keys, as networkx writes them, and one node taken into the circuit.
    for i, name in enumerate(("kind", "layer", "head", "in_circuit", "port", "circuitlab")):
        text = text.replace(f'id="{name}"', f'id="d{i}"').replace(f'key="{name}"', f'key="d{i}"')
    path.write_text(text.replace('key="d3">False', 'key="d3">true', 1))
    circuit = read_graphml(path)
    assert circuit.nodes == {Embed(), Head(0, 1)} and circuit.edges == EDGES and circuit.universe == UNIVERSE


def test_networkx_reads_and_writes_the_same_graph(tmp_path):
    path, other = write_graphml(PARTIAL, tmp_path / "c.graphml"), tmp_path / "other.graphml"
    nx.write_graphml(nx.read_graphml(path, force_multigraph=True), other)
    assert read_graphml(other) == PARTIAL


def test_files_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "earlier.graphml"
    about = '{"nodes": [], "edges": [], "rule": "given", "sources": [], "ready": true, "universe": %s}'
    shape = '{"n_layers": 2, "n_heads": 4, "n_kv_heads": 2}'
    keys = "".join(f'<key id="{n}" for="node" attr.name="{n}" attr.type="{t}"/>' for n, t in (("layer", "int"), ("in_circuit", "boolean")))
    keys += "".join(f'<key id="{n}" for="{o}" attr.name="{n}" attr.type="string"/>' for n, o in (("port", "edge"), ("circuitlab", "graph")))
    nodes = "".join(
        f'<node id="{name}"><data key="in_circuit">{inside}</data></node>' for name, inside in (("a0.h1", "true"), ("a1.kv0", "false"))
    )
    edge = '<edge id="a0.h1-&gt;a1.kv0&lt;k&gt;" source="a0.h1" target="a1.kv0"><data key="port">k</data></edge>'
    graph = f'<graph id="circuit" edgedefault="directed"><data key="circuitlab">{about % shape}</data>{nodes}{edge}</graph>'
    path.write_text(f'<graphml xmlns="{SPACE["g"]}">{keys}{graph}</graphml>')
    assert read_graphml(path) == Circuit(["a0.h1"], UNIVERSE, ["a0.h1->a1.kv0<k>"])


def test_a_default_for_all_nodes_counts(tmp_path):
    path = tmp_path / "default.graphml"
    key = '<key id="d0" for="node" attr.name="in_circuit" attr.type="boolean"><default>false</default></key>'
    nodes = '<node id="a0.h1"/><node id="m1"><data key="d0">true</data></node>'
    path.write_text(f'<graphml xmlns="{SPACE["g"]}">{key}<graph edgedefault="directed">{nodes}</graph></graphml>')
    assert set(map(str, read_graphml(path, UNIVERSE))) == {"m1"}


def test_files_without_a_shape_need_one(tmp_path):
    path = tmp_path / "plain.graphml"
    graph = '<graph edgedefault="directed"><node id="a0.h1"/><node id="m1"/><edge source="a0.h1" target="m1"/></graph>'
    path.write_text(f'<graphml xmlns="{SPACE["g"]}">{graph}</graphml>')
    with pytest.raises(BadParameterError, match=r"plain\.graphml is not a circuit in GraphML: it does not say how many layers"):
        read_graphml(path)
    circuit = read_graphml(path, UNIVERSE)
    assert circuit.edges == {parse_edge("a0.h1->m1")} and circuit.rule == "read from plain.graphml"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<graphml", "ParseError"),
        ("<graphml/>", "not successfully read as graphml"),
        (f'{START}<graph><node id="x9"/></graph></graphml>', "'x9' is not a node name"),
        (f'{START}<graph><node id="a7.h0"/></graph></graphml>', "a7.h0 lie outside"),
        (f"{START}<graph><node/></graph></graphml>", "'None' is not a node name"),
        (f'{START}<graph edgedefault="directed"><edge source="m1" target="m0"/></graph></graphml>', "runs backwards"),
        (f'{START}<graph><edge source="m0" target="m1"/></graph></graphml>', "its edges have no direction"),
        (f'{START}<graph edgedefault="directed"><hyperedge/></graph></graphml>', "hyperedges"),
        (f'<!DOCTYPE g [{LAUGHS}]>{START}<graph><node id="&l9;"/></graph></graphml>', "ParseError"),
        (f'<!DOCTYPE g [<!ENTITY x SYSTEM "secret">]>{START}<graph>&x;</graph></graphml>', "ParseError"),
    ],
)
def test_other_files_are_refused_by_name_and_reason(tmp_path, text, told):
    path = tmp_path / "bad.graphml"
    path.write_text(text)
    with pytest.raises(BadParameterError, match=r"bad\.graphml is not a circuit in GraphML") as raised:
        read_graphml(path, UNIVERSE)
    assert told in str(raised.value)


def test_a_circuit_of_another_universe_is_refused(tmp_path):
    path = write_graphml(PARTIAL, tmp_path / "c.graphml")
    with pytest.raises(IncompatibleError, match="holds a circuit of Universe"):
        read_graphml(path, Universe(2, 4, 4))
