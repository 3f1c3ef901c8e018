"""Scores that are resolved by mark: one panel per mark, or layers by marks for parts without heads."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuitlab.core.errors import BadParameterError
from circuitlab.figures.frame import Frame, finish, method_title, near_chance, plain, rounded, source_line, symmetric_limit
from circuitlab.figures.heatmap import colour_axis, hover_texts, significance_dots
from circuitlab.figures.theme import Theme
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.parts import PARTS

__all__ = ["mark_heatmap"]


def mark_heatmap(
    scores: HeadScores, part: str = "heads", *, limit: float | None = None, title: str = "", theme: Theme = "light"
) -> go.Figure:
    """Mean scores by position: one map of layers by heads for each mark, or one map of layers by marks for parts without a head axis.

    Parameters
    ----------
    scores : HeadScores
        Scores with a mark axis.
    part : str
        Part of the scores, for example ``"heads"`` or ``"resid_pre"``.
    limit : float, optional
        End of the colour scale, the same for maps that are read side by side; the largest magnitude drawn if not given.
    title : str
        Heading; task and method if not given.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        All panels share one colour scale, symmetric about zero. Dots are those of `head_heatmap`, corrected within each panel.

    Raises
    ------
    BadParameterError
        If the scores are not resolved by mark, or the part has no layers.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_provenance
    >>> effects = np.random.default_rng(0).normal(size=(4, 2, 3, 4))  # (pair, mark, layer, head)
    >>> gap = {"total": np.ones(4), "clean": np.ones(4), "corrupt": np.zeros(4)}
    >>> scores = HeadScores.build({"heads": effects, **gap}, fake_provenance(3, 4), marks=["S2", "END"])
    >>> [note.text for note in mark_heatmap(scores).layout.annotations if note.text in scores.marks]
    ['S2', 'END']
    """
    if scores.marks is None:
        what = "These scores cover all positions at once: they have no mark axis."
        raise BadParameterError(what, 'Score with positions=("S2", "END"), for example, or use head_heatmap.')
    axes = len(PARTS[part].axes) if part in scores.parts else 0
    values = [scores.values(part, mark=mark) for mark in scores.marks]
    if axes == 0:
        what = f"Part {part!r} has no layers to draw."
        raise BadParameterError(what, "Choose heads, attns, mlps or a residual stream part.")
    n_layers = values[0].shape[1]
    if axes == 1:
        figure, width = _by_layer(scores, part, values), 64 * len(values)
    else:
        figure, width = _panels(scores, part, values), len(values) * max(120, 15 * values[0].shape[2])
    about = scores.provenance
    figure.update_yaxes(range=[n_layers - 0.5, -0.5], showgrid=False, zeroline=False, tickvals=_every(n_layers))
    figure.update_yaxes(title_text="layer", col=1)
    figure.update_layout(
        coloraxis=colour_axis(limit or symmetric_limit([v.mean(axis=0) for v in values]), about.units),
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}},
    )
    frame = Frame(
        title or f"{about.task.id}: {method_title(about)}, {PARTS[part].title} by position",
        source_line(scores),
        width=max(300, width),
        height=max(160, int(n_layers * np.clip(560 / n_layers, 12, 24))),
        banner=near_chance(about.fitness),
        margin_right=96,
        margin_top=32,
        margin_bottom=84,
    )
    return finish(figure, frame, theme)


def _panels(scores: HeadScores, part: str, values: list[np.ndarray]) -> go.Figure:
    marks = scores.marks or ()
    figure = make_subplots(1, len(marks), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=[plain(mark) for mark in marks])
    for i, (mark, array) in enumerate(zip(marks, values, strict=True), start=1):
        figure.add_trace(_heat(array.mean(axis=0), hover_texts(scores, part, mark)), row=1, col=i)
        figure.add_trace(significance_dots(array, axis="" if i == 1 else str(i)), row=1, col=i)
    n_heads = values[0].shape[2]
    figure.update_xaxes(title_text="head", showgrid=False, zeroline=False, range=[-0.5, n_heads - 0.5], tickvals=_every(n_heads, 9))
    return figure


def _by_layer(scores: HeadScores, part: str, values: list[np.ndarray]) -> go.Figure:
    marks = scores.marks or ()
    stacked = np.stack(values, axis=-1)
    texts = np.array([hover_texts(scores, part, mark) for mark in marks], dtype=object).T.tolist()
    figure = make_subplots(1, 1)
    figure.add_trace(_heat(stacked.mean(axis=0), texts))
    figure.add_trace(significance_dots(stacked))
    figure.update_xaxes(title_text="position", tickvals=list(range(len(marks))), ticktext=[plain(mark) for mark in marks], showgrid=False)
    return figure.update_xaxes(zeroline=False, range=[-0.5, len(marks) - 0.5])


def _heat(mean: np.ndarray, texts: list[list[str]] | list[str]) -> go.Heatmap:
    return go.Heatmap(z=rounded(mean), hovertext=texts, hoverinfo="text", coloraxis="coloraxis", xgap=1, ygap=1)


def _every(n: int, most: int = 32) -> list[int]:
    return list(range(0, n, max(1, -(-n // most))))
