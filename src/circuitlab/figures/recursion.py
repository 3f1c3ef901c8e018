"""A recursive discovery as a layered graph: which heads each stage brought in, and what they are relevant to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import plotly.graph_objects as go

from circuitlab.circuits.circuit import Circuit
from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Edge, Head, Logits, Node
from circuitlab.figures.frame import Frame, finish, plain, rounded
from circuitlab.figures.layer_axes import layer_axes
from circuitlab.figures.placement import Placement, curve_of, place_circuit
from circuitlab.figures.theme import NEUTRAL, Theme

__all__ = ["StageLike", "recursion_diagram"]

_LEAST = 480
"""Pixels that the title needs."""
_COLOURS = ("#2a6fae", "#b8862b", "#3f9585", "#8e6bbf", "#c2538b", "#5b6570")
"""One for each stage; white text reads on all of them."""

_GOLDEN = 0.618
_WIDTHS = (1.0, 2.0, 3.2, 4.6)


class StageLike(Protocol):
    """One stage of a discovery, such as `circuitlab.methods.decomposition.discovery.RecursionStage`.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> stage: StageLike = SimpleNamespace(added=[Head(1, 0)], edges={(Head(1, 0), Logits()): 0.8}, value=2.1)
    >>> stage.added, stage.value
    ([Head(layer=1, head=0)], 2.1)
    """

    @property
    def added(self) -> Sequence[Head]:
        """Heads that came in."""
        ...

    @property
    def edges(self) -> Mapping[tuple[Head, Node], float]:
        """Relevance of these heads to each target: the logits, or heads of the circuit before."""
        ...

    @property
    def value(self) -> float:
        """Mean metric of the circuit after the stage."""
        ...


def recursion_diagram(
    stages: Sequence[StageLike],
    circuit: Circuit,
    *,
    strongest: int = 3,
    title: str = "",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Draw what each stage of a recursive discovery found, layers upward and the logits on top.

    Parameters
    ----------
    stages : sequence of StageLike
        From the logits backwards.
    circuit : Circuit
        What was kept in the end; other heads that a stage brought in are pale.
    strongest : int
        How many lines each head has: to the targets that it is most relevant to.
    title, subtitle : str
        Heading; sizes and the rule of the circuit otherwise.
    theme : {"light", "dark"}
        Template.

    Returns
    -------
    Figure
        One colour per stage, for heads and their lines; widths are relative to the strongest line of the stage, dotted lines are negative.

    Raises
    ------
    BadParameterError
        If no stage brought in a head, or ``strongest`` is less than 1.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from circuitlab.core.nodes import Universe
    >>> last = SimpleNamespace(added=[Head(1, 0)], edges={(Head(1, 0), Logits()): 0.8}, value=2.1)
    >>> before = SimpleNamespace(added=[Head(0, 1)], edges={(Head(0, 1), Head(1, 0)): 0.5}, value=2.6)
    >>> figure = recursion_diagram([last, before], Circuit(["a0.h1", "a1.h0"], Universe(2, 2, 2)))
    >>> figure.layout.meta["title"]
    '2 heads in 2 stages'
    """
    first = _first_stage(stages)
    if not first or strongest < 1:
        what = f"{len(stages)} stages with {len(first)} heads and {strongest} lines each make no picture."
        raise BadParameterError(what, "Give stages that brought in heads, and at least one line for each.")
    lines = [_lines(stage, first, number, strongest) for number, stage in enumerate(stages)]
    edges = frozenset(Edge(*ends, None if isinstance(ends[1], Logits) else "q") for some in lines for ends in some)
    placed = place_circuit(Circuit(frozenset(first), circuit.universe, edges))
    figure = go.Figure()
    for number, some in enumerate(lines):
        _draw_lines(figure, placed, some, number)
    if any(isinstance(node, Logits) for node in placed.at):
        figure.add_trace(_end(placed))
    for number, stage in enumerate(stages):
        if heads := [head for head in first if first[head] == number]:
            figure.add_trace(_heads(heads, placed, circuit, (number, stage.value)))
    width, height = layer_axes(figure, placed, least=_LEAST)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}})
    frame = Frame(
        title or f"{len(circuit)} heads in {len(stages)} stages",
        subtitle or circuit.rule,
        width=width,
        height=height,
        banner="" if circuit.ready else "near chance: the model cannot do this task, so these heads are no circuit for the ability.",
        shrinks=1.0,
        margin_left=56,
        margin_bottom=84,
    )
    return finish(figure, frame, theme)


def _first_stage(stages: Sequence[StageLike]) -> dict[Head, int]:
    """The stage that brought each head in first."""
    found: dict[Head, int] = {}
    for number, stage in enumerate(stages):
        for head in stage.added:
            found.setdefault(head, number)
    return found


def _lines(stage: StageLike, first: Mapping[Head, int], number: int, strongest: int) -> dict[tuple[Head, Node], float]:
    """The strongest lines of each head that this stage brought in first."""
    found: dict[tuple[Head, Node], float] = {}
    for head in stage.added:
        mine = [(ends, value) for ends, value in stage.edges.items() if ends[0] == head and value and first[head] == number]
        found |= dict(sorted(mine, key=lambda one: -abs(one[1]))[:strongest])
    return found


def _draw_lines(figure: go.Figure, placed: Placement, lines: Mapping[tuple[Head, Node], float], number: int) -> None:
    """One trace for each width and sign."""
    largest = max(map(abs, lines.values()), default=0.0)
    groups: dict[tuple[int, bool], tuple[list[float | None], list[float | None]]] = {}
    middles: list[tuple[float, float, str]] = []
    for i, ((head, target), value) in enumerate(lines.items()):
        along, up = curve_of((head, target, None), placed, i * _GOLDEN % 1)
        x, y = groups.setdefault((min(int(len(_WIDTHS) * abs(value) / largest), len(_WIDTHS) - 1), value < 0), ([], []))
        x += [*rounded(along), None]
        y += [*rounded(up), None]
        half = len(along) // 2
        middles.append((float(along[half]), float(up[half]), f"<b>{head} to {target}</b><br>relevance {value:.4g}"))
    for (level, negative), (x, y) in sorted(groups.items()):
        line = {"color": _COLOURS[number % len(_COLOURS)], "width": _WIDTHS[level], "dash": "dot" if negative else "solid"}
        figure.add_scatter(x=x, y=y, mode="lines", line=line, opacity=0.6, hoverinfo="skip", showlegend=False, meta="lines")
    if middles:
        figure.add_scatter(
            x=rounded([place[0] for place in middles]),
            y=rounded([place[1] for place in middles]),
            mode="markers",
            marker={"size": 12, "opacity": 0},
            hovertext=[place[2] for place in middles],
            hoverinfo="text",
            showlegend=False,
            meta="hover",
        )


def _heads(heads: Sequence[Head], placed: Placement, circuit: Circuit, stage: tuple[int, float]) -> go.Scatter:
    number, value = stage
    kept = [head in circuit.nodes for head in heads]
    texts = [f"<b>{head}</b><br>stage {number + 1}" + ("" if inside else "<br>not kept") for head, inside in zip(heads, kept, strict=True)]
    return go.Scatter(
        x=rounded([placed.at[head][0] for head in heads]),
        y=rounded([placed.at[head][1] for head in heads]),
        mode="markers+text",
        marker={
            "symbol": "circle",
            "size": 32,
            "color": _COLOURS[number % len(_COLOURS)],
            "opacity": [1.0 if inside else 0.35 for inside in kept],
        },
        text=[f"{head.layer}.{head.head}" for head in heads],
        textfont={"size": 10, "color": "#ffffff"},
        textposition="middle center",
        hovertext=texts,
        hoverinfo="text",
        name=plain(f"stage {number + 1} (circuit then at {value:.3g})"),
        meta="heads",
    )


def _end(placed: Placement) -> go.Scatter:
    x, y = placed.at[Logits()]
    marker = {"symbol": "square", "size": 40, "color": NEUTRAL}
    text = {"text": ["logits"], "textfont": {"size": 10, "color": "#ffffff"}, "textposition": "middle center"}
    return go.Scatter(text, x=[x], y=[y], mode="markers+text", marker=marker, hoverinfo="skip", showlegend=False, meta="end")
