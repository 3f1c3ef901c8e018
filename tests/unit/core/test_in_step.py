"""Works that go through layers together."""

from __future__ import annotations

import pytest

from circuitlab.core.in_step import drained, in_step


def climbs(name: str, layers, passed: list, fail_at: int | None = None):
    for layer in layers:
        yield layer
        if layer == fail_at:
            raise ValueError(name)
        passed.append((layer, name))
    return name


def order(*works) -> list[int]:
    """The layers in the order in which they are passed by all works together."""
    return list(in_step(works))


def test_all_that_wait_for_a_layer_pass_it_together() -> None:
    passed: list = []
    assert order(climbs("a", range(4), passed), climbs("b", range(2, 4), passed), climbs("c", range(4), passed)) == [0, 1, 2, 3]
    assert [name for layer, name in passed if layer == 2] == ["a", "b", "c"]


def test_a_second_pass_begins_when_all_have_finished_the_first() -> None:
    passed: list = []
    works = [climbs(name, [0, 1, 2, 3, 0, 1, 2, 3], passed) for name in "ab"]
    assert order(*works, climbs("c", [3, 1], passed)) == [0, 1, 2, 3, 0, 1, 2, 3]


def test_works_that_turn_around_go_down_together() -> None:
    passed: list = []
    up_and_down = [0, 1, 2, 2, 1, 0]
    assert order(*[climbs(name, up_and_down, passed) for name in "ab"]) == [0, 1, 2, 2, 1, 0]


def test_works_of_no_layer_and_no_works_at_all() -> None:
    assert drained(in_step([climbs("a", [], []), climbs("b", [1], [])])) == ["a", "b"]
    assert drained(in_step([])) == []


def test_an_error_closes_the_others() -> None:
    closed: list = []

    def waits():
        try:
            yield 0
            yield 1
        finally:
            closed.append(True)

    with pytest.raises(ValueError, match="broken"):
        drained(in_step([waits(), climbs("broken", range(3), [], fail_at=1), waits()]))
    assert closed == [True, True]
