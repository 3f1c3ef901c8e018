"""Do methods agree on the heads of one task? Overlap of their lists and correlation of their whole score maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from circuitlab.comparison import OverlapTable
from circuitlab.figures.frame import plain, rounded
from circuitlab.figures.overlap import blank, grid_figure, heat, limits_text, side_bar, stars
from circuitlab.figures.theme import Theme

__all__ = ["method_agreement"]


def method_agreement(
    table: OverlapTable,
    *,
    titles: Mapping[str, str] | None = None,
    title: str = "Do the methods agree?",
    subtitle: str = "",
    theme: Theme = "light",
) -> go.Figure:
    """Jaccard index of two methods' lists below the diagonal, Spearman correlation of their score maps above it.

    Parameters
    ----------
    table : OverlapTable
        From `circuitlab.comparison.compare_methods`; also of `compare_models`.
    titles : mapping of str to str, optional
        What to print for a method's name.
    title, subtitle : str
        Heading; the subtitle says model and rule otherwise.
    theme : {"light", "dark"}
        Template.

    Returns
    -------
    Figure
        Each cell has the 95 % interval and the mean under its null model: of the Jaccard index, each list keeping its number of heads in
        every layer; of the correlation of magnitudes, scores exchanged within a layer. Stars below are those of q, above those of the
        permutation test (* < 0.05, ** < 0.01, *** < 0.001). Diagonal, in italics: Jaccard index of two halves of the prompts.
    """
    shown = dict(titles or {})
    names = [shown.get(name, name.replace("_", " ")) for name in table.tasks]
    lower, upper = _triangles(table, names)
    figure = go.Figure([heat(lower, "coloraxis", "Jaccard"), heat(upper, "coloraxis2", "Spearman")])
    figure.update_layout(
        coloraxis=side_bar("Jaccard<br>(below diagonal)", 0, 1, 0.5),
        coloraxis2=side_bar("Spearman<br>(above diagonal)", -1, 1, 1.0),
    )
    said = subtitle or f"{table.model} · {table.rule}"
    return grid_figure(figure, table, names, (title, said), theme)


def _triangles(table: OverlapTable, names: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    lower, upper = blank(len(names)), blank(len(names))
    for i, method in enumerate(table.tasks):
        own = table.stability[method]["mean"]
        lower["z"][i][i], lower["text"][i][i] = rounded(own), f"<i>{own:.2f}</i>"
        told = f"<b>{plain(names[i])}</b><br>two halves of the prompts: Jaccard {own:.2f} ({limits_text(table.stability[method])})"
        lower["hover"][i][i] = told
    for row in table.rows:
        i, j = sorted((table.tasks.index(row.task_a), table.tasks.index(row.task_b)))
        rank = row.nulls["spearman"]["within_layer_scores"]
        who = f"<b>{plain(names[i])}</b> and <b>{plain(names[j])}</b>"
        for layer, place, found, chance, p in (
            (lower, (j, i), row.jaccard, row.null_mean, row.q),
            (upper, (i, j), row.spearman, rank["mean"], row.spearman_p),
        ):
            y, x = place
            what = "Jaccard" if layer is lower else "Spearman"
            layer["z"][y][x] = rounded(found["mean"])
            small = f"<span style='font-size:10px'>{limits_text(found)}<br>chance {chance:.2f}</span>"
            layer["text"][y][x] = f"{found['mean']:.2f} {stars(p)}<br>{small}"
            sure = f"{'q' if layer is lower else 'p'} = {p:.2g}"
            noiseless = f"corrected for noise {row.corrected[what.lower()]:.3f}"
            hover = f"{who}<br>{what} {found['mean']:.3f} ({limits_text(found)})<br>{noiseless}<br>by chance {chance:.3f}<br>{sure}"
            layer["hover"][y][x] = hover
    return lower, upper
