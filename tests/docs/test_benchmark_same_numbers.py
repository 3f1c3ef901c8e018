"""The comparison of two versions' numbers finds every difference, and takes what is unknown in both as the same."""

from __future__ import annotations

import numpy as np
import pytest
from same_numbers import GONE, NEW, OTHER_SHAPE, apart, compared

NAN = float("nan")


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ([1.0, NAN], [1.0, NAN], 0.0),
        ([1.0, 2.0], [1.0, 2.5], 0.5),
        ([1.0, NAN], [1.0, 2.0], np.inf),
        ([1.0, 2.0], [1.0, NAN], np.inf),
        ([None, 1.0], [None, 1.0], 0.0),
        ([], [], 0.0),
        ([1.0], [1.0, 1.0], OTHER_SHAPE),
    ],
)
def test_the_largest_difference(old, new, difference) -> None:
    assert apart(np.array(old), np.array(new)) == difference


def test_what_one_version_lacks_is_named() -> None:
    one = np.ones(2)
    assert compared({"a": one, "b": one}, {"b": one, "c": one}) == [("a", GONE), ("b", 0.0), ("c", NEW)]
