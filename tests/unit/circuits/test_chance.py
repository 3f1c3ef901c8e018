"""Random circuits match in size, are uniform, and give p-values that are valid."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.circuits.chance import p_value, random_masks, random_subsets
from circuitlab.core.errors import BadParameterError


def test_random_circuits_match_every_stratum_and_are_uniform():
    mask = np.array([1, 0, 1, 0, 0, 1, 0], dtype=bool)
    strata = np.array([0, 0, 0, 0, 1, 1, 1])
    found = random_masks(mask, strata, 4000)
    assert (found[:, :4].sum(1) == 2).all() and (found[:, 4:].sum(1) == 1).all()
    np.testing.assert_allclose(found.mean(0), [0.5] * 4 + [1 / 3] * 3, atol=0.03)
    np.testing.assert_array_equal(found, random_masks(mask, strata, 4000))
    assert (found[:50] != random_masks(mask, strata, 50, seed=1)).any()
    assert random_masks(mask, strata, 0).shape == (0, 7)
    with pytest.raises(BadParameterError, match="one stratum per element"):
        random_masks(mask, strata[:3], 5)


def test_subsets_lie_in_the_circuit_and_are_not_empty():
    mask = np.array([1, 0, 1, 0, 0, 1, 0], dtype=bool)
    found = random_subsets(mask, 4000)
    assert not found[:, ~mask].any()
    assert found.any(1).all()
    # Of 8 equally likely subsets the empty one is drawn again as a single element.
    np.testing.assert_allclose(found[:, mask].mean(0), 0.5 + 1 / 8 / 3, atol=0.03)
    assert not random_subsets(np.zeros(4, dtype=bool), 3).any()


def test_the_p_value_counts_the_circuit_itself():
    reference = np.array([0.1, 0.5, 0.9, 1.2])
    assert p_value(2.0, reference) == 1 / 5
    assert p_value(0.9, reference) == 3 / 5
    assert p_value(-1.0, reference) == 1
