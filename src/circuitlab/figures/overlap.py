"""Overlap of the circuits of several tasks, and the overlap by chance."""

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
"""Size of a cell, and smallest width and height of the square in pixels: two colour bars must fit beside it."""
_SMALL = "<span style='font-size:10px'>"
_DAGGER = "† not ready: the model is not shown to do this task, so its heads may be no circuit for it."


def overlap_matrix(
    table: OverlapTable,
    *,
    titles: Mapping[str, str] | None = None,
    title: str = "Are they the same heads?",
    subtitle: str = "",
    scale: tuple[float, float] | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """Observed Jaccard index below the diagonal, its excess over chance above the diagonal, and each task's own stability on the diagonal.

    Parameters
    ----------
    table : OverlapTable
        Result of `circuitlab.comparison.compare_tasks`.
    titles : mapping of str to str, optional
        Names to print for the tasks.
    title, subtitle : str
        Heading; if not given, the subtitle gives model, method and rule.
    scale : tuple of float, optional
        Ends of the two colour scales, from `overlap_scale` of all matrices that are read side by side.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        Below the diagonal: Jaccard index of the two circuits with its 95 % interval, and the mean of the null model. Above: Jaccard index
        minus that mean, with stars for the corrected p-value (* q < 0.05, ** q < 0.01, *** q < 0.001). On the diagonal, in italics: Jaccard
        index of the circuits of two random halves of the task's own prompts, empty for scores from weights alone. A dagger marks tasks that
        the model cannot do.
    """
    by_name = dict(titles or {})
    names = [by_name.get(name, name) for name in table.tasks]
    lower, upper = _triangles(table, names)
    figure = go.Figure([_heat(lower, "coloraxis", "observed"), _heat(upper, "coloraxis2", "above chance")])
    highest, excess = scale or overlap_scale([table])
    figure.update_layout(
        coloraxis=_side_bar("Jaccard<br>(below diagonal)", 0, highest, 0.5),
        coloraxis2=_side_bar("above chance<br>(above diagonal)", -excess, excess, 1.0),
    )
    description = subtitle or f"{table.model} · {table.method.replace('_', ' ')} · {table.rule}"
    return _square(figure, table, names, (title, description), theme)


def overlap_scale(tables: Iterable[OverlapTable]) -> tuple[float, float]:
    """Common ends of the two colour scales of several matrices: the highest Jaccard index, and the largest distance from chance."""
    tables = list(tables)
    observed = [row.jaccard["mean"] for table in tables for row in table.rows]
    observed += [stability["mean"] for table in tables for stability in table.stability.values() if not np.isnan(stability["mean"])]
    beyond = [abs(row.jaccard["mean"] - row.null_mean) for table in tables for row in table.rows]
    return rounded(max(0.5, *observed)), rounded(max(0.1, *beyond))


def _square(figure: go.Figure, table: OverlapTable, names: list[str], heading: tuple[str, str], theme: Theme) -> go.Figure:
    """Set axes, size and heading (title, subtitle) of the square; names of tasks that the model cannot do get a dagger."""
    flagged = [not table.circuits[name].ready for name in table.tasks]
    daggers = [" †" if near else "" for near in flagged]
    labels = [wrapped(name, 130, 12) + dagger for name, dagger in zip(names, daggers, strict=True)]
    below = [wrapped(name, _CELL, 12) + dagger for name, dagger in zip(names, daggers, strict=True)]
    places = list(range(len(names)))
    turned = len(names) > 3  # noqa: PLR2004 - up to three labels fit side by side if they are wrapped
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
    """``***``, ``**`` or ``*`` for a corrected p-value below 0.001, 0.01 or 0.05, and an empty string for a larger one."""
    return next((mark for mark, limit in (("***", 0.001), ("**", 0.01), ("*", 0.05)) if q < limit), "")


def _triangles(table: OverlapTable, names: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    lower, upper = _blank(len(names)), _blank(len(names))
    for i, task in enumerate(table.tasks):
        stability = table.stability[task]["mean"]
        if np.isnan(stability):
            lower["hover"][i][i] = f"<b>{plain(names[i])}</b><br>no prompts to halve: from weights alone"
            continue
        lower["z"][i][i], lower["text"][i][i] = rounded(stability), f"<i>{stability:.2f}</i>"
        limits = _limits_text(table.stability[task])
        lower["hover"][i][i] = f"<b>{plain(names[i])}</b><br>two halves of its own prompts: Jaccard {stability:.2f} ({limits})"
    for row in table.rows:
        i, j = sorted((table.tasks.index(row.task_a), table.tasks.index(row.task_b)))
        observed, excess = row.jaccard, row.jaccard["mean"] - row.null_mean
        hover = (
            f"<b>{plain(names[i])}</b> and <b>{plain(names[j])}</b><br>Jaccard {observed['mean']:.3f} ({_limits_text(observed)})"
            f"{_corrected_text(row.corrected['jaccard'])}"
            f"<br>by chance {row.null_mean:.3f}, at most {row.null_high:.3f} in 95 % of draws<br>q = {row.q:.2g}"
        )
        lower["z"][j][i], upper["z"][i][j] = rounded(observed["mean"]), rounded(excess)
        lower["text"][j][i] = f"{observed['mean']:.2f}<br>{_SMALL}{_limits_text(observed)}<br>chance {row.null_mean:.2f}</span>"
        upper["text"][i][j] = f"{excess:+.2f}<br>{stars(row.q) or 'ns'}"
        lower["hover"][j][i] = upper["hover"][i][j] = hover
    return lower, upper


def _blank(n: int) -> dict[str, Any]:
    """Empty ``z``, ``text`` and ``hover`` of n by n cells."""
    return {key: [[empty] * n for _ in range(n)] for key, empty in (("z", None), ("text", ""), ("hover", ""))}


def _corrected_text(value: float) -> str:
    """A line of hover text with the value corrected for noise; empty if it is not known."""
    return "" if np.isnan(value) else f"<br>corrected for noise {value:.3f}"


def _limits_text(interval: Mapping[str, float]) -> str:
    """The limits of an interval in words: ``0.12 to 0.34``."""
    if np.isnan(interval["low"]) or np.isnan(interval["high"]):
        return "no interval"
    return f"{interval['low']:.2f} to {interval['high']:.2f}"


def _heat(layer: Mapping[str, Any], axis: str, name: str) -> go.Heatmap:
    """The cells of one triangle on a colour axis, with their text written in."""
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
    """A colour axis with a short colour bar whose upper end is at ``top``; centred on 0 if ``low`` is negative."""
    bar = {"title": {"text": title + "<br> <br> ", "side": "top", "font": {"size": 11}}, "len": 0.46, "y": top, "yanchor": "top"}
    bar |= {"thickness": 12, "x": 1.03, "outlinewidth": 0, "tickfont": {"size": 11}, "ticks": ""}
    bar |= {"tickvals": rounded([low, (low + high) / 2, high]), "tickformat": ".2~f"}
    middle = {"cmid": 0} if low < 0 else {}
    return {"cmin": rounded(low), "cmax": rounded(high), "autocolorscale": True, "colorbar": bar} | middle
