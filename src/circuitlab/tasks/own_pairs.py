"""Your own pairs: clean and corrupt prompts with answers and foils, from a table in a file or in memory. Errors name the row."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from circuitlab.core.errors import TaskFileError
from circuitlab.tasks.text import read_text

__all__ = ["ENDINGS", "OwnPair", "PairTable", "read_pairs"]

PairTable: TypeAlias = "str | Path | Iterable[Mapping[str, Any]] | Mapping[str, Iterable[Any]]"
"""A CSV or JSON-lines file, an iterable of mappings (one per row), a mapping of columns, or a data frame."""

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson")
"""Endings of files that hold a table of pairs."""

_PROMPT_COLUMNS = ("clean", "corrupt")
_ANSWER_COLUMNS = {"answer": "answers", "answers": "answers", "foil": "foils", "foils": "foils", "distractors": "distractors"}
_OPTIONAL_COLUMNS = ("template",)
_BRACKET = re.compile(r"\[([A-Z][A-Z0-9_]*):([^\[\]]*)\]")
_MARK = re.compile(r"[A-Z][A-Z0-9_]*")
_NEEDS_SPACE = re.compile(r"(?:[\w,.:;?!)\u2019\u201d]|(?<=\S)[\"'])$")  # a quotation mark after a space opens one
_SEPARATOR = "|"
_HELP = (
    "Columns are clean, corrupt, answer and foil (several answers: answer1|answer2, or a list); mark a word as [S2:John] in a prompt, "
    "or by a column S2 that holds the word."
)


class OwnPair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pair of prompts as text.

    ``clean_marks`` and ``corrupt_marks`` map a mark to the half-open character span of its words. A mark that is missing from
    ``corrupt_marks`` is at the same token position as in the clean prompt.
    """

    clean: str
    corrupt: str
    answers: tuple[str, ...]
    foils: tuple[str, ...]
    distractors: tuple[str, ...] = ()
    template: str = "own"
    clean_marks: dict[str, tuple[int, int]] = {}
    corrupt_marks: dict[str, tuple[int, int]] = {}


def read_pairs(rows: PairTable) -> list[OwnPair]:
    """Read pairs from a file or a table.

    Parameters
    ----------
    rows : str, Path, iterable of mappings, data frame or mapping of columns
        A ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson`` file, a list of dictionaries, a data frame, or a dictionary of columns. Columns are
        ``clean``, ``corrupt``, ``answer`` (or ``answers``) and ``foil`` (or ``foils``). Optional are ``distractors``, ``template``, and one
        column for each mark, its name in capitals, with the marked words of the clean prompt (``John#2``: their second occurrence).

    Returns
    -------
    list of OwnPair
        One per row, in the order of the table.

    Raises
    ------
    TaskFileError
        If a file cannot be read, or a row cannot be used; rows are counted from 1.
    """
    source, table = _table(rows)
    if not table:
        raise TaskFileError(f"{source} holds no pair.", _HELP)
    columns = list(dict.fromkeys(name for row in table for name in row))
    known = {*_PROMPT_COLUMNS, *_ANSWER_COLUMNS, *_OPTIONAL_COLUMNS}
    unknown = [name for name in columns if name not in known and not _MARK.fullmatch(str(name))]
    missing = [name for name in _PROMPT_COLUMNS if name not in columns]
    missing += [name for name in ("answer", "foil") if name not in columns and f"{name}s" not in columns]
    if unknown or missing:
        problems = [f"lacks {', '.join(missing)}"] if missing else []
        problems += [f"has {', '.join(map(repr, unknown))}, not among the known columns"] if unknown else []
        raise TaskFileError(f"{source} {' and '.join(problems)}.", _HELP)
    pairs = [_pair(row, f"Row {number} of {source}") for number, row in enumerate(table, start=1)]
    for number, pair in enumerate(pairs, start=1):
        if set(pair.clean_marks) != set(pairs[0].clean_marks):
            what = f"Row {number} of {source} has the marks {sorted(pair.clean_marks)}, row 1 {sorted(pairs[0].clean_marks)}."
            raise TaskFileError(what, "Mark the same places in every clean prompt.")
    first: dict[tuple[str, str], int] = {}
    for number, pair in enumerate(pairs, start=1):
        if (pair.clean, pair.corrupt) in first:
            what = f"Row {number} of {source} repeats row {first[pair.clean, pair.corrupt]}."
            raise TaskFileError(what, "Remove it: a repeated pair adds no information, and intervals would count it as two.")
        first[pair.clean, pair.corrupt] = number
    return pairs


def _table(rows: PairTable) -> tuple[str, list[dict[str, Any]]]:
    """What to call the table in messages, and its rows."""
    if isinstance(rows, str | Path):
        path = Path(rows)
        if path.suffix.lower() not in ENDINGS:
            what = f"{path} is not a table of pairs."
            raise TaskFileError(what, f"Give a file that ends with {', '.join(ENDINGS)}.")
        return str(path), _lines(path)
    frame: Any = rows
    if hasattr(frame, "itertuples") and hasattr(frame, "columns"):  # a pandas data frame, without importing pandas
        return "the table", [dict(zip(map(str, frame.columns), row, strict=True)) for row in frame.itertuples(index=False, name=None)]
    if isinstance(rows, Mapping):
        columns = {str(name): list(values) for name, values in rows.items()}
        if len({len(values) for values in columns.values()}) > 1:
            what = f"The columns differ in length: { {name: len(values) for name, values in columns.items()} }."
            raise TaskFileError(what, "Give one value per pair in each.")
        return "the table", [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    listed = list(rows)
    if unusable := [i for i, row in enumerate(listed, start=1) if not isinstance(row, Mapping)]:
        what = f"Row {unusable[0]} is {type(listed[unusable[0] - 1]).__name__}, not a mapping."
        raise TaskFileError(what, _HELP)
    return "the list", [{str(name): value for name, value in row.items()} for row in listed]


def _lines(path: Path) -> list[dict[str, Any]]:
    text = read_text(path)
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        rows = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                rows.append(msgspec.json.decode(line, type=dict[str, Any]))
            except (msgspec.MsgspecError, RecursionError) as error:
                what = f"Line {number} of {path} is not a JSON object: {error}."
                raise TaskFileError(what, "Write one object per line.") from error
        return rows
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        what = f"{path} is not a CSV table: {error} (line {reader.line_num})."
        raise TaskFileError(what, "Quote cells that hold commas or line ends, and double the quotes inside them.") from error
    header = lines[0][1] if lines else []
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise TaskFileError(f"{path} has two columns called {', '.join(map(repr, repeated))}.", "Give every column its own name.")
    if ragged := [line for line, cells in lines if len(cells) != len(header)]:
        what = f"{path} has {len(header)} columns, and line {ragged[0]} another number of cells."
        raise TaskFileError(what, "Quote cells that hold commas.")
    return [dict(zip((name.strip() for name in header), cells, strict=True)) for _, cells in lines[1:]]


def _pair(row: Mapping[str, Any], where: str) -> OwnPair:
    (clean, clean_marks), (corrupt, corrupt_marks) = (_split_marks(_text(row.get(name), where, name), where) for name in _PROMPT_COLUMNS)
    if clean == corrupt:
        raise TaskFileError(f"{where}: the clean and the corrupt prompt are both {clean!r}.", "Change a word in one of them.")
    sets: dict[str, tuple[str, ...]] = {"distractors": ()}
    for name, kind in _ANSWER_COLUMNS.items():
        if row.get(name) is not None:
            sets[kind] = tuple(dict.fromkeys(_continuation(clean, text) for text in _cell_answers(row[name], where, name)))
    for kind in ("answers", "foils"):
        if not sets.get(kind):
            raise TaskFileError(f"{where} has no {kind}.", "Give at least one answer and one foil for each pair.")
    if shared := set(sets["answers"]) & {*sets["foils"], *sets["distractors"]}:
        raise TaskFileError(f"{where} names {sorted(shared)} both as an answer and as a foil.", "Make them different.")
    for name, value in row.items():
        if _MARK.fullmatch(name):
            clean_marks[name] = _span(clean, _text(value, where, name), f"{where}: mark {name}")
    return OwnPair(clean, corrupt, **sets, template=str(row.get("template") or "own"), clean_marks=clean_marks, corrupt_marks=corrupt_marks)


def _text(value: Any, where: str, name: str) -> str:
    """The text of a cell; an empty cell is refused, and so is NaN, which data frames hold in its place."""
    if value is None or value != value or not str(value).strip():  # noqa: PLR0124 - NaN differs from itself
        raise TaskFileError(f"{where} has nothing in {name!r}.", "Fill the cell, or take the row out.")
    if not isinstance(value, str):
        raise TaskFileError(f"{where} has {value!r} in {name!r}, which is not text.", "Write it in quotes.")
    return value


def _cell_answers(value: Any, where: str, name: str) -> Sequence[str]:
    """The answers in a cell: a list, or texts separated by a bar."""
    parts = value.split(_SEPARATOR) if isinstance(value, str) else list(value) if isinstance(value, list | tuple | set) else [value]
    return [_text(str(part) if isinstance(part, int) and not isinstance(part, bool) else part, where, name) for part in parts]


def _continuation(prompt: str, answer: str) -> str:
    """The answer as it follows the prompt: with a space before it if it is a word that would run into the prompt's last word."""
    return f" {answer}" if answer[:1].isalpha() and _NEEDS_SPACE.search(prompt) else answer


def _split_marks(text: str, where: str) -> tuple[str, dict[str, tuple[int, int]]]:
    """A prompt with ``[MARK:words]`` replaced by the words, and the character span of each mark's words."""
    plain, spans, last = "", {}, 0
    for match in _BRACKET.finditer(text):
        plain += text[last : match.start()]
        if match[1] in spans or not match[2].strip():
            problem = "twice" if match[1] in spans else "around nothing"
            raise TaskFileError(f"{where} has the mark {match[1]} {problem} in {text!r}.", "Mark each place once.")
        spans[match[1]] = (len(plain), len(plain) + len(match[2]))
        plain, last = plain + match[2], match.end()
    return plain + text[last:], spans


def _span(prompt: str, words: str, where: str) -> tuple[int, int]:
    """The character span of words in a prompt; ``words#2`` is their second occurrence."""
    base, _, number = words.rpartition("#") if re.search(r"#\d+$", words) else (words, "", "")
    starts = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(base)}(?!\w)", prompt)]
    occurrence = int(number) if number else 1
    if not 1 <= occurrence <= len(starts) or (not number and len(starts) > 1):
        what = f"{where} names {words!r}, and {base!r} occurs {len(starts)} times in {prompt!r}."
        raise TaskFileError(what, f"Name words of the clean prompt; if they occur more than once, say which: {base}#2.")
    return starts[occurrence - 1], starts[occurrence - 1] + len(base)
