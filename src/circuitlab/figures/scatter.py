"""Scores of the same heads by two methods: where they agree and where they differ."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from circuitlab.circuits.select import top_mask
from circuitlab.comparison.nulls import OverlapNull, overlap_null
from circuitlab.core.errors import IncompatibleError
from circuitlab.figures.frame import Frame, finish, method_title, near_chance, plain, rounded
from circuitlab.figures.labels import Canvas, name_points
from circuitlab.figures.theme import HELPS, NEUTRAL, Theme
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.intervals import NO_INTERVAL
from circuitlab.scores.parts import NodeScore

__all__ = ["scatter_methods", "shared_top"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT = 460, 400, 76, 24
_PAD = 0.08
"""Empty share of the plot on every side."""


def shared_top(x: HeadScores, y: HeadScores, k: int) -> OverlapNull:
    """The number of shared heads among the ``k`` strongest of two runs, and its distribution by chance."""
    first, second = (top_mask(scores.mean().ravel(), k, "absolute").reshape(scores.mean().shape) for scores in (x, y))
    return overlap_null(first, second)


def scatter_methods(x: HeadScores, y: HeadScores, *, label: int = 8, k: int = 20, title: str = "", theme: Theme = "light") -> go.Figure:
    """Mean head score by one method against another, on the same model and task; weights alone go with any task.

    Parameters
    ----------
    x, y : HeadScores
        The two runs. Their units may differ; each axis shows its own.
    label : int
        Number of heads that get a name and intervals: those farthest from the origin, with each axis divided by its standard deviation.
    k : int
        Number of strongest heads that are compared; all heads if there are fewer.
    title : str
        Heading; the task if not given.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        The subtitle says how many of the ``k`` strongest heads are the same, and how many would be by chance. A correlation over all heads
        would mostly reflect the order of the many heads near zero, which is noise. Scores from weights alone have no intervals to draw.

    Raises
    ------
    IncompatibleError
        If the runs differ in model or task.
    """
    first, second = x.provenance, y.provenance
    on_prompts = [about for about in (first, second) if not about.weights_only]
    task = (on_prompts or [first])[0].task.id
    if first.model.identity() != second.model.identity() or any(about.task.id != task for about in on_prompts):
        what = f"{first.task.id} on {first.model.name} and {second.task.id} on {second.model.name} are not the same heads and task."
        raise IncompatibleError(what, "Compare two methods on one task and one model.")
    a, b = x.mean().ravel(), y.mean().ravel()
    top = min(k, a.size)
    overlap = shared_top(x, y, top)
    reach = np.hypot(a / (a.std() or 1), b / (b.std() or 1))
    named = np.argsort(-reach, kind="stable")[:label]
    rest = np.setdiff1d(np.arange(a.size), named)
    figure = go.Figure([_points(x, y, rest, named=False), _points(x, y, named, named=True)])
    figure.update_xaxes(title_text=f"{plain(method_title(first))} ({plain(first.units)})", zeroline=True)
    figure.update_yaxes(title_text=f"{plain(method_title(second))} ({plain(second.units)})", zeroline=True)
    figure.update_layout(showlegend=False)
    bars = NO_INTERVAL if x.weights_only and y.weights_only else "bars: 95 % intervals of the named heads"
    _name(figure, x, y, named)
    frame = Frame(
        title or f"{task}: two methods, the same heads?",
        f"{first.model.name} · one point per head · the {top} strongest of each: {overlap.shared} in both, {overlap.mean_shared:.1f} by "
        f"chance (95 % of draws: at most {overlap.high_shared}) · {bars}",
        width=_WIDTH,
        height=_HEIGHT,
        banner=near_chance(first.fitness or second.fitness),
        margin_left=_LEFT,
        margin_right=_RIGHT,
    )
    return finish(figure, frame, theme)


def _name(figure: go.Figure, x: HeadScores, y: HeadScores, named: np.ndarray) -> None:
    """Fix both ranges, and write the names of heads where they cover nothing."""
    sides = [[scores.nodes()[i] for i in named] for scores in (x, y)]
    means = [scores.mean().ravel() for scores in (x, y)]
    ranges = []
    for entries, mean in zip(sides, means, strict=True):
        ends = np.nan_to_num([value for score in entries for value in (score.low, score.high)])
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
                arm[:, axis] += sign * share * np.nan_to_num([score.high - score.mean for score in entries])
                busy.append(arm)
    narrow = 0.75 * (_LEFT + _WIDTH + _RIGHT) - _LEFT - _RIGHT
    canvas = Canvas(ranges[0], ranges[1], (narrow, (narrow + _WIDTH) / 2, _WIDTH), _HEIGHT)
    name_points(figure, [str(score.node) for score in sides[0]], at, np.concatenate(busy), canvas)


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
