"""SAE-code overlap: laws on every family, planted truth with its spread, and a split over pairs that keeps the published score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.reference.code_overlap import dense_edge_counts, set_counts

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Head, Mlp
from circuitlab.methods import get_method
from circuitlab.methods.code_overlap import CodeOverlap
from circuitlab.methods.sae import Dictionary, firings, node_outputs, nodes_of
from circuitlab.methods.sae.learning import _examples
from circuitlab.metrics import LogitDiff
from circuitlab.model.sites import Site
from circuitlab.model.toy import build_planted
from circuitlab.testing.laws import LawError
from circuitlab.testing.method_laws import LAW_FAMILIES, check_method, method_laws
from circuitlab.testing.tiny import tiny_batch, tiny_model
from circuitlab.workflows.planted import grade
from circuitlab.workflows.score import run_checks

METRIC = LogitDiff()
QUICK = CodeOverlap(epochs=20, trials=2)
FORMS = [
    {},
    {"normalise": True},
    {"softmax": "nodes"},
    {"softmax": "across_layer"},
    {"level": "edges"},
    {"level": "edges", "normalise": True},
    {"parts": ("heads", "mlps")},
]


@pytest.mark.some(3)
@pytest.mark.parametrize("family", LAW_FAMILIES)
def test_every_law_holds(family: str) -> None:
    names = {law.name.partition(" [")[0] for law in check_method(QUICK, families=(family,))}
    assert {"batch size: every pair twice leaves the means", "planted: heads that write have positive scores, dead ones 0"} <= names


@pytest.mark.parametrize(
    "form", [{"normalise": True, "parts": ("heads", "mlps")}, {"softmax": "across_layer"}, {"level": "edges"}], ids=str
)
def test_laws_hold_for_the_published_options(form) -> None:
    """A softmax gives dead heads a share too; at the level of edges a head that writes may stand in no listed edge."""
    broken = {law.name.partition(" [")[0] for law in method_laws(replace(QUICK, **form), ("llama",)) if not law.ok}
    meant = set() if "normalise" in form else {"planted: heads that write have positive scores, dead ones 0"}
    if "softmax" in form:
        meant.add("dead head: W_O = 0 scores 0")
    assert broken <= meant, broken


def test_laws_of_pooled_and_acausal_methods_can_fail() -> None:
    class Counting(CodeOverlap):
        fault = "double"

        def __call__(self, model, batch, metric):
            good = CodeOverlap.__call__(self, model, batch, metric)
            data = good.dataset.copy(deep=True)
            data["heads"].values[:] += batch.n_pairs if self.fault == "double" else float(good.dataset["clean"].values.mean())
            return replace(good, dataset=data)

    with pytest.raises(LawError, match="every pair twice"):
        check_method(Counting(epochs=5, trials=1), families=("llama",))
    Counting.fault = "scale"
    with pytest.raises(LawError, match="doubled logits leave the scores"):
        check_method(Counting(epochs=5, trials=1), families=("llama",))


@pytest.fixture(scope="module")
def tiny():
    model = tiny_model("llama")
    return model, tiny_batch(model, 6, unequal=True)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_mean_over_pairs_is_the_published_score(form, tiny) -> None:
    model, batch = tiny
    method = replace(QUICK, trials=3, **form)
    scores, sample = method(model, batch, METRIC), method.sample(model, batch)
    columns = 4 + ("mlps" in method.parts)
    wanted = np.mean([_published(sample.positive[t, :, 0], sample.negative[t, :, 0], method, columns) for t in range(3)], axis=0)
    found = scores.mean() if columns == 4 else np.concatenate([scores.mean(), scores.mean("mlps")[:, None]], axis=1)
    np.testing.assert_allclose(found, wanted.reshape(found.shape), atol=1e-9)
    assert (scores.values("heads") >= 0).all()
    np.testing.assert_allclose(scores.dataset["total"].values.mean(), wanted.sum())
    assert scores.provenance.units != "logits"


def _published(ours, theirs, method, columns) -> np.ndarray:
    """Node scores of one trial from the definitions, pair by pair of nodes and layer by layer."""
    if method.level == "nodes":
        score = np.array(set_counts(ours, theirs, normalise=method.normalise))
    else:
        edges = dense_edge_counts(ours + 1, theirs + 1, int(max(ours.max(), theirs.max())) + 2, normalise=method.normalise)
        left, score = columns**2 / 2, np.zeros(len(edges))
        for level in sorted({float(strength) for strength in edges.ravel() if strength > 0}, reverse=True):
            tied = np.argwhere(np.isclose(edges, level))  # each edge twice, in both directions
            share = min(1.0, left / (2 * len(tied)))
            for node in tied.ravel():
                score[node] += share
            left -= share * 2 * len(tied)
    rows = score.reshape(-1, columns) if method.softmax == "across_layer" else score[None]
    return score if method.softmax == "none" else (np.exp(rows) / np.exp(rows).sum(1, keepdims=True)).ravel()


@pytest.mark.parametrize("form", ["gqa", pytest.param("mha", marks=pytest.mark.every)])
def test_the_planted_blocker_is_found_by_every_seed(form) -> None:
    """The blocked prompts hold a stop token and the clean ones do not: two heads write what the other side never holds."""
    planted = build_planted(f"blocker-{form}")
    found = [grade(CodeOverlap(seed=seed), planted, seeds=2) for seed in range(3)]
    areas = [one.auroc["mean"] for one in found]
    assert found[0].visible and areas[0] >= 0.99
    assert np.mean(areas) >= 0.95 and min(areas) >= 0.9, areas
    alone = CodeOverlap().sample(planted.model, planted.batch(8)).aurocs(planted.nodes)
    assert alone.shape == (5,) and 0.7 < alone.mean() <= 1, "one autoencoder alone does worse than five"


def test_spread_agreement_and_p_values_of_the_planted_blocker() -> None:
    planted = build_planted("blocker-mha")
    sample = CodeOverlap(trials=4, epochs=200).sample(planted.model, planted.batch(16))
    mean, deviation = sample.spread()
    best = sample.nodes.index(Head(0, 1))
    assert mean[best] >= 1 and deviation.shape == mean.shape
    p, q = sample.p_values(permutations=500), sample.q_values(permutations=500)
    assert p[best] < 0.01 and (q >= p).all()
    assert sample.agreement() > 0
    edges = sample.edges()
    assert edges.shape == (8, 8) and (np.diag(edges) == 0).all()
    ours, theirs = sample.codes_of(Head(0, 1))
    shared = sample.sharing(Head(0, 1))
    assert all((ours[clean] == code).all() and (theirs[corrupt] == code).all() for code, (clean, corrupt) in shared.items())
    assert sum(len(clean) for clean, _ in shared.values()) == 16
    assert not set(ours) & set(theirs), "seeing a stop token is a code of its own"
    with pytest.raises(UnknownNameError, match="node"):
        sample.codes_of(Head(7, 0))
    with pytest.raises(UnknownNameError, match="place"):
        sample.counts("END")


def test_codes_by_a_given_dictionary(tiny) -> None:
    model, batch = tiny
    width = model.spec.d_model
    given = Dictionary(torch.eye(width), torch.zeros(width), torch.eye(width), torch.zeros(width))
    sample = QUICK.sample(model, batch, [given])
    outputs = node_outputs(model, batch.clean, batch.end)
    np.testing.assert_array_equal(sample.positive[0], outputs.argmax(-1).numpy())
    assert np.isnan(sample.spread()[1]).all() and np.isnan(sample.agreement())


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gemma3"])
def test_contributions_are_what_is_added_to_the_stream(family: str) -> None:
    """All heads of a layer, and the output bias after its norm, add up to the attention output; so does each MLP, place by place."""
    model = tiny_model(family)
    batch = tiny_batch(model, 3, unequal=True)
    places = [None, batch.end, batch.mark("CHANGE")]
    found = node_outputs(model, batch.clean, batch.end, places, mlps=True)
    assert found.shape == (3, 3, len(nodes_of(model.spec, mlps=True)), model.spec.d_model)
    read = model.capture(batch.clean, [Site.ATTN_OUT, Site.MLP_OUT])
    for layer in range(model.spec.n_layers):
        nodes = [i for i, node in enumerate(nodes_of(model.spec, mlps=True)) if isinstance(node, Head) and node.layer == layer]
        bias = model.weights.output_bias(layer)
        heads = found[:, :, nodes].sum(2) + (0 if bias is None else bias)
        mlp = found[:, :, nodes_of(model.spec, mlps=True).index(Mlp(layer))]
        for site, got in ((Site.ATTN_OUT, heads), (Site.MLP_OUT, mlp)):
            for row in range(3):
                real = read[site][row, layer, : int(batch.end[row]) + 1]
                wanted = [real.mean(0), real[-1], real[int(batch.mark("CHANGE")[row])]]
                torch.testing.assert_close(got[row], torch.stack(wanted), atol=1e-4, rtol=1e-4)


def test_marks_give_a_score_each(tiny) -> None:
    model, batch = tiny
    scores = replace(QUICK, positions=("CHANGE", "END"))(model, batch, METRIC)
    assert scores.marks == ("CHANGE", "END")
    assert scores.values("heads").shape == (6, 2, 3, 4)
    with pytest.raises(UnknownNameError, match="Did you mean 'CHANGE'"):
        replace(QUICK, positions=("CHANG",))(model, batch, METRIC)


def test_examples_are_drawn_by_content(tiny) -> None:
    _, batch = tiny
    tokens, end = torch.cat([batch.clean, batch.corrupt, batch.clean]), torch.cat([batch.end] * 3)
    drawn = [tuple(tokens[i].tolist()) for i in _examples(tokens, end, 5, seed=0)]
    assert len(set(drawn)) == 5
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))
    assert [tuple(tokens[order][i].tolist()) for i in _examples(tokens[order], end[order], 5, seed=0)] == drawn
    assert [tuple(tokens[i].tolist()) for i in _examples(tokens, end, 5, seed=1)] != drawn


def test_the_run_says_how_it_went(tiny) -> None:
    model, batch = tiny
    measured = QUICK(model, batch, METRIC).provenance.measured
    assert {"model_seconds", "training_seconds", "encoding_seconds", "scoring_seconds", "explained_variance"} <= set(measured)
    assert measured["explained_variance"] <= 1
    good, bad = (run_checks(replace(QUICK, epochs=epochs, rate=1e-2)(model, batch, METRIC))["dictionary"] for epochs in (300, 1))
    assert good["ok"] and good["value"] > 0.5 > bad["value"] and not bad["ok"]


def test_area_by_number_of_examples() -> None:
    planted = build_planted("blocker-gqa")
    method = replace(QUICK, trials=2, epochs=100)
    areas = method.aurocs_by_examples(planted.model, planted.batch(8), planted.nodes, [2, 10])
    assert areas.shape == (2, 2)
    np.testing.assert_array_equal(areas[1], method.sample(planted.model, planted.batch(8)).aurocs(planted.nodes))
    with pytest.raises(BadParameterError, match="does not exist"):
        method.aurocs_by_examples(planted.model, planted.batch(2), frozenset(), [2])


def test_firings_are_the_positions_that_activate_a_code() -> None:
    planted = build_planted("copy-gqa", background=0.0)
    batch = planted.batch(4)
    (dictionary,) = CodeOverlap(trials=1).sample(planted.model, batch).dictionaries
    head = Head(1, 1)
    outputs = node_outputs(planted.model, batch.clean, batch.end, [batch.end])[:, 0, nodes_of(planted.model.spec).index(head)]
    code = int(dictionary.codes(outputs)[0])
    found = firings(planted.model, batch, dictionary, head, code)
    leading = {(one.pair, one.side, one.position) for one in found if one.leads}
    assert (0, "clean", 5) in leading
    assert all(one.activation > 0 and one.text == "" for one in found)
    assert [one.activation for one in found] == sorted((one.activation for one in found), reverse=True)
    assert all(one.token == batch.clean[one.pair, one.position] for one in found if one.side == "clean")
    with pytest.raises(BadParameterError, match="has 200 units"):
        firings(planted.model, batch, dictionary, head, -1)
    with pytest.raises(UnknownNameError, match="node"):
        firings(planted.model, batch, dictionary, Head(9, 0), code)


@pytest.mark.parametrize(
    ("params", "error", "said"),
    [
        ({"level": "edge"}, UnknownNameError, "Did you mean 'edges'"),
        ({"softmax": "across_layers"}, UnknownNameError, "Did you mean 'across_layer'"),
        ({"parts": ["mlps"]}, BadParameterError, "Name heads"),
        ({"positions": ["mean", "END"]}, BadParameterError, "cannot be scored"),
        ({"trials": 0}, BadParameterError, "trials=0"),
        ({"epochs": 0}, BadParameterError, "epochs=0"),
        ({"scale": "rmss"}, UnknownNameError, "Did you mean 'rms'"),
    ],
)
def test_bad_parameters_are_refused(params, error, said) -> None:
    with pytest.raises(error, match=said):
        get_method("code_overlap", params)


@pytest.mark.real_model
def test_on_a_real_model(smollm2) -> None:
    from circuitlab.model.prepare import prepare_batch

    batch = prepare_batch(smollm2, "ioi", 4)
    scores = CodeOverlap(trials=1, epochs=10)(smollm2, batch, METRIC)
    assert scores.values("heads").shape == (4, 30, 9)
    assert scores.mean().max() > 0
