"""Why a head looks where it looks: writers at the query times writers at the key."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError
from circuitlab.figures.frame import Frame, finish, plain, rounded, symmetric_limit
from circuitlab.figures.theme import Theme
from circuitlab.scores.query_key_attribution import QueryKeyAttribution

__all__ = ["query_key_heatmap"]

_CELL = 40


def query_key_heatmap(attribution: QueryKeyAttribution, k: int = 10, *, title: str = "", theme: Theme = "light") -> go.Figure:
    """Terms of one attention score: writers at the query down, writers at the key across.

    Parameters
    ----------
    attribution : QueryKeyAttribution
        From `circuitlab.why_attends`.
    k : int
        How many writers of each side are shown by name: those whose terms are largest (sum of magnitudes). All others are pooled into one
        row and one column, which say how many they are. Writers in forward order.
    title : str
        Heading; which head looks from where at what otherwise.
    theme : {"light", "dark"}
        Template.

    Returns
    -------
    Figure
        All cells sum to the score, which the subtitle names; beside each name stands the sum of its row or column. The colour range is set
        by the cells of named writers, so that a pooled cell may saturate.

    Raises
    ------
    BadParameterError
        If ``k`` is below 1.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("induction-gqa")
    >>> why = cl.why_attends(planted.model, "a1.h2", [3, 1, 5, 2, 4, 0, 1], key=2)
    >>> figure = cl.figures.query_key_heatmap(why, k=3)
    >>> figure.layout.xaxis.ticktext[-1].split(" (")[0], figure.layout.meta["title"]
    ('4 others', "Why a1.h2 looks from 6 '1' at 2 '5'")
    """
    if k < 1:
        raise BadParameterError(f"k={k} names no writer.", "Use at least 1.")
    down, across = (_pools(np.abs(attribution.matrix).sum(axis), k) for axis in (1, 0))
    cells = np.array([[attribution.matrix[np.ix_(rows, columns)].sum() for columns in across] for rows in down])
    names = [_labels(attribution.writers, groups, cells.sum(axis)) for groups, axis in ((down, 1), (across, 0))]
    figure = go.Figure(_map(cells, names))
    pooled = [len(attribution.writers) > k] * 2
    limit = symmetric_limit([cells[: len(down) - pooled[0], : len(across) - pooled[1]]])
    bar = {"title": {"text": "term", "side": "top", "font": {"size": 12}}, "len": 0.9, "x": 1.02, "xpad": 4}
    figure.update_layout(coloraxis={"cmin": -limit, "cmax": limit, "cmid": 0, "autocolorscale": True, "colorbar": bar})
    figure.update_xaxes(
        title_text="writer at the key", tickvals=list(range(len(across))), ticktext=names[1], tickangle=-50, showgrid=False, zeroline=False
    )
    figure.update_yaxes(
        title_text="writer at the query",
        tickvals=list(range(len(down))),
        ticktext=names[0],
        range=[len(down) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    frame = Frame(
        title or attribution.heading,
        " · ".join([attribution.model, *attribution.notes()]),
        width=max(360, _CELL * len(across)),
        height=max(280, int(0.7 * _CELL * len(down))),
        margin_left=170,
        margin_right=96,
        margin_bottom=150,
        shrinks=1.0,
    )
    return finish(figure, frame, theme)


def _pools(size: np.ndarray, k: int) -> list[list[int]]:
    """The largest entries by themselves in their own order, and all others together at the end."""
    largest = np.sort(np.argsort(-size, kind="stable")[:k]).tolist()
    rest = [i for i in range(len(size)) if i not in set(largest)]
    return [[i] for i in largest] + ([rest] if rest else [])


def _labels(writers: tuple[str, ...], groups: list[list[int]], sums: np.ndarray) -> list[str]:
    names = [writers[group[0]] if i < len(groups) - 1 or len(group) == 1 else f"{len(group)} others" for i, group in enumerate(groups)]
    return [f"{plain(name)} ({total:+.2f})" for name, total in zip(names, sums, strict=True)]


def _map(cells: np.ndarray, names: list[list[str]]) -> go.Heatmap:
    texts = [
        [f"{query} at the query<br>{key} at the key<br>term {cells[i, j]:+.4g}" for j, key in enumerate(names[1])]
        for i, query in enumerate(names[0])
    ]
    return go.Heatmap(
        z=rounded(cells),
        text=[[f"{value:+.2f}" for value in row] for row in cells],
        texttemplate="%{text}",
        textfont={"size": 10},
        hovertext=texts,
        hoverinfo="text",
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )
