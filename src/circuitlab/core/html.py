"""How objects show themselves in a notebook: small tables in plain HTML, every value escaped, in the colours of the surrounding page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["html_table"]

_CELL = "padding:2px 10px 2px 0;text-align:left;font-variant-numeric:tabular-nums"
_NOTE = "opacity:.75;font-size:.92em;margin:.2em 0"
_WARNING = "border-left:3px solid #c98a00;padding-left:8px;margin:.3em 0"


def html_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, notes: Sequence[str] = (), warning: str = "") -> str:
    """A title, a warning if there is one, a table, and notes below it.

    Parameters
    ----------
    title : str
        One line.
    headings : sequence of str
        Headings of the columns.
    rows : iterable of sequence of str
        Texts of the cells, one sequence per row; without rows there is no table.
    notes : sequence of str
        Lines below the table.
    warning : str
        What a reader must know first; empty for none.
    """
    head = "".join(f'<th scope="col" style="{_CELL}">{html.escape(name)}</th>' for name in headings)
    body = "".join("<tr>" + "".join(f'<td style="{_CELL}">{html.escape(cell)}</td>' for cell in row) + "</tr>" for row in rows)
    parts = [f"<p><b>{html.escape(title)}</b></p>"]
    if warning:
        parts.append(f'<p style="{_WARNING}">{html.escape(warning)}</p>')
    if body:
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    parts += [f'<p style="{_NOTE}">{html.escape(note)}</p>' for note in notes]
    return f"<div>{''.join(parts)}</div>"
