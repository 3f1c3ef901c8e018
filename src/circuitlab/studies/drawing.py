"""A figure of a study, with what it was drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuitlab.studies.collect import Run

__all__ = ["Drawing"]


@dataclass(frozen=True)
class Drawing:
    """A figure with its file name stem, its kind, and the runs it was drawn from.

    ``kind`` is one of ``heatmap``, ``top_heads``, ``overlap``, ``upset``, ``fitness`` and ``methods``, or the name of an analysis.
    ``told`` is one plain sentence on how to read it, and ``records`` are the ids of the analysis records it was drawn from.
    """

    name: str
    kind: str
    figure: go.Figure
    runs: tuple[Run, ...]
    told: str = ""
    records: tuple[str, ...] = ()
