"""compare_tasks: one row per pair, corrected, flagged, in the published JSON shape."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from circuitlab.circuits import TopK
from circuitlab.circuits.select_edges import TopEdges
from circuitlab.comparison import OverlapTable, Sampling, compare_methods, compare_models, compare_tasks, jaccard, overlap_null
from circuitlab.comparison.pairwise import Comparison
from circuitlab.comparison.score_map import score_map
from circuitlab.core.errors import BadParameterError, IncompatibleError, UnknownNameError
from circuitlab.scores.edge_layout import EdgeLayout
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.scores.head_scores import HeadScores
from circuitlab.testing.fakes import fake_provenance, fake_scores

SHAPE = (4, 6)
replace = msgspec.structs.replace


def effect(rng):
    return rng.normal(size=SHAPE) ** 3


def noisy(mean, rng, n=24, spread=0.1):
    return mean + spread * rng.normal(size=(n, *SHAPE))


@pytest.fixture(scope="module")
def scores():
    rng = np.random.default_rng(0)
    shared = effect(rng)
    means = {"a": shared, "b": shared + 0.05 * effect(rng), "c": effect(rng), "d": effect(rng)}
    return {name: fake_scores(noisy(mean, rng), task=name, ready=name != "d") for name, mean in means.items()}


@pytest.fixture(scope="module")
def table(scores) -> OverlapTable:
    return compare_tasks(scores, TopK(6), n_boot=200)


def test_one_row_for_each_unordered_pair(table):
    assert [(r.task_a, r.task_b) for r in table.rows] == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert table.row("b", "a") is table.rows[0]
    with pytest.raises(UnknownNameError, match="pair of tasks"):
        table.row("a", "z")


def test_rows_hold_what_the_parts_compute(table, scores):
    row = table.row("a", "c")
    nodes = [{e.node for e in scores[name].top(6)} for name in "ac"]
    shared = len(nodes[0] & nodes[1])
    assert row.jaccard["mean"] == pytest.approx(shared / (12 - shared))
    assert row.containment == pytest.approx(shared / 6)
    assert row.shared == [str(node) for node in sorted(nodes[0] & nodes[1])]
    masks = []
    for chosen in nodes:
        mask = np.zeros(SHAPE, dtype=bool)
        mask[tuple(np.array([[n.layer, n.head] for n in chosen]).T)] = True
        masks.append(mask)
    null = overlap_null(*masks)
    assert (row.p, row.null_mean, row.null_high) == pytest.approx((null.p_value, null.mean_jaccard, null.quantile(0.95)))


def test_tasks_that_share_heads_stand_out(table):
    same, other = table.row("a", "b"), table.row("a", "c")
    assert same.jaccard["mean"] > 0.7 > other.jaccard["mean"]
    assert same.p < 0.01 < other.p
    assert same.rbo > 0.7
    assert same.spearman["mean"] > 0.7
    assert same.spearman_p < 0.01
    for row in table.rows:
        for interval in (row.jaccard, row.spearman):
            assert interval["low"] <= interval["mean"] <= interval["high"]
        assert row.p <= row.q <= 1


def test_q_is_benjamini_hochberg_over_the_rows(table):
    p = np.array([row.p for row in table.rows])
    order = np.argsort(p)
    stepped = np.minimum.accumulate((p[order] * p.size / np.arange(1, p.size + 1))[::-1])[::-1]
    expected = np.empty_like(p)
    expected[order] = np.minimum(stepped, 1)
    assert [row.q for row in table.rows] == pytest.approx(expected)


def test_a_task_the_model_cannot_do_is_flagged(table):
    assert [row.ready for row in table.rows] == [True, True, False, True, False, False]
    assert len(table.notes) == 1
    assert table.notes[0].startswith("d is not ready: ")


def test_json_shape(table):
    data = json.loads(json.dumps(table.to_dict()))
    assert data["transfer"] is None
    needed = {"task_a", "task_b", "jaccard", "containment", "rbo", "spearman", "null_mean", "p", "q"}
    assert all(needed <= set(row) for row in data["pairs"])
    assert set(data["pairs"][0]["jaccard"]) == {"mean", "low", "high"}
    assert data["notes"] == list(table.notes)
    assert len(data["circuits"]["a"]["nodes"]) == 6


def test_matrix_and_frame(table):
    square = table.matrix("jaccard")
    assert np.array_equal(square, square.T)
    assert (square.diagonal() == 1).all()
    assert square[0, 1] == table.row("a", "b").jaccard["mean"]
    assert (table.matrix("p").diagonal() == 0).all()
    with pytest.raises(UnknownNameError, match="Did you mean 'jaccard'"):
        table.matrix("jacard")
    frame = table.to_frame()
    assert len(frame) == 6
    assert frame["jaccard_low"].tolist() == [row.jaccard["low"] for row in table.rows]


def test_same_seed_same_table(table, scores):
    assert compare_tasks(scores, TopK(6), n_boot=200).rows == table.rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: replace(p, model=replace(p.model, weights="0" * 64)), "different weights"),
        (lambda p: replace(p, method="logit_attribution"), "different methods"),
        (lambda p: replace(p, params={"direction": "noising"}), "different method parameters"),
    ],
)
def test_scores_made_another_way_are_refused(scores, change, words):
    other = HeadScores(scores["b"].dataset, change(scores["b"].provenance))
    with pytest.raises(IncompatibleError, match=words):
        compare_tasks({"a": scores["a"], "b": other}, TopK(6))


def test_other_metrics_are_noted(scores):
    other = HeadScores(scores["b"].dataset, replace(scores["b"].provenance, metric="prob_diff"))
    table = compare_tasks({"a": scores["a"], "b": other}, TopK(6), n_boot=20)
    assert table.notes == ("Metrics differ (a: logit_diff, b: prob_diff); ranks are compared.",)


def test_comparisons_that_make_no_sense(scores):
    with pytest.raises(BadParameterError, match="at least two tasks"):
        compare_tasks({"a": scores["a"]})
    with pytest.raises(BadParameterError, match="by their heads"):
        compare_tasks(scores, TopK(1, part="mlps"))
    with pytest.raises(BadParameterError, match="at least two pairs"):
        compare_tasks({"a": scores["a"], "b": scores["b"].sel([0])}, TopK(6))


def test_comparison_at_a_mark():
    rng = np.random.default_rng(5)
    first, second = effect(rng), effect(rng)
    per_pair = dict.fromkeys(("total", "clean", "corrupt"), np.ones(12))
    both = {}
    for name, order in (("a", (first, second)), ("b", (first, -second[::-1]))):
        heads = np.stack([noisy(mean, rng, 12, 0.01) for mean in order], axis=1)
        both[name] = HeadScores.build({"heads": heads, **per_pair}, fake_provenance(*SHAPE), marks=["S2", "END"])
    row = compare_tasks(both, TopK(5, mark="S2"), n_boot=50).rows[0]
    assert row.jaccard["mean"] == 1
    assert compare_tasks(both, TopK(5, mark="END"), n_boot=50).rows[0].jaccard["mean"] < 1
    with pytest.raises(BadParameterError, match="resolved by mark"):
        compare_tasks(both, TopK(5))


def edge_scores(mean, rng, task="a", n=12):
    """Scores of every edge of a model of 3 layers with 4 heads that share 2 key/value heads."""
    about = fake_provenance(3, 4)
    model = replace(about.model, n_kv_heads=2)
    layout = EdgeLayout.of(model)
    values = (mean + 0.05 * rng.normal(size=(n, *layout.shape))) * layout.mask
    arrays = {"edges": values} | dict.fromkeys(("total", "clean", "corrupt"), np.ones(n))
    return EdgeScores.build(arrays, replace(about, model=model, task=replace(about.task, id=task, digest=task)))


def test_edges_are_compared_as_heads_are():
    rng = np.random.default_rng(6)
    shape = EdgeLayout.of(replace(fake_provenance(3, 4).model, n_kv_heads=2)).shape
    first = rng.normal(size=shape) ** 3
    both = {"a": edge_scores(first, rng, "a"), "b": edge_scores(first, rng, "b"), "c": edge_scores(rng.normal(size=shape) ** 3, rng, "c")}
    table = compare_tasks(both, TopEdges(15), Sampling(100, 200))
    assert table.level == "edges"
    same, other = table.row("a", "b"), table.row("a", "c")
    assert same.jaccard["mean"] == jaccard(table.circuits["a"], table.circuits["b"], "edges") > 0.8 > other.jaccard["mean"]
    assert set(same.shared) == {str(edge) for edge in table.circuits["a"].edges & table.circuits["b"].edges}
    assert same.p < 0.001 < other.p
    assert same.nulls["jaccard"]["uniform"]["mean"] < same.null_mean, "kinds of edges are no evidence"
    assert compare_tasks(both, None, Sampling(20, 20)).rule.startswith("top 100 edges")


def test_chance_exchanges_only_edges_of_one_kind():
    rng = np.random.default_rng(7)
    layout = EdgeLayout.of(replace(fake_provenance(3, 4).model, n_kv_heads=2))
    one = score_map(edge_scores(rng.normal(size=layout.shape), rng))
    kinds = {}
    for i, stratum in enumerate(one.strata):
        edge = one.element(i)
        kind = str(edge.sender)[:1], str(edge.receiver)[:1], *(getattr(n, "layer", None) for n in (edge.sender, edge.receiver)), edge.port
        kinds.setdefault(int(stratum), set()).add(kind)
    assert all(len(found) == 1 for found in kinds.values())
    assert len(set.union(*kinds.values())) == len(kinds)


def test_many_edges_are_resampled_where_they_can_be_picked(monkeypatch):
    rng = np.random.default_rng(8)
    mean = rng.normal(size=(40, 30)) ** 3
    maps = [score_map(fake_scores(mean + rng.normal(size=(16, 40, 30)), task=name)) for name in "ab"]
    whole = Comparison(*maps, 20, "absolute", Sampling(300, 100)).intervals()
    monkeypatch.setattr("circuitlab.comparison.pairwise._FEW", 200)
    some = Comparison(*maps, 20, "absolute", Sampling(300, 100))
    assert some._reachable().size < 900
    for end in ("low", "high"):
        assert some.intervals()["jaccard"][end] == pytest.approx(whole["jaccard"][end], abs=0.06)


def test_methods_on_one_task(scores):
    other = replace(scores["a"].provenance, method="relp", params={})
    methods = {"activation_patching": scores["a"], "relp": HeadScores(scores["a"].dataset * 2, other)}
    table = compare_methods(methods, TopK(6), Sampling(100, 100))
    assert (table.over, table.method) == ("method", "activation_patching, relp")
    (row,) = table.rows
    assert row.jaccard == {"mean": 1, "low": row.jaccard["low"], "high": 1}
    assert row.spearman["mean"] == pytest.approx(1)
    with pytest.raises(UnknownNameError, match="pair of methods"):
        table.row("relp", "eap")
    with pytest.raises(IncompatibleError, match="different tasks"):
        compare_methods({"a": scores["a"], "b": scores["b"]}, TopK(6))
    with pytest.raises(BadParameterError, match="at least two methods"):
        compare_methods({"a": scores["a"]})


def test_pairs_of_the_same_prompts_share_their_noise():
    rng = np.random.default_rng(9)
    first = effect(rng) + 2 * rng.normal(size=(16, *SHAPE))
    second = first + 0.01 * rng.normal(size=first.shape)
    width = {}
    for task in ("a", "b"):
        maps = [score_map(fake_scores(values, task=name)) for values, name in ((first, "a"), (second, task))]
        found = Comparison(*maps, 6, "absolute", Sampling(200, 50)).intervals()["jaccard"]
        width[task] = found["high"] - found["low"]
    assert width["a"] < width["b"]


def test_models_of_equal_shape(scores):
    model = scores["a"].provenance.model
    tuned = HeadScores(scores["a"].dataset, replace(scores["a"].provenance, model=replace(model, weights="1" * 64, name="tuned")))
    table = compare_models({"base": scores["a"], "tuned": tuned}, TopK(6), Sampling(50, 50))
    assert (table.over, table.model) == ("model", "fake, tuned")
    assert table.rows[0].jaccard["mean"] == 1
    larger = fake_scores(np.ones((5, 4, 7)), task="a")
    with pytest.raises(IncompatibleError, match="equal shape"):
        compare_models({"base": scores["a"], "larger": larger}, TopK(6))


def test_the_null_model_is_the_one_asked_for(scores):
    both = {name: scores[name] for name in "ab"}
    for null in ("layer_stratified", "uniform", "within_layer_scores"):
        (row,) = compare_tasks(both, TopK(6), Sampling(20, 99, null=null)).rows
        assert row.null == null
        assert {"mean": row.null_mean, "high": row.null_high, "p": row.p} == row.nulls["jaccard"][null]
    with pytest.raises(UnknownNameError, match="Did you mean 'uniform'"):
        Sampling(null="unifrom")


def test_rows_have_intervals_of_every_measure(table):
    for row in table.rows:
        assert set(row.intervals) == {"jaccard", "containment", "containment_b", "overlap_coefficient", "spearman"}
        for limits in row.intervals.values():
            assert limits["low"] <= limits["mean"] <= limits["high"]
        assert row.intervals["containment"]["mean"] == row.containment
        assert row.jaccard == row.intervals["jaccard"]


def test_scores_of_nodes_and_edges_do_not_mix(scores):
    rng = np.random.default_rng(10)
    edges = edge_scores(rng.normal(size=EdgeLayout(3, 4, 2).shape), rng)
    with pytest.raises(IncompatibleError, match="some of nodes"):
        compare_tasks({"a": scores["a"], "b": edges})
    with pytest.raises(BadParameterError, match="does not select"):
        compare_tasks({"a": edges, "b": edges}, TopK(3))
    with pytest.raises(BadParameterError, match="does not select"):
        compare_tasks({"a": scores["a"], "b": scores["b"]}, TopEdges(3))


def test_containment_has_a_direction(table):
    square = table.matrix("containment")
    row = table.row("a", "c")
    assert (square[0, 2], square[2, 0]) == (row.containment, row.containment_b)


def test_comparing_does_not_import_torch():
    code = "import sys, circuitlab.comparison, circuitlab.circuits, circuitlab.testing.fakes; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
