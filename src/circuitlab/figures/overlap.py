"""Task-by-task overlap of circuits beside what chance would give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from circuitlab.comparison import OverlapTable
from circuitlab.figures.frame import Frame, finish, plain, rounded, wrapped
from circuitlab.figures.theme import Theme

__all__ = ["overlap_matrix", "overlap_scale", "stars"]

_CELL, _NARROWEST, _LOWEST = 88, 260, 300
"""Pixels of a cell, and of the smallest square: two colour bars stand beside it."""
_SMALL = "<span style='font-size:10px'>"
_DAGGER = "† near chance: the model cannot do this task, so its heads are no circuit for the ability."


def overlap_matrix(
    table: OverlapTable,
    *,
    titles: Mapping[str, str] | None = None,
    title: str = "Are they the same heads?",
    subtitle: str = "",
    scale: tuple[float, float] | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """Observed Jaccard overlap below the diagonal, what it exceeds chance by above it, each task's own stability on it.

    Parameters
    ----------
    table : OverlapTable
        From `circuitlab.comparison.compare_tasks`.
    titles : mapping of str to str, optional
        What to print for a task's name.
    title, subtitle : str
        Heading; the subtitle says model, method and rule otherwise.
    scale : tuple of float, optional
        Ends of the two colour scales, from `overlap_scale` of all matrices that are read side by side.
    theme : {"light", "dark"}
        Template.

    Returns
    -------
    Figure
        Below: Jaccard index of the two circuits with its 95 % interval and the null model's mean. Above: Jaccard minus that mean,
        with stars for the corrected p-value (* q < 0.05, ** q < 0.01, *** q < 0.001). Diagonal, in italics: Jaccard
        of the circuits of two random halves of the task's own prompts, empty for scores from weights alone. A dagger marks tasks the model
        cannot do.
    """
    shown = dict(titles or {})
    names = [shown.get(name, name) for name in table.tasks]
    lower, upper = _triangles(table, names)
    figure = go.Figure([_heat(lower, "coloraxis", "observed"), _heat(upper, "coloraxis2", "above chance")])
    highest, excess = scale or overlap_scale([table])
    figure.update_layout(
        coloraxis=_side_bar("Jaccard<br>(below diagonal)", 0, highest, 0.5),
        coloraxis2=_side_bar("above chance<br>(above diagonal)", -excess, excess, 1.0),
    )
    said = subtitle or f"{table.model} · {table.method.replace('_', ' ')} · {table.rule}"
    return _square(figure, table, names, (title, said), theme)


def overlap_scale(tables: Iterable[OverlapTable]) -> tuple[float, float]:
    """Ends of the two colour scales that hold every cell of some matrices: highest Jaccard index, farthest from chance."""
    tables = list(tables)
    observed = [row.jaccard["mean"] for table in tables for row in table.rows]
    observed += [own["mean"] for table in tables for own in table.stability.values() if not np.isnan(own["mean"])]
    beyond = [abs(row.jaccard["mean"] - row.null_mean) for table in tables for row in table.rows]
    return rounded(max(0.5, *observed)), rounded(max(0.1, *beyond))


def _square(figure: go.Figure, table: OverlapTable, names: list[str], heading: tuple[str, str], theme: Theme) -> go.Figure:
    """Axes, size and heading (title, subtitle) of a square of cells; names of tasks the model cannot do get a dagger."""
    flagged = [not table.circuits[name].ready for name in table.tasks]
    daggers = [" †" if near else "" for near in flagged]
    labels = [wrapped(name, 130, 12) + dagger for name, dagger in zip(names, daggers, strict=True)]
    below = [wrapped(name, _CELL, 12) + dagger for name, dagger in zip(names, daggers, strict=True)]
    places = list(range(len(names)))
    turned = len(names) > 3  # noqa: PLR2004 - three labels fit side by side, in more lines
    figure.update_xaxes(tickvals=places, ticktext=labels if turned else below, tickangle=-35 if turned else 0, title_text=table.over)
    figure.update_xaxes(showgrid=False, zeroline=False, range=[-0.5, len(names) - 0.5])
    figure.update_yaxes(tickvals=places, ticktext=labels, showgrid=False, zeroline=False, range=[len(names) - 0.5, -0.5])
    figure.update_yaxes(title_text=table.over)
    side = max(_CELL * len(names), _NARROWEST)
    frame = Frame(
        *heading,
        width=side,
        height=max(int(side * 0.8), _LOWEST),
        margin_left=138,
        margin_right=130,
        margin_bottom=130,
        banner=_DAGGER if any(flagged) else "",
        shrinks=1.0,
    )
    return finish(figure, frame, theme)


def stars(q: float) -> str:
    """``***``, ``**``, ``*`` or nothing for a corrected p-value below 0.001, 0.01 or 0.05."""
    return next((mark for mark, limit in (("***", 0.001), ("**", 0.01), ("*", 0.05)) if q < limit), "")


def _triangles(table: OverlapTable, names: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    lower, upper = _blank(len(names)), _blank(len(names))
    for i, task in enumerate(table.tasks):
        own = table.stability[task]["mean"]
        if np.isnan(own):
            lower["hover"][i][i] = f"<b>{plain(names[i])}</b><br>no prompts to halve: from weights alone"
            continue
        lower["z"][i][i], lower["text"][i][i] = rounded(own), f"<i>{own:.2f}</i>"
        limits = _limits_text(table.stability[task])
        lower["hover"][i][i] = f"<b>{plain(names[i])}</b><br>two halves of its own prompts: Jaccard {own:.2f} ({limits})"
    for row in table.rows:
        i, j = sorted((table.tasks.index(row.task_a), table.tasks.index(row.task_b)))
        found, excess = row.jaccard, row.jaccard["mean"] - row.null_mean
        told = (
            f"<b>{plain(names[i])}</b> and <b>{plain(names[j])}</b><br>Jaccard {found['mean']:.3f} ({_limits_text(found)})"
            f"{_corrected_text(row.corrected['jaccard'])}"
            f"<br>by chance {row.null_mean:.3f}, at most {row.null_high:.3f} in 95 % of draws<br>q = {row.q:.2g}"
        )
        lower["z"][j][i], upper["z"][i][j] = rounded(found["mean"]), rounded(excess)
        lower["text"][j][i] = f"{found['mean']:.2f}<br>{_SMALL}{_limits_text(found)}<br>chance {row.null_mean:.2f}</span>"
        upper["text"][i][j] = f"{excess:+.2f}<br>{stars(row.q) or 'ns'}"
        lower["hover"][j][i] = upper["hover"][i][j] = told
    return lower, upper


def _blank(n: int) -> dict[str, Any]:
    """Empty ``z``, ``text`` and ``hover`` of a square of n by n cells."""
    return {key: [[empty] * n for _ in range(n)] for key, empty in (("z", None), ("text", ""), ("hover", ""))}


def _corrected_text(value: float) -> str:
    return "" if np.isnan(value) else f"<br>corrected for noise {value:.3f}"


def _limits_text(found: Mapping[str, float]) -> str:
    """``0.12 to 0.34``."""
    if np.isnan(found["low"]) or np.isnan(found["high"]):
        return "no interval"
    return f"{found['low']:.2f} to {found['high']:.2f}"


def _heat(layer: Mapping[str, Any], axis: str, name: str) -> go.Heatmap:
    """Cells of one triangle on their own colour axis, with their text written in."""
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


def _side_bar(title: str, low: float, high: float, top: float) -> dict[str, Any]:
    """A colour axis with a short bar whose upper end is at ``top``; centred on 0 where it spans it."""
    bar = {"title": {"text": title + "<br> <br> ", "side": "top", "font": {"size": 11}}, "len": 0.46, "y": top, "yanchor": "top"}
    bar |= {"thickness": 12, "x": 1.03, "outlinewidth": 0, "tickfont": {"size": 11}, "ticks": ""}
    bar |= {"tickvals": rounded([low, (low + high) / 2, high]), "tickformat": ".2~f"}
    middle = {"cmid": 0} if low < 0 else {}
    return {"cmin": rounded(low), "cmax": rounded(high), "autocolorscale": True, "colorbar": bar} | middle
