"""Labels of points in a scatter plot, placed so that they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from circuitlab.figures.frame import plain, rounded
from circuitlab.figures.theme import NEUTRAL

__all__ = ["Canvas", "name_points"]

_LETTER, _LINE, _FONT = 6.4, 15, 11
"""Width of a letter and height of a line in pixels, at this font size."""
_AWAY = (8, 16, 28, 42, 58, 76, 96)
_TURNS = np.linspace(0, 2 * np.pi, 16, endpoint=False) + np.pi / 8


@dataclass(frozen=True)
class Canvas:
    """A plotting area with fixed ranges.

    Parameters
    ----------
    x, y : tuple of float
        Ranges of the axes.
    widths : tuple of float
        Widths in pixels. A page may draw a figure narrower than it was made, and labels must not overlap at any of these widths.
    height : float
        Height in pixels.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    widths: tuple[float, ...]
    height: float

    def pixels(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Positions in pixels from the upper left corner, for each width, (width, point, 2)."""
        across = (np.asarray(x, dtype=float) - self.x[0]) / (self.x[1] - self.x[0])
        down = (self.y[1] - np.asarray(y, dtype=float)) / (self.y[1] - self.y[0])
        return np.stack([np.stack([across * width, down * self.height], axis=-1) for width in self.widths])


def name_points(figure: go.Figure, names: Sequence[str], at: np.ndarray, busy: np.ndarray, canvas: Canvas) -> list[str]:
    """Write names beside their points, each joined to its point by a thin line; earlier names get the better positions.

    Parameters
    ----------
    figure : Figure
        Gets one annotation, called ``label``, for every name that has room.
    names : sequence of str
        The names, most important first.
    at : ndarray, shape (name, 2)
        Their points, in the units of the axes.
    busy : ndarray, shape (point, 2)
        Points that names should not cover: all points, and the ends of intervals.
    canvas : Canvas
        The plotting area.

    Returns
    -------
    list of str
        Names for which there was no room; they still appear on hover.
    """
    points, others = canvas.pixels(at[:, 0], at[:, 1]), canvas.pixels(busy[:, 0], busy[:, 1])
    taken: list[np.ndarray] = []
    left_out = []
    for i, name in enumerate(names):
        half = np.array([_LETTER * len(name) / 2 + 2, _LINE / 2])
        placed = _place(points[:, i], half, others, taken, canvas)
        if placed is None:
            left_out.append(name)
            continue
        offset, box = placed
        taken.append(box)
        figure.add_annotation(
            name="label",
            text=plain(name),
            x=rounded(at[i, 0]),
            y=rounded(at[i, 1]),
            ax=round(float(offset[0]), 1),
            ay=round(float(offset[1]), 1),
            showarrow=True,
            arrowhead=0,
            arrowwidth=0.8,
            arrowcolor=NEUTRAL,
            xanchor="center",
            yanchor="middle",
            font={"size": _FONT},
        )
    return left_out


def _place(
    point: np.ndarray, half: np.ndarray, others: np.ndarray, taken: Sequence[np.ndarray], canvas: Canvas
) -> tuple[np.ndarray, np.ndarray] | None:
    """The offset from the point and the box of a label, (width, corner, 2): near the point, clear of other labels, covering few points."""
    best: tuple[int, np.ndarray, np.ndarray] | None = None
    edge = np.stack([np.array(canvas.widths), np.full(len(canvas.widths), canvas.height)], axis=-1)
    for away in _AWAY:
        for angle in _TURNS:
            offset = np.array([np.cos(angle), -np.sin(angle)]) * (half + away)
            low, high = point + offset - half, point + offset + half
            if (low < 0).any() or (high > edge).any() or any(_meet(low, high, box) for box in taken):
                continue
            inside = (others > low[:, None]) & (others < high[:, None])
            covered = int(inside.all(axis=-1).any(axis=0).sum())
            if best is None or covered < best[0]:
                best = covered, offset, np.stack([low, high], axis=1)
        if best is not None and best[0] == 0:
            break
    return None if best is None else best[1:]


def _meet(low: np.ndarray, high: np.ndarray, box: np.ndarray) -> bool:
    return bool(((low < box[:, 1]) & (high > box[:, 0])).all(axis=-1).any())
