"""The method scoreboard: grades of a study's methods on models whose circuit is known by construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from circuitlab.studies.analyses.base import unsure
from circuitlab.studies.types import Analysis, AnalysisCell, AnalysisContext, AnalysisResult, StudyFigure, Table

if TYPE_CHECKING:
    from circuitlab.studies.types import StudySpec

__all__ = ["Planted"]

Count = Annotated[int, msgspec.Meta(ge=1)]


class Planted(Analysis, frozen=True, forbid_unknown_fields=True):
    """Grade methods on planted models; no weights are needed.

    Parameters
    ----------
    methods : tuple of str
        Methods to grade; those of the study by default.
    models : tuple of str
        Planted models; all by default.
    seeds, pairs : int
        Number of sets of prompts, and of pairs in each.
    """

    name: ClassVar[str] = "planted"
    title: ClassVar[str] = "Do these methods find what is there?"
    about: ClassVar[str] = (
        "Every method is run on small transformers that were wired by hand, so that the true heads are known. 1 means that all true heads "
        "come first, 0.5 is chance."
    )
    place: ClassVar[int] = 90

    methods: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    seeds: Count = 5
    pairs: Count = 8

    def cells(self, study: StudySpec) -> list[AnalysisCell]:
        """One cell for each method."""
        from circuitlab.methods import get_method  # noqa: PLC0415

        names = self.methods or list(dict.fromkeys(entry.name for entry in study.methods))
        for name in names:
            get_method(name)
        return [AnalysisCell(self, name, (), 60.0 * self.seeds * self.pairs) for name in dict.fromkeys(names)]

    def run(self, context: AnalysisContext) -> dict[str, Any]:
        """Grade one method on every planted model."""
        from circuitlab.core.progress import step  # noqa: PLC0415
        from circuitlab.workflows.planted import scoreboard  # noqa: PLC0415 - torch

        rows = scoreboard([context.cell.key], self.models, seeds=self.seeds, pairs=self.pairs, progress=step)
        return {"rows": [msgspec.to_builtins(row) for row in rows]}

    def draw(self, results: Sequence[AnalysisResult]) -> list[StudyFigure]:
        """The scoreboard."""
        from circuitlab.figures import scoreboard_table  # noqa: PLC0415 - plotly

        rows = [row | {"auroc": unsure(row["auroc"])} for result in results for row in result.result["rows"]]
        if not rows:
            return []
        subtitle = f"AUROC of the true nodes, mean and 95 % interval over {self.seeds} sets of {self.pairs} prompt pairs"
        caption = "A grey number is a circuit that the method cannot see by what it does, with the reason below the table."
        return [
            StudyFigure(
                "planted", "planted", scoreboard_table(rows, subtitle=subtitle), (), caption, tuple(result.record_id for result in results)
            )
        ]

    def table(self, results: Sequence[AnalysisResult]) -> Table:
        """One row per method and planted model."""
        headings = ("Planted model", "Method", "AUROC", "Average precision", "Precision at k", "Sign accuracy", "Visible")
        measures = ("auroc", "average_precision", "precision_at_k", "sign_accuracy")
        rows = [
            (row["model"], row["method"], *(unsure(row[name]) for name in measures), "yes" if row["visible"] else row["reason"])
            for result in results
            for row in result.result["rows"]
        ]
        return Table(headings, tuple(rows))
