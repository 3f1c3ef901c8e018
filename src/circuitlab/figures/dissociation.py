"""The effect on two tasks of ablating the heads of one, of the other, and of both."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuitlab.comparison.dissociation import SETS, Dissociation
from circuitlab.core.errors import BadParameterError
from circuitlab.figures.frame import Frame, finish, plain, rounded
from circuitlab.figures.theme import HELPS, HINDERS, NEUTRAL, Theme

__all__ = ["dissociation_bars"]

_COLUMNS, _PANEL, _ROW, _LETTERS = 3, 230, 236, 34


def dissociation_bars(
    rows: Sequence[Dissociation],
    *,
    titles: Mapping[str, str] | None = None,
    title: str = "Do the tasks depend on different heads?",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Effect of ablating each set of heads on both tasks, one panel per pair of tasks.

    Parameters
    ----------
    rows : sequence of Dissociation
        Rows of a `DissociationTable`, in the order of the panels.
    titles : mapping of str to str, optional
        Names to print for the tasks.
    title, subtitle : str
        Heading; if not given, the subtitle explains the bars.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        Each panel has three sets of heads: only of the first task, only of the second, and of both. Each set has two bars: its effect on
        the first and on the second task, as a share of the task's gap, with 95 % intervals. In a double dissociation each task depends on
        its own heads and not on the other's. The panel's heading gives the verdict and the corrected p-value.

    Raises
    ------
    BadParameterError
        If there are no rows.
    """
    if not rows:
        raise BadParameterError("There is no pair of tasks to draw.", "Give the rows of a dissociation table.")
    names = dict(titles or {})
    columns = min(_COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    heads = [f"{_name_line('A', r.task_a, names)}<br>{_name_line('B', r.task_b, names)}<br>{_verdict(r)}" for r in rows]
    figure = make_subplots(lines, columns, shared_yaxes=True, subplot_titles=heads, horizontal_spacing=0.05, vertical_spacing=0.42 / lines)
    figure.update_annotations(font={"size": 11})
    for index, row in enumerate(rows):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        for side, task in enumerate((row.task_a, row.task_b)):
            figure.add_trace(_bars(row, task, side, names, first=not index), **place)
    figure.update_yaxes(zeroline=True, tickformat=".0%")
    figure.update_yaxes(title_text="lost, share of the gap", col=1)
    figure.update_xaxes(showgrid=False, tickangle=0)
    figure.update_layout(barmode="group", bargap=0.3, legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"})
    sets = "heads only of the first task (A), only of the second (B), of both; each ablated from the full model; 95 % intervals over pairs"
    frame = Frame(
        title,
        subtitle or sets,
        width=max(340, columns * _PANEL),
        height=lines * _ROW,
        margin_left=84,
        margin_top=64,
        margin_bottom=84,
    )
    return finish(figure, frame, theme)


def _name_line(letter: str, task: str, names: Mapping[str, str]) -> str:
    """A task's name as one line of a panel's heading, shortened to the width of the panel."""
    return f"<b>{letter}</b> {plain(textwrap.shorten(names.get(task, task), _LETTERS, placeholder=' ...'))}"


def _verdict(row: Dissociation) -> str:
    words = {"double": "double dissociation", "single": "single dissociation", "none": "no dissociation", "same": "no heads of its own"}
    words["no gap"] = "a gap that may be 0"
    return f"<i>{words[row.verdict]}, q = {row.q:.2g}</i>"


def _bars(row: Dissociation, task: str, side: int, names: Mapping[str, str], *, first: bool) -> go.Bar:
    effects = [row.knock_out(which, task) for which in SETS]
    means = [entry.effect["mean"] for entry in effects]
    arms = [(entry.effect["high"] - entry.effect["mean"], entry.effect["mean"] - entry.effect["low"]) for entry in effects]
    label = plain(names.get(task, task))
    texts = [
        f"<b>{label}</b> without {len(entry.heads)} heads<br>loses {entry.effect['mean']:.1%} of its gap"
        f" ({entry.effect['low']:.1%} to {entry.effect['high']:.1%})<br>{entry.raw['mean']:+.3g} in metric units<br>{_names(entry.heads)}"
        for entry in effects
    ]
    counts = [len(entry.heads) for entry in effects]
    return go.Bar(
        x=[f"A only<br>({counts[0]})", f"B only<br>({counts[1]})", f"both<br>({counts[2]})"],
        y=rounded(means),
        name=("effect on A, the first task", "effect on B, the second task")[side],
        legendgroup=str(side),
        showlegend=first,
        marker={"color": (HELPS, HINDERS)[side]},
        error_y={"type": "data", "symmetric": False, "array": rounded([a[0] for a in arms]), "arrayminus": rounded([a[1] for a in arms])},
        hovertext=texts,
        hoverinfo="text",
        outsidetextfont={"color": NEUTRAL},
    )


def _names(heads: Sequence[str], most: int = 6) -> str:
    more = f" and {len(heads) - most} more" if len(heads) > most else ""
    return ", ".join(heads[:most]) + more if heads else "no head"
