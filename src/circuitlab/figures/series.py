"""Quantities over a setting: lines with intervals, for any experiment that sweeps something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError
from circuitlab.figures.frame import Frame, finish, plain, rounded
from circuitlab.figures.references import dashed_line, room_for
from circuitlab.figures.theme import NEUTRAL, Theme, faint, shared_template
from circuitlab.figures.wording import Wording

__all__ = ["Series", "line_series"]

_TICKS = 10
"""Largest number of settings that a logarithmic axis names one by one."""


@dataclass(frozen=True)
class Series:
    """One line: values over a setting, with limits where there are any.

    Parameters
    ----------
    x, mean : sequence of float
        Settings and values.
    low, high : sequence of float or None, optional
        Limits of an interval, or the range of random controls; None and NaN are not drawn.
    control : bool
        Whether this is a control, drawn grey and dotted.
    """

    x: Sequence[float]
    mean: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    control: bool = False

    @classmethod
    def of(cls, x: Sequence[float], intervals: Sequence[Mapping[str, float | None]], *, control: bool = False) -> Series:
        """A line of stored intervals ``{"mean", "low", "high"}``."""
        mean, low, high = ([one[name] for one in intervals] for name in ("mean", "low", "high"))
        return cls(x, mean, low, high, control)


def line_series(
    series: Mapping[str, Series],
    wording: Wording,
    *,
    references: Mapping[str, float] | None = None,
    logarithmic: bool = False,
    theme: Theme = "light",
) -> go.Figure:
    """Lines with intervals over a common axis.

    Parameters
    ----------
    series : mapping of str to Series
        Lines by name, in the order of the legend.
    wording : Wording
        Heading and axis titles.
    references : mapping of str to float, optional
        Dashed horizontal lines, by name, for example the unedited model.
    logarithmic : bool
        Whether the horizontal axis is logarithmic; settings of 0 and below are then left out.
    theme : {"light", "dark"}
        Colour theme.

    Raises
    ------
    BadParameterError
        If there is no line, or a line has settings and values of different number.

    Examples
    --------
    >>> rate = Series([0.0, 1.0], [0.9, 0.4], [0.8, 0.3], [1.0, 0.5])
    >>> figure = line_series({"a3.h1": rate}, Wording("Rate", x="scale", y="rate"))
    >>> [trace.name for trace in figure.data if trace.mode != "lines"]
    ['a3.h1']
    """
    if not series:
        raise BadParameterError("There is no line to draw.", "Give at least one, by name.")
    figure, colours = go.Figure(), list(shared_template(theme).layout.colorway)
    free = iter(colours * (1 + len(series) // len(colours)))
    for name, line in series.items():
        if len(line.x) != len(line.mean):
            what = f"Line {name!r} has {len(line.x)} settings and {len(line.mean)} values."
            raise BadParameterError(what, "Give one value for each setting.")
        _add(figure, name, line, NEUTRAL if line.control else next(free), positive=logarithmic)
    for name, value in (references or {}).items():
        dashed_line(figure, name, value)
    figure.update_xaxes(title_text=plain(wording.x), zeroline=False, type="log" if logarithmic else "linear")
    settings = sorted({setting for line in series.values() for setting in line.x if setting > 0})
    if logarithmic and len(settings) <= _TICKS:  # plotly writes 2, 5 and 0.1 on one axis, where one reads 20 and 50 as well as .02 and .05
        figure.update_xaxes(tickvals=settings, ticktext=[f"{setting:g}" for setting in settings])
    figure.update_yaxes(title_text=plain(wording.y), zeroline=False)
    figure.update_layout(
        showlegend=True, legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}}
    )
    rows = -(-len(series) // 2)
    right = room_for(references or {})
    frame = Frame(wording.title, wording.subtitle, 520, 300, margin_left=72, margin_right=right, margin_bottom=66 + 20 * rows)
    return finish(figure, frame, theme)


def _add(figure: go.Figure, name: str, line: Series, colour: str, *, positive: bool) -> None:
    x, mean = (np.array([np.nan if v is None else v for v in part], dtype=float) for part in (line.x, line.mean))
    limits = [np.array([np.nan if v is None else v for v in part], dtype=float) for part in (line.low, line.high)]
    keep = x > 0 if positive else np.ones(len(x), dtype=bool)
    shared: dict[str, Any] = {"legendgroup": plain(name), "name": plain(name)}
    if all(len(part) == len(x) for part in limits):
        known = keep & np.isfinite(limits[0]) & np.isfinite(limits[1])
        figure.add_scatter(
            x=rounded([*x[known], *x[known][::-1]]),
            y=rounded([*limits[1][known], *limits[0][known][::-1]]),
            mode="lines",
            line={"width": 0, "color": colour},
            fill="toself",
            fillcolor=faint(colour),
            hoverinfo="skip",
            showlegend=False,
            **shared,
        )
    else:
        limits = [np.full(len(x), np.nan)] * 2
    texts = [
        f"<b>{plain(name)}</b><br>{setting:g}: {value:.3g}" + (f" ({low:.3g} to {high:.3g})" if np.isfinite(low) else "")
        for setting, value, low, high in zip(x[keep], mean[keep], limits[0][keep], limits[1][keep], strict=True)
    ]
    figure.add_scatter(
        x=rounded(x[keep]),
        y=rounded(mean[keep]),
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": "dot" if line.control else "solid"},
        marker={"size": 6, "color": colour},
        hovertext=texts,
        hoverinfo="text",
        **shared,
    )
