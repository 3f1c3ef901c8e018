"""What ablating the heads of one task, of the other, and of both does to each task."""

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
        Rows of a `DissociationTable`, in the order wanted.
    titles : mapping of str to str, optional
        What to print for a task's name.
    title, subtitle : str
        Heading; the subtitle explains the bars otherwise.
    theme : {"light", "dark"}
        Template.

    Returns
    -------
    Figure
        In each panel the heads only of the first task, only of the second, and of both; two bars each, the effect on the first and on the
        second task as a share of the task's gap, with 95 % intervals. A double dissociation is a crossing: each task falls with its own
        heads and not with the other's. Panels say verdict and corrected p-value.

    Raises
    ------
    BadParameterError
        If there is no pair to draw.
    """
    if not rows:
        raise BadParameterError("There is no pair of tasks to draw.", "Give the rows of a dissociation table.")
    shown = dict(titles or {})
    columns = min(_COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    heads = [f"{_named_line('A', r.task_a, shown)}<br>{_named_line('B', r.task_b, shown)}<br>{_verdict(r)}" for r in rows]
    figure = make_subplots(lines, columns, shared_yaxes=True, subplot_titles=heads, horizontal_spacing=0.05, vertical_spacing=0.42 / lines)
    figure.update_annotations(font={"size": 11})
    for index, row in enumerate(rows):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        for side, task in enumerate((row.task_a, row.task_b)):
            figure.add_trace(_bars(row, task, side, shown, first=not index), **place)
    figure.update_yaxes(zeroline=True, tickformat=".0%")
    figure.update_yaxes(title_text="lost, share of the gap", col=1)
    figure.update_xaxes(showgrid=False, tickangle=0)
    figure.update_layout(barmode="group", bargap=0.3, legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"})
    told = "heads only of the first task (A), only of the second (B), of both; each ablated from the full model; 95 % intervals over pairs"
    frame = Frame(
        title,
        subtitle or told,
        width=max(340, columns * _PANEL),
        height=lines * _ROW,
        margin_left=84,
        margin_top=64,
        margin_bottom=84,
    )
    return finish(figure, frame, theme)


def _named_line(letter: str, task: str, shown: Mapping[str, str]) -> str:
    """A task's name in one line of a panel's heading, cut where it would reach the next panel."""
    return f"<b>{letter}</b> {plain(textwrap.shorten(shown.get(task, task), _LETTERS, placeholder=' ...'))}"


def _verdict(row: Dissociation) -> str:
    words = {"double": "double dissociation", "single": "single dissociation", "none": "no dissociation", "same": "no heads of its own"}
    words["no gap"] = "a gap that may be 0"
    return f"<i>{words[row.verdict]}, q = {row.q:.2g}</i>"


def _bars(row: Dissociation, task: str, side: int, shown: Mapping[str, str], *, first: bool) -> go.Bar:
    found = [row.knock_out(which, task) for which in SETS]
    means = [one.effect["mean"] for one in found]
    arms = [(one.effect["high"] - one.effect["mean"], one.effect["mean"] - one.effect["low"]) for one in found]
    label = plain(shown.get(task, task))
    texts = [
        f"<b>{label}</b> without {len(one.heads)} heads<br>loses {one.effect['mean']:.1%} of its gap"
        f" ({one.effect['low']:.1%} to {one.effect['high']:.1%})<br>{one.raw['mean']:+.3g} in metric units<br>{_named(one.heads)}"
        for one in found
    ]
    counts = [len(one.heads) for one in found]
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


def _named(heads: Sequence[str], most: int = 6) -> str:
    more = f" and {len(heads) - most} more" if len(heads) > most else ""
    return ", ".join(heads[:most]) + more if heads else "no head"
