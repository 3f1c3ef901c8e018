"""Faithfulness over circuit size, with random circuits of the same sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.figures.frame import Frame, finish, plain, rounded
from circuitlab.figures.theme import NEUTRAL, Theme, faint, shared_template

__all__ = ["SizeCurve", "faithfulness_curve"]

_WIDE = 30
"""Ratio of the largest to the smallest size from which the axis of sizes is logarithmic."""


@dataclass(frozen=True, eq=False)
class SizeCurve:
    """A quantity over circuit size, with limits.

    Parameters
    ----------
    sizes : array of int, shape (size,)
        Number of nodes or edges in the circuit, increasing.
    mean, low, high : array, shape (size,)
        The value at each size, and its interval or band; NaN limits are not drawn.

    Raises
    ------
    BadParameterError
        If there are no sizes, the shapes differ, or the sizes do not increase.

    Examples
    --------
    >>> curve = SizeCurve(np.array([0, 5, 20]), np.array([0.0, 0.6, 0.9]), np.array([0.0, 0.5, 0.8]), np.array([0.0, 0.7, 1.0]))
    >>> curve.above_zero().sizes.tolist()
    [5, 20]
    """

    sizes: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __post_init__(self) -> None:
        shapes = {np.shape(part) for part in (self.sizes, self.mean, self.low, self.high)}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1 or not np.size(self.sizes):
            what = f"A curve needs sizes, mean, low and high of one length; got shapes {sorted(shapes)}."
            raise BadParameterError(what, "Give one value per size.")
        if np.any(np.diff(self.sizes) <= 0):
            raise BadParameterError(f"Sizes {list(self.sizes)} do not increase.", "Sort the curve by size.")

    def above_zero(self) -> SizeCurve:
        """The curve without the empty circuit, which cannot be drawn on a logarithmic axis."""
        keep = np.asarray(self.sizes) > 0
        return SizeCurve(*(np.asarray(part)[keep] for part in (self.sizes, self.mean, self.low, self.high)))


def faithfulness_curve(
    curves: Mapping[str, SizeCurve],
    random: SizeCurve | None = None,
    *,
    unit: Literal["nodes", "edges"] = "nodes",
    title: str = "",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Faithfulness of circuits of increasing size.

    Parameters
    ----------
    curves : mapping of str to SizeCurve
        Faithfulness with its interval by method (or by any name), in the order of the legend; 1 is the full model, 0 the empty circuit.
    random : SizeCurve, optional
        Mean and band of random circuits of the same sizes.
    unit : {"nodes", "edges"}
        Unit of the sizes.
    title, subtitle : str
        Heading.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        Values above 1 and below 0 are shown as they are. Sizes that span a factor of 30 or more are drawn on a logarithmic axis, without
        the empty circuit.

    Raises
    ------
    BadParameterError
        If there are no curves.
    UnknownNameError
        If there is no such unit.

    Examples
    --------
    >>> curve = SizeCurve(np.array([5, 10, 20]), np.array([0.3, 0.6, 0.9]), np.array([0.2, 0.5, 0.8]), np.array([0.4, 0.7, 1.0]))
    >>> figure = faithfulness_curve({"activation patching": curve})
    >>> figure.layout.xaxis.title.text
    'size of the circuit (nodes)'
    """
    if unit not in {"nodes", "edges"}:
        raise UnknownNameError("unit", unit, ["nodes", "edges"])
    if not curves:
        raise BadParameterError("There is no curve to draw.", "Give at least one, by name.")
    drawn = [*curves.values(), *([random] if random is not None else [])]
    positive = [float(size) for curve in drawn for size in curve.sizes if size > 0]
    logarithmic = bool(positive) and max(positive) >= _WIDE * min(positive)
    if logarithmic:
        curves = {name: curve.above_zero() for name, curve in curves.items()}
        random = None if random is None else random.above_zero()
    figure = go.Figure()
    if random is not None:
        _add(figure, "random circuits of the same size", random, (NEUTRAL, "dot", unit))
    colours = shared_template(theme).layout.colorway
    for i, (name, curve) in enumerate(curves.items()):
        _add(figure, name, curve, (colours[i % len(colours)], "solid", unit))
    _references(figure)
    values = np.concatenate([np.ravel(part) for curve in drawn for part in (curve.mean, curve.low, curve.high)])
    low, high = min(0.0, float(np.nanmin(values))), max(1.0, float(np.nanmax(values)))
    pad = 0.06 * (high - low)
    figure.update_yaxes(title_text="faithfulness (share of the full model's effect)", range=[low - pad, high + pad], zeroline=False)
    figure.update_xaxes(title_text=f"size of the circuit ({unit})", type="log" if logarithmic else "linear", zeroline=False)
    if logarithmic:
        figure.update_xaxes(dtick="D2")
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}})
    heading = title or "How much of the behaviour does the circuit keep?"
    rows = -(-(len(curves) + (random is not None)) // 2)
    frame = Frame(heading, subtitle, width=520, height=320, margin_left=72, margin_right=96, margin_bottom=66 + 20 * rows)
    return finish(figure, frame, theme)


def _add(figure: go.Figure, name: str, curve: SizeCurve, look: tuple[str, str, str]) -> None:
    """Draw the band and the line of one curve; the legend switches both together."""
    colour, dash, unit = look
    sizes, low, high = (np.asarray(part, dtype=float) for part in (curve.sizes, curve.low, curve.high))
    known = np.isfinite(low) & np.isfinite(high)
    shared: dict[str, Any] = {"legendgroup": plain(name), "name": plain(name)}
    figure.add_scatter(
        x=rounded([*sizes[known], *sizes[known][::-1]]),
        y=rounded([*high[known], *low[known][::-1]]),
        mode="lines",
        line={"width": 0, "color": colour},
        fill="toself",
        fillcolor=faint(colour),
        hoverinfo="skip",
        showlegend=False,
        meta="band",
        **shared,
    )
    texts = [
        f"<b>{plain(name)}</b><br>{int(size)} {unit}<br>faithfulness {mean:.3f}"
        + (f"<br>{limits[0]:.3f} to {limits[1]:.3f}" if sure else "")
        for size, mean, limits, sure in zip(sizes, curve.mean, zip(low, high, strict=True), known, strict=True)
    ]
    figure.add_scatter(
        x=rounded(sizes),
        y=rounded(curve.mean),
        mode="lines+markers" if dash == "solid" else "lines",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 6, "color": colour},
        hovertext=texts,
        hoverinfo="text",
        meta="line",
        **shared,
    )


def _references(figure: go.Figure) -> None:
    """Lines at the values of the full model and of the empty circuit, with their names in the right margin."""
    for at, name in ((1.0, "full model"), (0.0, "empty circuit")):
        figure.add_shape(type="line", xref="paper", x0=0, x1=1, y0=at, y1=at, layer="below", line={"color": NEUTRAL, "width": 1.2})
        figure.add_annotation(
            text=name,
            name="reference",
            xref="paper",
            x=1,
            xanchor="left",
            xshift=6,
            y=at,
            yanchor="middle",
            showarrow=False,
            font={"size": 11},
        )
