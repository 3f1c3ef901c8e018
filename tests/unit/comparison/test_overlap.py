"""Overlap of sets and agreement of rankings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from circuitlab.circuits import Circuit
from circuitlab.comparison import containment, jaccard, overlap_coefficient, rank_biased_overlap, spearman
from circuitlab.comparison.overlap import set_overlaps
from circuitlab.comparison.ranks import score_overlap
from circuitlab.core.errors import BadParameterError, IncompatibleError, UnknownNameError
from circuitlab.core.nodes import Head, Universe, parse_edge

UNIVERSE = Universe(3, 4, 4)
circuits = st.frozensets(st.sampled_from(list(UNIVERSE.heads()))).map(lambda nodes: Circuit(nodes, UNIVERSE))


@given(circuits, circuits)
def test_jaccard_is_symmetric_and_bounded(a, b):
    assume(a.nodes or b.nodes)
    value = jaccard(a, b)
    assert value == jaccard(b, a)
    assert 0 <= value <= 1
    assert (value == 1) == (a.nodes == b.nodes)
    assert (value == 0) == a.nodes.isdisjoint(b.nodes)


@given(circuits, circuits)
def test_containment_and_overlap_coefficient_are_at_least_jaccard(a, b):
    assume(a.nodes and b.nodes)
    value = overlap_coefficient(a, b)
    assert jaccard(a, b) <= value == overlap_coefficient(b, a) == max(containment(a, b), containment(b, a)) <= 1
    assert jaccard(a, b) <= min(containment(a, b), containment(b, a))
    assert (value == 1) == (a.nodes <= b.nodes or b.nodes <= a.nodes)
    assert (containment(a, b) == 1) == (a.nodes <= b.nodes)


@given(circuits, circuits)
def test_measures_of_masks_are_those_of_circuits(a, b):
    assume(a.nodes and b.nodes)
    one, two = (np.array([node in circuit for node in UNIVERSE.heads()]) for circuit in (a, b))
    found = set_overlaps(one, two)
    assert found["jaccard"] == jaccard(a, b)
    assert (found["containment"], found["containment_b"]) == (containment(a, b), containment(b, a))
    assert found["overlap_coefficient"] == overlap_coefficient(a, b)


def test_overlap_of_edges():
    a, b, c = (parse_edge(text) for text in ("embed->a0.h1<q>", "a0.h1->a1.kv0<k>", "a0.h1->logits"))
    one, two = (Circuit(frozenset({Head(0, 1)}), UNIVERSE, frozenset(edges)) for edges in ((a, b, c), (b,)))
    assert jaccard(one, two) == 1
    assert jaccard(one, two, "edges") == pytest.approx(1 / 3)
    assert (containment(one, two, "edges"), containment(two, one, "edges")) == (pytest.approx(1 / 3), 1)
    assert overlap_coefficient(one, two, "edges") == 1
    with pytest.raises(BadParameterError, match="no edges to compare"):
        jaccard(one, Circuit(one.nodes, UNIVERSE), "edges")
    with pytest.raises(UnknownNameError, match="Did you mean 'edges'"):
        jaccard(one, two, "edge")


def test_known_overlap():
    a = Circuit(frozenset(map(Head, [0, 0, 0], [0, 1, 2])), UNIVERSE)
    b = Circuit(frozenset(map(Head, [0, 0], [2, 3])), UNIVERSE)
    assert jaccard(a, b) == pytest.approx(1 / 4)
    assert containment(a, b) == pytest.approx(1 / 3)
    assert containment(b, a) == overlap_coefficient(a, b) == pytest.approx(1 / 2)


def test_empty_and_foreign_circuits_are_refused():
    empty, one = Circuit(frozenset(), UNIVERSE), Circuit(frozenset({Head(0, 0)}), UNIVERSE)
    assert jaccard(empty, one) == 0
    with pytest.raises(BadParameterError, match="Two empty"):
        jaccard(empty, empty)
    with pytest.raises(BadParameterError, match="no containment"):
        containment(empty, one)
    assert containment(one, empty) == 0
    with pytest.raises(BadParameterError, match="no overlap coefficient"):
        overlap_coefficient(one, empty)
    for measure in (jaccard, containment, overlap_coefficient):
        with pytest.raises(IncompatibleError):
            measure(one, Circuit(frozenset({Head(0, 0)}), Universe(3, 4, 2)))


def slow_rbo(first, second, p):
    """Webber, Moffat and Zobel (2010), equation 32, set by set."""
    n = len(first)
    agreement = [len(set(first[:d]) & set(second[:d])) / d for d in range(1, n + 1)]
    return agreement[-1] * p**n + (1 - p) / p * sum(a * p**d for d, a in enumerate(agreement, 1))


@given(st.permutations(range(9)), st.permutations(range(9)), st.floats(0.05, 0.99))
def test_rank_biased_overlap_matches_its_definition(first, second, p):
    value = rank_biased_overlap(first, second, p=p)
    assert value == pytest.approx(slow_rbo(first, second, p))
    assert value == pytest.approx(rank_biased_overlap(second, first, p=p))


def test_rank_biased_overlap_of_equal_and_of_disjoint_tops():
    n = 4000
    assert rank_biased_overlap(np.arange(n), np.arange(n)) == pytest.approx(1)
    assert rank_biased_overlap(np.arange(n), np.arange(n)[::-1]) == pytest.approx(0, abs=1e-12)


def test_rank_biased_overlap_weighs_the_top_most():
    base = np.arange(100)
    top, tail = base.copy(), base.copy()
    top[[0, 1]], tail[[98, 99]] = top[[1, 0]], tail[[99, 98]]
    assert rank_biased_overlap(base, top) < rank_biased_overlap(base, tail) - 0.01


def test_rank_biased_overlap_of_scores_is_that_of_their_rankings():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 30)), rng.normal(size=(7, 30))
    x[:, 3:6] = 1.0  # ties go to the earlier node
    expected = [rank_biased_overlap(np.argsort(-a, kind="stable"), np.argsort(-b), p=0.8) for a, b in zip(x, y, strict=True)]
    assert score_overlap(x, y, p=0.8) == pytest.approx(expected)
    one_to_many = [rank_biased_overlap(np.argsort(-x[0], kind="stable"), np.argsort(-b), p=0.8) for b in y]
    assert score_overlap(x[:1], y, p=0.8) == pytest.approx(one_to_many)


@pytest.mark.parametrize(("second", "p"), [([0, 1], 0.9), ([0, 1, 3], 0.9), ([0, 0, 1], 0.9), ([2, 1, 0], 1.0), ([2, 1, 0], 0.0)])
def test_rankings_that_cannot_be_compared(second, p):
    with pytest.raises(BadParameterError, match="cannot be compared"):
        rank_biased_overlap([0, 1, 2], second, p=p)


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=20))
def test_spearman_matches_scipy_also_with_ties(pairs):
    x, y = np.array(pairs, dtype=float).T
    ours = spearman(x, y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(ours)
    else:
        assert ours == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_spearman_works_along_the_last_axis():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 20)), rng.normal(size=(5, 20))
    assert spearman(x, y) == pytest.approx([stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)])
    with pytest.raises(IncompatibleError, match="20 and 19"):
        spearman(x, y[:, 1:])
