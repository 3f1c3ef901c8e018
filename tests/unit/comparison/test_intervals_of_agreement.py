"""Bootstrap, jackknife and the extrapolation of shared counts, part by part."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.circuits.select import top_mask
from circuitlab.comparison import spearman
from circuitlab.comparison.bootstrap import Bootstrap, bootstrap
from circuitlab.comparison.shared import resampled_masks, shared_count
from circuitlab.core.errors import BadParameterError


def test_limits_lie_around_the_corrected_value_and_stay_in_range():
    draws = np.random.default_rng(0).uniform(0.2, 0.6, 500)
    for estimate in (0.1, 0.4, 0.9):
        boot = Bootstrap(estimate, draws, 0.05, 16)
        assert boot.corrected == pytest.approx(2 * estimate - draws.mean())
        narrow, wide = boot.interval(0.5), boot.interval(0.99)
        assert narrow.mean == wide.mean == estimate
        assert -1 <= wide.low <= narrow.low <= narrow.high <= wide.high <= 1
    assert Bootstrap(0.1, draws, 0.05, 16).interval().high < 0.1, "a biased estimate is not pulled into its interval"


def test_a_linear_statistic_has_the_interval_of_its_mean():
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.1, 0.2, size=(40, 1)), rng.normal(0.2, 0.3, size=(25, 1))
    found = bootstrap(first, second, lambda x, y: (x + y)[:, 0], n=4000)
    error = np.sqrt(first.var(ddof=1) / 40 + second.var(ddof=1) / 25)
    assert found.standard_error == pytest.approx(error, rel=1e-9)
    assert found.draws.std() == pytest.approx(error, rel=0.05)
    assert found.interval().high - found.corrected == pytest.approx(1.998 * error, rel=0.001)


def test_pairs_of_one_prompt_are_resampled_together():
    rng = np.random.default_rng(2)
    shared = rng.normal(size=(30, 1))
    first, second = shared + 0.01 * rng.normal(size=(2, 30, 1))
    for paired in (True, False):
        found = bootstrap(first, second, lambda x, y: (x - y)[:, 0], paired=paired, n=500)
        assert bool(found.draws.std() < 0.01) == bool(found.standard_error < 0.01) == paired


def test_a_statistic_in_blocks_is_the_same(monkeypatch):
    rng = np.random.default_rng(3)
    data = rng.normal(size=(9, 20)), rng.normal(size=(7, 20))
    whole = bootstrap(*data, spearman, n=60)
    monkeypatch.setattr("circuitlab.comparison.bootstrap._AT_ONCE", 100)
    assert np.allclose(bootstrap(*data, spearman, n=60).draws, whole.draws)


def test_an_undefined_statistic_has_no_limits():
    boot = bootstrap(np.ones((4, 3)), np.random.default_rng(0).normal(size=(4, 3)), spearman, n=20)
    assert np.isnan(boot.estimate)
    assert np.isnan(boot.corrected)
    assert np.isnan(boot.interval().low)


def top_five(means):
    return top_mask(means, 5)


def test_seeds():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 10)), rng.normal(size=(7, 10))
    for draw in (
        lambda s: bootstrap(a, b, spearman, n=50, seed=s).draws,
        lambda s: resampled_masks(a, b, top_five, paired=False, n=50, seed=s)[1][0],
    ):
        first, again, other = (draw(s) for s in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_two_pairs_and_a_confidence_are_needed():
    with pytest.raises(BadParameterError, match="at least two"):
        bootstrap(np.zeros((1, 3)), np.zeros((4, 3)), spearman)
    with pytest.raises(BadParameterError, match="at least two"):
        resampled_masks(np.zeros((4, 3)), np.zeros((1, 3)), top_five, paired=False)
    one = (np.array([True]), np.array([True]))
    for interval in (Bootstrap(0.5, np.array([0.4, 0.6]), 0.1, 3).interval, lambda level: shared_count(one, (one, one), 4, level)):
        with pytest.raises(BadParameterError, match="between 0 and 1"):
            interval(95)


def test_the_second_resamples_have_twice_the_noise():
    rng = np.random.default_rng(1)
    seen = []
    resampled_masks(rng.normal(size=(30, 4)), rng.normal(size=(30, 4)), lambda x: (seen.append(x), x > 0)[1], paired=False, n=20000)
    once, _, twice, _ = (x.var(axis=0) for x in seen)
    assert twice == pytest.approx(2 * once, rel=0.05)
    assert seen[2].mean(0) == pytest.approx(seen[0].mean(0), abs=0.01)


def test_pairs_of_one_prompt_are_picked_from_together():
    values = np.random.default_rng(2).normal(size=(12, 30))
    for paired in (True, False):
        for one, two in resampled_masks(values, values, top_five, paired=paired, n=40):
            assert np.array_equal(one, two) == paired


def masks(*counts, size=10):
    """Two lists of ``size`` of 40 elements, one row for each number of elements that they share."""
    first = np.zeros((len(counts), 40), dtype=bool)
    second = first.copy()
    first[:, :size] = True
    for row, shared in enumerate(counts):
        second[row, size - shared : 2 * size - shared] = True
    return first, second


def test_counts_are_extrapolated_to_no_noise_by_hand():
    estimate = tuple(one[0] for one in masks(6))
    found = shared_count(estimate, (masks(4, 6, 5, 5), masks(4, 5, 5, 5)), pairs=31)
    corrected = 5 + (5 - 4.75) / (np.sqrt(1.5) - 1)
    assert found.corrected == pytest.approx(corrected)
    half = 2.0423 * np.sqrt((4 + 0 + 1 + 1) / 4)
    assert (found.low, found.high) == (np.round(corrected - half), np.round(corrected + half)) == (4, 9)
    jaccard = found.intervals()["jaccard"]
    assert (jaccard.low, jaccard.mean, jaccard.high) == pytest.approx((4 / 16, 6 / 14, 9 / 11))
    assert found.corrected_overlaps()["containment"] == pytest.approx(corrected / 10)


def test_limits_stay_within_what_the_lists_can_share():
    for count in (0, 10):
        estimate = tuple(one[0] for one in masks(count))
        found = shared_count(estimate, (masks(5, 5), masks(4, 6)), pairs=4)
        assert 0 <= found.low <= found.corrected <= found.high <= 10


def test_an_estimate_outside_its_limits_stays_outside():
    found = shared_count(tuple(one[0] for one in masks(6)), (masks(6, 6), masks(5, 5)), pairs=31)
    assert found.estimate == 6 < found.low == found.high == 10


def test_lists_without_noise_have_no_width():
    rng = np.random.default_rng(7)
    values = np.repeat(rng.normal(size=(2, 1, 30)), 12, axis=1)
    picked = tuple(top_five(one.mean(0)) for one in values)
    found = shared_count(picked, resampled_masks(*values, top_five, paired=False, n=50), 12)
    assert found.low == found.estimate == found.corrected == found.high
