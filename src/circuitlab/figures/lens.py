"""What layers speak for: tokens read off the stream, off head outputs or off MLP outputs, written into a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import UnknownNameError
from circuitlab.figures.frame import Frame, finish, plain, rounded, symmetric_limit, token_label
from circuitlab.figures.theme import Theme
from circuitlab.scores.logit_lens import LogitLens

__all__ = ["logit_lens_heatmap"]

_LONGEST = 10
_WIDTH, _HEIGHT = 62, 20
"""Pixels of a cell with a token in it."""


@dataclass(frozen=True)
class _Cells:
    """What is drawn: values and texts of shape (row, column), and the names of both."""

    values: np.ndarray
    texts: np.ndarray
    hover: np.ndarray
    rows: list[str]
    columns: list[str]
    across: str


def logit_lens_heatmap(
    lens: LogitLens, token: str | None = None, position: int | None = None, *, title: str = "", theme: Theme = "light"
) -> go.Figure:
    """Layers down, positions across, with the top token written in; of heads, heads across at one position.

    Parameters
    ----------
    lens : LogitLens
        From `circuitlab.logit_lens`.
    token : str, optional
        Colour by this token, one of those that were asked about; by the top token of each cell otherwise.
    position : int, optional
        Which of the positions that were read is drawn, of heads; the last one otherwise.
    title : str
        Heading; what was read otherwise.
    theme : {"light", "dark"}
        Template.

    Returns
    -------
    Figure
        Of the stream, colours are probabilities from 0 to 1. Of heads and MLPs they are shares of the logit, zero in the middle where a
        token is named.

    Raises
    ------
    UnknownNameError
        If the token was not asked about.
    BadParameterError
        If the position was not read.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("induction-gqa")
    >>> lens = cl.logit_lens(planted.model, [3, 1, 5, 2, 4, 0, 1], positions=[-2, -1])
    >>> cl.figures.logit_lens_heatmap(lens).data[0].text[-1][-1]
    '5'
    """
    if token is not None and token not in lens.asked:
        raise UnknownNameError("token of this lens", token, lens.asked)
    cells = _cells(lens, None if token is None else lens.asked.index(token), position)
    n_rows, n_columns = cells.values.shape
    figure = go.Figure(
        go.Heatmap(
            z=rounded(cells.values),
            text=cells.texts.tolist(),
            texttemplate="%{text}",
            textfont={"size": 10},
            hovertext=cells.hover.tolist(),
            hoverinfo="text",
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_layout(coloraxis=_colours(lens, cells.values, token))
    figure.update_xaxes(
        title_text=cells.across, tickvals=list(range(n_columns)), ticktext=cells.columns, tickangle=-50, showgrid=False, zeroline=False
    )
    figure.update_yaxes(
        title_text="layer" if lens.site == "heads" else "read at",
        tickvals=list(range(n_rows)),
        ticktext=cells.rows,
        range=[n_rows - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    frame = Frame(
        title or _heading(lens, position),
        _subtitle(lens, token),
        width=max(320, _WIDTH * n_columns),
        height=max(160, _HEIGHT * n_rows),
        margin_left=84,
        margin_right=110,
        margin_bottom=110,
        shrinks=1.0,
    )
    return finish(figure, frame, theme)


def _cells(lens: LogitLens, asked: int | None, position: int | None) -> _Cells:
    values = lens.top_values[:, :, 0] if asked is None else lens.values[:, :, asked]
    shown = np.exp(values) if lens.site == "stream" else values
    texts = np.array([[token_label(token, _LONGEST) for token in row] for row in lens.top_tokens[:, :, 0]], dtype=object)
    hover = np.array([[_hover(lens, i, j) for j in range(values.shape[1])] for i in range(values.shape[0])], dtype=object)
    if lens.site != "heads":
        columns = [f"{at} {token_label(lens.tokens[at], _LONGEST)}" for at in lens.positions]
        return _Cells(shown, texts, hover, list(lens.rows), columns, "position")
    at = lens.column(lens.positions[-1] if position is None else position)
    layers = sorted({name.split(".")[0] for name in lens.rows}, key=lambda name: int(name[1:]))
    shown, texts, hover = (part[:, at].reshape(len(layers), -1) for part in (shown, texts, hover))
    return _Cells(shown, texts, hover, layers, [str(head) for head in range(shown.shape[1])], "head")


def _hover(lens: LogitLens, row: int, column: int) -> str:
    at = lens.positions[column]
    lines = [f"<b>{lens.rows[row]}</b> at {at} {plain(repr(lens.tokens[at]))}"]
    best = zip(lens.top_tokens[row, column], lens.top_values[row, column], strict=True)
    lines += [f"{plain(repr(token))} {value:+.2f}" for token, value in best]
    asked = zip(lens.asked, lens.values[row, column], lens.ranks[row, column], strict=True)
    lines += [f"{plain(repr(token))} {value:+.2f}, rank {rank}" for token, value, rank in asked]
    return "<br>".join(lines)


def _colours(lens: LogitLens, values: np.ndarray, token: str | None) -> dict[str, Any]:
    what = "top token" if token is None else plain(repr(token))
    if lens.site == "stream":
        return {"cmin": 0, "cmax": 1, "autocolorscale": True, "colorbar": _bar(f"probability<br>of {what}")}
    limit = symmetric_limit([values])
    scale: dict[str, Any] = {"cmin": -limit, "cmid": 0} if token is not None else {"cmin": 0}
    return scale | {"cmax": limit, "autocolorscale": True, "colorbar": _bar(f"logit share<br>of {what}")}


def _bar(text: str) -> dict[str, Any]:
    return {"title": {"text": text, "side": "top", "font": {"size": 12}}, "len": 0.9, "x": 1.02, "xpad": 4}


def _heading(lens: LogitLens, position: int | None) -> str:
    names = {"stream": "the residual stream", "heads": "head outputs", "mlps": "MLP outputs"}
    if lens.site != "heads":
        return f"Logit lens of {names[lens.site]}"
    at = lens.positions[lens.column(lens.positions[-1] if position is None else position)]
    return f"Logit lens of {names[lens.site]} at {at} {lens.tokens[at]!r}"


def _subtitle(lens: LogitLens, token: str | None) -> str:
    coloured = "its probability" if token is None else f"the probability of {token!r}"
    if lens.site == "stream":
        return f"{lens.model} · the token that each row would give with no further layer, the colour {coloured}"
    coloured = "its share" if token is None else f"the share of {token!r}"
    said = f"{lens.model} · the token whose final logit each raises most, above the mean over tokens, the colour {coloured}"
    return f"{said}; the final norm's scale held"
