"""How well methods find a known circuit: ROC curves for each task, and the area under them by the number of examples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuitlab.circuits.roc import RocCurve
from circuitlab.core.errors import BadParameterError
from circuitlab.figures.curve import SizeCurve
from circuitlab.figures.frame import Frame, finish, plain, rounded
from circuitlab.figures.theme import NEUTRAL, Theme, shared_template

__all__ = ["auroc_by_examples", "roc_curves"]

_SIDE = 280
_GAP = 46


def roc_curves(tasks: Mapping[str, Mapping[str, RocCurve]], *, title: str = "", subtitle: str = "", theme: Theme = "light") -> go.Figure:
    """ROC curves against a known circuit: one panel per task, one line per method, and the diagonal of a blind guess.

    A method has the same colour in all panels; its area is in the hover text. The heading of a panel names the method with the largest
    area.

    Parameters
    ----------
    tasks : mapping of str to mapping of str to RocCurve
        Curves by task and then by method, from `circuitlab.circuits.roc.roc_against`.
    title, subtitle : str
        Heading.
    theme : {"light", "dark"}
        Colour theme.

    Raises
    ------
    BadParameterError
        If there are no tasks, or a task has no curves.

    Examples
    --------
    >>> from circuitlab.circuits.roc import roc_of_values
    >>> curve = roc_of_values(np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, False, True, False]))
    >>> figure = roc_curves({"ioi": {"eap": curve}})
    >>> curve.auroc, [line.name for line in figure.data]
    (0.75, ['blind guess', 'eap'])
    """
    if not tasks or not all(tasks.values()):
        raise BadParameterError(f"Tasks {list(tasks)} leave no curve to draw.", "Give at least one curve for every task.")
    methods = list(dict.fromkeys(method for curves in tasks.values() for method in curves))
    headings = [_heading(task, curves) for task, curves in tasks.items()]
    width = len(tasks) * _SIDE + (len(tasks) - 1) * _GAP
    figure = make_subplots(rows=1, cols=len(tasks), subplot_titles=headings, horizontal_spacing=_GAP / width if len(tasks) > 1 else 0.0)
    figure.update_annotations(font_size=12)
    colours = shared_template(theme).layout.colorway
    for column, curves in enumerate(tasks.values(), start=1):
        chance = {"x": [0, 1], "y": [0, 1], "mode": "lines", "line": {"color": NEUTRAL, "dash": "dot", "width": 1.5}}
        chance |= {"name": "blind guess", "legendgroup": "blind guess", "hoverinfo": "skip", "meta": "chance"}
        figure.add_scatter(**chance, showlegend=column == 1, row=1, col=column)
        for method, curve in curves.items():
            first = next(i for i, others in enumerate(tasks.values(), start=1) if method in others)
            line = _line(method, curve, colours[methods.index(method) % len(colours)], named=first == column)
            figure.add_trace(line, row=1, col=column)
    figure.update_xaxes(title_text="false positive rate", range=[-0.02, 1.02], zeroline=False, dtick=0.25)
    figure.update_yaxes(range=[-0.02, 1.02], zeroline=False, dtick=0.25)
    figure.update_yaxes(title_text="true positive rate", col=1)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}})
    rows = -(-(len(methods) + 1) // max(2, width // 180))
    heading = title or "Which method finds the known circuit?"
    frame = Frame(heading, subtitle, width=width, height=_SIDE, margin_top=38, margin_bottom=66 + 20 * rows)
    return finish(figure, frame, theme)


def _heading(task: str, curves: Mapping[str, RocCurve]) -> str:
    best = max(curves, key=lambda method: curves[method].auroc)
    return f"{plain(task)}<br>best {plain(best)}: {curves[best].auroc:.2f}"


def _line(method: str, curve: RocCurve, colour: str, *, named: bool) -> go.Scatter:
    says = f"<b>{plain(method)}</b><br>area {curve.auroc:.3f}<br>{curve.n_in} nodes in the circuit, {curve.n_out} outside"
    return go.Scatter(
        x=rounded(curve.false_positive),
        y=rounded(curve.true_positive),
        mode="lines",
        line={"color": colour, "width": 2},
        name=plain(method),
        legendgroup=plain(method),
        showlegend=named,
        hovertext=[says] * len(curve.false_positive),
        hoverinfo="text",
        meta="roc",
    )


def auroc_by_examples(
    curves: Mapping[str, SizeCurve],
    baselines: Mapping[str, float] | None = None,
    *,
    title: str = "",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Area under the ROC curve by the number of examples that a method was given.

    Parameters
    ----------
    curves : mapping of str to SizeCurve
        By task (or by any name), the numbers of examples and the area with its limits over trials; NaN limits are not drawn.
    baselines : mapping of str to float, optional
        Areas of methods that do not depend on the number of examples, drawn as horizontal lines.
    title, subtitle : str
        Heading.
    theme : {"light", "dark"}
        Colour theme.

    Raises
    ------
    BadParameterError
        If there are no curves, or an area is not between 0 and 1.

    Examples
    --------
    >>> curve = SizeCurve(np.array([2, 8, 32]), np.array([0.6, 0.7, 0.9]), np.array([0.5, 0.6, 0.8]), np.array([0.7, 0.8, 1.0]))
    >>> figure = auroc_by_examples({"ioi": curve}, {"eap": 0.85})
    >>> [line.name for line in figure.data]
    ['ioi']
    """
    areas = [*(baselines or {}).values(), *(float(value) for curve in curves.values() for value in curve.mean)]
    if not curves or min(areas) < 0 or max(areas) > 1:
        what = f"{len(curves)} curves with areas {areas[:6]} cannot be drawn."
        raise BadParameterError(what, "Give at least one curve of areas between 0 and 1.")
    figure = go.Figure()
    colours = shared_template(theme).layout.colorway
    for i, (name, curve) in enumerate(curves.items()):
        spread = np.nan_to_num([np.subtract(curve.high, curve.mean), np.subtract(curve.mean, curve.low)])
        figure.add_scatter(
            x=rounded(curve.sizes),
            y=rounded(curve.mean),
            error_y={"array": rounded(spread[0]), "arrayminus": rounded(spread[1]), "thickness": 1.2, "width": 3},
            mode="lines+markers",
            line={"color": colours[i % len(colours)], "width": 2},
            name=plain(name),
            meta="area",
        )
    for at, name in ((0.5, "blind guess"), *((area, label) for label, area in (baselines or {}).items())):
        figure.add_shape(type="line", xref="paper", x0=0, x1=1, y0=at, y1=at, layer="below", line={"color": NEUTRAL, "width": 1.2})
        beside = {"xref": "paper", "x": 1, "xanchor": "left", "xshift": 6, "y": at, "yanchor": "middle", "showarrow": False}
        figure.add_annotation(beside, text=plain(name), name="reference", font={"size": 11})
    sizes = [float(size) for curve in curves.values() for size in curve.sizes]
    figure.update_xaxes(title_text="examples", type="log" if min(sizes) > 0 else "linear", zeroline=False, dtick="D2")
    figure.update_yaxes(title_text="area under the ROC curve", range=[0, 1.03], zeroline=False)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}})
    heading = title or "How many examples does it take?"
    frame = Frame(heading, subtitle, width=480, height=300, margin_right=120, margin_bottom=86)
    return finish(figure, frame, theme)
