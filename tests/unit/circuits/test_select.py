"""Selection rules pick what they say, tie by tie, and carry the task's fitness along."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from circuitlab.circuits import Cumulative, Significant, Threshold, TopK
from circuitlab.circuits.select import top_mask
from circuitlab.core.errors import BadParameterError, EmptyGapError, UnknownNameError
from circuitlab.core.nodes import Head
from circuitlab.scores.head_scores import HeadScores
from circuitlab.testing.fakes import fake_provenance, fake_scores

MEAN = np.array([[1.0, -3.0, 0.0], [2.0, 0.5, -0.5]])


def scores_of(mean, *, spread=0.0, n=6, ready=True):
    wiggle = np.linspace(-1, 1, n).reshape(-1, 1, 1) * spread
    return fake_scores(mean + wiggle, ready=ready)


def names(circuit):
    return [str(node) for node in circuit]


def test_top_k_by_each_ranking():
    scores = scores_of(MEAN)
    assert names(TopK(2)(scores)) == ["a0.h1", "a1.h0"]
    assert names(TopK(2, by="positive")(scores)) == ["a0.h0", "a1.h0"]
    assert names(TopK(2, by="negative")(scores)) == ["a0.h1", "a1.h2"]


def test_ties_go_to_the_earlier_head():
    values = np.random.default_rng(0).integers(0, 3, size=2000)  # enough ties to upset an unstable sort
    assert np.flatnonzero(top_mask(values.astype(float), 300)).tolist() == np.flatnonzero(values == 2)[:300].tolist()
    assert names(TopK(2)(scores_of(np.ones((2, 2))))) == ["a0.h0", "a0.h1"]


@given(arrays.arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.integers(-3, 3)), st.integers(1, 12))
def test_mask_holds_the_k_best_of_every_row(values, k):
    mask = top_mask(values, k)
    assert (mask.sum(-1) == min(k, values.shape[-1])).all()
    for row, chosen in zip(np.abs(values), mask, strict=True):
        assert chosen.all() or row[chosen].min() >= row[~chosen].max()


def test_top_k_agrees_with_scores_top():
    scores = fake_scores(np.random.default_rng(0).normal(size=(6, 4, 5)))
    assert TopK(7)(scores).nodes == {entry.node for entry in scores.top(7)}


def test_circuit_says_where_it_came_from():
    scores = scores_of(MEAN, ready=False)
    circuit = TopK(2)(scores)
    assert circuit.sources == (scores.provenance.run_id(),)
    assert circuit.rule == "top 2 attention heads by absolute mean score"
    assert circuit.universe == scores.universe
    assert not circuit.ready
    assert TopK(2)(scores_of(MEAN)).ready


def test_impossible_top_k():
    with pytest.raises(BadParameterError, match="selects nothing"):
        TopK(0)
    with pytest.raises(BadParameterError, match="more than the 6 attention heads"):
        TopK(7)(scores_of(MEAN))
    with pytest.raises(UnknownNameError, match="Did you mean 'absolute'"):
        TopK(2, by="absolut")
    with pytest.raises(UnknownNameError, match="score part"):
        TopK(2, part="mlps")(scores_of(MEAN))


def test_threshold_in_raw_units_and_fractions():
    total = np.full(6, 4.0)
    arrays_ = {"heads": np.broadcast_to(MEAN, (6, 2, 3)), "total": total, "clean": total, "corrupt": np.zeros(6)}
    scores = HeadScores.build(arrays_, fake_provenance(2, 3))
    assert names(Threshold(1.0)(scores)) == ["a0.h0", "a0.h1", "a1.h0"]
    assert names(Threshold(1.0, by="positive")(scores)) == ["a0.h0", "a1.h0"]
    assert names(Threshold(0.5, units="fraction")(scores)) == ["a0.h1", "a1.h0"]
    assert Threshold(0.5, units="fraction")(scores).rule.endswith(">= 0.5 of the total")
    assert len(Threshold(99)(scores)) == 0
    with pytest.raises(UnknownNameError, match="units"):
        Threshold(1.0, units="percent")


def test_fraction_of_an_empty_gap_is_refused():
    total = np.linspace(-1, 1, 6)
    arrays_ = {"heads": np.broadcast_to(MEAN, (6, 2, 3)), "total": total, "clean": total, "corrupt": np.zeros(6)}
    with pytest.raises(EmptyGapError):
        Threshold(0.5, units="fraction")(HeadScores.build(arrays_, fake_provenance(2, 3)))


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.4, ["a0.h1"]),  # 3 of 7
        (5 / 7, ["a0.h1", "a1.h0"]),
        (0.72, ["a0.h0", "a0.h1", "a1.h0"]),
        (1.0, ["a0.h0", "a0.h1", "a1.h0", "a1.h1", "a1.h2"]),
    ],
)
def test_cumulative_takes_the_fewest_that_reach_the_share(share, expected):
    assert names(Cumulative(share)(scores_of(MEAN))) == expected


@given(arrays.arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.integers(-5, 5)), st.floats(0.01, 1))
def test_cumulative_is_smallest(mean, share):
    size = np.abs(mean).ravel()
    chosen = Cumulative(share)(scores_of(mean))
    taken = [abs(mean[node.layer, node.head]) for node in chosen]
    assert sum(taken) >= share * size.sum() - 1e-9
    if taken:
        assert sum(sorted(taken)[1:]) < share * size.sum() and min(taken) > 0
    else:
        assert size.sum() == 0


def test_cumulative_says_what_it_took_and_refuses_no_share():
    circuit = Cumulative(0.9)(scores_of(MEAN, ready=False))
    assert circuit.rule == "fewest attention heads with 0.9 of the summed absolute mean score"
    assert not circuit.ready
    for share in (0, 1.1):
        with pytest.raises(BadParameterError, match="share of the summed effect"):
            Cumulative(share)


def test_significant_finds_sure_heads_and_leaves_dead_ones():
    values = np.random.default_rng(0).normal(size=(32, 3, 4))
    values[:, 1, 1] += 4.0
    values[:, 2, 2] -= 4.0
    values[:, 0, 0] = 0.0
    values[:, 0, 1] = 0.25  # the same on every pair: certain
    circuit = Significant(0.01)(fake_scores(values))
    assert names(circuit) == ["a0.h1", "a1.h1", "a2.h2"]


@pytest.mark.filterwarnings("error")
def test_false_discoveries_are_held_at_the_rate():
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(300):
        values = rng.normal(size=(24, 5, 8))
        values[:, 0] += 1.0
        found = Significant(0.1)(fake_scores(values)).nodes
        shares.append(np.mean([node.layer != 0 for node in found]) if found else 0.0)
    # 32 of 40 heads are null, so Benjamini-Hochberg at 0.1 holds the expected share at 0.08.
    assert np.mean(shares) == pytest.approx(0.08, abs=0.02)


def test_significance_needs_two_pairs_and_a_rate():
    with pytest.raises(BadParameterError, match="One pair"):
        Significant()(scores_of(MEAN, n=1))
    with pytest.raises(BadParameterError, match="false-discovery rate"):
        Significant(rate=5)


@pytest.mark.parametrize("rule", [TopK, Threshold, Cumulative, Significant])
def test_scores_resolved_by_mark_need_one_named(rule):
    heads = np.stack([MEAN, -2 * MEAN[::-1]])[None].repeat(4, 0) + np.linspace(0, 0.1, 4).reshape(-1, 1, 1, 1)
    per_pair = dict.fromkeys(("total", "clean", "corrupt"), np.ones(4))
    scores = HeadScores.build({"heads": heads, **per_pair}, fake_provenance(2, 3), marks=["S2", "END"])
    parameters = {TopK: {"k": 1}, Threshold: {"value": 2.9}, Cumulative: {"share": 0.3}, Significant: {"rate": 1e-3}}[rule]
    with pytest.raises(BadParameterError, match="resolved by mark"):
        rule(**parameters)(scores)
    circuit = rule(**parameters, mark="S2")(scores)
    assert Head(0, 1) in circuit
    assert circuit.rule.endswith("at S2")
    assert Head(1, 1) in rule(**parameters, mark="END")(scores)


@pytest.mark.parametrize("by", ["absolute", "positive", "negative"])
def test_the_top_is_that_of_a_stable_sort(by) -> None:
    rng = np.random.default_rng(0)
    for k in (0, 1, 7, 19, 20, 30):
        values = rng.integers(-3, 4, size=(40, 20)).astype(float)
        values[rng.random(values.shape) < 0.2] = np.nan
        key = {"absolute": -np.abs(values), "positive": -values, "negative": values}[by]
        wanted = np.zeros(values.shape, dtype=bool)
        np.put_along_axis(wanted, np.argsort(key, axis=-1, kind="stable")[:, :k], values=True, axis=-1)
        assert np.array_equal(top_mask(values, k, by), wanted)
