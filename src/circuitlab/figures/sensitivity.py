"""The ablation-sensitivity card: the same circuits under several ablations, and whether the verdicts agree."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from circuitlab.comparison.sensitivity import SensitivityCard, SensitivityRow
from circuitlab.core.errors import BadParameterError
from circuitlab.figures.frame import Frame, finish, plain, rounded, wrapped
from circuitlab.figures.theme import NEUTRAL, Theme, shared_template

__all__ = ["sensitivity_dots"]

_SYMBOLS = {"recovers": "circle", "unclear": "circle-open", "fails": "x"}
_SPREAD = 0.62
"""Share of a task's row over which the dots of its ablations are spread."""


def sensitivity_dots(
    card: SensitivityCard,
    *,
    titles: Mapping[str, str] | None = None,
    title: str = "Does the verdict depend on the ablation?",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Faithfulness of the circuit of every task under every ablation, with intervals, and the verdict beside each task.

    Parameters
    ----------
    card : SensitivityCard
        Result of `circuitlab.comparison.sensitivity.sensitivity_card`.
    titles : mapping of str to str, optional
        Names to print for the tasks.
    title, subtitle : str
        Heading; if not given, the subtitle explains the symbols.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        One row per task, one colour per ablation. Filled dots: the interval is above the threshold (dotted line); rings: it contains the
        threshold; crosses: it is below. Grey ticks are the mean of random circuits. Row labels give the verdict: "flips", "unclear" or
        "stable".

    Raises
    ------
    BadParameterError
        If the card has no tasks.

    Examples
    --------
    >>> from circuitlab.circuits import Circuit
    >>> from circuitlab.comparison.sensitivity import sensitivity_card
    >>> from circuitlab.core.nodes import Universe
    >>> from circuitlab.evaluation import NodeCircuitRunner
    >>> from circuitlab.metrics import LogitDiff
    >>> from circuitlab.model.toy import build_planted
    >>> planted, circuit = build_planted("copy-gqa"), Circuit(["a1.h1", "a1.h2"], Universe(2, 4, 2))
    >>> given = planted.model, planted.batch(4), LogitDiff()
    >>> runs = {how: {"copy": NodeCircuitRunner(*given, ablation=how)} for how in ("resample", "zero")}
    >>> card = sensitivity_card(runs, {"copy": circuit})
    >>> figure = sensitivity_dots(card)
    >>> [row.recovery for row in card.rows], card.verdicts
    (['recovers', 'recovers'], {'copy': 'stable'})
    """
    if not card.verdicts:
        raise BadParameterError("The card has no task to draw.", "Give circuits of at least one task.")
    tasks, names = list(card.verdicts), dict(titles or {})
    colours = shared_template(theme).layout.colorway
    figure = go.Figure()
    for index, ablation in enumerate(card.ablations):
        offset = _SPREAD * (index / max(1, len(card.ablations) - 1) - 0.5) if len(card.ablations) > 1 else 0.0
        rows = [(i + offset, card.row(task, ablation)) for i, task in enumerate(tasks)]
        known = [(y, row) for y, row in rows if row.faithfulness is not None]
        colour = colours[index % len(colours)]
        figure.add_trace(_dots(known, ablation, colour, names))
        # The legend names colours alone: symbols differ from task to task.
        figure.add_scatter(x=[None], y=[None], mode="markers", marker={"size": 10, "color": colour}, name=ablation.replace("_", " "))
        figure.add_trace(_chance(known, first=not index))
    figure.add_vline(x=card.threshold, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    labels = [f"{wrapped(names.get(task, task), 150, 12)}<br><b>{card.verdicts[task]}</b>" for task in tasks]
    figure.update_yaxes(tickvals=list(range(len(tasks))), ticktext=labels, range=[len(tasks) - 0.5, -0.5], showgrid=False, zeroline=False)
    figure.update_xaxes(title_text="faithfulness (0: everything ablated, 1: full model), 95 % interval", zeroline=True)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}})
    none = [f"{row.task} ({row.ablation})" for row in card.rows if row.faithfulness is None]
    description = f"filled: interval above {card.threshold:g} (dotted) · ring: contains it · cross: below · grey: random circuits"
    frame = Frame(
        title,
        subtitle or description + (f" · no gap: {', '.join(none)}" if none else ""),
        width=560,
        height=max(120, 26 * len(card.ablations) * len(tasks) // 2 + 40 * len(tasks) // 2),
        margin_left=170,
        margin_bottom=96,
    )
    return finish(figure, frame, theme)


def _dots(rows: list[tuple[float, SensitivityRow]], ablation: str, colour: str, names: Mapping[str, str]) -> go.Scatter:
    intervals = [row.faithfulness or {} for _, row in rows]
    texts = [
        f"<b>{plain(names.get(row.task, row.task))}</b>, {ablation.replace('_', ' ')} ablation<br>faithfulness {interval['mean']:.3f}"
        f" ({interval['low']:.2f} to {interval['high']:.2f}): {row.recovery}<br>random circuits {row.random_mean:.3f}, p = {row.p:.2g}"
        f"<br>metric: full {row.full:.3g}, all ablated {row.empty:.3g}"
        for (_, row), interval in zip(rows, intervals, strict=True)
    ]
    return go.Scatter(
        x=rounded([interval["mean"] for interval in intervals]),
        y=rounded([y for y, _ in rows]),
        mode="markers",
        marker={
            "size": 10,
            "color": colour,
            "symbol": [_SYMBOLS[row.recovery] for _, row in rows],
            "line": {"width": [2 if row.recovery == "unclear" else 0 for _, row in rows]},
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "color": colour,
            "array": rounded([interval["high"] - interval["mean"] for interval in intervals]),
            "arrayminus": rounded([interval["mean"] - interval["low"] for interval in intervals]),
        },
        name=ablation.replace("_", " "),
        showlegend=False,
        hovertext=texts,
        hoverinfo="text",
    )


def _chance(rows: list[tuple[float, SensitivityRow]], *, first: bool) -> go.Scatter:
    return go.Scatter(
        x=rounded([row.random_mean for _, row in rows]),
        y=rounded([y for y, _ in rows]),
        mode="markers",
        marker={"size": 9, "symbol": "line-ns-open", "color": NEUTRAL, "line": {"width": 2}},
        name="random circuits",
        legendgroup="random",
        showlegend=first,
        hoverinfo="skip",
    )
