"""Mean scores as a map of layers by heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.figures.frame import Frame, finish, method_title, near_chance, plain, rounded, source_line, symmetric_limit
from circuitlab.figures.significance import differs_from_zero
from circuitlab.figures.theme import Theme
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.intervals import NO_INTERVAL
from circuitlab.scores.parts import PARTS, NodeScore

__all__ = ["colour_axis", "head_heatmap", "hover_text", "hover_texts", "significance_dots"]

_SIDE = {"attns": "attn", "mlps": "MLP"}
_SIDE_WIDTH = 1.5


def head_heatmap(
    scores: HeadScores,
    part: str = "heads",
    mark: str | None = None,
    *,
    limit: float | None = None,
    title: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Mean score of every head: layers down, heads across, zero in the middle of the colour scale.

    Parameters
    ----------
    scores : HeadScores
        Scores of one method on one task.
    part : {"heads", "kv_heads"}
        Query heads or key/value heads. Attention layers and MLPs, if they were scored, are drawn beside them with their values written in.
    mark : str, optional
        The mark; needed if scores are resolved by mark.
    limit : float, optional
        End of the colour scale, the same for maps that are read side by side; the largest magnitude of the heads if not given.
    title : str
        Heading; the task and the method if not given.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        A white dot marks heads whose mean differs from zero (t-test over pairs, Benjamini-Hochberg 5 % over all heads drawn). The colour
        range is symmetric and set by the heads, so a stronger MLP saturates. A banner says so if the task is not ready. Scores from
        weights alone have no dots: the line under the title says that there are no prompts, and so no interval.

    Raises
    ------
    UnknownNameError
        If the part or the mark was not scored.
    BadParameterError
        If the part has no head axis.
    """
    if part in PARTS and len(PARTS[part].axes) != 2:  # noqa: PLR2004 - layer and head
        what = f"Part {part!r} has no head axis."
        raise BadParameterError(what, "Use top_heads, or mark_heatmap where scores are resolved by mark.")
    values = scores.values(part, mark=mark)
    mean = values if scores.weights_only else values.mean(axis=0)
    if mean.ndim != 2:  # noqa: PLR2004 - layer and head
        raise UnknownNameError("mark", str(mark), scores.marks or ())
    n_layers, n_heads = mean.shape
    side = [name for name in _SIDE if name in scores.parts]
    figure = go.Figure(_map(mean, hover_texts(scores, part, mark), list(range(n_heads))))
    for i, name in enumerate(side):
        figure.add_trace(_column(scores, name, mark, n_heads + 0.4 + _SIDE_WIDTH * i))
    if not scores.weights_only:
        figure.add_trace(significance_dots(values))
    columns = n_heads + (_SIDE_WIDTH * len(side) + 0.2 if side else 0)
    cell = float(np.clip(640 / columns, 12, 36))
    _axes(figure, (n_layers, n_heads), side, part)
    about = scores.provenance
    quantity = "score" if scores.weights_only else "mean score"
    figure.update_layout(coloraxis=colour_axis(limit or symmetric_limit([mean]), about.units, quantity))
    at = f" at {mark}" if mark else ""
    heading = title or f"{about.task.id}: {method_title(about)}, {PARTS[part].title}{at}"
    height = int(n_layers * np.clip(620 / n_layers, 12, 24))
    frame = Frame(
        heading,
        source_line(scores),
        width=max(260, int(columns * cell)),
        height=max(height, 150),
        banner=near_chance(about.fitness),
        margin_right=96,
        margin_bottom=84,
    )
    return finish(figure, frame, theme)


def hover_texts(scores: HeadScores, part: str, mark: str | None) -> Any:
    """The hover text of every node, as nested lists in the shape of the part."""
    texts = [hover_text(scores, entry) for entry in scores.nodes(part, mark=mark)]
    return np.array(texts, dtype=object).reshape(scores.mean(part, mark=mark).shape).tolist()


def hover_text(scores: HeadScores, entry: NodeScore) -> str:
    """The hover text of one node: name, mean, 95 % interval and n, or name, score and that there is no interval."""
    units = plain(scores.provenance.units)
    if scores.weights_only:
        return f"<b>{entry.node}</b><br>score {entry.mean:+.4g} {units}<br>{NO_INTERVAL}"
    limits = f"{entry.low:+.3g} to {entry.high:+.3g}<br>n = {scores.n_pairs}"
    return f"<b>{entry.node}</b><br>mean {entry.mean:+.4g} {units}<br>95 % interval {limits}"


def colour_axis(limit: float, units: str, title: str = "mean score") -> dict[str, Any]:
    """A colour axis from ``-limit`` to ``limit`` with zero in the middle; its colours come from the template."""
    bar = {"title": {"text": f"{title}<br>({plain(units)})", "side": "top", "font": {"size": 12}}, "len": 0.9, "x": 1.02, "xpad": 4}
    return {"cmin": -limit, "cmax": limit, "cmid": 0, "autocolorscale": True, "colorbar": bar}


def significance_dots(values: np.ndarray, *, axis: str = "") -> go.Scatter:
    """White dots on the cells whose mean differs from zero; ``values`` have shape (pair, layer, column)."""
    layers, heads = np.nonzero(differs_from_zero(values))
    return go.Scatter(
        x=heads.tolist(),
        y=layers.tolist(),
        mode="markers",
        marker={"size": 5, "color": "#ffffff", "line": {"color": "#1f2328", "width": 1}},
        name="differs from 0 (5 % false discovery rate)",
        showlegend=not axis,
        hoverinfo="skip",
        xaxis=f"x{axis}",
        yaxis=f"y{axis}",
    )


def _map(mean: np.ndarray, texts: Any, columns: list[float]) -> go.Heatmap:
    return go.Heatmap(
        z=rounded(mean),
        x=columns,
        y=list(range(mean.shape[0])),
        hovertext=texts,
        hoverinfo="text",
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )


def _column(scores: HeadScores, part: str, mark: str | None, at: float) -> go.Heatmap:
    """One side column with its values written in, because MLPs are often far stronger than any head and saturate the heads' range."""
    mean = scores.mean(part, mark=mark)
    texts = [[text] for text in hover_texts(scores, part, mark)]
    column = _map(mean[:, None], texts, [at - 0.65, at + 0.65])  # the two edges of the cells
    column.update(
        text=[[f"{value:+.2f}" if abs(value) < 10 else f"{value:+.0f}"] for value in mean],  # noqa: PLR2004 - two digits fit
        texttemplate="%{text}",
        textfont={"size": 9},
        name=_SIDE[part],
    )
    return column


def _axes(figure: go.Figure, shape: tuple[int, int], side: list[str], part: str) -> None:
    n_layers, n_heads = shape
    every = max(1, -(-n_heads // 16))
    ticks = list(range(0, n_heads, every))
    places = [n_heads + 0.4 + _SIDE_WIDTH * i for i in range(len(side))]
    right = places[-1] + 0.7 if places else n_heads - 0.5
    name = "key/value head" if part == "kv_heads" else "head"
    figure.update_xaxes(
        title_text=name,
        tickvals=[*ticks, *places],
        ticktext=[*map(str, ticks), *(_SIDE[name] for name in side)],
        range=[-0.5, right],
        showgrid=False,
        zeroline=False,
        tickangle=0,
    )
    layers = list(range(0, n_layers, max(1, -(-n_layers // 32))))
    figure.update_yaxes(title_text="layer", tickvals=layers, range=[n_layers - 0.5, -0.5], showgrid=False, zeroline=False)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}})
