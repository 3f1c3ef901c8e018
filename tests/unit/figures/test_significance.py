"""Marks of significance: the false discovery rate is held, and effects are found."""

from __future__ import annotations

import numpy as np

from circuitlab.figures.significance import differs_from_zero


def test_noise_is_rarely_marked_and_strong_effects_always() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 24, 40))
    noise = np.mean([differs_from_zero(draw).any() for draw in values])
    assert noise < 0.1
    values[:, :, 7] += 3
    assert all(differs_from_zero(draw)[7] for draw in values)


def test_constant_values() -> None:
    values = np.zeros((5, 3))
    values[:, 1] = 0.1
    assert differs_from_zero(values).tolist() == [False, True, False]


def test_one_pair_says_nothing() -> None:
    assert not differs_from_zero(np.full((1, 2, 2), 9.0)).any()
