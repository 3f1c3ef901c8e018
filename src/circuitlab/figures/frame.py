"""The frame of every figure: a wrapped title, a subtitle that says where the numbers come from, the near-chance banner, escaped text.

Text from task files and tokens is passed through `plain` before it enters a figure, because plotly interprets a subset of HTML.
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
from circuitlab.figures.theme import Theme, shared_template
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.intervals import NO_INTERVAL

__all__ = ["Frame", "finish", "method_title", "near_chance", "plain", "rounded", "source_line", "symmetric_limit", "token_label", "wrapped"]

_TITLE_LINE, _SUBTITLE_LINE, _BANNER_LINE = 21, 16, 16


@dataclass(frozen=True)
class Frame:
    """Title, subtitle, banner, and sizes of a figure.

    Parameters
    ----------
    title, subtitle, banner : str
        Texts above the plot, unescaped.
    width, height : int
        Size of the plotting area in pixels, without margins.
    shrinks : float
        Smallest width at which a page shows the figure without scrolling, as a share of its full width.
    margin_left, margin_right, margin_top, margin_bottom : int
        Margins in pixels; room for the texts is added to the upper one.
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
    """Lay out title, subtitle and banner above the plot without overlap, and set the theme.

    ``layout.meta`` has ``title`` and ``subtitle`` as unescaped text and the height that they take in pixels, for pages that print their own
    headings, and the smallest width at which nothing overlaps.
    """
    # Annotations with counted lines, because plotly neither wraps a title nor makes room for it.
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
        template=shared_template(theme),
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
    """The text with every character escaped that plotly would interpret as markup."""
    return html.escape(text, quote=False)


def token_label(token: str, longest: int) -> str:
    """A token as a label: spaces and line breaks are visible, long ones are cut, markup is escaped."""
    text = token.replace("\n", "\u21b5").replace(" ", "\u00b7")
    return plain(text if len(text) <= longest else f"{text[: longest - 1]}\u2026")


def wrapped(text: str, width: int, font_px: int, *, bold: bool = False) -> str:
    """The text broken into lines that fit into ``width`` pixels, escaped and joined by ``<br>``."""
    per_line = max(16, int(width / (font_px * (0.56 if bold else 0.53))))
    return "<br>".join(plain(line) for line in textwrap.wrap(text, per_line))


def method_title(about: Provenance) -> str:
    """The name of the method with spaces, and its direction if it has one, for example "activation patching (denoising)"."""
    name = about.method.replace("_", " ")
    direction = about.params.get("direction")
    return f"{name} ({direction})" if direction else name


def source_line(scores: HeadScores) -> str:
    """Model, number of pairs, task, method and run id of scores, in one line; for weights alone, that there are no prompts."""
    about = scores.provenance
    if scores.weights_only:
        return " · ".join([about.model.name, NO_INTERVAL, method_title(about), f"run {about.run_id()}"])
    variant = f"/{about.task.variant}" if about.task.variant else ""
    parts = [about.model.name, f"{scores.n_pairs} prompt pairs ({about.task.id}{variant})", method_title(about)]
    return " · ".join([*parts, f"run {about.run_id()}"])


def near_chance(flag: FitnessFlag | None, who: str = "") -> str:
    """The banner of a task that the model was not shown to do; empty if it was, or if this was not checked."""
    if flag is None or flag.ready:
        return ""
    return f"{who + ' - ' if who else ''}not ready: {flag.reason}"


def symmetric_limit(values: Iterable[Any]) -> float:
    """The largest magnitude in some arrays, as the limit of a symmetric colour range; 1 if all values are zero."""
    largest = max((float(np.nanmax(np.abs(array), initial=0.0)) for array in map(np.asarray, values)), default=0.0)
    return rounded(largest) if largest > 0 else 1.0


def rounded(value: Any, digits: int = 6) -> Any:
    """The value rounded to ``digits`` significant digits (lists for arrays, None for NaN), so that files are short and equal everywhere."""
    array = np.asarray(value, dtype=np.float64)
    if array.ndim:
        return [rounded(item, digits) for item in array]
    return None if np.isnan(array) else float(f"{float(array):.{digits}g}")
