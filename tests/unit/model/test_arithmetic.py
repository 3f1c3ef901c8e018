"""Arithmetic on differences: rounded weights belong to a map as it is now, whatever maps lived before it."""

from __future__ import annotations

import pytest
import torch

from circuitlab.model.decoder import Linear
from circuitlab.model.engine import Difference
from circuitlab.model.engine.arithmetic import keeping

POSITIONS, WIDTH = 3, 8


def product(difference: Difference, linear: Linear, x: torch.Tensor) -> torch.Tensor:
    """``x`` through a map, as a change from a base run of zeros."""
    return difference.product("down", linear, x.flatten(0, -2).to(torch.bfloat16)).float().view(x.shape)


def linear(seed: int) -> Linear:
    return Linear(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed)), None)


def assert_right(found: torch.Tensor, map_: Linear, x: torch.Tensor) -> None:
    assert torch.allclose(found, map_(x), atol=0.3)  # bfloat16 products of numbers up to 25; another map is off by ten


def test_a_map_that_takes_the_place_of_another_in_memory_is_not_taken_for_it() -> None:
    difference, x = Difference(), torch.randn(1, 1, POSITIONS, WIDTH, generator=torch.Generator().manual_seed(99))
    for seed in range(20):
        map_ = linear(seed)
        assert_right(product(difference, map_, x), map_, x)
        del map_  # its address is free for the next one


def test_a_weight_that_was_written_into_is_rounded_again() -> None:
    difference, map_, x = Difference(), linear(0), torch.randn(1, 1, POSITIONS, WIDTH, generator=torch.Generator().manual_seed(99))
    assert_right(product(difference, map_, x), map_, x)
    map_.weight.mul_(-3)
    assert_right(product(difference, map_, x), map_, x)


def test_weights_made_in_inference_mode_are_never_stale() -> None:
    difference, x = Difference(), torch.randn(1, 1, POSITIONS, WIDTH, generator=torch.Generator().manual_seed(99))
    with torch.inference_mode():
        map_ = linear(0)
        assert_right(product(difference, map_, x), map_, x)
        map_.weight.mul_(-3)
        assert_right(product(difference, map_, x), map_, x)


def test_rounded_weights_are_kept() -> None:
    difference, map_, x = Difference(), linear(0), torch.randn(1, 1, POSITIONS, WIDTH, generator=torch.Generator().manual_seed(99))
    product(difference, map_, x)
    before = difference.rounded[map_]
    product(difference, map_, x)
    assert difference.rounded[map_] is before


@pytest.mark.parametrize("shared", [True, False])
def test_maps_that_read_one_input_share_its_copy_and_others_do_not(shared: bool) -> None:
    kept, map_ = {}, linear(0)
    multiply, x = keeping(kept, 1), torch.randn(1, 1, POSITIONS, WIDTH, generator=torch.Generator().manual_seed(99))
    multiply("q", map_, x)
    multiply("k", map_, x if shared else x.clone())
    assert (kept["q"][0] is kept["k"][0]) == shared
    assert torch.equal(kept["k"][0], x[..., 1:, :])
    assert torch.equal(kept["k"][1], map_(x)[..., 1:, :])
