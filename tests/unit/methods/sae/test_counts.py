"""Counts from codes equal the definition in loops, shares add up, and the permutation test keeps its level."""

from __future__ import annotations

import numpy as np
import pytest
from tests.reference.code_overlap import dense_edge_counts, set_counts

from circuitlab.core.errors import BadParameterError
from circuitlab.methods.sae import edge_counts, label_p_values, listed_edges, pair_shares, unique_counts
from circuitlab.methods.sae.counts import pair_codes


def drawn(seed: int, shape=(7, 6), size: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, size, shape), rng.integers(0, size, (shape[0] + 2, shape[1]))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_node_scores_equal_sets(seed: int, normalise: bool) -> None:
    ours, theirs = drawn(seed)
    np.testing.assert_allclose(unique_counts(ours, theirs, normalise=normalise), set_counts(ours, theirs, normalise=normalise))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_edge_scores_equal_the_dense_counts(seed: int, normalise: bool) -> None:
    ours, theirs = drawn(seed)
    found = edge_counts(ours, theirs, normalise=normalise)
    np.testing.assert_allclose(found, dense_edge_counts(ours, theirs, 5, normalise=normalise), atol=1e-5)
    np.testing.assert_array_equal(found, found.T)


def test_many_prompts_with_one_code_still_count_once() -> None:
    ours, theirs = np.full((300, 2), 7), np.full((300, 2), 3)
    assert edge_counts(ours, theirs).tolist() == [[0, 1], [1, 0]]
    assert unique_counts(ours, theirs).tolist() == [1, 1]


def test_silence_is_a_code_and_pairs_with_others() -> None:
    ours, theirs = np.array([[-1, 4], [-1, 4]]), np.array([[0, 4], [0, 4]])
    assert unique_counts(ours, theirs).tolist() == [1, 0]
    assert edge_counts(ours, theirs)[0, 1] == 1
    codes = pair_codes(np.array([[-1, 0], [0, -1], [-1, -1], [0, 0]]), np.array([[0, 1]]))
    assert len(set(codes.ravel().tolist())) == 4


def test_shares_split_a_code_among_its_holders() -> None:
    ours, theirs = np.array([[1, 9], [1, 9], [2, 8], [3, 8]]), np.array([[3, 5], [3, 5], [3, 5]])
    np.testing.assert_allclose(pair_shares(ours, theirs), [[0.5, 0.5], [0.5, 0.5], [1, 0.5], [0, 0.5]])


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_shapley_values(seed: int) -> None:
    """By the definition: the mean, over all orders in which prompts arrive, of what a prompt adds to the count."""
    from itertools import permutations

    rng = np.random.default_rng(seed)
    ours, theirs = rng.integers(0, 3, (4, 1)), rng.integers(0, 2, (1, 1))
    added = np.zeros(4)
    orders = list(permutations(range(4)))
    for order in orders:
        for i, prompt in enumerate(order):
            before, after = set(ours[list(order[:i]), 0]) - {theirs[0, 0]}, set(ours[list(order[: i + 1]), 0]) - {theirs[0, 0]}
            added[prompt] += len(after) - len(before)
    np.testing.assert_allclose(pair_shares(ours, theirs)[:, 0], added / len(orders))


def test_the_strongest_edges_are_listed_and_ties_share_the_last_places() -> None:
    edges = np.array([[0, 3, 1], [3, 0, 1], [1, 1, 0.0]])
    assert listed_edges(edges, 4).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert listed_edges(edges, 8).tolist() == [[0, 1, 0.5], [1, 0, 0.5], [0.5, 0.5, 0]]
    assert listed_edges(edges, 2).tolist() == [[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]]
    assert listed_edges(edges, 400).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert not listed_edges(np.zeros((3, 3)), 8).any(), "nothing unique, nothing listed"
    rng = np.random.default_rng(0)
    drawn = np.triu(rng.integers(0, 4, (6, 6)), 1)
    assert 4 * np.triu(listed_edges((drawn + drawn.T).astype(float), 8)).sum() == pytest.approx(8)


@pytest.mark.parametrize("paired", [True, False])
def test_p_values_keep_their_level_without_a_difference(paired: bool) -> None:
    """Labels mean nothing here; prompts of a pair resemble each other, which only the paired test may be used for."""
    rng = np.random.default_rng(1)
    shape = (2, 12, 1500)
    ours, theirs = rng.integers(0, 6, shape), rng.integers(0, 6, shape)
    if paired:
        theirs = np.where(rng.random(shape) < 0.5, ours, theirs)
    p = label_p_values(ours, theirs, permutations=400, paired=paired)
    for level in (0.01, 0.05, 0.1, 0.2):
        rate = (p <= level).mean()
        assert rate <= level + 3 * (level * (1 - level) / shape[2]) ** 0.5
    assert (p <= 0.2).mean() > 0.05, "not so cautious that nothing is ever found"


def test_p_values_find_a_node_whose_codes_differ() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 4, (1, 16, 20)), rng.integers(0, 4, (1, 16, 20))
    ours[..., 3] += 10
    p = label_p_values(ours, theirs, permutations=999)
    assert p.argmin() == 3 and p[3] == pytest.approx(1 / 1000)
    assert p[0] == label_p_values(ours[..., :1], theirs[..., :1], permutations=999)[0], "the same shuffles for every node"


def test_equal_codes_are_no_evidence() -> None:
    same = np.zeros((1, 8, 3), dtype=int)
    np.testing.assert_array_equal(label_p_values(same, same, permutations=50), 1.0)


@pytest.mark.parametrize("call", [unique_counts, pair_shares, edge_counts])
def test_codes_of_other_nodes_are_refused(call) -> None:
    with pytest.raises(BadParameterError, match="cannot be compared"):
        call(np.zeros((3, 2), int), np.zeros((3, 4), int))
    with pytest.raises(BadParameterError, match="cannot be compared"):
        call(np.zeros((3, 2), int), np.zeros((0, 2), int))


def test_misuse_of_the_permutation_test_is_refused() -> None:
    with pytest.raises(BadParameterError, match="cannot be shuffled"):
        label_p_values(np.zeros((1, 3, 2), int), np.zeros((1, 4, 2), int))
    with pytest.raises(BadParameterError, match="cannot be shuffled 0 times"):
        label_p_values(np.zeros((1, 3, 2), int), np.zeros((1, 3, 2), int), permutations=0)
