"""Pairs of one's own: read from every kind of table, problems named by row, usable as a task."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from circuitlab.core.errors import TaskFileError
from circuitlab.tasks import Task, is_task, load_task, sample_pairs

ROWS = [
    {"clean": "The capital of France is", "corrupt": "The capital of Spain is", "answer": "Paris", "foil": "Madrid", "PLACE": "France"},
    {"clean": "The capital of Italy is", "corrupt": "The capital of Egypt is", "answer": "Rome", "foil": "Cairo", "PLACE": "Italy"},
]


def as_csv(folder):
    path = folder / "own capitals.csv"
    pd.DataFrame(ROWS).to_csv(path, index=False)
    return path


def as_lines(folder):
    path = folder / "own capitals.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    return path


FORMS = {
    "csv": as_csv,
    "jsonl": as_lines,
    "list": lambda _: ROWS,
    "frame": lambda _: pd.DataFrame(ROWS),
    "columns": lambda _: {name: [row[name] for row in ROWS] for name in ROWS[0]},
    "generator": lambda _: (row for row in ROWS),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_table_is_the_same_task(form, tmp_path) -> None:
    task = Task.from_pairs(FORMS[form](tmp_path), id="own")
    assert task == Task.from_pairs(ROWS, id="own")
    examples = list(sample_pairs(task))
    assert [one.answers for one in examples] == [(" Paris",), (" Rome",)]
    assert [one.clean[slice(*one.clean_marks["PLACE"])] for one in examples] == ["France", "Italy"]


def test_a_file_is_a_task_of_its_name(tmp_path) -> None:
    path = as_csv(tmp_path)
    assert load_task(path).id == "own-capitals"
    assert is_task(str(path)) and is_task("ioi") and not is_task("The capital of France is")
    assert next(sample_pairs(path)).clean == ROWS[0]["clean"]


def test_the_name_of_pairs_without_one_follows_their_content() -> None:
    names = {Task.from_pairs(ROWS).id, Task.from_pairs(ROWS[:1]).id, Task.from_pairs([ROWS[0] | {"foil": "Rome"}]).id}
    assert len(names) == 3
    assert Task.from_pairs(ROWS).id == Task.from_pairs(list(ROWS)).id
    assert Task.from_pairs(ROWS).identity() != Task.from_pairs(ROWS[::-1], id=Task.from_pairs(ROWS).id).identity()


def test_brackets_mark_words_in_both_prompts() -> None:
    row = {
        "clean": "See [S1:John], then [S2:John] gave",
        "corrupt": "See [S1:Mary], then [S2:Mary] gave",
        "answers": ["a", "b"],
        "foils": "c|d",
    }
    (one,) = sample_pairs(Task.from_pairs([row]))
    assert (one.clean, one.corrupt) == ("See John, then John gave", "See Mary, then Mary gave")
    assert one.clean_marks == {"S1": (4, 8), "S2": (15, 19)} == one.corrupt_marks
    assert (one.answers, one.foils) == ((" a", " b"), (" c", " d"))


def test_a_column_says_which_occurrence_it_means() -> None:
    row = {"clean": "John saw that John", "corrupt": "John saw that Mary", "answer": "left", "foil": "came"}
    (one,) = sample_pairs(Task.from_pairs([row | {"S2": "John#2"}]))
    assert one.clean_marks == {"S2": (14, 18)}
    with pytest.raises(TaskFileError, match=r"Row 1 .* mark S2 names 'John', and 'John' occurs 2 times"):
        Task.from_pairs([row | {"S2": "John"}])


@pytest.mark.parametrize(
    ("prompt", "answer", "kept"),
    [
        ("is", "Paris", " Paris"),
        ("is", " Paris", " Paris"),
        ("is ", "Paris", "Paris"),
        ("3 + 4 =", "7", "7"),
        ('is "', "hot", "hot"),
        ('is "hot"', "and", " and"),
        ("A:", "Yes", " Yes"),
    ],
)
def test_words_get_a_space_where_they_would_run_together(prompt, answer, kept) -> None:
    row = {"clean": f"x {prompt}", "corrupt": f"y {prompt}", "answer": answer, "foil": "other"}
    assert next(sample_pairs(Task.from_pairs([row]))).answers == (kept,)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answer": ""}, "Row 2 of the list has nothing in 'answer'"),
        ({"answer": float("nan")}, "Row 2 of the list has nothing in 'answer'"),
        ({"clean": 3}, "Row 2 .* has 3 in 'clean', which is not text"),
        ({"corrupt": ROWS[1]["clean"]}, "Row 2 .* the clean and the corrupt prompt are both"),
        ({"foil": "Rome"}, "Row 2 .* names .*Rome.* both as an answer and as a foil"),
        ({"PLACE": "Rome"}, "Row 2 .* mark PLACE names 'Rome', and 'Rome' occurs 0 times"),
        ({"clean": "The capital of [PLACE:] is"}, "Row 2 .* the mark PLACE around nothing"),
        (ROWS[0], "Row 2 of the list repeats row 1"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(change, says) -> None:
    with pytest.raises(TaskFileError, match=says):
        Task.from_pairs([ROWS[0], ROWS[1] | change])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "holds no pair"),
        ([{"clean": "a", "corrupt": "b"}], "lacks answer, foil"),
        ([ROWS[0] | {"colour": "x"}], "has 'colour', not among the known columns"),
        (["clean"], "Row 1 is str, not a mapping"),
        ({"clean": ["a"], "corrupt": ["b", "c"]}, "columns differ in length"),
        ("pairs.txt", "is not a table of pairs"),
        ([ROWS[0], {name: value for name, value in ROWS[1].items() if name != "PLACE"}], "Row 2 .* has the marks"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(rows, says) -> None:
    with pytest.raises(TaskFileError, match=says):
        Task.from_pairs(rows)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("x.csv", "clean,corrupt,answer,foil\na,b,c\n", "another number of cells"),
        ("x.csv", "clean,clean,answer,foil\n", "two columns called 'clean'"),
        ("x.csv", '"clean', "is not a CSV table"),
        ("x.jsonl", '{"clean": "a"}\n[1]\n', "Line 2 of .* is not a JSON object"),
        ("x.jsonl", "[" * 5000, "Line 1 of"),
        ("x.csv", "", "holds no pair"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, text, says) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TaskFileError, match=says):
        Task.from_pairs(tmp_path / name)


def test_another_seed_gives_another_order_of_the_same_pairs() -> None:
    rows = [{"clean": f"c{i}", "corrupt": f"d{i}", "answer": "a", "foil": "b"} for i in range(8)]
    task = Task.from_pairs(rows)
    orders = [[one.clean for one in sample_pairs(task, seed=seed)] for seed in (0, 1, 1)]
    assert orders[0] == [row["clean"] for row in rows]
    assert orders[1] == orders[2] != orders[0]
    assert sorted(orders[1]) == sorted(orders[0])
