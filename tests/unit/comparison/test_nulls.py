"""The exact null agrees with brute force; its p-values hold their level."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from circuitlab.comparison import overlap_null, spearman_null
from circuitlab.core.errors import BadParameterError, IncompatibleError


def random_sets(rng, shape, rates):
    """Sets that crowd into the same layers but choose heads independently inside them; never empty."""
    found = rng.random((*shape,)) < np.asarray(rates)[:, None]
    found[-1, rng.integers(shape[1])] = True
    return found


def all_arrangements(mask):
    """Every set with the same number of heads in each layer."""
    layers = [list(itertools.combinations(range(mask.shape[1]), int(row.sum()))) for row in mask]
    for choice in itertools.product(*layers):
        out = np.zeros_like(mask)
        for layer, heads in enumerate(choice):
            out[layer, list(heads)] = True
        yield out


def test_exact_null_is_the_enumeration_of_all_arrangements():
    first = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], dtype=bool)
    second = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0]], dtype=bool)
    null = overlap_null(first, second)
    shared = np.array([(first & other).sum() for other in all_arrangements(second)])
    expected = np.bincount(shared, minlength=null.probabilities.size) / shared.size
    assert null.probabilities == pytest.approx(expected)
    assert null.shared == (first & second).sum() == 3
    assert null.p_value == pytest.approx((shared >= 3).mean())
    jaccards = shared / (first.sum() + second.sum() - shared)
    assert null.mean_jaccard == pytest.approx(jaccards.mean())
    assert null.quantile(0.95) == pytest.approx(np.quantile(jaccards, 0.95, method="inverted_cdf"))


def test_exact_null_matches_permutations():
    rng = np.random.default_rng(0)
    first, second = random_sets(rng, (8, 9), np.linspace(0, 0.8, 8)), random_sets(rng, (8, 9), np.linspace(0, 0.8, 8))
    null = overlap_null(first, second)
    shuffled = rng.permuted(np.broadcast_to(second, (20000, *second.shape)), axis=-1)
    shared = (first & shuffled).sum((1, 2))
    measured = np.bincount(shared, minlength=null.probabilities.size) / shared.size
    assert null.probabilities.sum() == pytest.approx(1)
    assert null.probabilities == pytest.approx(measured, abs=0.015)


def p_values(stratified):
    rng = np.random.default_rng(1)
    rates = [0.02, 0.05, 0.1, 0.6, 0.7]
    pairs = [(random_sets(rng, (5, 12), rates), random_sets(rng, (5, 12), rates)) for _ in range(2000)]
    return np.array([overlap_null(a, b, stratified=stratified).p_value for a, b in pairs])


def test_stratified_p_values_hold_their_level_when_circuits_share_layers_only():
    found = p_values(stratified=True)
    for level in (0.01, 0.05, 0.2, 0.5):
        slack = 3 * np.sqrt(level * (1 - level) / found.size)
        assert (found <= level).mean() <= level + slack
    assert (found <= 0.2).mean() > 0.08  # conservative because counts are whole, not uselessly so


def test_unstratified_null_takes_shared_layers_for_shared_heads():
    assert (p_values(stratified=False) <= 0.05).mean() > 0.5


def test_equal_circuits_are_surprising():
    same = np.zeros((6, 8), dtype=bool)
    same[::2, :3] = True
    null = overlap_null(same, same)
    assert null.p_value == pytest.approx((1 / 56) ** 3)
    assert null.jaccards[-1] == 1


def test_full_layers_carry_no_surprise():
    full = np.zeros((3, 4), dtype=bool)
    full[1] = True
    null = overlap_null(full, full)
    assert null.p_value == pytest.approx(1)
    assert null.mean_jaccard == pytest.approx(1)


def test_nulls_refuse_what_cannot_be_compared():
    one = np.eye(3, dtype=bool)
    with pytest.raises(IncompatibleError, match="different models"):
        overlap_null(one, np.eye(4, dtype=bool))
    with pytest.raises(BadParameterError, match="empty circuit"):
        overlap_null(one, np.zeros((3, 3), dtype=bool))


def test_spearman_test_holds_its_level_when_only_layers_agree():
    rng = np.random.default_rng(2)
    depth = np.linspace(0, 3, 6)[:, None]
    found = np.array(
        [spearman_null(depth + rng.normal(size=(6, 8)), depth + rng.normal(size=(6, 8)), n=199, seed=i)[0] for i in range(600)],
    )
    for level in (0.05, 0.2, 0.5):
        assert (found <= level).mean() == pytest.approx(level, abs=3.5 * np.sqrt(level * (1 - level) / found.size))


def test_spearman_test_finds_agreement_and_disagreement_inside_layers():
    values = np.random.default_rng(3).normal(size=(6, 8))
    assert spearman_null(values, values, n=199)[0] == pytest.approx(1 / 200)
    assert spearman_null(values, -values, n=199)[0] == pytest.approx(1 / 200)


def test_spearman_null_keeps_layers():
    depth = np.repeat(np.arange(6.0)[:, None], 8, axis=1)
    p, null = spearman_null(depth, depth, n=50)
    assert null == pytest.approx(np.ones(50))
    assert p == 1


def test_constant_scores_are_no_evidence():
    p, _ = spearman_null(np.ones((3, 4)), np.arange(12.0).reshape(3, 4), n=50)
    assert p == 1
