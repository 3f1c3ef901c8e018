"""Figures of discrete codes: how many are unique to clean prompts, head by head, and which prompts share which codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.figures.frame import Frame, finish, method_title, near_chance, plain, rounded, source_line
from circuitlab.figures.theme import HELPS, HINDERS, NEUTRAL, Theme
from circuitlab.scores.head_scores import HeadScores

__all__ = ["code_map", "code_table"]

_LEVEL = 0.05
_STATES = ("on corrupt prompts only", "on both sides", "on clean prompts only")


def code_map(
    scores: HeadScores,
    p_values: np.ndarray | None = None,
    *,
    mark: str | None = None,
    title: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Number of unique codes of every head, layers down and heads across; the colour scale starts at 0.

    Parameters
    ----------
    scores : HeadScores
        Scores of ``code_overlap``, or any scores that are never negative.
    p_values : ndarray, shape (layer, head), optional
        p-values of the same heads, from shuffling clean and corrupt. Heads that are significant at a false-discovery rate of 5 % over all
        heads drawn (Benjamini and Hochberg 1995) get a ring; without p-values no head does.
    mark : str, optional
        The mark; needed if scores are resolved by mark.
    title : str
        Heading; the task and the method if not given.
    theme : {"light", "dark"}
        Colour theme.

    Raises
    ------
    UnknownNameError
        If scores are resolved by mark and no mark is given.
    BadParameterError
        If a mean score is negative, or p-values have another shape or are not between 0 and 1.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_scores
    >>> counts = np.zeros((4, 2, 3))  # (pair, layer, head)
    >>> counts[:, 1, 2] = 3.0
    >>> code_map(fake_scores(counts)).data[0].zmax
    3.0
    """
    if scores.marks is not None and mark is None:
        raise UnknownNameError("mark", str(mark), scores.marks)
    values = scores.values("heads", mark=mark)
    mean = values if scores.weights_only else values.mean(axis=0)
    if mean.min() < 0:
        what = f"The lowest mean score is {mean.min():.3g}; numbers of codes are 0 or more."
        raise BadParameterError(what, "Draw signed scores with head_heatmap.")
    about = scores.provenance
    significant = None if p_values is None else _significant(np.asarray(p_values, dtype=np.float64), mean.shape)
    figure = go.Figure(_counts(mean, scores, p_values))
    note = ""
    if significant is not None:
        figure.add_trace(_rings(significant))
        note = f" · {int(significant.sum())} heads significant (ringed)"
    layers, heads = mean.shape
    figure.update_xaxes(title_text="head", dtick=max(1, -(-heads // 16)), showgrid=False, zeroline=False, range=[-0.5, heads - 0.5])
    figure.update_yaxes(title_text="layer", dtick=max(1, -(-layers // 32)), showgrid=False, zeroline=False, range=[layers - 0.5, -0.5])
    frame = Frame(
        title or f"{about.task.id}: {method_title(about)}" + (f" at {mark}" if mark else ""),
        source_line(scores) + note,
        width=max(260, int(heads * np.clip(640 / heads, 12, 36))),
        height=max(150, int(layers * np.clip(620 / layers, 12, 24))),
        banner=near_chance(about.fitness),
        margin_right=96,
    )
    return finish(figure, frame, theme)


def _counts(mean: np.ndarray, scores: HeadScores, p_values: np.ndarray | None) -> go.Heatmap:
    units = plain(scores.provenance.units)
    texts = [
        [
            f"<b>a{layer}.h{head}</b><br>{mean[layer, head]:.3g} {units}"
            + ("" if p_values is None else f"<br>p = {np.asarray(p_values)[layer, head]:.3g}")
            for head in range(mean.shape[1])
        ]
        for layer in range(mean.shape[0])
    ]
    bar = {"title": {"text": units, "side": "top", "font": {"size": 12}}, "len": 0.9, "x": 1.02, "xpad": 4}
    top = float(mean.max()) or 1.0
    return go.Heatmap(z=rounded(mean), zmin=0, zmax=rounded(top), colorbar=bar, hovertext=texts, hoverinfo="text", xgap=1, ygap=1)


def _significant(p_values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    from scipy.stats import false_discovery_control  # noqa: PLC0415 - scipy.stats is slow to import

    if p_values.shape != shape or not ((p_values >= 0) & (p_values <= 1)).all():
        what = f"P-values of shape {p_values.shape} do not fit heads of shape {shape}, or are not between 0 and 1."
        raise BadParameterError(what, "Give one p-value per layer and head.")
    significant: np.ndarray = false_discovery_control(p_values.ravel()).reshape(shape) <= _LEVEL
    return significant


def _rings(significant: np.ndarray) -> go.Scatter:
    layers, heads = np.nonzero(significant)
    look = {"size": 9, "symbol": "circle-open", "color": "#1f2328", "line": {"width": 2}}
    name = "significant (5 % false discovery rate)"
    return go.Scatter(x=heads.tolist(), y=layers.tolist(), mode="markers", marker=look, name=name, hoverinfo="skip", showlegend=False)


def code_table(
    clean: np.ndarray,
    corrupt: np.ndarray,
    names: Sequence[str],
    *,
    prompts: Sequence[str] = (),
    title: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Codes of a few nodes on every prompt: one row per prompt, clean prompts first, and one column per node.

    The number in a cell is the code; its colour shows where this code occurs for the node: on clean prompts only (what the score counts),
    on both sides, or on corrupt prompts only. Rows with equal numbers in a column share a code.

    Parameters
    ----------
    clean, corrupt : ndarray of int, shape (pair, node)
        Codes of one dictionary; -1 (no unit is active) is drawn as a dash.
    names : sequence of str
        Names of the nodes.
    prompts : sequence of str, optional
        Texts of the clean and then of the corrupt prompts, shown on hover.
    title : str
        Heading.
    theme : {"light", "dark"}
        Colour theme.

    Raises
    ------
    BadParameterError
        If the shapes do not fit.

    Examples
    --------
    >>> clean, corrupt = np.array([[7, -1], [3, -1]]), np.array([[3, 4], [5, -1]])  # (pair, node)
    >>> [list(row) for row in code_table(clean, corrupt, ["a0.h1", "a1.h0"]).data[0].text]
    [['7', '-'], ['3', '-'], ['3', '4'], ['5', '-']]
    """
    clean, corrupt = np.asarray(clean), np.asarray(corrupt)
    rows = len(clean) + len(corrupt)
    if clean.ndim != 2 or clean.shape[1:] != corrupt.shape[1:] or clean.shape[1] != len(names) or len(prompts) not in {0, rows}:  # noqa: PLR2004
        what = f"Codes of shapes {clean.shape} and {corrupt.shape} do not fit {len(names)} names and {len(prompts)} prompts."
        raise BadParameterError(what, "Give (pair, node) codes of the same nodes, a name for each, and a text for every prompt or none.")
    codes = np.concatenate([clean, corrupt])
    in_clean, in_corrupt = ((codes[:, None] == side[None]).any(1) for side in (clean, corrupt))
    state = in_clean.astype(int) - in_corrupt.astype(int)
    labels = [f"clean {i}" for i in range(len(clean))] + [f"corrupt {i}" for i in range(len(corrupt))]
    figure = go.Figure(_cells(codes, state, labels, list(names)))
    if prompts:
        figure.data[0].update(hovertext=[[plain(text)] * len(names) for text in prompts], hoverinfo="text+x")
    for value, (name, colour) in zip((-1, 0, 1), zip(_STATES, (HINDERS, NEUTRAL, HELPS), strict=True), strict=True):
        look = {"size": 10, "symbol": "square", "color": colour}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=look, name=name, visible=bool((state == value).any()))
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    figure.update_xaxes(side="bottom", showgrid=False, zeroline=False, type="category")
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}})
    description = f"{len(clean)} clean and {len(corrupt)} corrupt prompts · equal numbers in a column are one code"
    frame = Frame(title or "Which prompts share a code?", description, width=max(300, 64 * len(names)), height=18 * rows, margin_left=96)
    return finish(figure, frame, theme)


def _cells(codes: np.ndarray, state: np.ndarray, labels: list[str], names: list[str]) -> go.Heatmap:
    steps: list[Any] = [[0, HINDERS], [0.5, NEUTRAL], [1, HELPS]]
    text = [["-" if code < 0 else str(int(code)) for code in row] for row in codes]
    return go.Heatmap(
        z=state.tolist(),
        x=[plain(name) for name in names],
        y=labels,
        zmin=-1,
        zmax=1,
        colorscale=steps,
        showscale=False,
        opacity=0.75,
        text=text,
        texttemplate="%{text}",
        textfont={"size": 10},
        xgap=1,
        ygap=1,
    )
