"""Accuracy after the attention of chosen heads was moved, compared with random heads and chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from circuitlab.core.errors import BadParameterError
from circuitlab.figures.frame import Frame, finish, plain, rounded, wrapped
from circuitlab.figures.theme import HELPS, NEUTRAL, Theme

__all__ = ["repair_bars"]

_BAR = 108


def repair_bars(
    conditions: Sequence[Mapping[str, Any]],
    *,
    chance: float,
    published: Mapping[str, float] | None = None,
    title: str = "Does attending to the wrong options repair the task?",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Accuracy with each set of edited heads, and with the same number of random heads.

    Parameters
    ----------
    conditions : sequence of mapping
        Conditions as `circuitlab.experiments.circuit_reuse` records them: ``name``, ``heads``, ``accuracy`` (or None), ``random`` (or
        None), ``errors``, ``repaired``, ``new_mistakes``, ``p_change``. The first is the model without an edit.
    chance : float
        Accuracy of a guess among the options.
    published : mapping of str to float, optional
        Published accuracies of another model by the name of the condition; drawn as diamonds.
    title, subtitle : str
        Heading; if not given, the subtitle explains the marks.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        Bars with 95 % Wilson intervals; grey bars are the mean over random sets of heads, with the range of all sets. The dashed line is
        the model without an edit, the dotted line is chance.

    Raises
    ------
    BadParameterError
        If no condition has an accuracy.

    Examples
    --------
    >>> accuracy = {"mean": 0.4, "low": 0.3, "high": 0.5}
    >>> row = {"name": "no edit", "heads": [], "accuracy": accuracy, "random": None, "errors": {}}
    >>> figure = repair_bars([row | {"repaired": 0, "new_mistakes": 0, "p_change": 1.0}], chance=1 / 3)
    >>> list(figure.data[0].y)
    [0.4]
    """
    rows = [row for row in conditions if row["accuracy"] is not None]
    if not rows:
        raise BadParameterError("No condition has an accuracy to draw.", "Measure the unedited model at least.")
    labels = [_label(row) for row in rows]
    figure = go.Figure([_measured(rows, labels), _controls(rows, labels)])
    if published:
        known = [(label, published[row["name"]]) for label, row in zip(labels, rows, strict=True) if row["name"] in published]
        figure.add_scatter(
            x=[label for label, _ in known],
            y=rounded([value for _, value in known]),
            mode="markers",
            marker={"symbol": "diamond-open", "size": 11, "color": NEUTRAL, "line": {"width": 2}},
            name="published, GPT-2 Medium",
        )
    figure.add_hline(
        y=chance, line={"color": NEUTRAL, "width": 1, "dash": "dot"}, annotation_text="chance", annotation_position="top right"
    )
    figure.add_hline(y=rows[0]["accuracy"]["mean"], line={"color": NEUTRAL, "width": 1, "dash": "dash"})
    figure.update_yaxes(title_text="accuracy", range=[0, 1], tickformat=".0%", zeroline=False)
    figure.update_xaxes(title_text="heads whose attention is moved", tickangle=0, showgrid=False)
    figure.update_layout(
        barmode="group", bargap=0.35, legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
    )
    missing = [row["name"] for row in conditions if row["accuracy"] is None]
    description = "95 % Wilson intervals · grey: as many random heads (mean and range) · dashed: no edit"
    frame = Frame(
        title,
        subtitle or description + (f" · no head qualifies: {', '.join(missing)}" if missing else ""),
        width=max(420, _BAR * len(rows)),
        height=300,
        margin_left=72,
        margin_bottom=150,
    )
    return finish(figure, frame, theme)


def _label(row: Mapping[str, Any]) -> str:
    count = len(row["heads"])
    return wrapped(row["name"], 96, 11) + (f"<br>({count})" if count else "")


def _measured(rows: Sequence[Mapping[str, Any]], labels: list[str]) -> go.Bar:
    accuracies = [row["accuracy"] for row in rows]
    texts = [
        f"<b>{plain(row['name'])}</b><br>{plain(', '.join(row['heads'])) or 'the model as it is'}<br>accuracy {row['accuracy']['mean']:.1%}"
        f"<br>repaired {row['repaired']}, new mistakes {row['new_mistakes']} (p = {row['p_change']:.2g})<br>wrong: "
        + ", ".join(f"{count} {plain(kind)}" for kind, count in row["errors"].items())
        for row in rows
    ]
    arms = {
        "array": rounded([accuracy["high"] - accuracy["mean"] for accuracy in accuracies]),
        "arrayminus": rounded([accuracy["mean"] - accuracy["low"] for accuracy in accuracies]),
    }
    return go.Bar(
        x=labels,
        y=rounded([accuracy["mean"] for accuracy in accuracies]),
        name="chosen heads",
        marker={"color": HELPS},
        error_y={"type": "data", "symmetric": False, **arms},
        hovertext=texts,
        hoverinfo="text",
    )


def _controls(rows: Sequence[Mapping[str, Any]], labels: list[str]) -> go.Bar:
    controls = [(label, row["random"]) for label, row in zip(labels, rows, strict=True) if row["random"] is not None]
    arms = {
        "array": rounded([control["high"] - control["mean"] for _, control in controls]),
        "arrayminus": rounded([control["mean"] - control["low"] for _, control in controls]),
    }
    return go.Bar(
        x=[label for label, _ in controls],
        y=rounded([control["mean"] for _, control in controls]),
        name="random heads",
        marker={"color": NEUTRAL, "opacity": 0.55},
        error_y={"type": "data", "symmetric": False, **arms},
        hovertext=[f"{control['n']} sets of random heads<br>mean {control['mean']:.1%}, p = {control['p']:.2g}" for _, control in controls],
        hoverinfo="text",
    )
