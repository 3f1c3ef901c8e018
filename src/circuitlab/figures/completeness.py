"""Completeness: the effect of removing the same nodes from the circuit and from the full model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.figures.frame import Frame, finish, plain, rounded
from circuitlab.figures.labels import Canvas, name_points
from circuitlab.figures.theme import HELPS, HINDERS, NEUTRAL, Theme

__all__ = ["Removal", "completeness_scatter"]

_LOOKS = {
    "random": ("random subsets", NEUTRAL, "circle", 6),
    "class": ("classes of heads", HELPS, "circle", 10),
    "greedy": ("greedy subset", HINDERS, "diamond", 11),
}

_SIDE, _MARGIN = 440, 100
"""Pixels of the side of the square, and of its left and right margins together."""


@dataclass(frozen=True)
class Removal:
    """A set of nodes K that is removed from a circuit C and from the full model M.

    Parameters
    ----------
    name : str
        Name of K, for example ``"name movers"``.
    kind : {"random", "class", "greedy"}
        How K was chosen.
    circuit, model : float
        Mean metric of the circuit without K and of the full model without K, in units of the metric.

    Raises
    ------
    UnknownNameError
        If there is no such kind.

    Examples
    --------
    >>> Removal("name movers", "class", circuit=1.2, model=2.9).kind
    'class'
    """

    name: str
    kind: str
    circuit: float
    model: float

    def __post_init__(self) -> None:
        if self.kind not in _LOOKS:
            raise UnknownNameError("kind of removal", self.kind, _LOOKS)


def completeness_scatter(
    removals: Sequence[Removal],
    *,
    units: str = "logits",
    title: str = "",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Metric of the circuit without K against that of the model without K; the points of a complete circuit are on the diagonal.

    Parameters
    ----------
    removals : sequence of Removal
        The removed sets, one point for each.
    units : str
        Units of the metric.
    title, subtitle : str
        Heading; if not given, the subtitle names the set farthest from the diagonal.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        Both axes have the same range. Above the diagonal the circuit keeps what the model loses without K; below it, parts outside the
        circuit compensate for K in the model. Classes and greedy subsets are labelled with their names.

    Raises
    ------
    BadParameterError
        If there are no removals.

    References
    ----------
    Wang et al. (2022), arXiv:2211.00593, section 4.

    Examples
    --------
    >>> figure = completeness_scatter([Removal("name movers", "class", 1.2, 2.9), Removal("5 heads", "random", 3.0, 3.1)])
    >>> figure.layout.xaxis.title.text
    'model without K (logits)'
    """
    if not removals:
        raise BadParameterError("No nodes were removed, so there is no point to draw.", "Give at least one removal.")
    values = np.array([[removal.model, removal.circuit] for removal in removals], dtype=float)
    low, high = float(values.min()), float(values.max())
    pad = 0.08 * (high - low) or 1.0
    limits = [low - pad, high + pad]
    figure = go.Figure()
    figure.add_scatter(
        x=rounded(limits),
        y=rounded(limits),
        mode="lines",
        line={"color": NEUTRAL, "width": 1, "dash": "dash"},
        name="complete: both change alike",
        hoverinfo="skip",
    )
    for kind in _LOOKS:
        if rows := [removal for removal in removals if removal.kind == kind]:
            figure.add_trace(_points(rows, units))
    _name(figure, removals, limits)
    figure.update_xaxes(title_text=f"model without K ({plain(units)})", range=limits, zeroline=False)
    figure.update_yaxes(title_text=f"circuit without K ({plain(units)})", range=limits, zeroline=False)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}})
    worst = max(removals, key=lambda removal: abs(removal.circuit - removal.model))
    description = f"{len(removals)} sets K removed · farthest from the diagonal: {worst.name} ({worst.circuit - worst.model:+.2f} {units})"
    frame = Frame(
        title or "Is the circuit complete?",
        subtitle or description,
        width=_SIDE,
        height=_SIDE,
        margin_left=76,
        margin_bottom=104,
    )
    return finish(figure, frame, theme)


def _points(rows: Sequence[Removal], units: str) -> go.Scatter:
    name, colour, symbol, size = _LOOKS[rows[0].kind]
    named = rows[0].kind != "random"
    texts = [
        f"<b>{plain(removal.name)}</b><br>circuit without it {removal.circuit:+.3g} {plain(units)}"
        f"<br>model without it {removal.model:+.3g} {plain(units)}<br>difference {removal.circuit - removal.model:+.3g}"
        for removal in rows
    ]
    return go.Scatter(
        x=rounded([removal.model for removal in rows]),
        y=rounded([removal.circuit for removal in rows]),
        mode="markers",
        marker={"size": size, "color": colour, "symbol": symbol, "opacity": 0.95 if named else 0.45},
        name=name,
        hovertext=texts,
        hoverinfo="text",
    )


def _name(figure: go.Figure, removals: Sequence[Removal], limits: list[float]) -> None:
    """Write the names of all sets except the random ones, starting with those farthest from the diagonal."""
    named = sorted((removal for removal in removals if removal.kind != "random"), key=lambda removal: -abs(removal.circuit - removal.model))
    if not named:
        return
    at, points = (np.array([[removal.model, removal.circuit] for removal in sets], dtype=float) for sets in (named, removals))
    diagonal = np.linspace(limits[0], limits[1], 40)[:, None].repeat(2, axis=1)
    narrow = 0.75 * (_SIDE + _MARGIN) - _MARGIN
    ends = (limits[0], limits[1])
    canvas = Canvas(ends, ends, (narrow, (narrow + _SIDE) / 2, _SIDE), _SIDE)
    name_points(figure, [removal.name for removal in named], at, np.concatenate([points, diagonal]), canvas)
