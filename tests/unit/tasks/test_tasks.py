"""Task files: every shipped task yields sound pairs, the stream is deterministic, and bad files are named with what is wrong."""

from __future__ import annotations

import csv
import itertools
import random
import re
from pathlib import Path

import pytest

from circuitlab.core.errors import CircuitlabError, TaskFileError, UnknownNameError
from circuitlab.tasks import list_tasks, load_task, sample_pairs, tasks_folder
from circuitlab.tasks.render import example_text, marked
from circuitlab.tasks.sources import Context, draw_rows
from circuitlab.tasks.spec import SumSource

CASES = [(task, variant) for task in list_tasks() for variant in load_task(task).variants]

GOOD = """
id = "made"
version = 1
title = "Made"
about = "A made task."
cite = ["wang2022"]
licence = "none"
answers = [" {a}"]
foils = [" {b}"]
default_variant = "swap"
[pools]
words = ["x", "y", "z"]
[source]
kind = "pools"
distinct = [["a", "b"]]
slots = { a = "words", b = "words" }
[[templates]]
name = "one"
text = "Say {a:A}, then"
[variants.swap]
about = "The other word."
swap = { A = "{b}" }
"""


@pytest.fixture
def make(tmp_path: Path):
    (tmp_path / "pools.toml").write_text('shared = ["p", "q"]\n')

    def write(*changes: tuple[str, str], name: str = "made") -> Path:
        text = GOOD
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return path

    return write


def draw(task, n=20, **options):
    return list(itertools.islice(sample_pairs(task, **options), n))


@pytest.mark.parametrize(("task", "variant"), CASES)
def test_every_shipped_variant_yields_sound_pairs(task: str, variant: str) -> None:
    pairs = draw(task, variant=variant)
    assert len(pairs) == 20
    assert len({(pair.clean, pair.corrupt) for pair in pairs}) == 20
    for pair in pairs:
        assert pair.clean != pair.corrupt
        assert pair.answers
        assert pair.foils
        assert not set(pair.answers) & {*pair.foils, *pair.distractors}
        assert set(pair.clean_marks) == set(pair.corrupt_marks)
        for start, stop in pair.clean_marks.values():
            assert pair.clean[start:stop].strip()
        assert "{" not in pair.clean


def test_the_core_tasks_are_there() -> None:
    core = {"ioi", "colored_objects", "successor", "capitals", "addition", "greater_than", "docstring", "factual_recall", "arithmetic"}
    assert core <= set(list_tasks())
    assert {"s2_io", "abc"} <= set(load_task("ioi").variants)
    assert "two_objects" in load_task("colored_objects").variants
    names = {template.name for template in load_task("ioi").templates}
    assert sum(name.startswith("ABBA") for name in names) == sum(name.startswith("BABA") for name in names) == 15


def test_ioi_says_what_it_should() -> None:
    for pair in draw("ioi", 40, variant="s2_io"):
        words = {mark: pair.clean[slice(*span)] for mark, span in pair.clean_marks.items()}
        assert words["S1"] == words["S2"] != words["IO"]
        assert pair.answers == (f" {words['IO']}",)
        assert pair.foils == (f" {words['S1']}",)
        assert pair.corrupt[slice(*pair.corrupt_marks["S2"])] == words["IO"]
    for pair in draw("ioi", 40, variant="abc"):
        names = [pair.corrupt[slice(*pair.corrupt_marks[mark])] for mark in ("IO", "S1", "S2")]
        assert len(set(names)) == 3
        assert not set(names) & {pair.clean[slice(*span)] for span in pair.clean_marks.values()}


def test_sums_are_right() -> None:
    for task, sign in (("addition", "+"), ("subtraction", "-"), ("multiplication", "*")):
        for pair in draw(task, 60):
            for text, answer in ((pair.clean, pair.answers[0]), (pair.corrupt, pair.foils[0])):
                *examples, question = text.split(", ")
                a, b = question.removesuffix(" = ").split(f" {sign} ")
                assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] == int(answer)
                for example in examples:
                    left, right = example.split(" = ")
                    assert eval(left) == int(right)


def test_arithmetic_mixes_operations_and_never_within_a_prompt() -> None:
    signs = set()
    for pair in draw("arithmetic", 60):
        for text, answer in ((pair.clean, pair.answers[0]), (pair.corrupt, pair.foils[0])):
            problems = re.findall(r"(\d) ([+-]) (\d)(?: = |\? )(\d?)", text)
            assert len(problems) == 4 and len({sign for _, sign, _, _ in problems}) == 1
            signs.add(problems[0][1])
            for a, sign, b, shown in problems:
                assert int(shown or answer) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
    assert signs == {"+", "-"}
    assert {pair.template for pair in draw("arithmetic", 60)} == {"lines", "questions"}


def test_an_operation_that_is_none_is_refused(tmp_path) -> None:
    for operation in ("+/", ""):
        with pytest.raises(UnknownNameError, match="operation"):
            next(draw_rows(SumSource(operation=operation), Context("made", tmp_path, {}, random.Random(0))))


def test_factual_recall_asks_in_several_ways_for_the_right_capital() -> None:
    with (tasks_folder() / "capitals.csv").open() as table:
        capitals = {row["country"]: row["capital"] for row in csv.DictReader(table)}
    pairs = draw("factual_recall", 60)
    assert len({pair.template for pair in pairs}) == len(load_task("factual_recall").templates) >= 5
    for pair in pairs:
        for text, spans, answers in ((pair.clean, pair.clean_marks, pair.answers), (pair.corrupt, pair.corrupt_marks, pair.foils)):
            assert answers == (f" {capitals[text[slice(*spans['SUBJECT'])]]}",)


def test_greater_than_divides_the_digits() -> None:
    for pair in draw("greater_than", 40):
        y = int(pair.clean[slice(*pair.clean_marks["Y"])])
        assert [int(digit) for digit in pair.answers] == list(range(y + 1, 10))
        assert [int(digit) for digit in pair.foils] == list(range(y + 1))


def test_the_first_pairs_of_a_longer_draw_are_the_same() -> None:
    assert draw("ioi", 10, seed=5) == draw("ioi", 30, seed=5)[:10]
    assert draw("ioi", 10, seed=5) != draw("ioi", 10, seed=6)
    assert draw("ioi", 10) != draw("ioi", 10, variant="abc")


def test_a_small_task_ends(make) -> None:
    pairs = draw(make(), 100)
    assert len(pairs) == 6


def test_a_task_is_found_in_the_folder_named_by_the_environment(make, monkeypatch) -> None:
    folder = make().parent
    monkeypatch.setenv("CIRCUITLAB_TASKS", str(folder))
    assert list_tasks() == ["made"]
    assert tasks_folder() == folder.resolve()


def test_rendering_shows_marks_and_leading_spaces() -> None:
    pair = draw("ioi", 1)[0]
    assert "]S2" in marked(pair.clean, pair.clean_marks)
    text = example_text(pair)
    assert repr(pair.answers[0]) in text
    assert text.count("\n") == 2


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (("about =", "abuot ="), TaskFileError, "abuot"),
        (("version = 1", 'version = "one"'), TaskFileError, "version"),
        (('["x", "y", "z"]', "[]"), TaskFileError, "'words' of task 'made' is empty"),
        (('["x", "y", "z"]', '["x", "x"]'), TaskFileError, "repeats x"),
        (('["x", "y", "z"]', '["x"]'), TaskFileError, "needs 2 different words; its pools hold 1"),
        (('distinct = [["a", "b"]]', 'distinct = [["a", "c"]]'), TaskFileError, "which is not a slot"),
        (('b = "words"', 'b = "wrods"'), UnknownNameError, "Did you mean 'words'"),
        (("{a:A}, then", "{aa:A}, then"), UnknownNameError, "slot in template 'one'"),
        (("{a:A}, then", "{a|titel:A}, then"), UnknownNameError, "Did you mean 'title'"),
        (("{a:A}, then", "{a:A} {, then"), TaskFileError, "brace"),
        (("{a:A}, then", "{a:A} {b:A}, then"), TaskFileError, "mark twice"),
        (('swap = { A = "{b}" }', 'swap = { B = "{b}" }'), UnknownNameError, "mark in swap"),
        (('swap = { A = "{b}" }', ""), TaskFileError, "changes nothing"),
        (('default_variant = "swap"', 'default_variant = "swop"'), UnknownNameError, "Did you mean 'swap'"),
        (('foils = [" {b}"]', 'foils = [" {a}"]'), TaskFileError, "both as answer and as foil"),
        (('["x", "y", "z"]', '["x", " ", ""]'), TaskFileError, r"empty words \(number 2, 3\)"),
        (('answers = [" {a}"]', 'answers = [" "]'), TaskFileError, "' ' among its answers"),
        (('foils = [" {b}"]', 'foils = [""]'), TaskFileError, "'' among its foils"),
        (('foils = [" {b}"]', "foils = []"), TaskFileError, "no foils for"),
        (('answers = [" {a}"]', "answers = []"), TaskFileError, "no answers for"),
        (('id = "made"', 'id = "../made"'), TaskFileError, "cannot be a task id"),
        (("[variants.swap]", '[variants."a/b"]'), TaskFileError, "cannot be a variant of task 'made'"),
        (('kind = "pools"', 'kind = "pool"'), TaskFileError, "pool"),
        (('id = "made"', 'id = "other"'), TaskFileError, "Give the file the name of its id"),
        (('title = "Made"', "title = Made"), TaskFileError, "cannot be used"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(make, change, error, says) -> None:
    path = make(change)
    with pytest.raises(error, match=says) as caught:
        draw(path, 1)
    assert isinstance(caught.value, CircuitlabError)
    assert caught.value.fix


def test_unknown_names_suggest_the_near_one(tmp_path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'ioi'"):
        load_task("oii")
    with pytest.raises(UnknownNameError, match="Did you mean 's2_io'"):
        draw("ioi", 1, variant="s2io")
    with pytest.raises(TaskFileError, match="no task file"):
        load_task(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("item,answer\na,1\nb,1\n", "1 different answers"),
        ("item,reply\na,1\nb,2\n", "a column 'answer'"),
        ("item,answer\na,1\nb\n", "ragged lines"),
        ("item,answer\na,1\nb,\n", "line 3, 'answer'"),
        ('item,answer\na,1\nb," "\n', "line 3, 'answer'"),
        ("item,answer\na,1\n\n ,2\n", "line 4, 'item'"),
        ("item,answer,\na,1,x\nb,2,y\n", "line 1, ''"),
        ("item,answer,answer\na,1,1\nb,2,2\n", "two columns called 'answer'"),
        ('item,answer\na,"1\n', "not a CSV table"),
        ('item,answer\na,"1"x\n', "not a CSV table"),
        ("", "0 rows"),
        ("item,answer\n", "0 rows"),
        ("item,answer\na,Z\u00fcrich\nb,2\n".encode("latin-1"), r"not UTF-8: byte 0xfc at byte offset 15 \(line 2\).*UTF-8"),
        ("item,answer\na,1\n".encode("utf-16"), "is UTF-16 .byte offset 0"),
        ("item,answer\na,1\n".encode("utf-16-be"), "zero byte at byte offset 0"),
        ("item,answer\na,1\n".encode("utf-32"), "is UTF-32"),
        (None, "does not exist"),
    ],
)
def test_a_bad_table_is_refused(make, tmp_path, table, says) -> None:
    slots = 'kind = "pools"\ndistinct = [["a", "b"]]\nslots = { a = "words", b = "words" }'
    path = make((slots, 'kind = "table"\nfile = "rows.csv"\nanswer = "answer"'), ("{a:A}", "{item.item:A}"), ("{b}", "{other.item}"))
    if table is not None:
        (tmp_path / "rows.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(TaskFileError, match=says) as caught:
        draw(path, 1)
    assert "rows.csv" in str(caught.value)


def test_a_byte_order_mark_changes_nothing(make, tmp_path) -> None:
    slots = 'kind = "pools"\ndistinct = [["a", "b"]]\nslots = { a = "words", b = "words" }'
    path = make((slots, 'kind = "table"\nfile = "rows.csv"\nanswer = "answer"'), ("{a:A}", "{item.item:A}"), ("{b}", "{other.item}"))
    path.write_text(path.read_text().replace('[" {a}"]', '[" {item.answer}"]').replace('[" {b}"]', '[" {other.answer}"]'))
    (tmp_path / "rows.csv").write_text("item,answer\r\na,1\r\nb,2\r\n", newline="")
    plain = draw(path, 2)
    for file in (path, tmp_path / "rows.csv", tmp_path / "pools.toml"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert draw(path, 2) == plain
    assert {pair.answers for pair in plain} == {(" 1",), (" 2",)}


def test_task_files_and_word_lists_in_other_encodings_are_named(make, tmp_path) -> None:
    path = make()
    path.write_bytes(path.read_text().replace("A made task", "Gemachte T\u00e4tigkeit").encode("latin-1"))
    with pytest.raises(TaskFileError, match=r"made\.toml is not UTF-8: byte 0xe4"):
        load_task(path)
    path = make()
    (tmp_path / "pools.toml").write_bytes('shared = ["p"]'.encode("utf-16"))
    with pytest.raises(TaskFileError, match=r"pools\.toml is UTF-16"):
        draw(path, 1)


@pytest.mark.parametrize(("clean", "corrupt", "which"), [(" ", "Say", "clean"), ("Say {a}", "", "corrupt"), ("", "\\n", "clean")])
def test_an_empty_prompt_is_refused(make, clean, corrupt, which) -> None:
    path = make(('"Say {a:A}, then"', f'"{clean}"'), ('swap = { A = "{b}" }', f'corrupt = "{corrupt}"'))
    with pytest.raises(TaskFileError, match=f"The {which} prompt of template 'one' of task 'made' is empty"):
        draw(path, 1)


def test_changed_word_lists_are_seen_at_once(make, tmp_path) -> None:
    path = make(("[pools]\n", "[other]\n"))
    path.write_text(path.read_text().replace('[other]\nwords = ["x", "y", "z"]\n', ""))
    (tmp_path / "pools.toml").write_text('words = ["x", "y"]')
    assert len(draw(path)) == 2
    (tmp_path / "pools.toml").write_text('words = ["x", "y", "z"]')
    assert len(draw(path)) == 6


def test_a_task_read_from_a_file_finds_the_table_beside_it(tmp_path, monkeypatch) -> None:
    (guide,) = re.findall(r"(?ms)^```toml\n(.*?)^```", (Path(__file__).parents[3] / "tasks" / "README.md").read_text("utf-8"))
    (tmp_path / "opposites.toml").write_text(guide, encoding="utf-8")
    (tmp_path / "opposites.csv").write_text("word,opposite\nhot,cold\nbig,small\nup,down\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    task = load_task("opposites.toml")
    monkeypatch.chdir("/")
    assert next(sample_pairs(task)) == next(sample_pairs(tmp_path / "opposites.toml"))
    assert task.folder and "folder" not in task.identity()
    assert load_task("ioi").folder == "", "a task of the task folder is the same wherever that lies"
    (tmp_path / "opposites.toml").write_text('folder = "/elsewhere"\n' + guide, encoding="utf-8")
    with pytest.raises(TaskFileError, match="unknown field `folder`"):
        load_task(tmp_path / "opposites.toml")
