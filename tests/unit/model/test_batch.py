"""Batches from token ids: padding, marks, identity, and refusals that name the rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from circuitlab.core.errors import AlignmentError, BadParameterError, UnknownNameError
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
        ({"clean": [[], [4, 5]], "corrupt": [[], [4, 6]]}, BadParameterError, r"Prompts \[0\] are empty"),
        ({"distractors": [[3]]}, BadParameterError, "same number of rows"),
        ({"foils": [[1, 7], [2]]}, BadParameterError, r"same token among answers and foils \(row 0: 7\)"),
        ({"foils": [7, [9, 8]]}, BadParameterError, r"2 of 2 pairs .*row 0: 7; row 1: 8, 9"),
        ({"distractors": [[7], []]}, BadParameterError, r"answers and distractors \(row 0: 7\)"),
        ({"corrupt": [[1, 2, 3], [4, 6]]}, BadParameterError, "row 0 of 2 the clean and the corrupt prompt are the same"),
        ({"clean": [[1, 2.0, 3], [4, 5]]}, BadParameterError, r"clean, row 0: 2\.0 \(float\)"),
        ({"corrupt": [[1, 9, 3], [4, True]]}, BadParameterError, r"corrupt, row 1: True \(bool\)"),
        ({"answers": [7, -1]}, BadParameterError, "answers, row 1: token id -1"),
        ({"answers": [7, None]}, BadParameterError, r"answers\[1\] is of type NoneType"),
        ({"answers": [7, float("nan")]}, BadParameterError, r"answers, row 1: nan \(float\)"),
        ({"answers": [[[7]], [8]]}, BadParameterError, r"answers, row 0: \[7\] \(list\)"),
        ({"answers": ["7", 8]}, BadParameterError, r"answers\[0\] is text"),
        ({"answers": torch.tensor([7.0, 8.0])}, BadParameterError, r"answers, row 0: 7\.0"),
        ({"answers": torch.tensor([True, False])}, BadParameterError, r"answers, row 0: True"),
        ({"answers": torch.tensor([[7, 8]])}, BadParameterError, "same number of rows"),
        ({"answers": torch.tensor([[7, -1], [8, 9]])}, BadParameterError, "row 0: token id -1"),
        ({"answers": np.zeros((2, 1, 1), dtype=int)}, BadParameterError, r"row 0: \[0\] \(list\)"),
        ({"answers": {0: 7, 1: 8}}, BadParameterError, "answers is of type dict"),
        ({"answers": pd.DataFrame({"a": [7, 8]})}, BadParameterError, "answers is of type DataFrame"),
        ({"clean": ["one", "two"]}, BadParameterError, r"clean\[0\] is text \('one'\)"),
        ({"clean": torch.tensor([1, 2])}, BadParameterError, r"clean\[0\] is of type int"),
        ({"clean": [[1, 2**40, 3], [4, 5]]}, BadParameterError, "token id 1099511627776 lies outside"),
        ({"marks": {"X": [0.0, 1]}}, BadParameterError, r"mark 'X', row 0: 0\.0 \(float\) is not a position"),
        ({"marks": {"X": [0, True]}}, BadParameterError, r"mark 'X', row 1: True \(bool\) is not a position"),
        ({"marks": {"X": torch.tensor([0, -1])}}, BadParameterError, "rows \\[1\\] fall outside"),
        ({"answers": torch.tensor([7, 8], device="meta")}, BadParameterError, "has no values"),
        ({"marks": {"END": [0, 1]}}, BadParameterError, "END is always the last token"),
        ({"marks": {"S1+1": [0, 1]}}, BadParameterError, "cannot be a mark"),
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


@pytest.mark.parametrize(
    "form",
    [tuple, np.array, torch.tensor, pd.Series, lambda x: torch.tensor(x, dtype=torch.int32), lambda x: np.array(x, dtype=np.uint16)],
    ids=["tuple", "array", "tensor", "column", "int32", "uint16"],
)
def test_ids_come_from_whatever_holds_them(form) -> None:
    given = {"clean": [[1, 2, 3], [4, 5]], "corrupt": [[1, 9, 3], [4, 6]]}
    held = {part: [form(row) for row in rows] for part, rows in given.items()}
    flat = {"answers": [7, 8], "foils": [1, 2], "distractors": [3, 3], "marks": {"X": [1, 0]}}
    held |= {part: {"X": form(rows["X"])} if part == "marks" else form(rows) for part, rows in flat.items()}
    plain, found = make(**flat), make(**held)
    assert found.task.digest == plain.task.digest
    assert found.clean.tolist() == plain.clean.tolist()
    assert found.distractors.tolist() == [[3], [3]]
    assert found.mark("X").tolist() == [1, 0]


def test_whole_tensors_and_columns_of_lists_are_taken() -> None:
    clean, corrupt = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 9, 3], [4, 9, 6]])
    plain = ContrastBatch.from_tokens(clean.tolist(), corrupt.tolist(), [[7, 8], [8, 9]], [1, 2])
    table = pd.DataFrame({"clean": clean.tolist(), "corrupt": corrupt.tolist(), "foil": [1, 2]})
    for first, second in ((clean, corrupt), (clean.numpy(), corrupt.numpy()), (table["clean"], table["corrupt"])):
        found = ContrastBatch.from_tokens(first, second, torch.tensor([[7, 8], [8, 9]]), table["foil"])
        assert found.task.digest == plain.task.digest
    assert ContrastBatch.from_tokens(clean, corrupt, [{8, 7}, frozenset({9, 8})], [1, 2]).task.digest == plain.task.digest


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    "form",
    [
        lambda rows: [[np.int64(one) for one in row] for row in rows],
        lambda rows: [[torch.tensor(one) for one in row] for row in rows],
        lambda rows: np.array([np.array(row, dtype=np.uint8) for row in rows], dtype=object),
        lambda rows: torch.nested.nested_tensor([torch.tensor(row) for row in rows]),
        lambda rows: pd.Series([torch.tensor(row, dtype=torch.uint8) for row in rows], index=[9, 4]),
        lambda rows: [torch.tensor(row).to_sparse() for row in rows],
        lambda rows: [xr.DataArray(row) for row in rows],
        lambda rows: (iter(row) for row in rows),
    ],
    ids=["scalars", "tensors of one", "objects", "nested", "column of tensors", "sparse", "xarray", "iterators"],
)
def test_rows_of_different_lengths_come_from_whatever_holds_them(form) -> None:
    found = make(clean=form([[1, 2, 3], [4, 5]]))
    assert found.task.digest == make().task.digest


def test_tensors_of_inference_mode_are_taken() -> None:
    with torch.inference_mode():
        found = make(clean=[torch.tensor([1, 2, 3]), torch.tensor([4, 5])], answers=torch.tensor([7, 8]))
    assert found.task.digest == make(answers=[7, 8]).task.digest


def test_a_token_that_a_set_names_twice_counts_once() -> None:
    twice = make(answers=[[7, 7, 6], [8]])
    assert twice.answers.tolist() == [[7, 6], [8, -1]]
    assert twice.chance() == make(answers=[[7, 6], [8]]).chance()


@pytest.mark.parametrize(
    ("clean", "padded"),
    [
        ([[5, 6, 0, 0], [5, 6, 3, 4]], "row 0"),
        ([[3, 4, 5, 6], [5, 6, 4, 0], [5, 6, 0, 0]], "rows 1, 2"),
        ([[5, 6, 9, 9], [5, 6, 3, 4]], None),
        ([[5, 6, 0, 0], [5, 0, 3, 4]], None),
    ],
)
def test_padding_on_the_right_is_refused_where_it_is_certain(clean, padded) -> None:
    corrupt = [[7, *row[1:]] for row in clean]
    ones, twos = [1] * len(clean), [2] * len(clean)
    if padded is None:
        assert ContrastBatch.from_tokens(clean, corrupt, ones, twos).n_pairs == len(clean)
        return
    with pytest.raises(BadParameterError, match=f"padded on the right: {padded} end"):
        ContrastBatch.from_tokens(clean, corrupt, ones, twos)


@pytest.mark.parametrize(
    ("clean", "corrupt", "padded"),
    [
        ([[0, 0, 5, 6], [3, 4, 5, 6]], [[0, 0, 7, 6], [3, 4, 7, 6]], "row 0"),
        ([[9, 9, 9, 6], [3, 4, 5, 6]], [[9, 9, 9, 7], [3, 4, 7, 6]], "row 0"),
        ([[3, 4, 5, 6], [0, 4, 5, 6], [0, 0, 5, 6]], [[3, 4, 7, 6], [0, 4, 7, 6], [0, 0, 7, 6]], "rows 1, 2"),
        ([[9, 9, 5, 6], [3, 4, 5, 6]], [[9, 9, 7, 6], [3, 4, 7, 6]], None),
        ([[0, 0, 5, 6], [3, 4, 5, 0]], [[0, 0, 7, 6], [3, 4, 7, 0]], None),
        ([[0, 0, 5, 6], [0, 0, 4, 6]], [[0, 0, 7, 6], [0, 0, 7, 6]], None),
        ([[0, 0, 5, 6], [3, 4, 5]], [[0, 0, 7, 6], [3, 4, 7]], None),
    ],
)
def test_padding_on_the_left_is_refused_where_it_is_certain(clean, corrupt, padded) -> None:
    if padded is None:
        assert ContrastBatch.from_tokens(clean, corrupt, [1] * len(clean), [2] * len(clean)).n_pairs == len(clean)
        return
    with pytest.raises(BadParameterError, match=f"padded on the left: {padded} begin"):
        ContrastBatch.from_tokens(clean, corrupt, [1] * len(clean), [2] * len(clean))
