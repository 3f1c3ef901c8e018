"""What the writers share: Markdown tables, text of docstrings, citations."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from circuitlab.citations import CITATIONS

__all__ = ["COMMAND", "DOCS", "ROOT", "citation", "first_paragraph", "made_by", "markdown", "sections", "table"]

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
COMMAND = "python docs/write.py"
_SECTION = re.compile(r"^(\w[\w ]*)\n-+$", flags=re.MULTILINE)
_TWO = 2


def made_by(source: str) -> str:
    """A comment for the top of a page that is written whole."""
    return f"<!-- Written by `{COMMAND}` from {source}; changes are lost. -->"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def markdown(text: str) -> str:
    """Text of a docstring as Markdown: names are in one pair of backquotes there, code in two."""
    return re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL)


def sections(thing: object) -> dict[str, str]:
    """The sections of a numpydoc docstring, by heading; what comes first is under the empty heading."""
    parts = _SECTION.split(inspect.getdoc(thing) or "")
    return {"": parts[0].strip()} | {name: text.strip("\n") for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def first_paragraph(thing: object) -> str:
    """What a docstring says first, in one line."""
    return " ".join(markdown(sections(thing)[""]).partition("\n\n")[0].split())


def citation(key: str) -> str:
    """Authors, year, title and venue of one BibTeX key; an arXiv number is a link."""
    title, authors, year, venue = CITATIONS[key]
    names = [author.partition(",")[0].strip() for author in authors.split(" and ")]
    who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == _TWO and names[1] != "others" else f"{names[0]} et al."
    linked = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", venue)
    escaped = title.replace("*", "\\*")
    return f"{who} ({year}), *{escaped}*, {linked}"
