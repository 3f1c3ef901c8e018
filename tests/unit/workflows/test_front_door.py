"""What a person types: one call each, on prompts of one's own, with results that show themselves."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import circuitlab as cl
from circuitlab.core.errors import BadParameterError, IncompatibleError, ModelError, UnknownNameError
from circuitlab.core.html import html_table
from circuitlab.evaluation import Evaluate
from circuitlab.model.sites import Site
from circuitlab.testing.tiny import tiny_batch, tiny_model
from circuitlab.workflows.compare import prompt_names


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def batch(model):
    return tiny_batch(model, 6)


@pytest.fixture(scope="module")
def scores(model, batch):
    return cl.score(model, batch, "activation_patching")


def test_a_method_is_given_by_name_class_or_instance(model, batch, scores) -> None:
    for method in (cl.methods.ActivationPatching, cl.methods.ActivationPatching()):
        np.testing.assert_array_equal(cl.score(model, batch, method).values(), scores.values())
    assert "ActivationPatching" in dir(cl.methods)
    with pytest.raises(BadParameterError, match="is an instance with its parameters set"):
        cl.methods.get_method(cl.methods.ActivationPatching(), {"direction": "noising"})


def test_scores_of_a_batch_carry_a_verdict_on_that_batch(model, batch, scores) -> None:
    report = cl.check_task(model, batch)
    assert report.n == batch.n_pairs
    assert scores.provenance.fitness == report.flag()


def test_scores_are_looked_up_by_name(scores) -> None:
    one = scores["a1.h2"]
    assert one.mean == pytest.approx(scores.mean()[1, 2])
    assert one == scores["L1H2"] == scores["1.2"] == scores[cl.Head(1, 2)]
    with pytest.raises(UnknownNameError, match=r"a9\.h0"):
        scores["a9.h0"]
    with pytest.raises(BadParameterError, match="not a node name"):
        scores["nothing"]


def test_edges_are_looked_up_by_name(model, batch) -> None:
    edges = cl.score_edges(model, batch, "eap")
    assert edges["a0.h1->logits"].mean == pytest.approx(float(edges.values("a0.h1->logits").mean()))
    with pytest.raises(BadParameterError, match="scores nodes"):
        cl.score_edges(model, batch, "activation_patching")


def test_a_circuit_is_written_by_names_and_meets_its_model_later(model, batch, scores) -> None:
    circuit = cl.Circuit(["a0.h1", "L2H3"])
    assert circuit == cl.Circuit({cl.Head(0, 1), cl.Head(2, 3)})
    assert circuit.within(scores.universe).universe == scores.universe
    assert (circuit | cl.top_heads(scores, 2)).universe == scores.universe
    assert cl.Circuit.from_dict(circuit.to_dict()) == circuit
    found = cl.evaluate(model, circuit, batch, settings=Evaluate(n_random=3, n_subsets=0))
    plain = cl.evaluate(model, circuit.within(scores.universe), batch, settings=Evaluate(n_random=3, n_subsets=0))
    assert found.faithfulness == plain.faithfulness
    with pytest.raises(BadParameterError, match="not known"):
        circuit.shape  # noqa: B018
    with pytest.raises(BadParameterError, match="lie outside"):
        cl.Circuit(["a7.h0"]).within(scores.universe)
    with pytest.raises(IncompatibleError, match="found in"):
        cl.top_heads(scores, 2).within(replace(scores.universe, n_layers=9))


def test_find_circuit_and_evaluate(model, batch, scores, tmp_path) -> None:
    circuit = cl.find_circuit(model, batch, rule=3, store=tmp_path)
    assert set(circuit) == set(cl.top_heads(scores, 3))
    settings = Evaluate(n_random=3, n_subsets=2)
    first = cl.evaluate(model, circuit, batch, scores=scores, settings=settings, store=tmp_path)
    again = cl.evaluate(model, circuit, batch, scores=scores, settings=settings, store=tmp_path)
    assert (first.cached, again.cached) == (False, True)
    assert first.measures == again.measures
    assert "the pairs that were scored" in repr(first)
    assert cl.find_circuit(model, batch, "eap", rule=cl.TopEdges(5)).edges
    with pytest.raises(BadParameterError, match="99 heads was requested"):
        cl.find_circuit(model, batch, rule=99)


def test_compare_tasks_methods_and_transfer(model, batch) -> None:
    other = tiny_batch(model, 5, seed=3)
    table = cl.compare(model, [batch, other], "attribution_patching", rule=4)
    assert table.tasks == ("batch 1", "batch 2")
    assert cl.compare(model, batch, ["attribution_patching", "relp"], rule=4).over == "method"
    result = cl.transfer(model, [batch, other], "attribution_patching", rule=4)
    assert result.transfer.tasks == ("batch 1", "batch 2")
    for tasks, methods in (([batch], "relp"), ([batch, other], ["relp", "eap"])):
        with pytest.raises(BadParameterError, match="Comparing"):
            cl.compare(model, tasks, methods)
    with pytest.raises(BadParameterError, match="named twice"):
        prompt_names(["ioi", "ioi"])


def test_attention_is_that_of_the_model_and_of_its_edits(model, batch) -> None:
    patterns = model.attention("a1.h2", batch)
    captured = model.capture(batch.clean, [Site.PATTERN])[Site.PATTERN][:, 1, 2].numpy()
    for pattern, whole, end in zip(patterns, captured, batch.end.tolist(), strict=True):
        np.testing.assert_allclose(pattern.values, whole[: end + 1, : end + 1], atol=1e-6)
        np.testing.assert_allclose(pattern.values.sum(-1), 1, atol=1e-5)
    alone = model.attention(cl.Head(1, 2), batch.clean[0, : int(batch.end[0]) + 1].tolist())
    np.testing.assert_array_equal(alone.values, patterns[0].values)
    assert alone.tokens == tuple(str(int(token)) for token in batch.clean[0, : int(batch.end[0]) + 1])
    edited = model.edited(cl.interventions.EditPattern("a1.h2", "uniform")).attention("a1.h2", batch)[0]
    assert np.ptp(edited.values[-1]) < 1e-6 < np.ptp(alone.values[-1])
    for head, says in (("m1", "not an attention head"), ("a9.h0", "no a9.h0")):
        with pytest.raises(BadParameterError, match=says):
            model.attention(head, batch)


def test_a_model_without_patterns_says_so(model, batch, monkeypatch) -> None:
    monkeypatch.setattr(type(model), "sites", property(lambda _: frozenset()))
    monkeypatch.setattr(type(model), "lacks", property(lambda _: {Site.PATTERN: "it is made up"}))
    with pytest.raises(ModelError, match="it is made up"):
        model.attention("a0.h0", batch)


def test_results_show_themselves_in_a_notebook(model, batch, scores) -> None:
    circuit = cl.top_heads(scores, 3)
    settings = Evaluate(n_random=3, n_subsets=0)
    shown = [
        scores,
        cl.score_edges(model, batch, "eap"),
        circuit,
        cl.check_task(model, batch),
        cl.evaluate(model, circuit, batch, settings=settings),
        cl.compare(model, batch, ["attribution_patching", "relp"], rule=4),
        model.attention("a1.h2", batch)[0],
        cl.bench(["random"], ["copy-gqa"], seeds=1, pairs=2),
        model,
    ]
    for one in shown:
        text = one._repr_html_()
        assert text.startswith("<div>") and text.endswith("</div>"), type(one)
        assert len(repr(one)) < 1500, type(one)
        assert " object at 0x" not in repr(one)


def test_html_is_escaped() -> None:
    text = html_table("<b>", ["<i>"], [["<script>"]], notes=["&"], warning="<x>")
    assert not re.search(r"<(i|script|x)>", text)
    assert "&lt;script&gt;" in text and "&amp;" in text


def test_errors_are_also_those_of_python() -> None:
    with pytest.raises(ValueError, match="find"):
        raise BadParameterError("Nothing to find.", "Look.")
    with pytest.raises(KeyError) as caught:
        cl.load_task("oii")
    assert str(caught.value).startswith("Unknown task 'oii'. Did you mean 'ioi'?")
