"""Intervals cover what they claim to cover, and say nothing where nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitlab.core.errors import BadParameterError
from circuitlab.scores.intervals import mean_interval, proportion_interval, rate_change_interval, rate_interval

SIMULATIONS = 20000
NOISE = 4 * np.sqrt(0.95 * 0.05 / SIMULATIONS)  # four standard errors of a measured coverage


def covered(draw, truth, n, method="t"):
    """Share of simulated data sets (all at once, one per column) whose interval holds the truth."""
    size = SIMULATIONS if method == "t" else 400
    found = mean_interval(draw(np.random.default_rng(1), (n, size)), method=method)
    return float(((found.low <= truth) & (truth <= found.high)).mean())


@pytest.mark.parametrize("n", [2, 5, 16, 64])
def test_t_interval_of_normal_values_is_exact(n):
    assert covered(lambda rng, size: rng.normal(2.0, 3.0, size), 2.0, n) == pytest.approx(0.95, abs=NOISE)


def test_t_interval_of_skewed_values_is_close_from_sixteen_pairs():
    def draw(rng, size):
        return rng.exponential(1.0, size)

    assert covered(draw, 1.0, 16) == pytest.approx(0.91, abs=0.03)
    assert covered(draw, 1.0, 64) == pytest.approx(0.94, abs=0.02)


def test_bca_interval_of_skewed_values():
    assert covered(lambda rng, size: rng.exponential(1.0, size), 1.0, 32, "bca") == pytest.approx(0.93, abs=0.05)


def test_confidence_is_respected():
    values = np.random.default_rng(0).normal(size=(40, 1000))
    for confidence in (0.5, 0.8, 0.99):
        found = mean_interval(values, confidence=confidence)
        assert ((found.low <= 0) & (found.high >= 0)).mean() == pytest.approx(confidence, abs=0.06)


def test_shape_follows_the_values():
    found = mean_interval(np.random.default_rng(0).normal(size=(8, 3, 4)))
    assert found.mean.shape == found.low.shape == found.high.shape == (3, 4)


def test_one_pair_says_nothing_about_spread():
    found = mean_interval(np.array([[2.0, 3.0]]))
    assert found.mean.tolist() == [2.0, 3.0]
    assert np.isnan(found.low).all()
    assert np.isnan(found.high).all()
    assert not found.excludes_zero().any()


@pytest.mark.parametrize("method", ["t", "bca"])
def test_constant_values_have_a_point_interval(method):
    values = np.stack([np.full(9, 0.1), np.arange(9.0)], axis=1)
    found = mean_interval(values, method=method)
    assert found.low[0] == found.high[0] == pytest.approx(0.1)
    assert found.low[1] < 4 < found.high[1]


def test_bca_of_plain_numbers():
    found = mean_interval(np.arange(9.0), method="bca")
    assert 0 < found.low < 4 < found.high < 8
    assert mean_interval(np.full(3, 2.0), method="bca").low == 2.0


def test_bca_is_seeded():
    values = np.random.default_rng(0).exponential(size=(20, 2))
    first, again = (mean_interval(values, method="bca", seed=3) for _ in range(2))
    assert np.array_equal(first.low, again.low)
    assert not np.array_equal(first.low, mean_interval(values, method="bca", seed=4).low)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), st.floats(-1e3, 1e3), st.floats(0.01, 100))
def test_interval_moves_and_scales_with_the_values(values, shift, scale):
    x = np.array(values)
    base, moved = mean_interval(x), mean_interval(scale * x + shift)
    size = 1e-6 * (1 + np.abs(scale * x).max() + abs(shift))
    for ours, theirs in zip(base, moved, strict=True):
        assert scale * ours + shift == pytest.approx(theirs, abs=size)


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.array(1.0)])
def test_no_pair_is_refused(values):
    with pytest.raises(BadParameterError, match="at least one pair"):
        mean_interval(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_impossible_confidence_is_refused(confidence):
    with pytest.raises(BadParameterError, match="between 0 and 1"):
        mean_interval(np.arange(4.0), confidence=confidence)


@pytest.mark.parametrize(("share", "n"), [(0.5, 16), (0.9, 32), (0.97, 64)])
def test_wilson_interval_coverage(share, n):
    draws = np.random.default_rng(2).binomial(n, share, size=SIMULATIONS)
    intervals = [proportion_interval(k, n) for k in range(n + 1)]
    held = [intervals[k].low <= share <= intervals[k].high for k in draws]
    assert 0.91 <= np.mean(held) <= 0.995  # whole counts make the coverage jump around 0.95


def test_wilson_interval_follows_its_formula():
    k, n, z = 8, 10, 1.959964
    centre, half = (k + z**2 / 2) / (n + z**2), z * np.sqrt(k * (n - k) / n + z**2 / 4) / (n + z**2)
    found = proportion_interval(k, n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_wilson_interval_of_all_and_none():
    everything, nothing = proportion_interval(16, 16), proportion_interval(0, 16)
    assert everything.high == pytest.approx(1.0)
    assert 0.75 < everything.low < 1
    assert nothing.low == pytest.approx(0.0)
    assert everything.as_dict() == {"mean": 1.0, "low": float(everything.low), "high": float(everything.high)}


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (5, 4), (-1, 4)])
def test_impossible_proportions(successes, n):
    with pytest.raises(BadParameterError, match="not a proportion"):
        proportion_interval(successes, n)


def test_limits_are_cut_at_what_is_possible_and_cover_as_before():
    areas = np.array([1.0, 1.0, 0.9, 0.6])
    plain, cut = mean_interval(areas), mean_interval(areas, within=(0, 1))
    assert plain.high > 1 == cut.high
    assert cut.low == plain.low
    assert cut.mean == plain.mean
    with pytest.raises(BadParameterError, match="not within 0 to 1"):
        mean_interval(np.array([0.5, 1.5]), within=(0, 1))


@pytest.mark.parametrize(("n", "a", "b"), [(9, 8.0, 1.0), (9, 2.0, 2.0), (18, 0.4, 0.1), (18, 1.0, 6.0)])
def test_intervals_of_rates_cover_and_stay_between_0_and_1(n, a, b):
    rng, hits, runs = np.random.default_rng(2), 0, 1500
    for _ in range(runs):
        one = rate_interval(rng.beta(a, b, n))
        assert 0 <= one.low <= one.mean <= one.high <= 1
        hits += bool(one.low <= a / (a + b) <= one.high)
    assert hits / runs > 0.92


def test_intervals_of_rates_of_yes_and_no_are_those_of_proportions():
    assert rate_interval(np.array([1.0, 1.0, 0.0, 1.0])) == proportion_interval(3, 4)
    assert rate_interval(np.ones(9)).low < 0.75 and rate_interval(np.ones(9)).high == 1
    assert rate_interval(np.full(3, 0.5)).as_dict() == {"mean": 0.5, "low": 0.5, "high": 0.5}
    for bad in (np.array([0.5, 1.2]), np.array([]), np.array([np.nan]), np.zeros((2, 2))):
        with pytest.raises(BadParameterError, match="no rates"):
            rate_interval(bad)


def test_intervals_of_changes_of_rates_stay_between_minus_1_and_1_and_cover():
    certain = rate_change_interval(np.array([1.0] * 20 + [0.0, 0.0]))
    assert certain.low > 0.6 and certain.high <= 1 and mean_interval(np.array([1.0] * 20 + [0.0, 0.0])).high > 1
    assert rate_change_interval(np.zeros(5)).as_dict() == {"mean": 0.0, "low": 0.0, "high": 0.0}
    rng, hits = np.random.default_rng(3), 0
    for _ in range(1500):
        one = rate_change_interval(rng.choice([-1.0, 0.0, 1.0], 20, p=[0.1, 0.3, 0.6]))
        hits += bool(one.low <= 0.5 <= one.high)
    assert hits / 1500 > 0.92
