"""A recursive discovery as a layered graph: the heads that each stage added, and what they are relevant to."""

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
"""Width in pixels that the title needs."""
_COLOURS = ("#2a6fae", "#b8862b", "#3f9585", "#8e6bbf", "#c2538b", "#5b6570")
"""One colour for each stage; white text is readable on all of them."""

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
        """Heads that the stage added."""
        ...

    @property
    def edges(self) -> Mapping[tuple[Head, Node], float]:
        """Relevance of these heads to each target: the logits, or heads of the circuit before the stage."""
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
    """Draw the heads that each stage of a recursive discovery added, layers upward and the logits at the top.

    Parameters
    ----------
    stages : sequence of StageLike
        Stages from the logits backwards.
    circuit : Circuit
        The final circuit; heads that a stage added but that are not in it are pale.
    strongest : int
        Number of lines of each head, to the targets that it is most relevant to.
    title, subtitle : str
        Heading; if not given, the size and the rule of the circuit.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        One colour per stage, for heads and their lines. Widths are relative to the strongest line of the stage; lines with negative
        relevance are dotted.

    Raises
    ------
    BadParameterError
        If no stage added a head, or ``strongest`` is less than 1.

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
        what = f"{len(stages)} stages with {len(first)} heads and {strongest} lines each cannot be drawn."
        raise BadParameterError(what, "Give stages that added heads, and at least one line for each head.")
    lines = [_lines(stage, first, number, strongest) for number, stage in enumerate(stages)]
    edges = frozenset(Edge(*ends, None if isinstance(ends[1], Logits) else "q") for stage_lines in lines for ends in stage_lines)
    placed = place_circuit(Circuit(frozenset(first), circuit.universe, edges))
    figure = go.Figure()
    for number, stage_lines in enumerate(lines):
        _draw_lines(figure, placed, stage_lines, number)
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
        banner="" if circuit.ready else "not ready: the model is not shown to do this task, so these heads may be no circuit for it.",
        shrinks=1.0,
        margin_left=56,
        margin_bottom=84,
    )
    return finish(figure, frame, theme)


def _first_stage(stages: Sequence[StageLike]) -> dict[Head, int]:
    """The number of the stage that added each head first."""
    first: dict[Head, int] = {}
    for number, stage in enumerate(stages):
        for head in stage.added:
            first.setdefault(head, number)
    return first


def _lines(stage: StageLike, first: Mapping[Head, int], number: int, strongest: int) -> dict[tuple[Head, Node], float]:
    """The strongest lines of each head that this stage added first."""
    strongest_lines: dict[tuple[Head, Node], float] = {}
    for head in stage.added:
        lines = [(ends, value) for ends, value in stage.edges.items() if ends[0] == head and value and first[head] == number]
        strongest_lines |= dict(sorted(lines, key=lambda line: -abs(line[1]))[:strongest])
    return strongest_lines


def _draw_lines(figure: go.Figure, placed: Placement, lines: Mapping[tuple[Head, Node], float], number: int) -> None:
    """Draw the lines of one stage, one trace for each width and sign."""
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
    in_circuit = [head in circuit.nodes for head in heads]
    pairs = zip(heads, in_circuit, strict=True)
    texts = [f"<b>{head}</b><br>stage {number + 1}" + ("" if inside else "<br>not kept") for head, inside in pairs]
    return go.Scatter(
        x=rounded([placed.at[head][0] for head in heads]),
        y=rounded([placed.at[head][1] for head in heads]),
        mode="markers+text",
        marker={
            "symbol": "circle",
            "size": 32,
            "color": _COLOURS[number % len(_COLOURS)],
            "opacity": [1.0 if inside else 0.35 for inside in in_circuit],
        },
        text=[f"{head.layer}.{head.head}" for head in heads],
        textfont={"size": 10, "color": "#ffffff"},
        textposition="middle center",
        hovertext=texts,
        hoverinfo="text",
        name=plain(f"stage {number + 1} (metric of the circuit: {value:.3g})"),
        meta="heads",
    )


def _end(placed: Placement) -> go.Scatter:
    x, y = placed.at[Logits()]
    marker = {"symbol": "square", "size": 40, "color": NEUTRAL}
    text = {"text": ["logits"], "textfont": {"size": 10, "color": "#ffffff"}, "textposition": "middle center"}
    return go.Scatter(text, x=[x], y=[y], mode="markers+text", marker=marker, hoverinfo="skip", showlegend=False, meta="end")
