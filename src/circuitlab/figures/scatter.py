"""Two methods on the same heads: where they agree and where they do not."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from circuitlab.core.errors import IncompatibleError
from circuitlab.figures.frame import Frame, finish, method_title, near_chance, plain, rounded
from circuitlab.figures.theme import HELPS, NEUTRAL, Theme
from circuitlab.scores.head_scores import HeadScores

__all__ = ["scatter_methods"]


def scatter_methods(x: HeadScores, y: HeadScores, *, label: int = 8, title: str = "", theme: Theme = "light") -> go.Figure:
    """Mean head score by one method against another, on the same model and task.

    Parameters
    ----------
    x, y : HeadScores
        The two runs. Units may differ; each axis carries its own.
    label : int
        How many of the heads farthest from the origin (each axis in its own spread) to name and give intervals.
    title : str
        Heading; the task otherwise.
    theme : {"light", "dark"}
        Template.

    Returns
    -------
    Figure
        The subtitle gives Spearman's rank correlation over all heads.

    Raises
    ------
    IncompatibleError
        If the runs differ in model or task.
    """
    one, two = x.provenance, y.provenance
    if one.model.identity() != two.model.identity() or one.task.id != two.task.id:
        what = f"{one.task.id} on {one.model.name} and {two.task.id} on {two.model.name} are not the same heads and task."
        raise IncompatibleError(what, "Compare two methods on one task and one model.")
    from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

    a, b = x.mean().ravel(), y.mean().ravel()
    rho = float(stats.spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else float("nan")
    reach = np.hypot(a / (a.std() or 1), b / (b.std() or 1))
    named = np.argsort(-reach, kind="stable")[:label]
    rest = np.setdiff1d(np.arange(a.size), named)
    figure = go.Figure([_points(x, y, rest, named=False), _points(x, y, named, named=True)])
    figure.update_xaxes(title_text=f"{plain(method_title(one))} ({plain(one.units)})", zeroline=True)
    figure.update_yaxes(title_text=f"{plain(method_title(two))} ({plain(two.units)})", zeroline=True)
    figure.update_layout(showlegend=False)
    frame = Frame(
        title or f"{one.task.id}: two methods, the same heads?",
        f"{one.model.name} · one point per head · Spearman {rho:.2f} over {a.size} heads · bars: 95 % intervals of the named heads",
        width=460,
        height=400,
        banner=near_chance(one.fitness),
        margin_left=76,
    )
    return finish(figure, frame, theme)


def _points(x: HeadScores, y: HeadScores, chosen: np.ndarray, *, named: bool) -> go.Scatter:
    first, second = ([scores.nodes()[i] for i in chosen] for scores in (x, y))
    texts = [
        f"<b>{p.node}</b><br>x {p.mean:+.3g} [{p.low:+.3g}, {p.high:+.3g}]<br>y {q.mean:+.3g} [{q.low:+.3g}, {q.high:+.3g}]"
        for p, q in zip(first, second, strict=True)
    ]
    trace = go.Scatter(
        x=rounded([entry.mean for entry in first]),
        y=rounded([entry.mean for entry in second]),
        mode="markers+text" if named else "markers",
        marker={"size": 8 if named else 5, "color": HELPS if named else NEUTRAL, "opacity": 0.95 if named else 0.55},
        hovertext=texts,
        hoverinfo="text",
        name="named heads" if named else "other heads",
    )
    if named:
        trace.update(text=[str(entry.node) for entry in first], textposition="top right", textfont={"size": 11})
        for side, entries in (("error_x", first), ("error_y", second)):
            up = rounded(np.nan_to_num([entry.high - entry.mean for entry in entries]))
            trace.update({side: {"type": "data", "array": up, "color": NEUTRAL, "thickness": 1, "width": 2}})
    return trace
