"""Bars with intervals for a few conditions, in groups side by side: the edited model, random controls, a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError
from circuitlab.figures.frame import Frame, finish, plain, rounded, wrapped
from circuitlab.figures.references import dashed_line, room_for
from circuitlab.figures.theme import NEUTRAL, Theme
from circuitlab.figures.wording import Wording

__all__ = ["category_bars"]

_BAR, _NARROW, _FEW = 44, 14, 10
"""Pixels of a bar, and of one where there are more conditions than a few, whose names are then slanted."""


def category_bars(
    groups: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    wording: Wording,
    *,
    controls: Sequence[str] = (),
    references: Mapping[str, float] | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """Bars by condition, one colour for each group.

    Parameters
    ----------
    groups : mapping of str to mapping of str to interval
        For each group (a colour of the legend), its conditions with ``{"mean", "low", "high"}``; limits may be None.
    wording : Wording
        Heading and the title of the vertical axis.
    controls : sequence of str
        Groups that are drawn grey.
    references : mapping of str to float, optional
        Dashed horizontal lines, by name, for example chance.
    theme : {"light", "dark"}
        Colour theme.

    Raises
    ------
    BadParameterError
        If there is nothing to draw.

    Examples
    --------
    >>> chosen = {"none": {"mean": 0.9, "low": 0.8, "high": 1.0}}
    >>> figure = category_bars({"chosen heads": chosen}, Wording("Accuracy", y="accuracy"))
    >>> list(figure.data[0].y)
    [0.9]
    """
    conditions = list(dict.fromkeys(name for group in groups.values() for name in group))
    if not conditions:
        raise BadParameterError("There is no condition to draw.", "Give at least one group with one condition.")
    many = len(conditions) > _FEW
    labels = {name: plain(name) if many else wrapped(name, 96, 11) for name in conditions}
    figure = go.Figure()
    for group, rows in groups.items():
        means = [rows[name]["mean"] for name in rows]
        arms = [[_arm(rows[name], which) for name in rows] for which in ("high", "low")]
        known = bool(np.isfinite(arms).any())
        figure.add_bar(
            x=[labels[name] for name in rows],
            y=rounded([float("nan") if mean is None else mean for mean in means]),
            name=plain(group),
            marker={"color": NEUTRAL, "opacity": 0.55} if group in controls else None,
            # Without limits no arms at all: plotly would draw their caps on the bars.
            error_y={"type": "data", "symmetric": False, "array": rounded(arms[0]), "arrayminus": rounded(arms[1])} if known else None,
            hovertext=[_text(group, name, rows[name]) for name in rows],
            hoverinfo="text",
        )
    for name, value in (references or {}).items():
        dashed_line(figure, name, value)
    figure.update_yaxes(title_text=plain(wording.y))
    order = [labels[name] for name in conditions]
    figure.update_xaxes(tickangle=-45 if many else 0, showgrid=False, categoryorder="array", categoryarray=order)
    figure.update_layout(
        barmode="group",
        bargap=0.3,
        showlegend=len(groups) > 1,
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    )
    bars = sum(map(len, groups.values()))
    width = max(420, _NARROW * bars) if many else max(420, _BAR * bars, 108 * len(conditions))
    right = room_for(references or {})
    frame = Frame(wording.title, wording.subtitle, width, 300, margin_left=72, margin_right=right, margin_bottom=130)
    return finish(figure, frame, theme)


def _arm(row: Mapping[str, float | None], which: str) -> float:
    limit, mean = row.get(which), row["mean"]
    return float("nan") if limit is None or mean is None else abs(limit - mean)


def _text(group: str, name: str, row: Mapping[str, float | None]) -> str:
    limits = "" if row.get("low") is None else f" ({row['low']:.3g} to {row['high']:.3g})"
    value = "not measured" if row["mean"] is None else f"{row['mean']:.3g}{limits}"
    return f"<b>{plain(name)}</b><br>{plain(group)}<br>{value}"
