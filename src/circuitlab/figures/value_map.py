"""One value for each head as a map of layers and heads, with chosen heads outlined; for numbers that are not `HeadScores`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head, KVHead, parse_node
from circuitlab.figures.frame import Frame, finish, plain, rounded, symmetric_limit
from circuitlab.figures.theme import NEUTRAL, Theme
from circuitlab.figures.wording import Wording

__all__ = ["value_map"]

_LEAST = 240


def value_map(
    values: Sequence[Sequence[float | None]],
    wording: Wording,
    *,
    outlined: Sequence[str] = (),
    shared: bool = False,
    theme: Theme = "light",
) -> go.Figure:
    """A heat map with layers downwards and heads to the right.

    Parameters
    ----------
    values : sequence of sequences of float, shape (layer, head)
        None and NaN are left blank. Colours are centred at 0 if a value is below it, and begin at 0 if none is.
    wording : Wording
        Heading and units; the axes are layers and heads.
    outlined : sequence of str
        Heads to outline, for example ``"a9.h6"`` (``"a9.kv2"`` if ``shared``).
    shared : bool
        Whether columns are shared key/value heads rather than query heads.
    theme : {"light", "dark"}
        Colour theme.

    Raises
    ------
    BadParameterError
        If the values are not a matrix, or an outlined head is outside it.

    Examples
    --------
    >>> figure = value_map([[0.0, 1.0]], Wording("Score"), outlined=["a0.h1"])
    >>> len(figure.layout.shapes), figure.layout.coloraxis.cmin
    (1, 0)
    """
    cells = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float)
    if cells.ndim != 2:  # noqa: PLR2004 - layer and head
        raise BadParameterError(f"Values of shape {cells.shape} are no map of heads.", "Give one row for each layer.")
    letter = "kv" if shared else "h"
    texts = [[f"<b>a{layer}.{letter}{head}</b><br>{value:.3g}" for head, value in enumerate(row)] for layer, row in enumerate(cells)]
    figure = go.Figure(go.Heatmap(z=rounded(cells), coloraxis="coloraxis", hovertext=texts, hoverinfo="text", xgap=1, ygap=1))
    for name in outlined:
        node = parse_node(name)
        if not (isinstance(node, Head | KVHead) and 0 <= node.layer < cells.shape[0] and 0 <= node.head < cells.shape[1]):
            what = f"{name} is outside a map of {cells.shape[0]} layers of {cells.shape[1]} heads."
            raise BadParameterError(what, "Outline heads of this model.")
        figure.add_shape(
            type="rect",
            x0=node.head - 0.5,
            x1=node.head + 0.5,
            y0=node.layer - 0.5,
            y1=node.layer + 0.5,
            line={"color": NEUTRAL, "width": 2},
            fillcolor="rgba(0,0,0,0)",
        )
    layers, width = cells.shape
    figure.update_xaxes(title_text="key/value head" if shared else "head", showgrid=False, zeroline=False, range=[-0.5, width - 0.5])
    figure.update_yaxes(title_text="layer", showgrid=False, zeroline=False, range=[layers - 0.5, -0.5])
    figure.update_xaxes(tickvals=list(range(0, width, max(1, width // 12))))
    figure.update_yaxes(tickvals=list(range(0, layers, max(1, layers // 10))))
    limit = symmetric_limit([cells])
    bar = {"title": {"text": plain(wording.units), "side": "right", "font": {"size": 11}}}
    colours = {"cmin": -limit, "cmax": limit, "cmid": 0} if (cells < 0).any() else {"cmin": 0, "cmax": limit}
    figure.update_layout(coloraxis={**colours, "autocolorscale": True, "colorbar": bar})
    frame = Frame(wording.title, wording.subtitle, max(_LEAST, 22 * width), max(_LEAST, 12 * layers), margin_right=110)
    return finish(figure, frame, theme)
