"""Two methods on the same heads: where they agree and where they do not."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from circuitlab.circuits.select import top_mask
from circuitlab.comparison.nulls import OverlapNull, overlap_null
from circuitlab.core.errors import IncompatibleError
from circuitlab.figures.frame import Frame, finish, method_title, near_chance, plain, rounded
from circuitlab.figures.labels import Canvas, name_points
from circuitlab.figures.theme import HELPS, NEUTRAL, Theme
from circuitlab.scores.head_scores import HeadScores, NodeScore
from circuitlab.scores.intervals import NO_INTERVAL

__all__ = ["scatter_methods", "shared_top"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT = 460, 400, 76, 24
_PAD = 0.08
"""Empty share of the plot at every side."""


def shared_top(x: HeadScores, y: HeadScores, k: int) -> OverlapNull:
    """How many of the ``k`` strongest heads of two runs are the same, and how many would be by chance."""
    first, second = (top_mask(one.mean().ravel(), k, "absolute").reshape(one.mean().shape) for one in (x, y))
    return overlap_null(first, second)


def scatter_methods(x: HeadScores, y: HeadScores, *, label: int = 8, k: int = 20, title: str = "", theme: Theme = "light") -> go.Figure:
    """Mean head score by one method against another, on the same model and task; weights alone go with any task.

    Parameters
    ----------
    x, y : HeadScores
        The two runs. Units may differ; each axis carries its own.
    label : int
        How many of the heads farthest from the origin (each axis in its own spread) to name and give intervals.
    k : int
        Length of the lists that are compared: all heads where there are fewer.
    title : str
        Heading; the task otherwise.
    theme : {"light", "dark"}
        Template.

    Returns
    -------
    Figure
        The subtitle says how many of the ``k`` strongest heads are the same, beside chance; a correlation over all heads would count how
        the many near zero happen to be ordered. Scores from weights alone have no intervals to draw.

    Raises
    ------
    IncompatibleError
        If the runs differ in model or task.
    """
    one, two = x.provenance, y.provenance
    whose = next((where for where in (one, two) if not where.weights_only), one).task.id
    if one.model.identity() != two.model.identity() or any(where.task.id != whose for where in (one, two) if not where.weights_only):
        what = f"{one.task.id} on {one.model.name} and {two.task.id} on {two.model.name} are not the same heads and task."
        raise IncompatibleError(what, "Compare two methods on one task and one model.")
    a, b = x.mean().ravel(), y.mean().ravel()
    top = min(k, a.size)
    found = shared_top(x, y, top)
    reach = np.hypot(a / (a.std() or 1), b / (b.std() or 1))
    named = np.argsort(-reach, kind="stable")[:label]
    rest = np.setdiff1d(np.arange(a.size), named)
    figure = go.Figure([_points(x, y, rest, named=False), _points(x, y, named, named=True)])
    figure.update_xaxes(title_text=f"{plain(method_title(one))} ({plain(one.units)})", zeroline=True)
    figure.update_yaxes(title_text=f"{plain(method_title(two))} ({plain(two.units)})", zeroline=True)
    figure.update_layout(showlegend=False)
    bars = NO_INTERVAL if x.weights_only and y.weights_only else "bars: 95 % intervals of the named heads"
    _name(figure, x, y, named)
    frame = Frame(
        title or f"{whose}: two methods, the same heads?",
        f"{one.model.name} · one point per head · the {top} strongest of each: {found.shared} in both, {found.mean_shared:.1f} by "
        f"chance (95 % of draws: at most {found.high_shared}) · {bars}",
        width=_WIDTH,
        height=_HEIGHT,
        banner=near_chance(one.fitness or two.fitness),
        margin_left=_LEFT,
        margin_right=_RIGHT,
    )
    return finish(figure, frame, theme)


def _name(figure: go.Figure, x: HeadScores, y: HeadScores, named: np.ndarray) -> None:
    """Fix both ranges and write the names of heads where they cover nothing."""
    sides = [[scores.nodes()[i] for i in named] for scores in (x, y)]
    means = [scores.mean().ravel() for scores in (x, y)]
    ranges = []
    for entries, mean in zip(sides, means, strict=True):
        ends = np.nan_to_num([value for one in entries for value in (one.low, one.high)])
        low, high = min(mean.min(), 0.0, *ends), max(mean.max(), 0.0, *ends)
        pad = _PAD * (high - low) or 1.0
        ranges.append((float(low - pad), float(high + pad)))
    figure.update_xaxes(range=rounded(ranges[0]))
    figure.update_yaxes(range=rounded(ranges[1]))
    at = np.stack([mean[named] for mean in means], axis=-1)
    busy = [np.stack(means, axis=-1)]
    for share in (0.25, 0.5, 0.75, 1.0):  # along the arms of the intervals
        for axis, entries in enumerate(sides):
            for sign in (-1, 1):
                arm = at.copy()
                arm[:, axis] += sign * share * np.nan_to_num([one.high - one.mean for one in entries])
                busy.append(arm)
    narrow = 0.75 * (_LEFT + _WIDTH + _RIGHT) - _LEFT - _RIGHT
    canvas = Canvas(ranges[0], ranges[1], (narrow, (narrow + _WIDTH) / 2, _WIDTH), _HEIGHT)
    name_points(figure, [str(one.node) for one in sides[0]], at, np.concatenate(busy), canvas)


def _value(entry: NodeScore, scores: HeadScores) -> str:
    return f"{entry.mean:+.3g}" + (" (from weights)" if scores.weights_only else f" [{entry.low:+.3g}, {entry.high:+.3g}]")


def _points(x: HeadScores, y: HeadScores, chosen: np.ndarray, *, named: bool) -> go.Scatter:
    first, second = ([scores.nodes()[i] for i in chosen] for scores in (x, y))
    texts = [f"<b>{p.node}</b><br>x {_value(p, x)}<br>y {_value(q, y)}" for p, q in zip(first, second, strict=True)]
    trace = go.Scatter(
        x=rounded([entry.mean for entry in first]),
        y=rounded([entry.mean for entry in second]),
        mode="markers",
        marker={"size": 8 if named else 5, "color": HELPS if named else NEUTRAL, "opacity": 0.95 if named else 0.55},
        hovertext=texts,
        hoverinfo="text",
        name="named heads" if named else "other heads",
    )
    if named:
        for side, entries, scores in (("error_x", first, x), ("error_y", second, y)):
            if scores.weights_only:
                continue
            up = rounded(np.nan_to_num([entry.high - entry.mean for entry in entries]))
            trace.update({side: {"type": "data", "array": up, "color": NEUTRAL, "thickness": 1, "width": 2}})
    return trace
