"""Passages: those that are shipped are many, different and long enough; files of one's own are read, and refused by line."""

from __future__ import annotations

from collections import Counter

import pytest

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.texts import Passage, list_kinds, load_texts, read_texts


def test_the_shipped_passages_are_many_and_different() -> None:
    texts = [one.text for one in load_texts()]
    assert len(texts) >= 250 and len(list_kinds()) >= 130
    assert len(set(texts)) == len(texts)
    beginnings = Counter(text[:40] for text in texts)
    assert beginnings.most_common(1)[0][1] == 1, "no two passages begin alike"
    shared = Counter(line for text in texts for line in {one.strip() for one in text.split("\n")} if len(line) > 30)
    assert shared.most_common(1)[0][1] == 1, "no line of some length stands in two passages"
    for text in texts:
        assert 300 <= len(text) <= 800 and text == text.strip(), text[:60]


@pytest.mark.real_model
def test_every_shipped_passage_is_long_enough_for_the_default_length(smollm2) -> None:
    lengths = [len(smollm2.tokenizer(one.text)["input_ids"]) for one in load_texts()]
    assert min(lengths) >= 80


def test_a_few_passages_are_of_as_many_kinds() -> None:
    few = load_texts(n=len(list_kinds()))
    assert {one.kind for one in few} == set(list_kinds())
    assert few == load_texts(n=len(few) + 5)[: len(few)]
    assert {one.kind for one in load_texts("recipe")} == {"recipe"}
    assert Counter(one.kind for one in load_texts(["python", "poem"], n=4)) == {"python": 2, "poem": 2}


def test_kinds_and_numbers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'recipe'"):
        load_texts(["recipes"])
    for n in (0, 4):
        with pytest.raises(BadParameterError, match=f"{n} passages were asked for; there are 3"):
            load_texts("list", n)


def test_text_with_empty_lines_between_passages(tmp_path) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes("\ufeff\r\n  \r\nFirst line,\r\n  second line.\r\n \t\r\n\r\nAnother.".encode())
    assert read_texts(file) == (Passage("First line,\n  second line."), Passage("Another."))


def test_json_lines(tmp_path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "One.", "kind": "prose"}\n\n{"text": "Two\\n\\nand a half."}\n', encoding="utf-8")
    assert read_texts(str(file)) == (Passage("One.", "prose"), Passage("Two\n\nand a half.", "own"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b" \n\n", "holds no passage"),
        ("a.txt", b"Same.\n\nOther.\n\nSame.\n", "Line 5 of .* repeats the passage of line 1"),
        ("a.txt", b"fine\n\nca\xfe", "byte 0xfe at byte offset 8 .line 3."),
        ("a.jsonl", b'{"text": "One."}\n{"txt": "Two."}\n', "Line 2 of .* is no passage"),
        ("a.jsonl", b'{"text": "One."}\n\nTwo\n', "Line 3 of .* is no passage"),
        ("a.jsonl", b'{"text": 3}\n', "Line 1 of .* is no passage"),
        ("a.jsonl", b'{"text": " "}\n', "The text in line 1 of .* is empty"),
        ("a.jsonl", b'{"text": "One."}\n{"text": "One.", "kind": "b"}', "Line 2 of .* repeats"),
    ],
)
def test_what_is_wrong_is_named_by_line(tmp_path, name, content, said) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadParameterError, match=said):
        read_texts(tmp_path / name)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(BadParameterError, match=r"gone\.txt cannot be read"):
        read_texts(tmp_path / "gone.txt")
