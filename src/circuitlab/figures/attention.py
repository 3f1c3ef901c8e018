"""Attention of one head on one prompt, or on a clean and a corrupt prompt with their difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.figures.frame import Frame, finish, plain, rounded, symmetric_limit, token_label
from circuitlab.figures.theme import Theme
from circuitlab.scores.attention import AttentionPattern

__all__ = ["attention_pattern"]

_GAP, _LONGEST = 0.05, 14


def attention_pattern(
    pattern: AttentionPattern, corrupt: AttentionPattern | None = None, *, title: str = "", theme: Theme = "light"
) -> go.Figure:
    """Attention weights of a head with tokens on both axes.

    Parameters
    ----------
    pattern : AttentionPattern
        Result of `Model.attention`.
    corrupt : AttentionPattern, optional
        The same head on a corrupt prompt of the same length; both patterns and their difference, clean minus corrupt, are drawn side by
        side.
    title : str
        Heading; the head if not given.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        Queries down, keys across. The weights of both prompts have one colour scale from 0 to 1; the difference has its own, with zero in
        the middle.

    Raises
    ------
    IncompatibleError
        If the two patterns are of different heads, or of prompts of different lengths.
    BadParameterError
        If a pattern has no tokens.
    """
    if not pattern.tokens:
        raise BadParameterError("The pattern has no tokens.", "Give the attention on a prompt.")
    panels = [("attention", pattern.values)]
    if corrupt is not None:
        if (corrupt.head, len(corrupt.tokens)) != (pattern.head, len(pattern.tokens)):
            what = (
                f"Attention of {pattern.head} on {len(pattern.tokens)} tokens and of {corrupt.head} on {len(corrupt.tokens)} do not match."
            )
            raise IncompatibleError(what, "Give the same head on two prompts of equal length.")
        panels = [("clean", pattern.values), ("corrupt", corrupt.values), ("clean minus corrupt", pattern.values - corrupt.values)]
    n, count = len(pattern.tokens), len(panels)
    cell = float(np.clip(360 / n, 11, 32))
    figure = go.Figure()
    width = (1 - _GAP * (count - 1)) / count
    for number, (name, values) in enumerate(panels):
        tokens = corrupt.tokens if corrupt is not None and name == "corrupt" else pattern.tokens
        figure.add_trace(_map(values, tokens, number, difference=name.startswith("clean minus")))
        start = number * (width + _GAP)
        _axes(figure, number, (start, start + width), (tokens, name if count > 1 else "looks at"))
    figure.update_layout(coloraxis={"cmin": 0, "cmax": 1, "colorbar": _bar("weight", 1.02)})
    if corrupt is not None:
        limit = symmetric_limit([panels[2][1]])
        figure.update_layout(coloraxis2={"cmin": -limit, "cmax": limit, "cmid": 0, "colorbar": _bar("difference", 1.12)})
    frame = Frame(
        title or f"Attention of {pattern.head}",
        f"{pattern.model} · from each token (down) to the tokens that it sees (across)",
        width=int(max(240, n * cell) * count + 40 * (count - 1)),
        height=int(max(200, n * cell)),
        margin_left=110,
        margin_right=96 if corrupt is None else 190,
        margin_bottom=110,
        shrinks=1.0,
    )
    return finish(figure, frame, theme)


def _map(values: np.ndarray, tokens: tuple[str, ...], number: int, *, difference: bool) -> go.Heatmap:
    n = len(tokens)
    names = [f"{i} {plain(repr(token))}" for i, token in enumerate(tokens)]
    sign = "+" if difference else ""
    texts = [[f"from {names[q]}<br>to {names[k]}<br>{values[q, k]:{sign}.3f}" for k in range(n)] for q in range(n)]
    visible = np.where(np.tril(np.ones((n, n), dtype=bool)), values, np.nan)
    return go.Heatmap(
        z=rounded(visible),
        hovertext=texts,
        hoverinfo="text",
        coloraxis="coloraxis2" if difference else "coloraxis",
        xaxis=f"x{number + 1}" if number else "x",
        yaxis=f"y{number + 1}" if number else "y",
        xgap=1,
        ygap=1,
    )


def _axes(figure: go.Figure, number: int, domain: tuple[float, float], labels: tuple[tuple[str, ...], str]) -> None:
    tokens, name = labels
    every = max(1, -(-len(tokens) // 40))
    places = list(range(0, len(tokens), every))
    texts = [token_label(tokens[i], _LONGEST) for i in places]
    key = str(number + 1) if number else ""
    across: dict[str, Any] = {"domain": list(domain), "anchor": f"y{key}", "tickvals": places, "ticktext": texts, "tickangle": -60}
    across |= {"title": {"text": name}, "showgrid": False, "zeroline": False, "constrain": "domain"}
    down: dict[str, Any] = {"anchor": f"x{key}", "tickvals": places, "ticktext": texts if not number else [""] * len(places)}
    down |= {"range": [len(tokens) - 0.5, -0.5], "showgrid": False, "zeroline": False}
    figure.update_layout({f"xaxis{key}": across, f"yaxis{key}": down})


def _bar(title: str, at: float) -> dict[str, Any]:
    return {"title": {"text": title, "side": "top", "font": {"size": 12}}, "len": 0.9, "x": at, "xpad": 4}
