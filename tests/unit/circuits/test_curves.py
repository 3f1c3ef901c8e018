"""Faithfulness is a ratio of means with exact ends; areas equal hand-computed trapezoids."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.circuits.curves import FRACTIONS, FaithfulnessCurve, FaithfulnessScale, area, sizes_of
from circuitlab.core.errors import BadParameterError, EmptyGapError, UnknownNameError

FULL = np.array([4.0, 6.0, 5.0])
EMPTY = np.array([1.0, -1.0, 0.0])


def test_areas_equal_hand_computed_trapezoids():
    fractions, values = (0.1, 0.5, 1.0), np.array([0.0, 0.5, 1.5])
    # (0.5 - 0.1) (0 + 0.5) / 2 + (1 - 0.5) (0.5 + 1.5) / 2
    assert area(fractions, values) == pytest.approx(0.4 * 0.25 + 0.5 * 1.0)
    assert area(fractions, values, "log") == pytest.approx(np.log(5) * 0.25 + np.log(2) * 1.0)
    assert area(FRACTIONS, np.ones(10)) == pytest.approx(0.999)
    assert area(FRACTIONS, np.ones(10), "log") == pytest.approx(np.log(1000))
    assert area(fractions, np.stack([values, 2 * values])).tolist() == pytest.approx([0.6, 1.2])


def test_cpr_and_cmd_are_not_clamped():
    ends = FaithfulnessScale(np.array([1.0, 1.0]), np.array([0.0, 0.0]))
    curve = FaithfulnessCurve((0.1, 0.5, 1.0), (1, 5, 10), np.array([[-1.0, -1.0], [2.0, 2.0], [1.0, 1.0]]), ends, "absolute")
    assert curve.cpr().as_dict() == pytest.approx(dict.fromkeys(("mean", "low", "high"), 0.4 * 0.5 + 0.5 * 1.5))
    assert curve.cmd().mean == pytest.approx(0.4 * 1.5 + 0.5 * 0.5)
    assert curve.cmd("log").mean == pytest.approx(np.log(5) * 1.5 + np.log(2) * 0.5)
    assert curve.to_list()[1] == {"fraction": 0.5, "size": 5, "mean": 2.0, "low": 2.0, "high": 2.0}


def test_faithfulness_is_a_ratio_of_means_with_exact_ends():
    rng = np.random.default_rng(0)
    full, empty = rng.normal(3, 1, 40), rng.normal(0, 1, 40)
    ends = FaithfulnessScale(full, empty)
    draws = ends.draws(np.stack([full, empty, (full + empty) / 2]))
    assert (draws[:, 0] == 1).all() and (draws[:, 1] == 0).all(), "exactly, also on every resample"
    assert draws[0, 2] == pytest.approx(0.5)
    value = np.array([2.0, 0.0, 7.0])
    assert FaithfulnessScale(FULL, EMPTY).draws(value[None])[0, 0] == pytest.approx((3.0 - 0.0) / (5.0 - 0.0)), "not a mean of ratios"


def test_the_interval_covers_a_known_ratio():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        gap = rng.normal(3, 1, 40)
        found = FaithfulnessScale(gap, np.zeros(40), n_resamples=300, seed=trial).faithfulness((0.7 * gap + rng.normal(0, 1, 40))[None])
        hits += found.low[0] <= 0.7 <= found.high[0]
    assert 0.89 <= hits / 200 <= 0.99


def test_intervals_are_deterministic_and_missing_for_one_pair():
    value = np.array([[2.0, 0.0, 7.0]])
    assert FaithfulnessScale(FULL, EMPTY).faithfulness(value) == FaithfulnessScale(FULL, EMPTY).faithfulness(value)
    alone = FaithfulnessScale(FULL[:1], EMPTY[:1]).faithfulness(value[:, :1])
    assert alone.mean[0] == pytest.approx(1 / 3)
    assert np.isnan(alone.low[0]) and np.isnan(alone.high[0])


def test_nothing_to_recover_is_refused():
    with pytest.raises(EmptyGapError, match="nothing for a circuit to recover"):
        FaithfulnessScale(FULL, FULL)
    with pytest.raises(BadParameterError, match="one value per pair"):
        FaithfulnessScale(FULL, EMPTY[:2])


def test_sizes_are_rounded_down():
    assert sizes_of(270) == [0, 0, 1, 2, 5, 13, 27, 54, 135, 270]
    assert sizes_of(100, (0.29, 0.57, 1.0)) == [29, 57, 100], "products that fall short in binary"


@pytest.mark.parametrize("fractions", [(), (0.0, 1.0), (0.5, 0.2), (0.5, 0.5), (0.5, 1.5)])
def test_impossible_sizes(fractions):
    with pytest.raises(BadParameterError, match="fractions"):
        sizes_of(10, fractions)


def test_impossible_areas():
    with pytest.raises(UnknownNameError, match="Did you mean 'linear'"):
        area((0.1, 1.0), np.ones(2), "linaer")
    with pytest.raises(BadParameterError, match="two fractions"):
        area((1.0,), np.ones(1))
