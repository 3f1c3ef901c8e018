"""Whether methods agree on the heads of one task: overlap of the heads that each selects, and the overlap by chance."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from circuitlab.comparison import OverlapTable
from circuitlab.figures.overlap import overlap_matrix
from circuitlab.figures.theme import Theme

__all__ = ["method_agreement"]


def method_agreement(
    table: OverlapTable,
    *,
    titles: Mapping[str, str] | None = None,
    title: str = "Do the methods agree?",
    subtitle: str = "",
    scale: tuple[float, float] | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """Jaccard index of the heads that two methods select below the diagonal, and its excess over chance above the diagonal.

    A rank correlation over all heads would not show agreement: most heads score near zero by every method, and their order is noise.

    Parameters
    ----------
    table : OverlapTable
        Result of `circuitlab.comparison.compare_methods` or `compare_models`.
    titles : mapping of str to str, optional
        Names to print for the methods.
    title, subtitle : str
        Heading; if not given, the subtitle gives model and rule.
    scale : tuple of float, optional
        Ends of the two colour scales, from `circuitlab.figures.overlap.overlap_scale` of all matrices that are read side by side.
    theme : {"light", "dark"}
        Colour theme.

    Returns
    -------
    Figure
        As `overlap_matrix` for tasks, with q corrected over all pairs of methods.
    """
    names = {name: name.replace("_", " ") for name in table.tasks} | dict(titles or {})
    description = subtitle or f"{table.model} · {table.rule}"
    return overlap_matrix(table, titles=names, title=title, subtitle=description, scale=scale, theme=theme)
