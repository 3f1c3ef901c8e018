"""Dashed lines for values to compare with (the unedited model, chance), named beside the plot where nothing is drawn."""

from __future__ import annotations

from collections.abc import Iterable

import plotly.graph_objects as go

from circuitlab.figures.frame import plain
from circuitlab.figures.theme import NEUTRAL

__all__ = ["dashed_line", "room_for"]


def dashed_line(figure: go.Figure, name: str, value: float) -> None:
    """Draw a horizontal line at a value over the whole width, with its name to the right of the plot."""
    figure.add_hline(y=value, line={"color": NEUTRAL, "width": 1, "dash": "dash"})
    figure.add_annotation(
        text=plain(name), name="reference", xref="paper", x=1, xanchor="left", xshift=6, y=value, showarrow=False, font={"size": 11}
    )


def room_for(names: Iterable[str]) -> int:
    """Pixels to leave at the right for the names of such lines; those of an empty margin if there are none."""
    return 30 + 7 * max(map(len, names), default=0)
