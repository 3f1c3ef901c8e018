"""Whether the model can do the tasks: accuracy against chance and gate, and the clean-corrupt gap, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuitlab.core.errors import BadParameterError
from circuitlab.core.provenance import FitnessFlag
from circuitlab.figures.frame import Frame, finish, plain, rounded
from circuitlab.figures.theme import HELPS, HINDERS, NEUTRAL, Theme

__all__ = ["fitness_table"]

_ROW = 34


def fitness_table(
    flags: Mapping[str, FitnessFlag],
    *,
    units: str = "metric units",
    title: str = "Can the model do the tasks?",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """One row per task: accuracy (Wilson interval) against chance and gate, the clean-corrupt gap, and the verdict.

    Parameters
    ----------
    flags : mapping of str to FitnessFlag
        Verdict by task title, in the order of the rows.
    units : str
        Units of the gap.
    title, subtitle : str
        Heading.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        Filled blue points are tasks the model can do; open orange points are not ready, and their label says so.

    Raises
    ------
    BadParameterError
        If there are no tasks.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.testing.fakes import fake_scores
    >>> flag = fake_scores(np.zeros((2, 1, 1))).provenance.fitness
    >>> figure = fitness_table({"a task": flag, "the same": flag})
    >>> len(figure.layout.yaxis.ticktext)
    2
    """
    if not flags:
        what = "There is no task to draw."
        raise BadParameterError(what, "Give at least one fitness flag; scores of a batch that was made from tokens have none.")
    figure = make_subplots(1, 2, shared_yaxes=True, column_widths=[0.62, 0.38], horizontal_spacing=0.05)
    names = list(flags)
    _references(figure, flags)
    for ready in (True, False):
        rows = [name for name in names if flags[name].ready is ready]
        if rows:
            _points(figure, flags, rows, ready=ready)
    labels = [f"{plain(name)}<br><span style='font-size:10px'>{_verdict(flags[name])}</span>" for name in names]
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=labels,
        range=[len(names) - 0.45, -0.55],
        showgrid=True,
        zeroline=False,
        tickfont={"size": 12},
    )
    figure.update_xaxes(title_text="accuracy (95 % Wilson interval)", range=[-0.03, 1.03], tickformat=".0%", row=1, col=1, zeroline=False)
    figure.update_xaxes(title_text=f"clean-corrupt gap ({plain(units)})", row=1, col=2, zeroline=True, rangemode="tozero")
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}})
    frame = Frame(title, subtitle, width=560, height=max(96, _ROW * len(names) + 16), margin_left=224, margin_bottom=92)
    return finish(figure, frame, theme)


def _verdict(flag: FitnessFlag) -> str:
    if flag.ready:
        return "ready"
    return "<b>at chance: no circuit to find</b>" if flag.at_chance() else "<b>not ready</b>"


def _references(figure: go.Figure, flags: Mapping[str, FitnessFlag]) -> None:
    """Draw short vertical ticks at chance and at the gate of each task, since both differ between tasks."""
    looks: tuple[tuple[Literal["chance", "gate"], str], ...] = (("chance", "dot"), ("gate", "solid"))
    for what, dash in looks:
        x: list[float | None] = []
        y: list[float | None] = []
        for i, flag in enumerate(flags.values()):
            x += [getattr(flag, what), getattr(flag, what), None]
            y += [i - 0.36, i + 0.36, None]
        line = {"color": NEUTRAL, "width": 2, "dash": dash}
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, name=what, hoverinfo="skip"), row=1, col=1)


def _points(figure: go.Figure, flags: Mapping[str, FitnessFlag], rows: list[str], *, ready: bool) -> None:
    places = [list(flags).index(name) for name in rows]
    colour, symbol = (HELPS, "circle") if ready else (HINDERS, "circle-open")
    for column, what in ((1, "accuracy"), (2, "gap")):
        intervals = [getattr(flags[name], what) for name in rows]
        arms = np.array([[entry["high"] - entry["mean"], entry["mean"] - entry["low"]] for entry in intervals])
        texts = [
            f"<b>{plain(name)}</b><br>{what} {entry['mean']:.3g}<br>95 % interval {entry['low']:.3g} to {entry['high']:.3g}"
            f"<br>chance {flags[name].chance:.2f}, gate {flags[name].gate:.2f}"
            for name, entry in zip(rows, intervals, strict=True)
        ]
        figure.add_trace(
            go.Scatter(
                x=rounded([entry["mean"] for entry in intervals]),
                y=places,
                mode="markers",
                marker={"size": 10, "color": colour, "symbol": symbol, "line": {"width": 2, "color": colour}},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": rounded(arms[:, 0]),
                    "arrayminus": rounded(arms[:, 1]),
                    "color": colour,
                    "thickness": 2,
                    "width": 4,
                },
                name="ready" if ready else "not ready",
                legendgroup=str(ready),
                showlegend=column == 1,
                hovertext=texts,
                hoverinfo="text",
            ),
            row=1,
            col=column,
        )
