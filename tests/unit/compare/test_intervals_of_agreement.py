"""Bootstrap, jackknife and shrinkage, part by part."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.compare import spearman
from circuitlab.compare.bootstrap import Bootstrap, bootstrap, held_interval
from circuitlab.compare.shrinkage import NoisyMeans, plausible_means
from circuitlab.errors import BadParameterError


def test_limits_hold_the_estimate_and_stay_in_range():
    draws = np.random.default_rng(0).uniform(0.2, 0.6, 500)
    for estimate in (0.1, 0.4, 0.9):
        corrected = Bootstrap(estimate, draws, 0.2, 16).corrected()
        assert -1 <= corrected.low <= estimate <= corrected.high <= 1
        narrow, wide = held_interval(estimate, draws, 0.5), held_interval(estimate, draws, 0.99)
        assert wide.low <= narrow.low <= estimate <= narrow.high <= wide.high


def test_a_linear_statistic_has_the_interval_of_its_mean():
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.1, 0.2, size=(40, 1)), rng.normal(0.2, 0.3, size=(25, 1))
    found = bootstrap(first, second, lambda x, y: (x + y)[:, 0], n=4000)
    error = np.sqrt(first.var(ddof=1) / 40 + second.var(ddof=1) / 25)
    assert found.error == pytest.approx(error, rel=1e-9)
    assert found.draws.std() == pytest.approx(error, rel=0.05)
    assert found.corrected().high - found.estimate == pytest.approx(1.998 * error, rel=0.05)


def test_pairs_of_one_prompt_are_resampled_together():
    rng = np.random.default_rng(2)
    shared = rng.normal(size=(30, 1))
    first, second = shared + 0.01 * rng.normal(size=(2, 30, 1))
    for paired in (True, False):
        found = bootstrap(first, second, lambda x, y: (x - y)[:, 0], paired=paired, n=500)
        assert bool(found.draws.std() < 0.01) == bool(found.error < 0.01) == paired


def test_a_statistic_in_blocks_is_the_same(monkeypatch):
    rng = np.random.default_rng(3)
    data = rng.normal(size=(9, 20)), rng.normal(size=(7, 20))
    whole = bootstrap(*data, spearman, n=60)
    monkeypatch.setattr("circuitlab.compare.bootstrap._AT_ONCE", 100)
    assert np.allclose(bootstrap(*data, spearman, n=60).draws, whole.draws)


def test_an_undefined_statistic_has_no_limits():
    boot = bootstrap(np.ones((4, 3)), np.random.default_rng(0).normal(size=(4, 3)), spearman, n=20)
    assert np.isnan(boot.estimate)
    assert np.isnan(boot.corrected().low)
    assert np.isnan(held_interval(float("nan"), np.array([0.1])).high)


def test_seeds():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 10)), rng.normal(size=(7, 10))
    for draw in (lambda s: bootstrap(a, b, spearman, n=50, seed=s).draws, lambda s: plausible_means(a, b, paired=False, n=50, seed=s)[0]):
        first, again, other = (draw(s) for s in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_two_pairs_and_a_confidence_are_needed():
    with pytest.raises(BadParameterError, match="at least two"):
        bootstrap(np.zeros((1, 3)), np.zeros((4, 3)), spearman)
    with pytest.raises(BadParameterError, match="at least two"):
        plausible_means(np.zeros((4, 3)), np.zeros((1, 3)), paired=False)
    for interval in (Bootstrap(0.5, np.array([0.4, 0.6]), 0.1, 3).corrected, lambda level: held_interval(0.5, np.array([0.4]), level)):
        with pytest.raises(BadParameterError, match="between 0 and 1"):
            interval(95)


def slow_posterior(means, one):
    """Bayes' rule for one element, component by component, by matrices."""
    x = np.array([means.first[one], means.second[one]])
    a, b, c = (float(part[one]) for part in means.noise)
    noise = np.array([[a, c], [c, b]])
    for size_a, size_b, r in means.components:
        prior = np.array([[size_a**2, r * size_a * size_b], [r * size_a * size_b, size_b**2]])
        total = prior + noise
        density = np.exp(-0.5 * x @ np.linalg.solve(total, x)) / np.sqrt(np.linalg.det(total))
        gain = prior @ np.linalg.inv(total)
        yield density, gain @ x, prior - gain @ prior


def test_shrinkage_is_bayes_rule():
    rng = np.random.default_rng(4)
    means = NoisyMeans(
        rng.normal(size=5), rng.normal(size=5), (rng.uniform(0.1, 1, 5), rng.uniform(0.1, 1, 5), rng.uniform(-0.05, 0.05, 5))
    )
    one, two, left, across, right = means.posterior
    for element in range(5):
        expected = list(slow_posterior(means, element))
        density = np.array([row[0] for row in expected])
        assert means.likelihood[element] == pytest.approx(density / density.max(), rel=1e-6, abs=1e-12)
        for i, (_, mean, covariance) in enumerate(expected):
            assert (one[element, i], two[element, i]) == pytest.approx(tuple(mean), abs=1e-9)
            factor = np.array([[left[element, i], 0], [across[element, i], right[element, i]]])
            assert factor @ factor.T == pytest.approx(covariance, abs=1e-7)


def test_the_prior_is_found():
    rng = np.random.default_rng(5)
    effects = np.where(rng.random(3000) < 0.3, 1.0, 0.0) * rng.normal(size=(2, 3000))
    effects[1] = effects[0]
    noise = np.full(3000, 0.04)
    means = NoisyMeans(*(effects + 0.2 * rng.normal(size=(2, 3000))), (noise, noise, 0 * noise))
    shares = means.shares(np.ones(3000))
    size_a, size_b, r = means.components.T
    large = (size_a > 0.3) & (size_b > 0.3)
    assert shares.sum() == pytest.approx(1)
    assert shares[large].sum() == pytest.approx(0.3, abs=0.1)
    assert shares[large & (r > 0.8)].sum() > 0.9 * shares[large].sum()


def test_draws_shrink_noise_and_leave_clear_effects_where_they_are():
    rng = np.random.default_rng(6)
    truth = np.zeros(200)
    truth[:4] = [9.0, -7.0, 5.0, 4.0]
    data = truth + rng.normal(size=(2, 16, 200))
    first, second = plausible_means(*data, paired=False, n=300)
    assert first.shape == second.shape == (300, 200)
    assert first.mean(0)[:4] == pytest.approx(data[0].mean(0)[:4], abs=0.35)
    assert np.abs(first.mean(0)[4:]).mean() < 0.4 * np.abs(data[0].mean(0)[4:]).mean()


def test_dead_heads_stay_dead():
    rng = np.random.default_rng(7)
    data = rng.normal(size=(2, 12, 30)) + 3 * rng.normal(size=30)
    data[:, :, :5] = 0
    for drawn in plausible_means(*data, paired=True, n=100):
        assert np.isfinite(drawn).all()
        assert np.abs(drawn[:, :5]).max() < 1e-4
    for drawn in plausible_means(np.zeros((4, 3)), np.zeros((4, 3)), paired=False, n=20):
        assert np.abs(drawn).max() < 1e-4
