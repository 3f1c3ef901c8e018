"""What every picture shares: a wrapped title, a line saying where the numbers come from, the near-chance banner, plain text.

Text from task files and tokens reaches a figure only through `plain`, because plotly reads a subset of HTML.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.provenance import FitnessFlag, Provenance
from circuitlab.figures.theme import Theme, template
from circuitlab.scores.head_scores import HeadScores

__all__ = ["Frame", "finish", "method_title", "near_chance", "plain", "rounded", "source_line", "symmetric_limit", "token_label", "wrapped"]

_TITLE_LINE, _SUBTITLE_LINE, _BANNER_LINE = 21, 16, 16


@dataclass(frozen=True)
class Frame:
    """Title, subtitle and banner of a figure, and the size of its plotting area in pixels (margins come on top).

    ``shrinks`` is how far a page may narrow the figure before it scrolls, as a share of its width.
    """

    title: str
    subtitle: str
    width: int
    height: int
    banner: str = ""
    shrinks: float = 0.75
    margin_left: int = 64
    margin_right: int = 24
    margin_top: int = 12
    margin_bottom: int = 56


def finish(figure: go.Figure, frame: Frame, theme: Theme) -> go.Figure:
    """Lay out title, subtitle and banner above the plot without overlap and set the theme.

    ``layout.meta`` keeps ``title`` and ``subtitle`` as unescaped text and the pixels they take, for pages that print them as
    headings of their own, and the narrowest width at which nothing overlaps.
    """
    # Lines are counted here because plotly neither wraps a title nor makes room for one; hence annotations.
    total = frame.margin_left + frame.width + frame.margin_right
    title = wrapped(frame.title, total - 48, 16, bold=True)
    subtitle = wrapped(frame.subtitle, total - 48, 12)
    banner = wrapped(frame.banner, total - 48, 12)
    title_px = 14 + _lines(title) * _TITLE_LINE
    subtitle_px = _lines(subtitle) * _SUBTITLE_LINE + 8 if subtitle else 0
    banner_px = _lines(banner) * _BANNER_LINE + 24 if banner else 0
    top = title_px + subtitle_px + banner_px + frame.margin_top
    meta = {"title": frame.title, "subtitle": frame.subtitle, "title_px": title_px + subtitle_px}
    meta["min_width"] = int(total * frame.shrinks)
    figure.update_layout(
        template=template(theme),
        width=total,
        height=top + frame.height + frame.margin_bottom,
        margin={"l": frame.margin_left, "r": frame.margin_right, "t": top, "b": frame.margin_bottom},
        meta=meta,
    )
    note = {"xref": "paper", "yref": "paper", "x": 0, "y": 1, "xanchor": "left", "yanchor": "top", "align": "left", "showarrow": False}
    note |= {"xshift": 8 - frame.margin_left, "borderpad": 0}
    figure.add_annotation(note, name="title", text=f"<b>{title}</b>", yshift=top - 10, font={"size": 16})
    if subtitle:
        figure.add_annotation(note, name="subtitle", text=subtitle, yshift=top - title_px, font={"size": 12})
    if banner:
        figure.add_annotation(
            note,
            name="near-chance",
            text=banner,
            yshift=frame.margin_top + banner_px - 8,
            bgcolor="#ffe3a3",
            bordercolor="#c98a00",
            borderpad=5,
            font={"size": 12, "color": "#4d3800"},
        )
    return figure


def _lines(text: str) -> int:
    return text.count("<br>") + 1


def plain(text: str) -> str:
    """Text with every character that plotly would read as markup escaped."""
    return html.escape(text, quote=False)


def token_label(token: str, longest: int) -> str:
    """A token as a label: spaces and line breaks are visible, long ones are cut, markup is escaped."""
    text = token.replace("\n", "\u21b5").replace(" ", "\u00b7")
    return plain(text if len(text) <= longest else f"{text[: longest - 1]}\u2026")


def wrapped(text: str, width: int, font_px: int, *, bold: bool = False) -> str:
    """Text broken into lines that fit ``width`` pixels, escaped, joined by ``<br>``."""
    per_line = max(16, int(width / (font_px * (0.56 if bold else 0.53))))
    return "<br>".join(plain(line) for line in textwrap.wrap(text, per_line))


def method_title(where: Provenance) -> str:
    """The method in words, with its direction or positions where it has them, for example "activation patching (denoising)"."""
    said = where.method.replace("_", " ")
    direction = where.params.get("direction")
    return f"{said} ({direction})" if direction else said


def source_line(scores: HeadScores) -> str:
    """Model, number of pairs, method, metric and run id of a score, in one line."""
    where = scores.provenance
    variant = f"/{where.task.variant}" if where.task.variant else ""
    parts = [where.model.name, f"{scores.n_pairs} prompt pairs ({where.task.id}{variant})", method_title(where)]
    return " · ".join([*parts, f"run {where.run_id()}"])


def near_chance(flag: FitnessFlag | None, who: str = "") -> str:
    """The banner of a task the model cannot do; empty when it can, or when that was not judged."""
    if flag is None or flag.ready:
        return ""
    return f"{who + ' - ' if who else ''}near chance: {flag.reason}"


def symmetric_limit(values: Iterable[Any]) -> float:
    """Largest magnitude among arrays, so that a colour range can run from minus to plus it; 1 where all are zero."""
    largest = max((float(np.nanmax(np.abs(array), initial=0.0)) for array in map(np.asarray, values)), default=0.0)
    return rounded(largest) if largest > 0 else 1.0


def rounded(value: Any, digits: int = 6) -> Any:
    """Numbers with ``digits`` significant digits (lists for arrays, None for NaN): short files, equal on every machine."""
    array = np.asarray(value, dtype=np.float64)
    if array.ndim:
        return [rounded(item, digits) for item in array]
    return None if np.isnan(array) else float(f"{float(array):.{digits}g}")
