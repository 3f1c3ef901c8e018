"""Do methods agree on the heads of one task? Overlap of the heads that each picks, beside what chance would give."""

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
    """Jaccard index of two methods' lists below the diagonal, what it exceeds chance by above it.

    Rank correlation over all heads is no answer to the question: most heads score near zero by every method, and their order is noise.

    Parameters
    ----------
    table : OverlapTable
        From `circuitlab.comparison.compare_methods`; also of `compare_models`.
    titles : mapping of str to str, optional
        What to print for a method's name.
    title, subtitle : str
        Heading; the subtitle says model and rule otherwise.
    scale : tuple of float, optional
        Ends of the two colour scales, from `circuitlab.figures.overlap.overlap_scale` of all matrices that are read side by side.
    theme : {"light", "dark"}
        Template.

    Returns
    -------
    Figure
        As `overlap_matrix` of tasks: stars are those of q, corrected over the pairs of methods.
    """
    shown = {name: name.replace("_", " ") for name in table.tasks} | dict(titles or {})
    said = subtitle or f"{table.model} · {table.rule}"
    return overlap_matrix(table, titles=shown, title=title, subtitle=said, scale=scale, theme=theme)
