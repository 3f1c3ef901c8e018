"""A matrix with a label for every row and column, for any experiment: transfer between tasks, tokens against tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError
from circuitlab.figures.frame import Frame, finish, plain, rounded, symmetric_limit
from circuitlab.figures.theme import Theme
from circuitlab.figures.wording import Wording

__all__ = ["value_grid"]

_CELL, _PRINTED = 30, 14
"""Pixels of a cell, and the most rows or columns whose values are printed in their cells."""
_NARROW = 11


def value_grid(
    values: Sequence[Sequence[float | None]],
    names: tuple[Sequence[str], Sequence[str]],
    wording: Wording,
    *,
    signed: bool = True,
    theme: Theme = "light",
) -> go.Figure:
    """A heat map of a matrix whose rows and columns have names.

    Parameters
    ----------
    values : sequence of sequences of float, shape (row, column)
        None and NaN are left blank.
    names : (sequence of str, sequence of str)
        Names of the rows and of the columns, unescaped; repeated names are allowed.
    wording : Wording
        Heading, axis titles and units.
    signed : bool
        Whether colours are centred at 0; otherwise they run from the smallest value to the largest.
    theme : {"light", "dark"}
        Colour theme.

    Raises
    ------
    BadParameterError
        If the matrix has another shape than its names.

    Examples
    --------
    >>> figure = value_grid([[0.5, None]], (["one"], ["two", "three"]), Wording("Logits"))
    >>> [len(row) for row in figure.data[0].z]
    [2]
    """
    rows, columns = names
    cells = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float)
    if cells.shape != (len(rows), len(columns)):
        what = f"A matrix of shape {cells.shape} has {len(rows)} names of rows and {len(columns)} of columns."
        raise BadParameterError(what, "Give one name for each row and each column.")
    printed = max(cells.shape) <= _PRINTED
    limit = symmetric_limit([cells])
    texts = [
        [f"{plain(row)} → {plain(column)}<br>{value:.3g}" for column, value in zip(columns, line, strict=True)]
        for row, line in zip(rows, cells, strict=True)
    ]
    heat = go.Heatmap(
        z=rounded(cells),
        coloraxis="coloraxis",
        hovertext=texts,
        hoverinfo="text",
        text=[["" if np.isnan(value) else f"{value:.2g}" for value in line] for line in cells] if printed else None,
        texttemplate="%{text}" if printed else None,
        xgap=1,
        ygap=1,
    )
    figure = go.Figure(heat)
    for axis, shown in ((figure.update_xaxes, columns), (figure.update_yaxes, rows)):
        step = 1 if printed else -(-len(shown) // 40)
        axis(tickvals=list(range(0, len(shown), step)), ticktext=[plain(name) for name in shown[::step]], showgrid=False, zeroline=False)
    figure.update_xaxes(title_text=plain(wording.x), tickangle=-45)
    figure.update_yaxes(title_text=plain(wording.y), autorange="reversed")
    bar = {"title": {"text": plain(wording.units), "side": "right", "font": {"size": 11}}}
    colours = {"cmin": -limit, "cmax": limit, "cmid": 0} if signed else {"cmin": float(np.nanmin(cells)), "cmax": float(np.nanmax(cells))}
    figure.update_layout(coloraxis={**colours, "autocolorscale": True, "colorbar": bar})
    size = _CELL if printed else _NARROW
    width, height = (max(240, size * count) for count in reversed(cells.shape))
    left = 40 + 7 * max(map(len, rows))
    frame = Frame(
        wording.title, wording.subtitle, width, height, margin_left=left, margin_right=110, margin_bottom=60 + 5 * max(map(len, columns))
    )
    return finish(figure, frame, theme)
