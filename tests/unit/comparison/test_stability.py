"""How stable a list is: with other prompts, more prompts, other seeds."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.circuits import TopK
from circuitlab.comparison import (
    StabilityCurve,
    bootstrap_stability,
    jaccard,
    overlap_null,
    sample_size_curve,
    sweep_stability,
    top_k_stability,
)
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.testing.fakes import fake_scores

SHAPE = (4, 6)


def scores(spread=1.0, n=24, seed=0, **changes):
    mean = np.random.default_rng(9).normal(size=SHAPE)
    return fake_scores(mean + spread * np.random.default_rng(seed).normal(size=(n, *SHAPE)), **changes)


def test_halves_agree_less_where_noise_is_larger():
    calm, loud = (top_k_stability(scores(spread), 6).mean for spread in (0.001, 8.0))
    assert calm > 0.9
    assert loud < 0.6


def test_resampled_lists_are_compared_with_the_full_one():
    calm, loud = bootstrap_stability(scores(1e-4), 6), bootstrap_stability(scores(8.0), 6)
    assert calm.jaccard.mean == 1
    assert set(calm.inclusion) == {str(node) for node in TopK(6)(scores(1e-4))}
    assert set(calm.inclusion.values()) == {1.0}
    assert loud.jaccard.low <= loud.jaccard.mean <= loud.jaccard.high
    assert loud.jaccard.mean < 0.8
    assert sum(loud.inclusion.values()) == pytest.approx(6)
    assert list(loud.inclusion.values()) == sorted(loud.inclusion.values(), reverse=True)


def test_lists_agree_more_with_more_prompts():
    curve = sample_size_curve(scores(1.5, n=128), 6)
    assert curve.sizes.tolist() == [2, 4, 8, 12, 16, 24, 32, 48, 64]
    assert curve.mean[-1] > curve.mean[0] + 0.2
    assert (curve.low <= curve.mean + 1e-12).all() and (curve.mean <= curve.high + 1e-12).all()
    mask = np.zeros(SHAPE, dtype=bool)
    for node in TopK(6)(scores(1.5, n=128)):
        mask[node.layer, node.head] = True
    assert curve.chance == pytest.approx(overlap_null(mask, mask).mean_jaccard)


def test_the_curve_ends_where_the_halves_are():
    one = scores(1.5)
    assert sample_size_curve(one, 6, [12], n=400).mean[0] == pytest.approx(top_k_stability(one, 6).mean, abs=0.03)


def test_two_lists_share_no_prompt():
    # One prompt carries everything: lists with it agree with no list without it.
    values = np.random.default_rng(3).normal(size=(8, *SHAPE))
    values[0] *= 1e6
    alone = sample_size_curve(fake_scores(values), 6, [4], n=300).mean[0]
    calm = sample_size_curve(fake_scores(values[1:]), 6, [3], n=300).mean[0]
    assert alone < calm + 0.2
    assert alone < 0.5


@pytest.mark.parametrize(("mean", "expected"), [([0.2, 0.85, 0.7, 0.9], 16), ([0.9, 0.9, 0.9, 0.9], 2), ([0.9, 0.9, 0.9, 0.5], None)])
def test_enough_prompts_are_those_from_which_on_lists_agree(mean, expected):
    assert StabilityCurve(np.array([2, 4, 8, 16]), np.array(mean), np.zeros(4), np.ones(4), 0.1, 6).pairs_needed(0.8) == expected


def test_a_sweep_of_seeds_or_templates():
    runs = {f"seed {i}": scores(1.0, seed=i) for i in range(4)}
    found = sweep_stability(runs, 6)
    circuits = [TopK(6)(one) for one in runs.values()]
    assert found.jaccard[0, 2] == found.jaccard[2, 0] == jaccard(circuits[0], circuits[2])
    assert (found.jaccard.diagonal() == 1).all()
    assert set(found.core) == {str(node) for node in circuits[0] & circuits[1] & circuits[2] & circuits[3]}
    assert sum(found.inclusion.values()) == pytest.approx(6)
    mean, low, high = found.agreement
    assert low <= mean <= high == found.jaccard[np.triu_indices(4, 1)].max()
    assert np.isnan(found.chance.diagonal()).all()
    assert 0 < found.chance[0, 1] < 1


def test_what_cannot_be_measured():
    with pytest.raises(BadParameterError, match="cannot be drawn twice"):
        sample_size_curve(scores(n=6), 3, [2, 4])
    with pytest.raises(BadParameterError, match="cannot be drawn twice"):
        sample_size_curve(scores(n=3), 3)
    with pytest.raises(BadParameterError, match="cannot be drawn twice"):
        sample_size_curve(scores(), 3, [4, 2])
    with pytest.raises(BadParameterError, match="at least two"):
        top_k_stability(scores(n=1), 3)
    with pytest.raises(BadParameterError, match="at least two"):
        bootstrap_stability(scores(n=1), 3)
    with pytest.raises(BadParameterError, match="at least two runs"):
        sweep_stability({"one": scores()}, 3)
    with pytest.raises(IncompatibleError, match="do not match"):
        sweep_stability({"one": scores(), "other": fake_scores(np.ones((4, 3, 6)))}, 3)
