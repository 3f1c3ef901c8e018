"""A circuit as a diagram: layers upward, edges coloured by the input that they enter, with widths by score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from circuitlab.circuits.circuit import Circuit
from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Attn, Embed, Head, KVHead, Logits, Mlp, Node, Resid
from circuitlab.figures.frame import Frame, finish, plain, rounded
from circuitlab.figures.layer_axes import layer_axes
from circuitlab.figures.placement import Placement, curve_of, place_circuit
from circuitlab.figures.theme import HINDERS, NEUTRAL, Theme

__all__ = ["circuit_diagram"]

_LEAST = 420
"""Width in pixels that the title needs."""

_GOLDEN = 0.618
"""Step between the lanes of successive lines; with the golden ratio the lanes of any few lines are well apart."""

_MOST_EDGES = 3000
_WIDTHS = (1.0, 1.8, 2.8, 4.0, 5.4)
_PLAIN_WIDTH = 1.6
_PORTS = {"q": ("query", "#8e6bbf"), "k": ("key", "#3f9585"), "v": ("value", "#b8862b"), None: ("MLP or logits", NEUTRAL)}


class _Look(NamedTuple):
    symbol: str
    size: int
    colour: str
    name: str


_LOOKS: dict[type, _Look] = {
    Head: _Look("circle", 32, "#2a6fae", "head"),
    KVHead: _Look("diamond", 34, "#26736a", "key/value head"),
    Mlp: _Look("square", 28, "#5b6570", "MLP"),
    Attn: _Look("square", 28, "#2a6fae", "attention layer"),
    Resid: _Look("square", 36, "#7a5a9e", "residual stream"),
    Embed: _Look("square", 40, "#5b6570", "end"),
    Logits: _Look("square", 40, "#5b6570", "end"),
}
"""White text is readable on each of these colours, on light and on dark pages."""


def circuit_diagram(
    circuit: Circuit,
    scores: Mapping[Any, float] | None = None,
    *,
    title: str = "",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Draw a circuit's nodes and edges, the embedding at the bottom and the logits on top.

    Parameters
    ----------
    circuit : Circuit
        A circuit with edges, or of nodes alone.
    scores : mapping of Node or Edge to float, optional
        Mean scores. Scores of edges set the widths, relative to the strongest edge drawn; scores of nodes appear on hover. Edges with
        negative scores are dotted, nodes with negative scores orange. Without scores all edges have one width.
    title, subtitle : str
        Heading; if not given, the size and the rule of the circuit.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        Every edge runs upward. Circles are query heads (``9.6``: layer and head), squares are MLPs, diamonds are key/value heads that query
        heads share, connected to these by thin lines. Edges enter a head at the left for its query, in the middle for its key and at the
        right for its value, each in its own colour. Pale nodes are ends of edges that are not nodes of the circuit. Layers without nodes
        are left out; the axis names the layers that are drawn.

    Raises
    ------
    BadParameterError
        If the circuit is empty, or has more than 3,000 edges.

    Examples
    --------
    >>> from circuitlab.core.nodes import Universe
    >>> circuit = Circuit(["a0.h1", "a1.h0"], Universe(2, 2, 2), ["a0.h1->a1.h0<q>", "a1.h0->logits"])
    >>> figure = circuit_diagram(circuit, title="Two heads")
    >>> figure.layout.meta["title"]
    'Two heads'
    """
    if not circuit.nodes and not circuit.edges:
        raise BadParameterError("The circuit is empty, so there is nothing to draw.", "Select at least one node or edge.")
    if len(circuit.edges or ()) > _MOST_EDGES:
        what = f"A diagram of {len(circuit.edges or ())} edges cannot be read."
        raise BadParameterError(what, f"Select at most {_MOST_EDGES} edges, better fewer than 200 (TopEdges, GreedyEdges).")
    placed, known = place_circuit(circuit), dict(scores or {})
    figure = go.Figure()
    _draw_readers(figure, placed)
    _draw_edges(figure, placed, known)
    for kind in _LOOKS:
        if nodes := [node for node in placed.at if type(node) is kind]:
            figure.add_trace(_nodes(nodes, placed, known))
    width, height = layer_axes(figure, placed, least=_LEAST)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}})
    edges = "" if circuit.edges is None else f" and {len(circuit.edges)} edges"
    frame = Frame(
        title or f"Circuit of {len(circuit)} nodes{edges}",
        subtitle or circuit.rule,
        width=width,
        height=height,
        banner="" if circuit.ready else "not ready: the model is not shown to do this task, so this may be no circuit for it.",
        shrinks=1.0,
        margin_left=56,
        margin_bottom=64,
    )
    return finish(figure, frame, theme)


def _draw_readers(figure: go.Figure, placed: Placement) -> None:
    """Thin lines from a shared key/value head to the query heads that read it."""
    x, y = _joined(([placed.at[kv][0], placed.at[head][0]], [placed.at[kv][1], placed.at[head][1]]) for kv, head in placed.readers)
    if x:
        line = {"color": NEUTRAL, "width": 1}
        figure.add_scatter(x=x, y=y, mode="lines", line=line, name="shared by", hoverinfo="skip", showlegend=False, meta="readers")


def _draw_edges(figure: go.Figure, placed: Placement, scores: Mapping[Any, float]) -> None:
    """Draw the edges, one trace for each colour, width and dash; an edge's name and score show when its middle is hovered over."""
    if not placed.edges:
        return
    strongest = max((abs(scores[edge]) for edge, _, _ in placed.edges if edge in scores), default=0.0)
    groups: dict[tuple[str | None, int, bool], list[tuple[Sequence[float], Sequence[float]]]] = {}
    middles: list[tuple[float, float, str]] = []
    for i, (edge, sender, receiver) in enumerate(placed.edges):
        along, up = curve_of((sender, receiver, edge.port), placed, i * _GOLDEN % 1)
        value = scores.get(edge)
        level = min(int(len(_WIDTHS) * abs(value) / strongest), len(_WIDTHS) - 1) if value is not None and strongest else 0
        groups.setdefault((edge.port, level, value is not None and value < 0), []).append((along.tolist(), up.tolist()))
        score = "" if value is None else f"<br>score {value:+.4g}"
        middles.append((float(along[len(along) // 2]), float(up[len(up) // 2]), f"<b>{plain(str(edge))}</b>{score}"))
    for (port, level, negative), lines in sorted(groups.items(), key=lambda item: item[0][1]):
        x, y = _joined(lines)
        width = _WIDTHS[level] if strongest else _PLAIN_WIDTH
        line = {"color": _PORTS[port][1], "width": width, "dash": "dot" if negative else "solid"}
        figure.add_scatter(x=x, y=y, mode="lines", line=line, opacity=0.75, hoverinfo="skip", showlegend=False, meta="edges")
    for port, (name, colour) in _PORTS.items():
        if any(key[0] == port for key in groups):
            figure.add_scatter(x=[None], y=[None], mode="lines", line={"color": colour, "width": 3}, name=f"into {name}", meta="legend")
    if any(key[2] for key in groups):
        figure.add_scatter(
            x=[None], y=[None], mode="lines", line={"color": NEUTRAL, "width": 3, "dash": "dot"}, name="hinders", meta="legend"
        )
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


def _nodes(nodes: Sequence[Node], placed: Placement, scores: Mapping[Any, float]) -> go.Scatter:
    look = _LOOKS[type(nodes[0])]
    inside = [node in placed.counted for node in nodes]
    texts = [
        f"<b>{plain(str(node))}</b>"
        + (f"<br>score {scores[node]:+.4g}" if node in scores else "")
        + ("" if counted else "<br>an end of edges, not counted as a node")
        for node, counted in zip(nodes, inside, strict=True)
    ]
    return go.Scatter(
        x=rounded([placed.at[node][0] for node in nodes]),
        y=rounded([placed.at[node][1] for node in nodes]),
        mode="markers+text",
        marker={
            "symbol": look.symbol,
            "size": look.size,
            "color": [HINDERS if scores.get(node, 0.0) < 0 else look.colour for node in nodes],
            "opacity": [1.0 if counted or isinstance(node, KVHead) else 0.6 for node, counted in zip(nodes, inside, strict=True)],
            "line": {"width": 0},
        },
        text=[_label(node) for node in nodes],
        textfont={"size": 10, "color": "#ffffff"},
        textposition="middle center",
        hovertext=texts,
        hoverinfo="text",
        name=look.name,
        showlegend=False,
        meta="nodes",
    )


def _label(node: Node) -> str:
    """A short label, since the axis names the layer; heads are written as in papers."""
    if isinstance(node, Head):
        return f"{node.layer}.{node.head}"
    return f"kv{node.head}" if isinstance(node, KVHead) else str(node)


def _joined(lines: Iterable[tuple[Sequence[float], Sequence[float]]]) -> tuple[list[float | None], list[float | None]]:
    """The coordinates of many lines as one trace, with gaps between the lines."""
    x: list[float | None] = []
    y: list[float | None] = []
    for along, up in lines:
        x += [*rounded(along), None]
        y += [*rounded(up), None]
    return x, y
