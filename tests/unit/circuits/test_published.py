"""Published circuits hold what the papers give, class by class."""

from __future__ import annotations

import itertools

import pytest

from circuitlab.circuits import list_published, published_circuit
from circuitlab.citations import CITATIONS
from circuitlab.core.errors import UnknownNameError
from circuitlab.core.nodes import Embed, Head, KVHead, Logits, Mlp, Universe
from circuitlab.scores.edge_layout import EdgeLayout

SIZES = {
    "ioi_gpt2_small": {
        "name mover": 3,
        "backup name mover": 8,
        "negative name mover": 2,
        "S-inhibition": 4,
        "induction": 4,
        "duplicate token": 3,
        "previous token": 2,
    },
    "ioi_gpt2_small_naive": {"name mover": 3, "S-inhibition": 4, "induction": 2, "duplicate token": 2, "previous token": 2},
    "ioi_gpt2_small_oneill": {"unlabelled": 26},
    "ioi_gpt2_small_cdt": {"unlabelled": 26},
    "greater_than_gpt2_small": {"reads the start year": 7, "compares": 4, "supplies embeddings": 7},
    "greater_than_gpt2_small_acdc": {"0305": 2, "01": 1, "early": 4, "mid": 6, "late": 4},
    "greater_than_gpt2_small_oneill": {"unlabelled": 9},
    "greater_than_gpt2_small_cdt": {"unlabelled": 8},
    "docstring_attn_only_4l": {"unlabelled": 8},
    "docstring_attn_only_4l_augmented": {"original": 8, "added": 3},
    "docstring_attn_only_4l_acdc": {"unlabelled": 6},
    "docstring_attn_only_4l_oneill": {"unlabelled": 6},
    "ioi_gpt2_medium": {"mover": 5, "negative mover": 1, "inhibition": 3, "duplicate token": 1, "induction": 1},
    "ioi_gpt2_medium_appendix": {"mover": 5, "negative mover": 1, "inhibition": 3, "duplicate token": 1, "induction": 1},
    "ioi_gpt2_medium_script": {"mover": 5, "negative mover": 1, "inhibition": 3, "duplicate token": 3, "induction": 3},
    "colored_objects_gpt2_medium": {"content gatherer": 3, "mover": 5, "negative mover": 1, "inhibition": 3},
}
SHAPES = {"gpt2-small": Universe(12, 12, 12), "gpt2-medium": Universe(24, 16, 16), "attn-only-4l": Universe(4, 8, 8)}


def heads(name: str) -> set[str]:
    return {f"{node.layer}.{node.head}" for node in published_circuit(name).circuit if isinstance(node, Head)}


def test_every_file_is_listed_here_and_there():
    assert list_published() == sorted(SIZES)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_classes_have_the_sizes_of_the_paper_and_share_no_node(name):
    found = published_circuit(name)
    assert {label: len(nodes) for label, nodes in found.classes.items()} == SIZES[name]
    assert len(found.circuit) == sum(SIZES[name].values()), "no node stands twice"
    assert found.circuit.universe == SHAPES[found.model]
    assert found.circuit.rule == f"published: {name}"
    assert (found.circuit.edges is not None) is (name == "docstring_attn_only_4l_acdc"), "the only list of edges that a source gives"
    assert set(found.positions) <= set(found.classes)
    assert found.cite and set(found.cite) <= set(CITATIONS)
    assert found.title and found.source and name.startswith(f"{found.task}_{found.model.replace('-', '_')}")


def test_the_circuit_of_wang_et_al_head_by_head():
    ioi = published_circuit("ioi_gpt2_small")
    assert len(ioi.circuit) == 26 and ioi.uncertain == ""
    assert [str(head) for head in ioi.classes["name mover"]] == ["a9.h9", "a10.h0", "a9.h6"]
    early = {"0.1", "0.10", "3.0", "2.2", "4.11", "5.5", "5.8", "5.9", "6.9", "7.3", "7.9", "8.6", "8.10"}
    late = {"9.9", "10.0", "9.6", "10.10", "10.6", "10.2", "10.1", "11.2", "9.7", "9.0", "11.9", "10.7", "11.10"}
    assert heads("ioi_gpt2_small") == early | late
    assert ioi.positions["S-inhibition"] == "END" and ioi.positions["induction"] == "S2"
    assert ioi.of_class("previous token").nodes == {Head(2, 2), Head(4, 11)}
    naive = published_circuit("ioi_gpt2_small_naive").circuit
    assert len(naive) == 13 and naive.nodes < ioi.circuit.nodes


def test_variants_differ_where_the_sources_disagree():
    wang = heads("ioi_gpt2_small")
    assert heads("ioi_gpt2_small_oneill") ^ wang == {"11.3", "9.0"}
    assert heads("ioi_gpt2_small_cdt") ^ wang == {"11.0", "11.10"}
    assert heads("ioi_gpt2_medium") ^ heads("ioi_gpt2_medium_appendix") == {"13.13", "13.14"}
    assert heads("ioi_gpt2_medium_script") - heads("ioi_gpt2_medium") == {"7.11", "8.15", "6.15", "7.2"}
    assert heads("greater_than_gpt2_small_oneill") == heads("greater_than_gpt2_small_acdc")
    assert heads("docstring_attn_only_4l_acdc") ^ heads("docstring_attn_only_4l_oneill") == {"1.2", "1.0"}
    assert heads("docstring_attn_only_4l") == heads("docstring_attn_only_4l_augmented") - {"1.0", "0.1", "2.3"}
    mlps = {node for node in published_circuit("greater_than_gpt2_small").circuit if isinstance(node, Mlp)}
    assert mlps == {Mlp(layer) for layer in (0, 1, 2, 3, 8, 9, 10, 11)}
    for name in ("ioi_gpt2_small_oneill", "ioi_gpt2_small_cdt", "ioi_gpt2_medium_appendix", "greater_than_gpt2_small"):
        assert published_circuit(name).uncertain, "a doubtful list says so"


def test_the_edges_of_acdc_join_the_heads_of_its_list():
    circuit = published_circuit("docstring_attn_only_4l_acdc").circuit
    layout = EdgeLayout(4, 8, 8)
    assert len(circuit.edges) == 24 and circuit.edges <= set(layout.edges())
    ends = [edge.receiver for edge in circuit.edges]
    inputs = {(edge.receiver, edge.port) for edge in circuit.edges if edge.port}
    assert len(circuit.edges) + len(inputs) == 37
    owners = {Head(end.layer, end.head) if isinstance(end, KVHead) else end for end in ends} - {Logits()}
    assert owners == circuit.nodes
    assert {edge.sender for edge in circuit.edges} == {Embed(), *circuit.nodes}
    to_keys = {str(edge.sender) for edge in circuit.edges if edge.receiver == KVHead(3, 6) and edge.port == "k"}
    assert to_keys == {"a1.h2", "a2.h0"}


def test_circuits_of_one_model_combine():
    for one, other in itertools.combinations(map(published_circuit, list_published()), 2):
        if one.model == other.model:
            assert len(one.circuit & other.circuit) <= min(len(one.circuit), len(other.circuit))


def test_unknown_names_suggest_the_near_one():
    with pytest.raises(UnknownNameError, match="Did you mean 'ioi_gpt2_small'"):
        published_circuit("ioi_gpt2_smal")
    with pytest.raises(UnknownNameError, match="published circuit"):
        published_circuit("../published/ioi_gpt2_small")
    with pytest.raises(UnknownNameError, match="Did you mean 'name mover'"):
        published_circuit("ioi_gpt2_small").of_class("name movers")
