"""Batches from token ids: padding, marks, identity, and refusals that name the rows."""

from __future__ import annotations

import pytest

from circuitlab.errors import AlignmentError, BadParameterError, UnknownNameError
from circuitlab.model.batch import ContrastBatch


def make(**changes):
    given = {"clean": [[1, 2, 3], [4, 5]], "corrupt": [[1, 9, 3], [4, 6]], "answers": [7, [8, 9]], "foils": [1, [2]]} | changes
    return ContrastBatch.from_tokens(**given)


def test_rows_are_padded_on_the_right() -> None:
    batch = make(marks={"X": [1, 0]}, distractors=[[3], []])
    assert batch.clean.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert batch.mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.end.tolist() == batch.mark("END").tolist() == [2, 1]
    assert batch.answers.tolist() == [[7, -1], [8, 9]]
    assert batch.mark("X+1").tolist() == [2, 1]
    assert batch.mark("X").tolist() == [1, 0]


def test_a_selection_is_cropped_and_has_its_own_identity() -> None:
    batch = make()
    second = batch.select([1])
    assert second.clean.tolist() == [[4, 5]]
    assert second.task.digest != batch.task.digest
    assert batch.select([0, 1]).task.digest == batch.task.digest
    assert second.task.n_pairs == 1
    with pytest.raises(BadParameterError, match="No pair"):
        batch.select([])


def test_templates_go_with_their_pairs_and_leave_the_identity_alone() -> None:
    plain = make()
    batch = plain.with_templates(["first", "second"])
    assert batch.select([1, 0]).templates == ("second", "first")
    assert batch.over_tokens()[1].templates == batch.templates
    assert batch.task.digest == plain.task.digest
    assert batch.select([1]).task.digest == plain.select([1]).task.digest
    assert plain.select([1]).templates == ()
    with pytest.raises(BadParameterError, match="1 templates were named for 2 pairs"):
        plain.with_templates(["first"])


@pytest.mark.parametrize("change", [{"answers": [7, 8]}, {"clean": [[1, 2, 4], [4, 5]]}, {"marks": {"X": [0, 0]}}, {"foils": [2, 2]}])
def test_identity_follows_content(change) -> None:
    assert make(**change).task.digest != make().task.digest
    assert make().task.digest == make().task.digest


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"corrupt": [[1, 9], [4, 6]]}, AlignmentError, "row 0: 3 and 2 tokens"),
        ({"answers": [7]}, BadParameterError, "same number of rows"),
        ({"answers": [7, []]}, BadParameterError, "no answer or no foil"),
        ({"marks": {"X": [0, 5]}}, BadParameterError, "rows \\[1\\] fall outside"),
        ({"marks": {"X": [0]}}, BadParameterError, "1 positions for 2 prompts"),
        ({"clean": [], "corrupt": [], "answers": [], "foils": []}, BadParameterError, "at least one"),
        ({"clean": [[], [4, 5]], "corrupt": [[], [4, 6]]}, BadParameterError, "hold no token"),
    ],
)
def test_refusals(change, error, says) -> None:
    with pytest.raises(error, match=says):
        make(**change)


def test_marks_outside_are_refused() -> None:
    batch = make(marks={"SUBJECT": [1, 1]})
    with pytest.raises(UnknownNameError, match="Did you mean 'SUBJECT'"):
        batch.mark("SUBJCT")
    with pytest.raises(BadParameterError, match="outside"):
        batch.mark("SUBJECT+1")
