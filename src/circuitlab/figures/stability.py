"""How many prompts a stable list of heads needs: agreement of two lists by the number of pairs they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuitlab.comparison.stability import StabilityCurve
from circuitlab.core.errors import BadParameterError
from circuitlab.figures.frame import Frame, finish, plain, rounded, wrapped
from circuitlab.figures.theme import HELPS, Theme, shared_template

__all__ = ["stability_curves"]

_TOGETHER, _COLUMNS = 3, 4
_WIDE = 12
"""Ratio of the largest to the smallest size from which the axis of sizes is logarithmic."""


def stability_curves(
    curves: Mapping[str, StabilityCurve],
    *,
    title: str = "",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Jaccard index of two top-k lists from disjoint sets of n pairs, for increasing n.

    Parameters
    ----------
    curves : mapping of str to StabilityCurve
        Results of `circuitlab.comparison.sample_size_curve` by task (or by any name), in the order of the legend.
    title, subtitle : str
        Heading.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        For each curve a line with the band of 95 % of the draws, and a dotted line of the same colour at the value expected by chance. More
        than three curves are drawn in separate panels.

    Raises
    ------
    BadParameterError
        If there are no curves.
    """
    if not curves:
        raise BadParameterError("There is no curve to draw.", "Give at least one, by name.")
    columns = min(_COLUMNS, len(curves)) if len(curves) > _TOGETHER else 1
    rows = -(-len(curves) // columns) if columns > 1 else 1
    figure = _panels(curves, rows, columns) if columns > 1 else _together(curves, shared_template(theme).layout.colorway)
    sizes = np.unique(np.concatenate([curve.sizes for curve in curves.values()]))
    figure.update_yaxes(range=[-0.03, 1.03], zeroline=False)
    figure.update_xaxes(zeroline=False, tickvals=rounded(sizes))
    figure.update_yaxes(title_text="Jaccard of two lists" if columns > 1 else "Jaccard index of two lists", col=1)
    figure.update_xaxes(title_text="prompt pairs per list" if columns > 1 else "prompt pairs behind each list", row=rows)
    if sizes[-1] >= _WIDE * sizes[0]:
        figure.update_xaxes(type="log", ticktext=[str(size) for size in sizes])
    lengths = sorted({curve.k for curve in curves.values()})
    note = subtitle or f"top {', '.join(map(str, lengths))} · two lists without a common prompt · band: 95 % of draws · dotted: chance"
    size = (columns * 190, rows * 190, 56) if columns > 1 else (520, 320, 86)
    heading = title or "How many prompts does a stable list need?"
    frame = Frame(heading, note, *size[:2], margin_left=72, margin_bottom=size[2], margin_top=34)
    return finish(figure, frame, theme)


def _together(curves: Mapping[str, StabilityCurve], colours: Sequence[str]) -> go.Figure:
    figure = make_subplots(1, 1)
    for i, (name, curve) in enumerate(curves.items()):
        _add(figure, name, curve, colours[i % len(colours)], (1, 1))
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}})
    return figure


def _panels(curves: Mapping[str, StabilityCurve], rows: int, columns: int) -> go.Figure:
    heads = [wrapped(name, 180, 11) for name in curves]
    spacing = {"horizontal_spacing": 0.03, "vertical_spacing": 0.3 / rows}
    figure = make_subplots(rows, columns, shared_xaxes=True, shared_yaxes=True, subplot_titles=heads, **spacing)
    figure.update_annotations(font={"size": 11})
    for i, (name, curve) in enumerate(curves.items()):
        _add(figure, name, curve, HELPS, (i // columns + 1, i % columns + 1))
    figure.update_layout(showlegend=False)
    # A column that ends above the last row shows its own tick labels.
    for i in range(len(curves) - columns, len(curves)):
        figure.update_xaxes(showticklabels=True, row=i // columns + 1, col=i % columns + 1)
    return figure


def _add(figure: go.Figure, name: str, curve: StabilityCurve, colour: str, place: tuple[int, int]) -> None:
    """Draw the band, the line and the chance level of one curve; the legend switches all three together."""
    shared = {"legendgroup": plain(name), "name": plain(name), "row": place[0], "col": place[1]}
    sizes = np.asarray(curve.sizes)
    figure.add_scatter(
        x=rounded([*sizes, *sizes[::-1]]),
        y=rounded([*curve.high, *curve.low[::-1]]),
        mode="lines",
        line={"width": 0, "color": colour},
        fill="toself",
        fillcolor=colour,
        opacity=0.16,
        hoverinfo="skip",
        showlegend=False,
        meta="band",
        **shared,
    )
    texts = [
        f"<b>{plain(name)}</b><br>{size} pairs each<br>Jaccard {mean:.3f}<br>{low:.3f} to {high:.3f}<br>by chance {curve.chance:.3f}"
        for size, mean, low, high in zip(sizes, curve.mean, curve.low, curve.high, strict=True)
    ]
    figure.add_scatter(
        x=rounded(sizes),
        y=rounded(curve.mean),
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": 6, "color": colour},
        hovertext=texts,
        hoverinfo="text",
        meta="line",
        **shared,
    )
    figure.add_scatter(
        x=rounded([sizes[0], sizes[-1]]),
        y=rounded([curve.chance, curve.chance]),
        mode="lines",
        line={"color": colour, "width": 1.2, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
        meta="chance",
        **shared,
    )
