"""UpSet plot: which heads belong to exactly which tasks, and how many would by chance."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuitlab.circuits.circuit import Circuit
from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head, Universe
from circuitlab.figures.frame import Frame, finish, plain, rounded, wrapped
from circuitlab.figures.theme import HELPS, NEUTRAL, Theme

__all__ = ["Intersection", "intersections", "upset"]

_COLUMN, _ROW, _UPPER, _GAP = 36, 30, 190, 34
"""Pixels of a column, of a row, of the bars, and between bars and rows, where the numbers of heads are written."""
_NAMED = 14  # number of heads that are named on hover


@dataclass(frozen=True)
class Intersection:
    """The heads that are in exactly these circuits.

    Parameters
    ----------
    members : tuple of str
        Names of the circuits.
    heads : tuple of Head
        Heads in all of these circuits and in no other, in forward order.
    chance : float
        Expected number of such heads if every circuit had random heads, with the same number in each layer.
    """

    members: tuple[str, ...]
    heads: tuple[Head, ...]
    chance: float


def intersections(circuits: Mapping[str, Circuit]) -> list[Intersection]:
    """All exclusive intersections with at least one head, largest first; among equal sizes, those of more circuits first.

    Raises
    ------
    BadParameterError
        If there are fewer than two circuits, or no circuit has heads.
    IncompatibleError
        If the circuits belong to models of different shapes.

    References
    ----------
    Lex et al. (2014), UpSet: Visualization of Intersecting Sets, IEEE TVCG 20.
    """
    if len(circuits) <= 1:
        raise BadParameterError(f"{len(circuits)} circuit has no intersections.", "Give at least two.")
    names = tuple(circuits)
    first = circuits[names[0]]
    for circuit in circuits.values():
        first.require_same_universe(circuit)
    heads_by_members: dict[tuple[str, ...], list[Head]] = {}
    for head in first.shape.heads():
        members = tuple(name for name in names if head in circuits[name])
        if members:
            heads_by_members.setdefault(members, []).append(head)
    if not heads_by_members:
        raise BadParameterError("The circuits have no heads.", "Select heads for them.")
    share = _shares(circuits, first.shape)
    result = []
    for members, heads in heads_by_members.items():
        inside = np.array([name in members for name in names])[:, None]
        expected = np.where(inside, share, 1 - share).prod(axis=0).sum() * first.shape.n_heads
        result.append(Intersection(members, tuple(heads), float(expected)))
    return sorted(result, key=lambda intersection: (-len(intersection.heads), -len(intersection.members)))


def upset(
    circuits: Mapping[str, Circuit],
    *,
    titles: Mapping[str, str] | None = None,
    most: int = 24,
    title: str = "Which heads serve which tasks?",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Number of heads by the exact set of circuits that they are in.

    Parameters
    ----------
    circuits : mapping of str to Circuit
        Circuits by task name; only heads are counted.
    titles : mapping of str to str, optional
        Names to print for the tasks.
    most : int
        Number of intersections to draw, largest first; the subtitle says how many are left out.
    title, subtitle : str
        Heading.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        Columns are intersections: a bar of the number of heads, a tick at the number expected by chance (each circuit keeps its number of
        heads in every layer), and below it dots for the circuits that have these heads. The number of heads is written under the
        axis, so that it is not read as the number expected by chance. A dagger marks tasks that the model cannot do.

    Raises
    ------
    BadParameterError, IncompatibleError
        As `intersections`.
    """
    all_columns = intersections(circuits)
    columns, names = all_columns[:most], list(circuits)
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.03, row_heights=[0.5, 0.5])
    places = list(range(len(columns)))
    figure.add_trace(_bars(columns, titles or {}), row=1, col=1)
    figure.add_trace(_ticks(columns), row=1, col=1)
    for trace in _dots(columns, names):
        figure.add_trace(trace, row=2, col=1)
    labels = [_label(name, circuits[name], titles or {}) for name in names]
    highest = max(max(len(column.heads), column.chance) for column in columns)
    figure.update_xaxes(showticklabels=False, showgrid=False, zeroline=False, range=[-0.7, len(places) - 0.3])
    counts = [f"<b>{len(column.heads)}</b>" for column in columns]
    figure.update_xaxes(showticklabels=True, tickvals=places, ticktext=counts, tickangle=0, row=1, col=1)
    figure.update_xaxes(title_text="heads in exactly these circuits", row=2, col=1)
    figure.update_yaxes(title_text="heads", range=[0, rounded(1.08 * highest)], row=1, col=1)
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=labels, range=[len(names) - 0.5, -0.5], row=2, col=1)
    figure.update_yaxes(showgrid=False, zeroline=False, row=2, col=1)
    height = max(150, _ROW * len(names))
    total = height + _GAP + _UPPER
    figure.update_yaxes(domain=rounded([0, height / total]), row=2, col=1)
    figure.update_yaxes(domain=rounded([1 - _UPPER / total, 1]), row=1, col=1)
    figure.update_layout(bargap=0.35, legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"})
    left_out = f" · {len(all_columns) - most} smaller intersections left out" if len(all_columns) > most else ""
    description = subtitle or f"{len(set().union(*(c.nodes for c in circuits.values())))} heads in {len(names)} circuits"
    near = any(not circuit.ready for circuit in circuits.values())
    banner = "† not ready: the model is not shown to do this task, so its heads may be no circuit for it." if near else ""
    frame = Frame(title, description + left_out, max(340, _COLUMN * len(places)), total, banner, margin_left=190, margin_bottom=76)
    return finish(figure, frame, theme)


def _shares(circuits: Mapping[str, Circuit], universe: Universe) -> np.ndarray:
    """Share of the heads of each layer that are in each circuit, (circuit, layer)."""
    counts = np.zeros((len(circuits), universe.n_layers))
    for row, circuit in zip(counts, circuits.values(), strict=True):
        for node in circuit:
            if isinstance(node, Head):
                row[node.layer] += 1
    return counts / universe.n_heads


def _label(name: str, circuit: Circuit, titles: Mapping[str, str]) -> str:
    size = sum(isinstance(node, Head) for node in circuit)
    return wrapped(titles.get(name, name), 150, 12) + ("" if circuit.ready else " †") + f" ({size})"


def _bars(columns: list[Intersection], titles: Mapping[str, str]) -> go.Bar:
    texts = []
    for column in columns:
        heads = ", ".join(map(str, column.heads[:_NAMED])) + (f", {len(column.heads) - _NAMED} more" if len(column.heads) > _NAMED else "")
        members = ", ".join(plain(titles.get(name, name)) for name in column.members)
        texts.append(f"<b>{members}</b><br>{len(column.heads)} heads: {heads}<br>by chance {column.chance:.2f}")
    counts = [len(column.heads) for column in columns]
    return go.Bar(
        x=list(range(len(columns))),
        y=counts,
        marker={"color": HELPS},
        hovertext=texts,
        hoverinfo="text",
        name="heads found",
    )


def _ticks(columns: list[Intersection]) -> go.Scatter:
    return go.Scatter(
        x=list(range(len(columns))),
        y=rounded([column.chance for column in columns]),
        mode="markers",
        marker={"symbol": "line-ew", "size": 24, "line": {"width": 2.5, "color": NEUTRAL}},
        hoverinfo="skip",
        name="expected by chance (same number in every layer)",
    )


def _dots(columns: list[Intersection], names: list[str]) -> list[go.Scatter]:
    """A faint dot in every cell, a filled dot for each member, and a line through the members of a column."""
    grid = list(itertools.product(range(len(columns)), range(len(names))))
    inside = [(x, y) for x, y in grid if names[y] in columns[x].members]
    lines: list[float | None] = []
    rows: list[float | None] = []
    for x, column in enumerate(columns):
        held = [names.index(name) for name in column.members]
        lines += [x, x, None]
        rows += [min(held), max(held), None]
    shared = {"hoverinfo": "skip", "showlegend": False}
    return [
        go.Scatter(
            x=[x for x, _ in grid], y=[y for _, y in grid], mode="markers", marker={"size": 9, "color": NEUTRAL}, opacity=0.22, **shared
        ),
        go.Scatter(x=lines, y=rows, mode="lines", line={"width": 2.5, "color": HELPS}, **shared),
        go.Scatter(
            x=[x for x, _ in inside],
            y=[y for _, y in inside],
            mode="markers",
            marker={"size": 11, "color": HELPS},
            name="member",
            **shared,
        ),
    ]
