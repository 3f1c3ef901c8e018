"""The scoreboard of methods: how well every method finds every planted circuit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError
from circuitlab.figures.frame import Frame, finish, plain, rounded, wrapped
from circuitlab.figures.theme import NEUTRAL, Theme

__all__ = ["scoreboard_table"]

_CELL_WIDTH, _CELL_HEIGHT, _NAME_WIDTH, _NOTE_LINE = 104, 42, 190, 16
_CHANCE = 0.5


def scoreboard_table(
    rows: Sequence[Mapping[str, Any]],
    *,
    title: str = "Do the methods find what was planted?",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """AUROC of the true nodes with its interval, with one row per method and one column per planted model.

    Parameters
    ----------
    rows : sequence of mappings
        ``{"model": str, "method": str, "auroc": {"mean", "low", "high"}, "visible": bool, "reason": str}``, as ``circuitlab bench
        planted --json`` prints them. ``visible`` says whether the method can detect the true circuit at all, and ``reason`` why not.
    title, subtitle : str
        Heading.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        The colour scale runs from 0.5 (chance, and everything below it) to 1. Cells whose circuit the method cannot detect have no colour
        and a grey number; the numbered reasons are below the table. Methods and models keep the order in which they first occur;
        combinations that were not run are empty.

    Raises
    ------
    BadParameterError
        If there are no rows, or two rows are about one method on one model.

    Examples
    --------
    >>> auroc = {"mean": 0.98, "low": 0.95, "high": 1.0}
    >>> row = {"model": "copy-gqa", "method": "eap", "auroc": auroc, "visible": True, "reason": ""}
    >>> scoreboard_table([row]).layout.yaxis.ticktext
    ('eap',)
    """
    if not rows:
        raise BadParameterError("There is no result to draw.", "Run circuitlab bench planted first.")
    cells = {(str(row["method"]), str(row["model"])): row for row in rows}
    if len(cells) < len(rows):
        what = f"{len(rows)} rows hold {len(cells)} combinations of method and model."
        raise BadParameterError(what, "Give each combination once.")
    methods, models = (list(dict.fromkeys(key[axis] for key in cells)) for axis in (0, 1))
    reasons = list(dict.fromkeys(str(row.get("reason") or "no reason given") for row in rows if not row["visible"]))
    places = {key: (models.index(key[1]), methods.index(key[0])) for key in cells}
    figure = go.Figure([_seen(cells, places, (len(methods), len(models))), _unseen(cells, places, reasons)])
    headings = [wrapped(name.replace("_", " "), _CELL_WIDTH - 10, 11) for name in models]
    shared = {"showgrid": False, "zeroline": False}
    figure.update_xaxes(
        shared, side="top", tickvals=list(range(len(models))), ticktext=headings, range=[-0.5, len(models) - 0.5], tickangle=0
    )
    names = [wrapped(name.replace("_", " "), _NAME_WIDTH - 20, 12) for name in methods]
    figure.update_yaxes(shared, tickvals=list(range(len(methods))), ticktext=names, range=[len(methods) - 0.5, -0.5])
    bar = {"title": {"text": "AUROC<br>\u00a0", "side": "top", "font": {"size": 11}}, "len": 1.0, "thickness": 12, "x": 1.02, "xpad": 4}
    figure.update_layout(coloraxis={"cmin": _CHANCE, "cmax": 1.0, "autocolorscale": True, "colorbar": bar}, showlegend=False)
    width = _CELL_WIDTH * len(models)
    notes = _notes(reasons, width + _NAME_WIDTH)
    lines = notes.count("<br>") + 1 if notes else 0
    frame = Frame(
        title,
        subtitle,
        width=width,
        height=max(_CELL_HEIGHT * len(methods), 126),
        margin_left=_NAME_WIDTH,
        margin_right=84,
        margin_top=24 + 15 * max(text.count("<br>") + 1 for text in headings),
        margin_bottom=20 + _NOTE_LINE * lines,
        shrinks=1.0,
    )
    if notes:
        place = {"xref": "paper", "yref": "paper", "x": 0, "y": 0, "xanchor": "left", "yanchor": "top", "align": "left"}
        figure.add_annotation(place, name="reasons", text=notes, showarrow=False, xshift=8 - _NAME_WIDTH, yshift=-8, font={"size": 11})
    return finish(figure, frame, theme)


def _seen(
    cells: Mapping[tuple[str, str], Mapping[str, Any]], places: Mapping[tuple[str, str], tuple[int, int]], shape: tuple[int, int]
) -> go.Heatmap:
    """The coloured cells, whose circuit the method can detect."""
    z: list[list[float | None]] = [[None] * shape[1] for _ in range(shape[0])]
    text, hover = ([[""] * shape[1] for _ in range(shape[0])] for _ in range(2))
    for key, row in cells.items():
        if row["visible"]:
            x, y = places[key]
            z[y][x] = rounded(row["auroc"]["mean"])
            text[y][x], hover[y][x] = _numbers(row), _hover(row)
    return go.Heatmap(
        z=z,
        text=text,
        texttemplate="%{text}",
        textfont={"size": 12},
        hovertext=hover,
        hoverinfo="text",
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
        name="visible",
    )


def _unseen(
    cells: Mapping[tuple[str, str], Mapping[str, Any]], places: Mapping[tuple[str, str], tuple[int, int]], reasons: list[str]
) -> go.Scatter:
    """The grey numbers of cells whose circuit the method cannot detect, with the number of the reason."""
    rows = {key: row for key, row in cells.items() if not row["visible"]}
    numbers = [reasons.index(str(row.get("reason") or "no reason given")) + 1 for row in rows.values()]
    return go.Scatter(
        x=[places[key][0] for key in rows],
        y=[places[key][1] for key in rows],
        mode="text",
        text=[f"<i>{_numbers(row, f' ({number})')}</i>" for row, number in zip(rows.values(), numbers, strict=True)],
        textfont={"size": 12, "color": NEUTRAL},
        hovertext=[
            f"{_hover(row)}<br>cannot be seen: {plain(reasons[number - 1])}" for row, number in zip(rows.values(), numbers, strict=True)
        ],
        hoverinfo="text",
        name="not visible",
    )


def _numbers(row: Mapping[str, Any], after: str = "") -> str:
    auroc = row["auroc"]
    return f"{auroc['mean']:.2f}{after}<br><span style='font-size:10px'>{_limits_text(auroc, 2)}</span>"


def _hover(row: Mapping[str, Any]) -> str:
    auroc = row["auroc"]
    about = f"<b>{plain(str(row['method']))}</b> on <b>{plain(str(row['model']))}</b>"
    return f"{about}<br>AUROC {auroc['mean']:.3f} ({_limits_text(auroc, 3)})"


def _limits_text(interval: Mapping[str, float], digits: int) -> str:
    """The limits of an interval in words; there is none for a single set of prompts, or without prompts."""
    if math.isnan(interval["low"]):
        return "no interval"
    return f"{interval['low']:.{digits}f} to {interval['high']:.{digits}f}"


def _notes(reasons: Iterable[str], width: int) -> str:
    return "<br>".join(wrapped(f"({i}) {reason}", width, 11) for i, reason in enumerate(reasons, start=1))
