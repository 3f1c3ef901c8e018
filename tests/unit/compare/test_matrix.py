"""compare_tasks: one row per pair, corrected, flagged, in the published JSON shape."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from circuitlab.circuits import TopK
from circuitlab.compare import OverlapTable, compare_tasks, overlap_null, top_k_stability
from circuitlab.errors import BadParameterError, IncompatibleError, UnknownNameError
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
    with pytest.raises(BadParameterError, match="at least two of them"):
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


def test_stability_falls_with_noise():
    rng = np.random.default_rng(1)
    mean = effect(rng)
    calm, loud = (top_k_stability(fake_scores(noisy(mean, rng, spread=s)), 6).mean for s in (0.01, 5.0))
    assert calm > 0.9
    assert loud < 0.6


def test_comparing_does_not_import_torch():
    code = "import sys, circuitlab.compare, circuitlab.circuits, circuitlab.testing.fakes; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
