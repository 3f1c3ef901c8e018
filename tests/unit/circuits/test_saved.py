"""Circuit files of our own: equal again, with the runs they came from, and refused where their parts disagree."""

from __future__ import annotations

import json

import numpy as np
import pytest

from circuitlab.circuits import Circuit, TopK, load_circuit, save_circuit
from circuitlab.core.errors import BadParameterError, IncompatibleError, StoreError
from circuitlab.core.nodes import Attn, Edge, Embed, Head, KVHead, Resid, Universe
from circuitlab.testing.fakes import fake_scores

SCORES = fake_scores(np.random.default_rng(0).normal(size=(6, 3, 4)), task="ioi")


def changed(path, **parts):
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | parts))
    return path


def test_a_picked_circuit_reads_back_with_its_task_model_and_method(tmp_path):
    circuit = TopK(3)(SCORES)
    saved = load_circuit(save_circuit(circuit, tmp_path / "deep" / "c.json", [SCORES.provenance]))
    assert saved.circuit == circuit
    (run,) = saved.runs
    assert run == SCORES.provenance
    assert (run.task.id, run.model.name, run.method, run.run_id()) == ("ioi", "fake", "activation_patching", circuit.sources[0])
    data = json.loads((tmp_path / "deep" / "c.json").read_text())
    assert data["runs"][0]["run_id"] == circuit.sources[0] and data["circuit"]["nodes"] == [str(node) for node in circuit]


def test_every_node_and_edge_has_a_name_in_our_own_format(tmp_path):
    edges = frozenset({Edge(Embed(), KVHead(1, 0), "v"), Edge(Attn(0), Resid(1, "mid"))})
    circuit = Circuit(frozenset({KVHead(0, 0), Attn(1), Resid(0, "pre")}), Universe(2, 4, 2), edges, 'said "so" \u2028 \ud800')
    assert load_circuit(save_circuit(circuit, tmp_path / "c.json")).circuit == circuit


def test_runs_that_the_circuit_does_not_come_from_are_refused(tmp_path):
    circuit = TopK(3)(SCORES)
    other = fake_scores(np.zeros((6, 3, 4)), task="another").provenance
    with pytest.raises(BadParameterError, match="not among the circuit's sources"):
        save_circuit(circuit, tmp_path / "c.json", [other])
    with pytest.raises(BadParameterError, match="it names none"):
        save_circuit(Circuit(frozenset(), circuit.universe), tmp_path / "c.json", [other])
    smaller = fake_scores(np.zeros((6, 2, 4)), task="ioi").provenance
    with pytest.raises(IncompatibleError, match="is of Universe"):
        save_circuit(circuit, tmp_path / "c.json", [smaller])
    assert not (tmp_path / "c.json").exists()


def test_files_that_were_changed_or_are_newer_are_refused(tmp_path):
    path = save_circuit(TopK(3)(SCORES), tmp_path / "c.json", [SCORES.provenance])
    whole = path.read_text()
    run = json.loads(whole)["runs"][0]
    circuit = json.loads(whole)["circuit"]
    cases = [
        ({"format": "else"}, "its format is 'else'. For graphs of other tools use read_graph_json"),
        ({"schema": 99}, "schema 99, and this circuitlab reads 1"),
        ({"runs": [run | {"method": "other"}]}, "do not match its id"),
        ({"runs": [{"run_id": "0"}]}, "ValidationError"),
        ({"circuit": circuit | {"sources": []}}, "not among the circuit's sources"),
        ({"circuit": circuit | {"nodes": ["x9"]}}, "'x9' is not a node name"),
        ({"circuit": circuit | {"nodes": ["a9.h0"]}}, "a9.h0 lie outside"),
        ({"circuit": circuit | {"universe": {"n_layers": 3}}}, "TypeError"),
        ({"circuit": {"nodes": []}}, "lacks universe"),
        ({"circuit": circuit | {"universe": {"n_layers": 10**6, "n_heads": 10**9, "n_kv_heads": 1}}}, "is impossible"),
        ({"circuit": circuit | {"universe": {"n_layers": 2.5, "n_heads": 2, "n_kv_heads": 1}}}, "is impossible"),
    ]
    for parts, told in cases:
        path.write_text(whole)
        with pytest.raises(BadParameterError, match=r"c\.json is not a circuit file") as raised:
            load_circuit(changed(path, **parts))
        assert told in str(raised.value), parts


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"format": "circuitlab circuit"}', '{"circuit":' * 100_000])
def test_other_files_are_refused_by_name(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(BadParameterError, match=r"bad\.json is not a circuit file"):
        load_circuit(path)
    with pytest.raises(BadParameterError, match=r"gone\.json is not a circuit file"):
        load_circuit(tmp_path / "gone.json")


def test_a_circuit_of_another_universe_is_refused(tmp_path):
    path = save_circuit(Circuit(frozenset({Head(0, 0)}), Universe(3, 4, 2)), tmp_path / "c.json")
    assert load_circuit(path, Universe(3, 4, 2)).circuit.universe == Universe(3, 4, 2)
    with pytest.raises(IncompatibleError, match="holds a circuit of Universe"):
        load_circuit(path, Universe(3, 4, 4))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = save_circuit(Circuit(frozenset(), Universe(1, 1, 1)), tmp_path / "c.json")
    assert list(tmp_path.iterdir()) == [path], "no half-made file stays behind"
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(StoreError):
        save_circuit(Circuit(frozenset(), Universe(1, 1, 1)), tmp_path / "folder.json")
