"""Axes of diagrams whose nodes are placed in columns and layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitlab.figures.frame import rounded

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuitlab.figures.placement import Placement

__all__ = ["layer_axes"]

_COLUMN, _ROW = 56, 60
"""Width of a column and height of a row in pixels, the same in every diagram."""


def layer_axes(figure: go.Figure, placed: Placement, least: int) -> tuple[int, int]:
    """Set the ranges so that they include everything drawn, and return the width (at least ``least``) and the height in pixels."""
    x = [value for trace in figure.data for value in trace.x if value is not None]
    y = [place[1] for place in placed.at.values()]
    low, high = min(y) - 0.6, max(y) + 0.6
    half, middle = max((max(x) - min(x)) / 2 + 0.9, least / 2 / _COLUMN), (max(x) + min(x)) / 2
    figure.update_xaxes(visible=False, range=rounded([middle - half, middle + half]))
    figure.update_yaxes(
        title_text="layer",
        tickvals=rounded(list(placed.layers.values())),
        ticktext=[str(layer) for layer in placed.layers],
        range=rounded([low, high]),
        showgrid=False,
        zeroline=False,
    )
    return round(2 * half * _COLUMN), round(_ROW * (high - low))
