"""The strongest nodes as bars with intervals."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError
from circuitlab.figures.frame import Frame, finish, method_title, near_chance, plain, rounded, source_line
from circuitlab.figures.significance import differs_from_zero
from circuitlab.figures.theme import HELPS, HINDERS, NEUTRAL, Theme
from circuitlab.scores.head_scores import HeadScores, NodeScore
from circuitlab.scores.parts import PARTS

__all__ = ["top_heads"]

_ROW = 23
_CLEAR, _FAINT = 0.9, 0.35
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
    """The ``k`` nodes with the largest mean magnitude, from most helpful to most hindering, with 95 % intervals.

    Parameters
    ----------
    scores : HeadScores
        What to draw.
    k : int
        How many nodes; fewer if the part is smaller.
    part, mark : str
        Which scores.
    title : str
        Heading; task and method otherwise.
    theme : {"light", "dark"}
        Template.

    Returns
    -------
    Figure
        Colour is the sign. Pale bars do not differ from zero by the rule of every map: `differs_from_zero` over all nodes of the part, not
        over those drawn. Intervals are of one node alone, so that a pale bar's may leave out zero.

    Raises
    ------
    BadParameterError
        If ``k`` is below 1.
    """
    if k < 1:
        what = f"k={k} leaves nothing to draw."
        raise BadParameterError(what, "Ask for at least one head.")
    nodes = scores.nodes(part, mark=mark)
    differ = differs_from_zero(scores.values(part, mark=mark)).ravel()
    sure = {entry.node for entry, known in zip(nodes, differ, strict=True) if known}
    chosen = sorted(scores.top(k, part, mark=mark), key=lambda entry: -entry.mean)
    where, figure = scores.provenance, go.Figure()
    for helps in (True, False):
        rows = [entry for entry in chosen if (entry.mean >= 0) == helps]
        if rows:
            figure.add_trace(_bars(rows, scores, [entry.node in sure for entry in rows], helps=helps))
    if any(entry.node not in sure for entry in chosen):
        figure.add_bar(x=[None], y=[None], name=_PALE, marker={"color": NEUTRAL, "opacity": _FAINT}, orientation="h", meta="legend")
    figure.update_xaxes(title_text=f"mean score ({plain(scores.provenance.units)}), 95 % interval", zeroline=True)
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
        title or f"{where.task.id}: {method_title(where)}, top {PARTS[part].title}{at}",
        source_line(scores),
        width=520,
        height=_ROW * len(chosen) + 12,
        banner=near_chance(where.fitness),
        margin_left=76,
        margin_bottom=84,
    )
    return finish(figure, frame, theme)


def _bars(rows: list[NodeScore], scores: HeadScores, sure: list[bool], *, helps: bool) -> go.Bar:
    units, n = plain(scores.provenance.units), scores.n_pairs
    arms = np.nan_to_num(np.array([[row.high - row.mean, row.mean - row.low] for row in rows]))
    texts = [
        f"<b>{row.node}</b><br>mean {row.mean:+.4g} {units}<br>95 % interval {row.low:+.3g} to {row.high:+.3g}<br>n = {n}" for row in rows
    ]
    return go.Bar(
        x=rounded([row.mean for row in rows]),
        y=[str(row.node) for row in rows],
        orientation="h",
        name="helps the answer" if helps else "hinders the answer",
        showlegend=True,
        marker={"color": HELPS if helps else HINDERS, "opacity": [_CLEAR if known else _FAINT for known in sure]},
        error_x={"type": "data", "symmetric": False, "array": rounded(arms[:, 0]), "arrayminus": rounded(arms[:, 1])},
        hovertext=texts,
        hoverinfo="text",
    )
