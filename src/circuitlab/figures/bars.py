"""The strongest nodes as bars with intervals."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Node
from circuitlab.figures.frame import Frame, finish, method_title, near_chance, plain, rounded, source_line
from circuitlab.figures.heatmap import hover_text
from circuitlab.figures.significance import differs_from_zero
from circuitlab.figures.theme import HELPS, HINDERS, NEUTRAL, Theme
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.intervals import NO_INTERVAL
from circuitlab.scores.parts import PARTS, NodeScore

__all__ = ["top_heads"]

_ROW = 23
_CLEAR, _FAINT = 0.9, 0.35
_EFFECTS, _SIGNS = ("helps the answer", "hinders the answer"), ("positive", "negative")
"""What the two colours say: of scores on prompts, and of scores from weights alone, which no answer has a part in."""
_PALE = "pale: may be 0 (5 % false discovery rate)"


def top_heads(
    scores: HeadScores,
    k: int = 15,
    part: str = "heads",
    mark: str | None = None,
    *,
    title: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """The ``k`` nodes with the largest mean magnitude, from most helpful to most harmful, with 95 % intervals.

    Parameters
    ----------
    scores : HeadScores
        Scores of one method on one task.
    k : int
        Number of nodes; all nodes if the part has fewer.
    part, mark : str
        The part, and the mark if scores are resolved by mark.
    title : str
        Heading; task and method if not given.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        Colour shows the sign. Pale bars do not differ from zero by the rule that all figures use: `differs_from_zero` over all nodes of the
        part, not only those drawn. Each interval is of one node alone, so the interval of a pale bar may exclude zero. Scores from weights
        alone have neither intervals nor pale bars, and the axis says so.

    Raises
    ------
    BadParameterError
        If ``k`` is below 1.
    """
    if k < 1:
        what = f"k={k} leaves nothing to draw."
        raise BadParameterError(what, "Ask for at least one head.")
    sure = _sure(scores, part, mark)
    chosen = sorted(scores.top(k, part, mark=mark), key=lambda entry: -entry.mean)
    about, figure = scores.provenance, go.Figure()
    for helps in (True, False):
        rows = [entry for entry in chosen if (entry.mean >= 0) == helps]
        if rows:
            figure.add_trace(_bars(rows, scores, [entry.node in sure for entry in rows], helps=helps))
    if any(entry.node not in sure for entry in chosen):
        figure.add_bar(x=[None], y=[None], name=_PALE, marker={"color": NEUTRAL, "opacity": _FAINT}, orientation="h", meta="legend")
    units = plain(about.units)
    axis = f"score ({units})<br>{NO_INTERVAL}" if scores.weights_only else f"mean score ({units}), 95 % interval"
    figure.update_xaxes(title_text=axis, zeroline=True)
    order = [str(entry.node) for entry in chosen]
    figure.update_yaxes(
        title_text="node" if part != "heads" else "head",
        type="category",
        categoryorder="array",
        categoryarray=order[::-1],
        showgrid=False,
        range=[-0.6, len(order) - 0.4],
    )
    figure.update_layout(bargap=0.28, legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"})
    at = f" at {mark}" if mark else ""
    frame = Frame(
        title or f"{about.task.id}: {method_title(about)}, top {PARTS[part].title}{at}",
        source_line(scores),
        width=520,
        height=_ROW * len(chosen) + 12,
        banner=near_chance(about.fitness),
        margin_left=76,
        margin_bottom=84,
    )
    return finish(figure, frame, theme)


def _sure(scores: HeadScores, part: str, mark: str | None) -> set[Node]:
    """Nodes that are drawn in full colour: those that differ from zero, or all where no prompts were run that could tell."""
    nodes = scores.nodes(part, mark=mark)
    if scores.weights_only:
        return {entry.node for entry in nodes}
    differ = differs_from_zero(scores.values(part, mark=mark)).ravel()
    return {entry.node for entry, known in zip(nodes, differ, strict=True) if known}


def _bars(rows: list[NodeScore], scores: HeadScores, sure: list[bool], *, helps: bool) -> go.Bar:
    arms = np.nan_to_num(np.array([[row.high - row.mean, row.mean - row.low] for row in rows]))
    limits = {"type": "data", "symmetric": False, "array": rounded(arms[:, 0]), "arrayminus": rounded(arms[:, 1])}
    names = _SIGNS if scores.weights_only else _EFFECTS
    return go.Bar(
        x=rounded([row.mean for row in rows]),
        y=[str(row.node) for row in rows],
        orientation="h",
        name=names[0] if helps else names[1],
        showlegend=True,
        marker={"color": HELPS if helps else HINDERS, "opacity": [_CLEAR if known else _FAINT for known in sure]},
        error_x=None if scores.weights_only else limits,
        hovertext=[hover_text(scores, row) for row in rows],
        hoverinfo="text",
    )
