"""Reading passages: those that circuitlab ships, and files of one's own, problems named by line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.tasks.text import read_text

__all__ = ["Passage", "list_kinds", "load_texts", "read_texts"]

_SHIPPED = Path(__file__).with_name("passages.jsonl")
_LINES = (".jsonl", ".ndjson")
_OWN = "own"


class Passage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One passage of text.

    Parameters
    ----------
    text : str
        Its words, line ends included.
    kind : str
        What it is an example of, such as ``"recipe"`` or ``"python"``.

    Examples
    --------
    >>> from circuitlab.texts import Passage
    >>> Passage("It had rained all night.").kind
    'own'
    """

    text: str
    kind: str = _OWN


def list_kinds() -> list[str]:
    """Kinds of the passages that circuitlab ships, sorted.

    Examples
    --------
    >>> from circuitlab.texts import list_kinds
    >>> list_kinds()[:3]
    ['addresses', 'advert', 'apology']
    """
    return sorted({one.kind for one in read_texts(_SHIPPED)})


def load_texts(kinds: Sequence[str] | str | None = None, n: int | None = None) -> tuple[Passage, ...]:
    """Passages that circuitlab ships: one of each kind, then the second of each, and so on.

    Parameters
    ----------
    kinds : sequence of str, or str, optional
        Only these kinds; see `list_kinds`.
    n : int, optional
        The first so many; all otherwise.

    Raises
    ------
    UnknownNameError
        If there is no such kind; the nearest is suggested.
    BadParameterError
        If fewer than one is asked for, or more than there are.

    Examples
    --------
    >>> from circuitlab.texts import load_texts
    >>> len({passage.kind for passage in load_texts(n=40)})
    40
    """
    shipped = read_texts(_SHIPPED)
    known = {one.kind for one in shipped}
    wanted = known if kinds is None else {kinds} if isinstance(kinds, str) else set(kinds)
    for kind in sorted(wanted - known):
        raise UnknownNameError("kind of text", kind, known)
    order: list[tuple[int, int, Passage]] = []
    counts: dict[str, int] = {}
    for place, one in enumerate(shipped):
        if one.kind in wanted:
            counts[one.kind] = counts.get(one.kind, 0) + 1
            order.append((counts[one.kind], place, one))
    if n is not None and not 1 <= n <= len(order):
        what = f"{n} passages were asked for; there are {len(order)} of these kinds."
        raise BadParameterError(what, f"Ask for 1 to {len(order)}.")
    return tuple(one for _, _, one in sorted(order, key=lambda each: each[:2])[:n])


def read_texts(path: str | Path) -> tuple[Passage, ...]:
    r"""Passages of a file: JSON lines (``.jsonl``) with ``text`` and, where wanted, ``kind``; otherwise text, empty lines between passages.

    Raises
    ------
    BadParameterError
        If the file cannot be read, is not UTF-8, holds no passage, repeats one, or a line is no passage; the message names the line.

    Examples
    --------
    >>> from pathlib import Path
    >>> from circuitlab.texts import read_texts
    >>> written = Path("mine.txt").write_text("The first passage,\non two lines.\n\nThe second.\n")
    >>> [passage.text for passage in read_texts("mine.txt")]
    ['The first passage,\non two lines.', 'The second.']
    """
    file = Path(path)
    text = read_text(file, BadParameterError).replace("\r\n", "\n")
    found = _json_lines(file, text) if file.suffix.lower() in _LINES else _paragraphs(text)
    if not found:
        raise BadParameterError(f"{file} holds no passage.", "Write passages with an empty line between them, or one JSON object a line.")
    first: dict[str, int] = {}
    for line, one in found:
        if one.text in first:
            what = f"Line {line} of {file} repeats the passage of line {first[one.text]}."
            raise BadParameterError(what, "Take it out: the same text twice says nothing new, and intervals would take it for two.")
        first[one.text] = line
    return tuple(one for _, one in found)


def _json_lines(file: Path, text: str) -> list[tuple[int, Passage]]:
    """Passages with their lines."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            one = msgspec.json.decode(line, type=Passage)
        except (msgspec.MsgspecError, RecursionError) as error:
            what = f"Line {number} of {file} is no passage: {error}."
            raise BadParameterError(what, 'Write one object a line: {"kind": "recipe", "text": "..."}.') from error
        if not one.text.strip():
            raise BadParameterError(f"The text in line {number} of {file} is empty.", "Take the line out, or fill it.")
        found.append((number, one))
    return found


def _paragraphs(text: str) -> list[tuple[int, Passage]]:
    """Blocks between empty lines, with the lines that they begin in."""
    blocks = re.finditer(r"(?:^[^\n]*\S[^\n]*(?:\n|\Z))+", text, flags=re.MULTILINE)
    return [(text.count("\n", 0, block.start()) + 1, Passage(block.group().rstrip("\n"))) for block in blocks]
