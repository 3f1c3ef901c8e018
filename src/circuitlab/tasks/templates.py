"""Templates: texts with fields ``{slot|form:MARK}`` that are parsed once and filled with rows; the character spans of marks are kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from circuitlab.core.errors import TaskFileError, UnknownNameError

__all__ = ["FORMS", "Field", "ParsedTemplate", "Row", "fill", "fill_set", "parse"]

Row = Mapping[str, "str | list[str]"]
"""The values of the slots for one pair; a list is a set of answers."""

_FIELD = re.compile(r"\{([A-Za-z_][\w.]*)(?:\|(\w+))?(?::(\w+))?\}")


def _with_article(word: str) -> str:
    return ("an " if word[:1].lower() in "aeiou" else "a ") + word


FORMS: dict[str, Callable[[str], str]] = {"title": str.capitalize, "lower": str.lower, "upper": str.upper, "article": _with_article}
"""Changes of a slot's text by name: ``{slot|title}``."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a template: the slot to fill in, the form of its text, and the mark it sets, if any."""

    slot: str
    form: str | None
    mark: str | None


@dataclass(frozen=True, slots=True)
class ParsedTemplate:
    """The text of a template as literal strings and fields, alternating."""

    pieces: tuple[str | Field, ...]

    @property
    def marks(self) -> tuple[str, ...]:
        """Marks in the order in which they appear."""
        return tuple(piece.mark for piece in self.pieces if isinstance(piece, Field) and piece.mark)


def parse(text: str, where: str) -> ParsedTemplate:
    """Parse the text of a template; ``where`` names it in messages.

    Raises
    ------
    UnknownNameError
        If a field has an unknown form.
    TaskFileError
        If braces do not form a field, or a mark appears twice.
    """
    pieces: list[str | Field] = []
    last = 0
    for match in _FIELD.finditer(text):
        pieces += [text[last : match.start()], Field(match[1], match[2], match[3])]
        last = match.end()
        if match[2] and match[2] not in FORMS:
            raise UnknownNameError(f"form in {where}", match[2], FORMS)
    pieces.append(text[last:])
    if stray := next((piece for piece in pieces if isinstance(piece, str) and ("{" in piece or "}" in piece)), None):
        what = f"{where} has a brace that belongs to no slot: {stray!r}."
        raise TaskFileError(what, "Write {slot}, {slot:MARK} or {slot|form:MARK}.")
    template = ParsedTemplate(tuple(pieces))
    if len(set(template.marks)) != len(template.marks):
        what = f"{where} uses a mark twice: {', '.join(template.marks)}."
        raise TaskFileError(what, "Give every marked place its own name.")
    return template


def fill(
    template: ParsedTemplate,
    row: Row,
    where: str,
    swap: Mapping[str, ParsedTemplate] | None = None,
) -> tuple[str, dict[str, tuple[int, int]]]:
    """Fill a template with a row; ``swap`` replaces the text at its marks. Returns the text and the character span of every mark.

    Raises
    ------
    UnknownNameError
        If the row lacks a slot of the template.
    TaskFileError
        If a slot holds a list, which only answers, foils and distractors can.
    """
    text, spans = "", {}
    for piece in template.pieces:
        if isinstance(piece, str):
            text += piece
            continue
        replacement = (swap or {}).get(piece.mark or "")
        words = _field_text(piece, row, where) if replacement is None else fill(replacement, row, where)[0]
        if piece.mark:
            spans[piece.mark] = (len(text), len(text) + len(words))
        text += words
    return text, spans


def fill_set(texts: list[str], row: Row, where: str) -> tuple[str, ...]:
    """Fill the texts of answers; a slot that holds a list yields one string for each of its words. Duplicates are dropped.

    Raises
    ------
    UnknownNameError, TaskFileError
        As for `parse` and `fill`, or if one text holds two lists.
    """
    answers: list[str] = []
    for text in texts:
        template = parse(text, where)
        lists = {p.slot: row[p.slot] for p in template.pieces if isinstance(p, Field) and isinstance(row.get(p.slot), list)}
        if not lists:
            answers.append(fill(template, row, where)[0])
            continue
        if len(lists) > 1:
            raise TaskFileError(f"{where} puts the lists {', '.join(map(repr, lists))} into one text.", "Use one list in each text.")
        ((slot, words),) = lists.items()
        answers += [fill(template, {**row, slot: word}, where)[0] for word in words]
    return tuple(dict.fromkeys(answers))


def _field_text(field: Field, row: Row, where: str) -> str:
    if field.slot not in row:
        raise UnknownNameError(f"slot in {where}", field.slot, row)
    value = row[field.slot]
    if isinstance(value, list):
        what = f"{where} puts the list {field.slot!r} into a prompt."
        raise TaskFileError(what, "Lists can only be answers, foils or distractors.")
    return FORMS[field.form](value) if field.form else value
