"""Task-by-task overlap of circuits beside what chance would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from circuitlab.errors import BadParameterError
from circuitlab.figures.frame import Frame, finish, plain, rounded, wrapped
from circuitlab.figures.theme import Theme

__all__ = ["overlap_matrix", "stars"]

_CELL = 84


def overlap_matrix(
    rows: Sequence[Mapping[str, Any]],
    *,
    flagged: Sequence[str] = (),
    stability: Mapping[str, float] | None = None,
    title: str = "Are they the same heads?",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Observed Jaccard overlap below the diagonal, what it exceeds chance by above it.

    Parameters
    ----------
    rows : sequence of mappings
        One per pair of tasks: ``task_a``, ``task_b``, ``jaccard`` (``mean``, ``low``, ``high``), ``null_mean`` and ``q``; the
        rows that ``circuitlab compare --json`` lists under ``pairs``.
    flagged : sequence of str
        Tasks the model cannot do; marked with a dagger and explained.
    stability : mapping of str to float, optional
        Task to the mean bootstrap Jaccard of its own circuit, drawn on the diagonal: the most an overlap could reach.
    title, subtitle : str
        Heading.
    theme : {"light", "dark"}
        Template.

    Returns
    -------
    Figure
        Below: Jaccard index of the two circuits with its 95 % interval. Above: Jaccard minus the mean of the null, with stars
        for the corrected p-value (* q < 0.05, ** q < 0.01, *** q < 0.001).

    Raises
    ------
    BadParameterError
        If there is no pair of tasks.
    """
    if not rows:
        what = "There is no pair of tasks to compare."
        raise BadParameterError(what, "Give scores of at least two tasks.")
    tasks = list(dict.fromkeys(name for row in rows for name in (row["task_a"], row["task_b"])))
    lower, upper = _triangles(rows, tasks)
    for i, name in enumerate(tasks):
        if stability and name in stability:
            lower["z"][i][i] = rounded(stability[name])
            lower["text"][i][i] = f"<i>{stability[name]:.2f}</i>"
            lower["hover"][i][i] = f"<b>{plain(name)}</b><br>stability of its own circuit {stability[name]:.2f}"
    figure = go.Figure([_heat(lower, "coloraxis", "observed"), _heat(upper, "coloraxis2", "above chance")])
    labels = [wrapped(name, 130, 12) + (" †" if name in flagged else "") for name in tasks]
    places = list(range(len(tasks)))
    figure.update_xaxes(tickvals=places, ticktext=labels, showgrid=False, zeroline=False, range=[-0.5, len(tasks) - 0.5])
    figure.update_xaxes(side="bottom", tickangle=-35 if len(tasks) > 3 else 0)  # noqa: PLR2004 - three labels fit side by side
    figure.update_yaxes(tickvals=places, ticktext=labels, showgrid=False, zeroline=False, range=[len(tasks) - 0.5, -0.5])
    excess = [abs(z) for line in upper["z"] for z in line if z is not None]
    figure.update_layout(
        coloraxis=_bar("Jaccard<br>(below diagonal)", 0, max(0.5, _largest(lower)), 0.5),
        coloraxis2=_bar("above chance<br>(above diagonal)", -max(0.1, *excess), max(0.1, *excess), 1.0),
    )
    side = _CELL * len(tasks)
    note = "† near chance: the model cannot do this task, so its heads and overlaps describe noise." if flagged else ""
    frame = Frame(
        title,
        subtitle,
        width=max(side, 240),
        height=int(max(side, 240) * 0.8),
        margin_left=150,
        margin_right=130,
        margin_bottom=110,
        banner=note,
    )
    return finish(figure, frame, theme)


def stars(q: float) -> str:
    """``***``, ``**``, ``*`` or nothing for a corrected p-value below 0.001, 0.01 or 0.05."""
    return next((mark for mark, limit in (("***", 0.001), ("**", 0.01), ("*", 0.05)) if q < limit), "")


def _triangles(rows: Sequence[Mapping[str, Any]], tasks: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    lower, upper = ({key: [[empty] * len(tasks) for _ in tasks] for key, empty in (("z", None), ("text", ""), ("hover", ""))} for _ in "ab")
    for row in rows:
        i, j = sorted((tasks.index(row["task_a"]), tasks.index(row["task_b"])))
        found, null, q = row["jaccard"], float(row["null_mean"]), float(row["q"])
        excess = found["mean"] - null
        told = (
            f"<b>{plain(row['task_a'])}</b> and <b>{plain(row['task_b'])}</b><br>Jaccard {found['mean']:.3f} "
            f"[{found['low']:.3f}, {found['high']:.3f}]<br>by chance {null:.3f}<br>q = {q:.2g}"
        )
        lower["z"][j][i], upper["z"][i][j] = rounded(found["mean"]), rounded(excess)
        lower["text"][j][i] = f"{found['mean']:.2f}<br><span style='font-size:10px'>{_limits(found)}</span>"
        upper["text"][i][j] = f"{excess:+.2f}<br>{stars(q) or '<span>ns</span>'}"
        lower["hover"][j][i] = upper["hover"][i][j] = told
    return lower, upper


def _limits(found: Mapping[str, float]) -> str:
    if np.isnan(found["low"]) or np.isnan(found["high"]):
        return "no interval"
    return f"{found['low']:.2f} to {found['high']:.2f}"


def _largest(layer: Mapping[str, Any]) -> float:
    return max(z for line in layer["z"] for z in line if z is not None)


def _heat(layer: Mapping[str, Any], axis: str, name: str) -> go.Heatmap:
    return go.Heatmap(
        z=layer["z"],
        text=layer["text"],
        texttemplate="%{text}",
        textfont={"size": 13},
        hovertext=layer["hover"],
        hoverinfo="text",
        coloraxis=axis,
        xgap=2,
        ygap=2,
        name=name,
    )


def _bar(title: str, low: float, high: float, top: float) -> dict[str, Any]:
    bar = {"title": {"text": title, "side": "top", "font": {"size": 11}}, "len": 0.46, "y": top, "yanchor": "top", "thickness": 12}
    bar |= {"x": 1.03, "outlinewidth": 0, "tickfont": {"size": 11}, "ticks": ""}
    middle = {"cmid": 0} if low < 0 else {}
    return {"cmin": rounded(low), "cmax": rounded(high), "autocolorscale": True, "colorbar": bar} | middle
