"""Templates: ``{slot|form:MARK}`` in a text, parsed once, filled with a row, and the character span of every mark kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from circuitlab.core.errors import TaskFileError, UnknownNameError

__all__ = ["FORMS", "Row", "Template", "Words", "fill", "fill_set", "parse"]

Row = Mapping[str, "str | list[str]"]
"""Slot values of one example; a list stands for a set of answers."""

_FIELD = re.compile(r"\{([A-Za-z_][\w.]*)(?:\|(\w+))?(?::(\w+))?\}")


def _with_article(word: str) -> str:
    return ("an " if word[:1].lower() in "aeiou" else "a ") + word


FORMS: dict[str, Callable[[str], str]] = {"title": str.capitalize, "lower": str.lower, "upper": str.upper, "article": _with_article}
"""Forms a slot can take."""


@dataclass(frozen=True, slots=True)
class Words:
    """One field of a template."""

    slot: str
    form: str | None
    mark: str | None


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed text: literal strings and fields in turn."""

    pieces: tuple[str | Words, ...]

    @property
    def marks(self) -> tuple[str, ...]:
        """Marks in the order they appear."""
        return tuple(piece.mark for piece in self.pieces if isinstance(piece, Words) and piece.mark)


def parse(text: str, where: str) -> Template:
    """Parse a template text.

    Raises
    ------
    TaskFileError
        If braces do not form a field, or a mark appears twice.
    """
    pieces: list[str | Words] = []
    last = 0
    for match in _FIELD.finditer(text):
        pieces += [text[last : match.start()], Words(match[1], match[2], match[3])]
        last = match.end()
        if match[2] and match[2] not in FORMS:
            raise UnknownNameError(f"form in {where}", match[2], FORMS)
    pieces.append(text[last:])
    if stray := next((piece for piece in pieces if isinstance(piece, str) and ("{" in piece or "}" in piece)), None):
        what = f"{where} has a brace that belongs to no slot: {stray!r}."
        raise TaskFileError(what, "Write {slot}, {slot:MARK} or {slot|form:MARK}.")
    template = Template(tuple(pieces))
    if len(set(template.marks)) != len(template.marks):
        what = f"{where} uses a mark twice: {', '.join(template.marks)}."
        raise TaskFileError(what, "Give every marked place its own name.")
    return template


def fill(template: Template, row: Row, where: str, swap: Mapping[str, Template] | None = None) -> tuple[str, dict[str, tuple[int, int]]]:
    """Fill a template; ``swap`` replaces the text at some marks. Returns the text and each mark's character span."""
    text, spans = "", {}
    for piece in template.pieces:
        if isinstance(piece, str):
            text += piece
            continue
        other = (swap or {}).get(piece.mark or "")
        words = _word(piece, row, where) if other is None else fill(other, row, where)[0]
        if piece.mark:
            spans[piece.mark] = (len(text), len(text) + len(words))
        text += words
    return text, spans


def fill_set(texts: list[str], row: Row, where: str) -> tuple[str, ...]:
    """Fill answer texts; a slot that holds a list yields one string for each of its words. Duplicates are dropped."""
    found: list[str] = []
    for text in texts:
        template = parse(text, where)
        lists = {p.slot: row[p.slot] for p in template.pieces if isinstance(p, Words) and isinstance(row.get(p.slot), list)}
        if not lists:
            found.append(fill(template, row, where)[0])
            continue
        ((slot, words),) = lists.items()
        found += [fill(template, {**row, slot: word}, where)[0] for word in words]
    return tuple(dict.fromkeys(found))


def _word(piece: Words, row: Row, where: str) -> str:
    if piece.slot not in row:
        raise UnknownNameError(f"slot in {where}", piece.slot, row)
    value = row[piece.slot]
    if isinstance(value, list):
        what = f"{where} puts the list {piece.slot!r} into a prompt."
        raise TaskFileError(what, "Lists can only be answers, foils or distractors.")
    return FORMS[piece.form](value) if piece.form else value
