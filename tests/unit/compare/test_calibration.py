"""How often the bootstrap intervals of agreement hold the truth, measured on scores whose true means are known."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.circuits.select import top_mask
from circuitlab.compare import spearman
from circuitlab.compare.bootstrap import Bootstrap, bootstrap, resampled_means
from circuitlab.errors import BadParameterError

K, NODES, REPEATS = 20, 24 * 9, 80


def jaccard_of_tops(x, y):
    a, b = top_mask(x, K), top_mask(y, K)
    return (a & b).sum(-1) / (a | b).sum(-1)


def magnitude_spearman(x, y):
    return spearman(np.abs(x), np.abs(y))


def runs(statistic, share, n):
    """True value and bootstrap of ``REPEATS`` pairs of tasks that share this much of their heavy-tailed head scores."""
    rng = np.random.default_rng(0)
    found = []
    for repeat in range(REPEATS):
        common, *own = rng.normal(size=(3, NODES)) ** 3
        means = [np.sqrt(share) * common + np.sqrt(1 - share) * one for one in own]
        data = [mean + (0.3 + np.abs(mean)) * rng.normal(size=(n, NODES)) for mean in means]
        found.append((float(statistic(*(m[None] for m in means))[0]), bootstrap(*data, statistic, n=200, seed=repeat)))
    return found


def coverage(found, kind):
    return np.mean([(limits := getattr(boot, kind)()).low - 1e-9 <= truth <= limits.high + 1e-9 for truth, boot in found])


@pytest.mark.parametrize(("share", "n"), [(0.2, 16), (0.6, 16), (0.6, 64), (0.95, 64)])
def test_jaccard_interval_covers(share, n):
    assert coverage(runs(jaccard_of_tops, share, n), "extrapolated") >= 0.92


@pytest.mark.parametrize(("share", "n"), [(0.2, 16), (0.6, 16), (0.95, 64)])
def test_spearman_interval_covers(share, n):
    assert 0.85 <= coverage(runs(magnitude_spearman, share, n), "reflected") <= 0.99


def test_percentile_intervals_would_not_cover():
    found = runs(magnitude_spearman, 0.95, 16)
    held = [np.quantile(b.draws, 0.025) <= truth <= np.quantile(b.draws, 0.975) for truth, b in found]
    assert np.mean(held) < 0.3
    assert coverage(found, "reflected") > 0.85


def test_noise_makes_overlap_look_smaller_than_it_is():
    found = runs(jaccard_of_tops, 0.95, 16)
    truth, estimate, resampled = (np.mean(x) for x in zip(*((t, b.estimate, b.draws.mean()) for t, b in found), strict=True))
    assert truth > estimate + 0.1 > resampled + 0.15


def test_resampled_means_have_the_right_mean_and_spread():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=(30, 4))
    draws = resampled_means(values, 20000, np.random.default_rng(1))
    assert draws.mean(0) == pytest.approx(values.mean(0), abs=0.02)
    assert draws.std(0) == pytest.approx(values.std(0) / np.sqrt(30), rel=0.03)


def test_limits_hold_the_estimate_and_stay_in_range():
    draws = np.random.default_rng(0).uniform(0.2, 0.6, 500)
    for estimate in (0.1, 0.4, 0.9):
        boot = Bootstrap(estimate, draws)
        for limits, floor in ((boot.extrapolated(), 0), (boot.reflected(), -1)):
            assert floor <= limits.low <= estimate <= limits.high <= 1
        narrow, wide = boot.extrapolated(0.5), boot.extrapolated(0.99)
        assert wide.low <= narrow.low <= narrow.high <= wide.high


def test_an_undefined_statistic_has_no_limits():
    boot = bootstrap(np.ones((4, 3)), np.random.default_rng(0).normal(size=(4, 3)), spearman, n=20)
    assert np.isnan(boot.estimate)
    assert np.isnan(boot.reflected().low)


def test_bootstrap_is_seeded_and_pair_counts_may_differ():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 2, 5)), rng.normal(size=(7, 2, 5))
    first, again, other = (bootstrap(a, b, spearman, n=50, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.draws, again.draws)
    assert not np.array_equal(first.draws, other.draws)


def test_bootstrap_needs_two_pairs_and_a_confidence():
    with pytest.raises(BadParameterError, match="at least two"):
        bootstrap(np.zeros((1, 3)), np.zeros((4, 3)), spearman)
    with pytest.raises(BadParameterError, match="between 0 and 1"):
        Bootstrap(0.5, np.array([0.4, 0.6])).reflected(95)
