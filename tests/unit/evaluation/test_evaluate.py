"""Evaluations find the planted circuit faithful and random ones not; ends are exact, p-values calibrated, both levels agree."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from circuitlab.circuits import Circuit
from circuitlab.circuits.chance import p_value, random_masks
from circuitlab.circuits.curves import FaithfulnessScale
from circuitlab.core.errors import BadParameterError, EmptyGapError, IncompatibleError, UnknownNameError
from circuitlab.core.nodes import Embed, Head, KVHead, Mlp, Universe, parse_edge
from circuitlab.evaluation import EdgeCircuitRunner, Evaluate, NodeCircuitRunner
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.eap import EdgeAttributionPatching
from circuitlab.metrics import KLDivergence, LogitDiff
from circuitlab.model.toy import planted_model
from circuitlab.testing.tiny import shared_tiny_model, tiny_batch, tiny_model

METRIC = LogitDiff()
SHAPE = Universe(3, 4, 2)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


def random_of(runs, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, len(runs.elements))) < 0.5


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize("ablation", ["resample", "zero", "mean", "mean_by_mark"])
@pytest.mark.parametrize("build", [NodeCircuitRunner, EdgeCircuitRunner])
def test_the_full_model_scores_one_and_the_empty_circuit_zero(family, ablation, build) -> None:
    model = shared_tiny_model(family)
    batch = tiny_batch(model, 3, unequal=True)
    runs = build(model, batch, METRIC, ablation=ablation)
    full, empty = runs.metric_of(np.array([[True], [False]]).repeat(len(runs.elements), 1))
    np.testing.assert_allclose(full, METRIC(model.logits(batch.clean, batch.end), batch), atol=1e-5)
    ends = FaithfulnessScale(full, empty)
    assert ends.draws(np.stack([full, empty]))[:, 0].tolist() == [1.0] * (ends.n_resamples + 1)
    assert not ends.draws(np.stack([full, empty]))[:, 1].any()
    if build is EdgeCircuitRunner and ablation == "resample":
        np.testing.assert_allclose(empty, METRIC(model.logits(batch.corrupt, batch.end), batch), atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("ablation", ["resample", "zero", "mean_by_mark"])
def test_nodes_are_edges_whose_senders_are_in_the_circuit(family, ablation) -> None:
    """Where no norm mixes the heads of a layer: an ablated node writes its ablated value to every receiver."""
    model = shared_tiny_model(family)
    batch = tiny_batch(model, 3, unequal=True)
    nodes = NodeCircuitRunner(model, batch, METRIC, ("heads", "mlps"), ablation)
    edges = EdgeCircuitRunner(model, batch, METRIC, ablation)
    masks = random_of(nodes, 4)
    place = {node: i for i, node in enumerate(nodes.elements)}
    senders = [place.get(edge.sender) for edge in edges.elements]
    wide = np.stack([[True if i is None else mask[i] for i in senders] for mask in masks])
    found = nodes.metric_of(masks)
    assert np.ptp(found, axis=0).min() > 1e-3
    np.testing.assert_allclose(edges.metric_of(wide), found, atol=1e-5)


@pytest.mark.real_model
def test_nodes_are_such_edges_on_the_real_model(smollm2) -> None:
    from circuitlab.model.prepare import prepare_batch

    batch = prepare_batch(smollm2, "ioi", 1)
    nodes, edges = (build(smollm2, batch, METRIC) for build in (NodeCircuitRunner, EdgeCircuitRunner))
    nodes = replace(nodes, parts=("heads", "mlps"))
    place = {node: i for i, node in enumerate(nodes.elements)}
    (mask,) = np.random.default_rng(0).random((1, len(place))) < 0.8
    wide = [edge.sender not in place or mask[place[edge.sender]] for edge in edges.elements]
    (found,) = nodes.metric_of(mask[None])
    assert min(abs(found - end).max() for end in nodes.full_and_empty) > 0.1
    np.testing.assert_allclose(edges.metric_of(np.array([wide]))[0], found, atol=1e-3)


@pytest.mark.parametrize("ablation", ["resample", "mean"])
def test_engines_agree(llama, ablation) -> None:
    batch = tiny_batch(llama, 3, unequal=True)
    fast, slow = (NodeCircuitRunner(llama, batch, METRIC, ("heads", "mlps"), ablation, engine=engine) for engine in ("exact", "hooks"))
    masks = random_of(fast, 4)
    np.testing.assert_allclose(fast.metric_of(masks), slow.metric_of(masks), atol=1e-5)


def test_circuits_do_not_depend_on_their_company(llama) -> None:
    batch = tiny_batch(llama, 5, unequal=True)
    for runs in (NodeCircuitRunner(llama, batch, METRIC), EdgeCircuitRunner(llama, batch, METRIC)):
        masks = random_of(runs, 5)
        together = runs.metric_of(np.concatenate([masks, masks[::-1]]))
        np.testing.assert_array_equal(together[:5], together[5:][::-1])
        np.testing.assert_allclose(runs.metric_of(masks[2:3]), together[2:3], atol=1e-5)


@pytest.mark.parametrize("build", [NodeCircuitRunner, EdgeCircuitRunner])
def test_the_ends_are_run_once_and_with_the_first_circuits(llama, build, monkeypatch) -> None:
    asked = []
    plain = build.run
    monkeypatch.setattr(build, "run", lambda self, masks: (asked.append(len(masks)), plain(self, masks))[1])
    runs = build(llama, tiny_batch(llama, 3), METRIC)
    masks = random_of(runs, 3)
    found = runs.metric_of(np.concatenate([masks, masks[:1], np.zeros_like(masks[:1])]))
    assert asked == [5]
    np.testing.assert_array_equal(found[3], found[0])
    np.testing.assert_array_equal(found[4], runs.full_and_empty[1])
    runs.metric_of(random_of(runs, 2, seed=1))
    assert asked == [5, 2]


def test_a_metric_that_compares_with_the_clean_run(llama) -> None:
    runs = NodeCircuitRunner(llama, tiny_batch(llama, 3), KLDivergence())
    full, empty = runs.full_and_empty
    np.testing.assert_allclose(full, 0, atol=1e-6)
    assert (empty < -1e-4).all()


def test_the_planted_circuit_is_faithful_and_random_ones_are_not() -> None:
    planted = planted_model()
    model, batch = planted.model, planted.batch(12)
    scores = ActivationPatching()(model, planted.batch(8, seed=1), METRIC)
    circuit = Circuit(planted.helpers | planted.hinderers, scores.universe)
    found = Evaluate(n_random=60)(circuit, model, batch, METRIC, scores)
    said = found.to_dict()
    assert said["faithfulness"]["mean"] == pytest.approx(1, abs=0.1)
    assert said["faithfulness"]["low"] <= said["faithfulness"]["mean"] <= said["faithfulness"]["high"]
    assert (said["full"]["faithfulness"], said["empty"]["faithfulness"]) == (1.0, 0.0)
    # A random pair of heads is as faithful if it holds the helper, and not the hinderer alone: 7 of 28 pairs.
    assert np.median(found.random_faithfulness) == pytest.approx(0, abs=0.05)
    assert said["random"]["n"] == 60
    assert said["completeness"]["mean"] == pytest.approx(0, abs=0.1)
    losses = {row["node"]: row["mean"] for row in said["minimality"]["elements"]}
    assert losses["a1.h1"] > 1
    assert losses["a1.h2"] < 0, "the hinderer lowers the metric, so that it rises without it"
    assert found.curves["positive"].faithfulness().mean[-1] == 1
    helper = Evaluate(n_random=60)(Circuit(planted.helpers, scores.universe), model, batch, METRIC).to_dict()
    assert helper["faithfulness"]["mean"] > 1.3, "overshoot is not clamped"
    assert helper["random"]["p"] < 0.3
    assert helper["cpr"] is None and helper["curve"] is None, "nothing ranked the nodes"
    loud = Evaluate(n_random=60)(Circuit(planted.distractors, scores.universe), model, batch, METRIC).to_dict()
    assert loud["faithfulness"]["mean"] == pytest.approx(0, abs=0.05)


def test_edges_that_act_at_one_position_are_as_faithful_there_alone() -> None:
    """The movers read the query at END and the answer is read there: kept there alone, their edges do the same."""
    planted = planted_model()
    model, batch = planted.model, planted.batch(6)
    reads = [parse_edge(name) for name in ("a1.h1->logits", "a1.h2->logits")]
    names = ["embed->a1.kv0<v>", "embed->a1.kv0<k>", "embed->a1.kv1<v>", "embed->a1.kv1<k>"]
    circuit = Circuit(frozenset(), Universe(2, 4, 2), frozenset([*reads, *map(parse_edge, names)]))
    few = Evaluate(n_random=0, n_subsets=0)
    everywhere = few(circuit, model, batch, METRIC).to_dict()
    at_end = replace(few, keep_at=dict.fromkeys(reads, ("END",)))(circuit, model, batch, METRIC).to_dict()
    assert at_end["faithfulness"]["mean"] == pytest.approx(everywhere["faithfulness"]["mean"], abs=1e-5)
    assert "2 edges are kept at their marks only" in at_end["conventions"]["ablated_at"]
    nowhere = replace(few, keep_at=dict.fromkeys(reads, ()))(circuit, model, batch, METRIC).to_dict()
    assert nowhere["faithfulness"]["mean"] == pytest.approx(0, abs=0.05)


def test_the_planted_edges_are_faithful() -> None:
    planted = planted_model()
    model, batch = planted.model, planted.batch(6)
    scores = EdgeAttributionPatching().edges(model, batch, METRIC)
    names = ["embed->a1.kv0<v>", "embed->a1.kv0<k>", "a1.h1->logits", "a1.h2->logits", "embed->a1.kv1<v>", "embed->a1.kv1<k>"]
    circuit = Circuit(frozenset(), Universe(2, 4, 2), frozenset(map(parse_edge, names)))
    found = Evaluate(n_random=40)(circuit, model, batch, METRIC, scores).to_dict()
    assert found["faithfulness"]["mean"] == pytest.approx(1, abs=0.1)
    assert found["random"]["p"] == 1 / 41
    assert {row["edge"] for row in found["minimality"]["elements"]} == set(names)
    assert found["conventions"]["level"] == "edges"


def test_p_values_are_calibrated_under_the_null(llama) -> None:
    runs = NodeCircuitRunner(llama, tiny_batch(llama, 3), METRIC)
    n = len(runs.elements)
    every = np.zeros((495, n), dtype=bool)
    for row, chosen in zip(every, itertools.combinations(range(n), 4), strict=True):
        row[list(chosen)] = True
    values = FaithfulnessScale(*runs.full_and_empty, n_resamples=1).draws(runs.metric_of(every))[0]
    known = {row.tobytes(): value for row, value in zip(every, values, strict=True)}
    found = []
    for trial in range(600):
        null, *reference = random_masks(every[0], runs.strata, 40, seed=trial)
        found.append(p_value(known[null.tobytes()], np.array([known[one.tobytes()] for one in reference])))
    for level in (0.05, 0.1, 0.25, 0.5, 0.75):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=0.055)


def test_the_document_and_its_measures(llama) -> None:
    batch = tiny_batch(llama, 4, unequal=True)
    scores = ActivationPatching()(llama, batch, METRIC)
    circuit = Circuit(frozenset({Head(0, 1), Head(2, 3), Mlp(1), Embed()}), SHAPE)
    settings = Evaluate(n_random=7, n_subsets=3, fractions=(0.1, 0.5, 1.0), matching="layer")
    found = settings(circuit, llama, batch, METRIC, scores)
    said = found.to_dict()
    wanted = {"faithfulness", "completeness", "minimality", "cpr", "cmd", "conventions", "random", "curve", "size", "full", "empty"}
    assert wanted <= set(said)
    assert said["size"] == {"elements": 3, "universe": 15}
    assert said["conventions"]["universe"] == "heads and mlps"
    assert [row["size"] for row in said["curve"]["signed"]] == [1, 7, 15]
    assert said["curve"]["absolute"][-1]["mean"] == 1
    full, empty = found.scale.full.mean(), found.scale.empty.mean()
    whole = found.values["circuit"].mean()
    assert said["faithfulness"]["mean"] == pytest.approx((whole - empty) / (full - empty))
    assert [row["node"] for row in said["minimality"]["elements"]] == ["a0.h1", "a2.h3", "m1"]
    less = NodeCircuitRunner(llama, batch, METRIC, ("heads", "mlps")).metric_of(_mask(llama, {Head(2, 3), Mlp(1)}))[0].mean()
    assert said["minimality"]["elements"][0]["mean"] == pytest.approx((whole - less) / (full - empty), abs=1e-5)
    apart = (found.values["random/circuit"] - found.values["random/model"]).mean(1) / (full - empty)
    assert said["completeness"]["mean"] == pytest.approx(np.abs(apart).mean())
    assert said["completeness"]["worst"] == pytest.approx(np.abs(apart).max())
    assert all(set(row["removed"]) <= {"a0.h1", "a2.h3", "m1"} for row in said["completeness"]["subsets"])
    assert settings(circuit, llama, batch, METRIC, scores).to_dict() == said, "the same again"


def test_classes_and_greedy_subsets(llama) -> None:
    batch = tiny_batch(llama, 3)
    nodes = frozenset({Head(0, 1), Head(1, 2), Head(2, 0), Head(2, 3)})
    circuit = Circuit(nodes, SHAPE)
    classes = {"late": frozenset({Head(2, 0), Head(2, 3), Head(2, 1)}), "early": frozenset({Head(0, 1)})}
    found = Evaluate(n_random=0, n_subsets=0, classes=classes, n_greedy=2)(circuit, llama, batch, METRIC)
    said = found.to_dict()["completeness"]
    assert [(row["name"], row["removed"]) for row in said["classes"]] == [("late", ["a2.h0", "a2.h3"]), ("early", ["a0.h1"])]
    runs = NodeCircuitRunner(llama, batch, METRIC)
    mask = runs.mask_of(circuit)
    apart = {}
    for size in (1, 2):
        for chosen in itertools.combinations(sorted(nodes), size):
            lost = runs.mask_of(Circuit(frozenset(chosen), SHAPE))
            left, whole = runs.metric_of(np.stack([mask & ~lost, ~lost])).mean(1)
            apart[chosen] = (left - whole) / (found.scale.full.mean() - found.scale.empty.mean())
    first, second = said["greedy"]
    best = max((key for key in apart if len(key) == 1), key=lambda key: abs(apart[key]))
    assert first["removed"] == [str(best[0])]
    pair = max((key for key in apart if len(key) == 2 and best[0] in key), key=lambda key: abs(apart[key]))
    assert second["removed"] == list(map(str, pair))
    assert second["difference"] == pytest.approx(apart[pair], abs=1e-4)


def _mask(model, nodes) -> np.ndarray:
    runs = NodeCircuitRunner(model, tiny_batch(model, 1), METRIC, ("heads", "mlps"))
    return runs.mask_of(Circuit(frozenset(nodes), SHAPE))[None]


def test_measures_can_be_left_out(llama) -> None:
    circuit = Circuit(frozenset({Head(0, 1), Head(2, 3)}), SHAPE)
    said = Evaluate(n_random=0, n_subsets=0, most_elements=1)(circuit, llama, tiny_batch(llama, 2), METRIC).to_dict()
    assert (said["completeness"], said["minimality"], said["cpr"], said["cmd"]) == (None, None, None, None)
    assert said["random"]["n"] == 0 and said["random"]["p"] is None
    empty = Evaluate(n_random=2)(Circuit(frozenset(), SHAPE), llama, tiny_batch(llama, 2), METRIC).to_dict()
    assert empty["faithfulness"]["mean"] == 0
    assert empty["random"]["p"] == 1


def test_what_cannot_be_evaluated_is_said(llama) -> None:
    batch = tiny_batch(llama, 2)
    head = Circuit(frozenset({Head(0, 1)}), SHAPE)
    with pytest.raises(BadParameterError, match=r"a0\.kv1 lie outside the universe of heads"):
        Evaluate()(Circuit(frozenset({KVHead(0, 1)}), SHAPE), llama, batch, METRIC)
    with pytest.raises(BadParameterError, match="m1 lie outside the universe of heads"):
        Evaluate(parts=("heads",))(Circuit(frozenset({Mlp(1)}), SHAPE), llama, batch, METRIC)
    with pytest.raises(IncompatibleError, match="cannot be run in tiny-llama"):
        Evaluate()(Circuit(frozenset({Head(0, 1)}), Universe(3, 4, 4)), llama, batch, METRIC)
    with pytest.raises(EmptyGapError):
        Evaluate()(head, llama, replace(batch, corrupt=batch.clean), METRIC)
    edges = EdgeAttributionPatching().edges(llama, batch, METRIC)
    with pytest.raises(IncompatibleError, match="scores of nodes"):
        Evaluate()(head, llama, batch, METRIC, edges)
    circuit = Circuit(frozenset(), SHAPE, frozenset({parse_edge("embed->logits")}))
    with pytest.raises(IncompatibleError, match="scores of edges"):
        Evaluate()(circuit, llama, batch, METRIC, edges.to_head_scores())
    with pytest.raises(UnknownNameError, match=r"Did you mean 'a0\.h1<q>'"):
        Evaluate()(Circuit(frozenset(), SHAPE, frozenset({parse_edge("embed->a0.h1<k>")})), llama, batch, METRIC)
    with pytest.raises(BadParameterError, match="no edges"):
        EdgeCircuitRunner(llama, batch, METRIC).mask_of(head)
    with pytest.raises(BadParameterError, match="do not say which template"):
        NodeCircuitRunner(llama, batch, METRIC, ablation="mean_by_template").metric_of(np.ones((1, 12)))
    with pytest.raises(BadParameterError, match="do not fit"):
        NodeCircuitRunner(llama, batch, METRIC).metric_of(np.ones((2, 3)))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ablation": "resampl"}, "Did you mean 'resample'"),
        ({"matching": "layers"}, "Did you mean 'layer'"),
        ({"n_random": -1}, "cannot be run"),
        ({"fractions": (1.0, 0.5)}, "fractions"),
    ],
)
def test_wrong_settings_are_found_at_once(settings, says) -> None:
    with pytest.raises((BadParameterError, UnknownNameError), match=says.replace("fractions", "Fractions")):
        Evaluate(**settings)


def test_wrong_universes(llama) -> None:
    batch = tiny_batch(llama, 2)
    with pytest.raises(UnknownNameError, match="part"):
        NodeCircuitRunner(llama, batch, METRIC, ("attns",))
    with pytest.raises(BadParameterError, match="universe"):
        NodeCircuitRunner(llama, batch, METRIC, ())
    with pytest.raises(BadParameterError, match=r"keep_at names m1, outside"):
        NodeCircuitRunner(llama, batch, METRIC, keep_at={Mlp(1): ("END",)})
    with pytest.raises(UnknownNameError, match="Did you mean 'CHANGE'"):
        NodeCircuitRunner(llama, batch, METRIC, keep_at={Head(1, 1): ("CHANGED",)})
    edge = parse_edge("a0.h1->a1.kv0<k>")
    with pytest.raises(BadParameterError, match=r"keep_at names a1\.h1, and this is a circuit of edges"):
        EdgeCircuitRunner(llama, batch, METRIC, keep_at={Head(1, 1): ("END",)})
    with pytest.raises(BadParameterError, match=r"keep_at names a0\.h1->a1\.kv0<k>, outside"):
        NodeCircuitRunner(llama, batch, METRIC, keep_at={edge: ("END",)})
    with pytest.raises(UnknownNameError, match="Did you mean 'CHANGE'"):
        EdgeCircuitRunner(llama, batch, METRIC, keep_at={edge: ("CHANGED",)})
    with pytest.raises(BadParameterError, match="pairs_per_pass"):
        EdgeCircuitRunner(llama, batch, METRIC, pairs_per_pass=0)


def test_keys_of_query_heads_are_those_of_their_own_key_value_head() -> None:
    model = tiny_model("gpt2")
    runs = EdgeCircuitRunner(model, tiny_batch(model, 2), METRIC)
    universe = Universe(3, 4, 4)
    ours, theirs = (Circuit(frozenset(), universe, frozenset({parse_edge(f"a0.h2->a1.{name}3<k>")})) for name in ("kv", "h"))
    np.testing.assert_array_equal(runs.mask_of(ours), runs.mask_of(theirs))
