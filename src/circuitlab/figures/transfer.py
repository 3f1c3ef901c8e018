"""Circuits on each other's tasks, with random circuits and the heads that all circuits share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from circuitlab.comparison.transfer import TransferCell, TransferTable
from circuitlab.core.errors import BadParameterError
from circuitlab.figures.frame import Frame, finish, plain, rounded, symmetric_limit, wrapped
from circuitlab.figures.overlap import stars
from circuitlab.figures.theme import NEUTRAL, Theme

__all__ = ["transfer_matrix"]

_CELL = 88


def transfer_matrix(
    table: TransferTable,
    *,
    titles: Mapping[str, str] | None = None,
    title: str = "Does the circuit of one task carry another?",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Faithfulness of every circuit (row) on every task (column), with random circuits and the heads in all circuits in two rows below.

    Parameters
    ----------
    table : TransferTable
        Result of `circuitlab.comparison.transfer.transfer_table`.
    titles : mapping of str to str, optional
        Names to print for the tasks.
    title, subtitle : str
        Heading; if not given, the subtitle gives pairs, ablation and random circuits.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        Colour is faithfulness minus the mean of random circuits of the same size, so that the neutral colour is chance. Numbers are the
        faithfulness with its 95 % interval; stars show the corrected p-value against random circuits. Outlined cells are the task's own
        circuit.

    Raises
    ------
    BadParameterError
        If no task could be evaluated.
    """
    if not table.tasks:
        what = f"No task could be evaluated: {'; '.join(table.left_out.values()) or 'the table is empty'}."
        raise BadParameterError(what, "Evaluate tasks on which ablating everything changes the metric.")
    names = [dict(titles or {}).get(name, name) for name in table.tasks]
    n = len(names)
    rows = [[_cell(table.cell(circuit, task), names, table) for task in table.tasks] for circuit in table.tasks]
    rows += [[_random(table.cell(task, task), table) for task in table.tasks], [_shared(table, task) for task in table.tasks]]
    # A gap before the two rows that are not circuits of a task.
    places = [*map(float, range(n)), n + 0.25, n + 1.25]
    figure = go.Figure([_heat(rows[:n], places[:n], "circuits"), _heat(rows[n:], places[n:], "for comparison")])
    labels = [wrapped(name, 130, 12) for name in names]
    size = len(table.shared_heads)
    below = ["random, own size", f"shared by all<br>({size} head{'' if size == 1 else 's'})"]
    figure.update_xaxes(title_text="evaluated on", tickvals=list(range(n)), ticktext=labels, showgrid=False, zeroline=False)
    figure.update_xaxes(range=[-0.5, n - 0.5], tickangle=-35 if n > 3 else 0)  # noqa: PLR2004 - three labels fit side by side
    figure.update_yaxes(title_text="circuit of", tickvals=places, ticktext=[*labels, *below], showgrid=False, zeroline=False)
    figure.update_yaxes(range=[n + 1.75, -0.5])
    for i in range(n):
        box = {"x0": i - 0.48, "x1": i + 0.48, "y0": i - 0.48, "y1": i + 0.48}
        figure.add_shape(type="rect", line={"color": NEUTRAL, "width": 2.5}, name="own circuit", **box)
    limit = symmetric_limit([[cell["z"] or 0.0 for cell in row] for row in rows])
    figure.update_layout(coloraxis=_bar(limit))
    width = max(_CELL * n, 260)
    frame = Frame(
        title,
        subtitle or _description(table),
        width=width,
        height=int((n + 2.25) * _CELL * 0.62),
        margin_left=138,
        margin_right=120,
        margin_bottom=130,
        shrinks=1.0,
    )
    return finish(figure, frame, theme)


def _description(table: TransferTable) -> str:
    conventions, first = table.conventions, table.cells[0]
    pairs = sorted({len(scale.full) for scale in table.scales.values()})
    parts = [f"{' or '.join(map(str, pairs))} prompt pairs per task", f"other heads: {conventions.get('ablated_value', 'ablated')}"]
    return " · ".join([*parts, f"{first.random['n']:.0f} random circuits per size"])


def _cell(cell: TransferCell, names: list[str], table: TransferTable) -> dict[str, Any]:
    faithfulness, chance = cell.faithfulness, cell.random["mean"]
    circuit, task = (names[table.tasks.index(name)] for name in (cell.circuit, cell.task))
    beyond = "" if cell.p is None else f"<br>random circuits {chance:+.2f}, p = {cell.p:.2g}, q = {cell.q:.2g}"
    return {
        "z": faithfulness["mean"] - (0.0 if cell.p is None else chance),
        "text": f"{faithfulness['mean']:.2f}{'' if cell.q is None else stars(cell.q)}"
        f"<br><span style='font-size:10px'>{_limits(faithfulness)}</span>",
        "hover": f"circuit of <b>{plain(circuit)}</b> ({cell.size} heads) on <b>{plain(task)}</b>"
        f"<br>faithfulness {faithfulness['mean']:.3f} ({_limits(faithfulness)}){beyond}"
        f"<br>own circuit is better by {cell.loss['mean']:.3f} ({_limits(cell.loss)})"
        f"<br>the {cell.core_size} heads of both alone: {cell.core['mean']:.3f} ({_limits(cell.core)})",
    }


def _random(cell: TransferCell, table: TransferTable) -> dict[str, Any]:
    random = cell.random
    if not random["n"]:
        return {"z": None, "text": "none", "hover": "no random circuits were run"}
    return {
        "z": 0.0,
        "text": f"{random['mean']:.2f}<br><span style='font-size:10px'>{_limits(random)}</span>",
        "hover": f"{random['n']} random circuits of {cell.size} heads on <b>{plain(cell.task)}</b><br>mean {random['mean']:.3f},"
        f" 95 % of them {_limits(random)}<br>{plain(table.conventions.get('random_circuits', ''))}",
    }


def _shared(table: TransferTable, task: str) -> dict[str, Any]:
    shared = table.shared[task].as_dict()
    heads = ", ".join(table.shared_heads) or "no head is in every circuit"
    return {
        "z": shared["mean"],
        "text": f"{shared['mean']:.2f}<br><span style='font-size:10px'>{_limits(shared)}</span>",
        "hover": f"heads of every circuit on <b>{plain(task)}</b>: {heads}<br>faithfulness {shared['mean']:.3f} ({_limits(shared)})",
    }


def _limits(interval: Mapping[str, float]) -> str:
    if interval["low"] != interval["low"]:  # NaN: one pair has no interval
        return "no interval"
    return f"{interval['low']:.2f} to {interval['high']:.2f}"


def _heat(rows: list[list[dict[str, Any]]], places: list[float], name: str) -> go.Heatmap:
    return go.Heatmap(
        z=[[None if cell["z"] is None else rounded(cell["z"]) for cell in row] for row in rows],
        y=places,
        text=[[cell["text"] for cell in row] for row in rows],
        texttemplate="%{text}",
        textfont={"size": 13},
        hovertext=[[cell["hover"] for cell in row] for row in rows],
        hoverinfo="text",
        coloraxis="coloraxis",
        xgap=2,
        ygap=2,
        name=name,
    )


def _bar(limit: float) -> dict[str, Any]:
    bar = {
        "title": {"text": "faithfulness<br>above random<br> ", "side": "top", "font": {"size": 11}},
        "thickness": 12,
        "x": 1.03,
        "len": 0.9,
    }
    return {"cmin": -rounded(limit), "cmax": rounded(limit), "cmid": 0, "autocolorscale": True, "colorbar": bar}
