"""Stages of path patching of two tasks side by side, with the heads that both keep outlined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head, parse_node
from circuitlab.figures.frame import Frame, finish, plain, rounded, symmetric_limit
from circuitlab.figures.theme import NEUTRAL, Theme

__all__ = ["stage_heatmaps"]

_GAP = 52
"""Distance in pixels between two rows of panels, with room for tick labels and the next heading."""
_PORTS = {"q": "queries", "k": "keys", "v": "values"}


def stage_heatmaps(
    tasks: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    titles: Mapping[str, str] | None = None,
    title: str = "Which heads act at each stage, and which are the same?",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Effect of every head in each stage, with tasks in columns and stages in rows.

    Parameters
    ----------
    tasks : mapping of str to sequence of mapping
        For each task, usually two, its stages from the logits backwards, each with ``receivers``, ``kept`` (heads), ``effects``
        (layer, head) and ``edges``.
    titles : mapping of str to str, optional
        Names to print for the tasks.
    title, subtitle : str
        Heading; if not given, the subtitle explains the outlines.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        Colour is the mean effect of a head on the receiver that it acts on most, as a share of the largest magnitude in the panel; raw
        effects appear on hover. Thin outlines: kept in this stage. Thick outlines: kept by every task in this stage.

    Raises
    ------
    BadParameterError
        If there are no stages, or a stage kept a node that is not a head.

    Examples
    --------
    >>> stage = {"receivers": ["logits"], "kept": ["a1.h0"], "effects": [[0.0, 0.1], [2.0, 0.3]], "edges": []}
    >>> figure = stage_heatmaps({"ioi": [stage], "docstring": [stage]})
    >>> len(figure.data)
    2
    """
    if not tasks or not any(tasks.values()):
        raise BadParameterError("No stage of path patching was found, so there is nothing to draw.", "Give at least one stage of a task.")
    names, rows = list(tasks), max(map(len, tasks.values()))
    by_name = dict(titles or {})
    heads = [_panel_title(by_name.get(name, name), tasks[name], row) for row in range(rows) for name in names]
    panel = max(96, 6 * max(len(stage["effects"]) for stages in tasks.values() for stage in stages))
    height = rows * panel + (rows - 1) * _GAP
    figure = make_subplots(rows, len(names), subplot_titles=heads, vertical_spacing=_GAP / height, horizontal_spacing=0.1)
    figure.update_annotations(font={"size": 11})
    size = (1, 1)
    for row in range(rows):
        kept = [set(stages[row]["kept"]) for stages in tasks.values() if row < len(stages)]
        common = set.intersection(*kept) if len(kept) == len(names) > 1 else set()
        for column, name in enumerate(names):
            if row >= len(tasks[name]):
                continue
            stage, at = tasks[name][row], {"row": row + 1, "col": column + 1}
            size = np.shape(stage["effects"])
            figure.add_trace(_map(stage), **at)
            for head in stage["kept"]:
                figure.add_shape(**_outline(head, shared=head in common), **at)
    layers, width = size
    figure.update_xaxes(showgrid=False, zeroline=False, range=[-0.5, width - 0.5], tickvals=list(range(0, width, max(1, width // 8))))
    figure.update_yaxes(showgrid=False, zeroline=False, range=[layers - 0.5, -0.5], tickvals=list(range(0, layers, max(1, layers // 6))))
    figure.update_xaxes(title_text="head", row=rows)
    figure.update_yaxes(title_text="layer", col=1)
    bar = {"title": {"text": "effect<br>(share of panel's<br>largest)<br> <br> ", "side": "top", "font": {"size": 11}}, "len": 0.5}
    figure.update_layout(coloraxis={"cmin": -1, "cmax": 1, "cmid": 0, "autocolorscale": True, "colorbar": bar})
    frame = Frame(
        title,
        subtitle or "outlined: kept in this stage · thick: kept by every task in this stage · blue helps, orange hinders",
        width=max(300, len(names) * max(200, 20 * width)),
        height=height,
        margin_top=36,
        margin_right=120,
    )
    return finish(figure, frame, theme)


def _panel_title(name: str, stages: Sequence[Mapping[str, Any]], row: int) -> str:
    if row >= len(stages):
        return f"{plain(name)}: no stage {row + 1}"
    receivers = stages[row]["receivers"]
    ports = {receiver.partition("<")[2][:1] for receiver in receivers} - {""}
    if not ports:
        return f"{plain(name)}<br>stage {row + 1}: to the {plain(', '.join(receivers))}"
    kinds = " and ".join(_PORTS[port] for port in sorted(ports))
    return f"{plain(name)}<br>stage {row + 1}: to {kinds} of {len(receivers)} head{'' if len(receivers) == 1 else 's'}"


def _map(stage: Mapping[str, Any]) -> go.Heatmap:
    effects = np.asarray(stage["effects"], dtype=float)
    edge_texts: dict[str, list[str]] = {}
    for edge in stage.get("edges", ()):
        edge_texts.setdefault(edge["edge"].split("->")[0], []).append(
            f"{edge['edge']} {edge['mean']:+.3g} ({edge['low']:+.2g} to {edge['high']:+.2g})"
        )
    texts = [
        [
            f"<b>a{i}.h{j}</b> {effects[i, j]:+.3g}" + "".join(f"<br>{plain(text)}" for text in edge_texts.get(f"a{i}.h{j}", [])[:6])
            for j in range(effects.shape[1])
        ]
        for i in range(effects.shape[0])
    ]
    return go.Heatmap(
        z=rounded(effects / symmetric_limit([effects])), hovertext=texts, hoverinfo="text", coloraxis="coloraxis", xgap=1, ygap=1
    )


def _outline(name: str, *, shared: bool) -> dict[str, Any]:
    head = parse_node(name)
    if not isinstance(head, Head):
        what = f"{name} was kept in a stage, but only heads can be drawn."
        raise BadParameterError(what, "Give stages of heads.")
    box = {"x0": head.head - 0.5, "x1": head.head + 0.5, "y0": head.layer - 0.5, "y1": head.layer + 0.5}
    # Without a colour, the outline is drawn in the text colour of the theme.
    line = {"width": 2.5} if shared else {"color": NEUTRAL, "width": 1.2}
    return {"type": "rect", "name": "shared" if shared else "kept", "line": line, **box}
