"""What the explorer's page of a study shows beside scores: attention, roles, and cards of the strongest heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from circuitlab.studies.analyses.base import select_cells
from circuitlab.studies.types import Analysis, AnalysisCell, AnalysisContext, AnalysisResult, StudyFigure

if TYPE_CHECKING:
    from circuitlab.studies.types import StudySpec

__all__ = ["Explorer"]

Count = Annotated[int, msgspec.Meta(ge=0)]


class Explorer(Analysis, frozen=True, forbid_unknown_fields=True):
    """Measure what ``explorer.html`` shows and scores do not say.

    Parameters
    ----------
    tasks, methods : tuple of str
        Tasks and methods whose runs are read; all of the study by default.
    measure : tuple of str
        What is measured: names of `circuitlab.explorer.measurements.MEASURES`.
    shown : int
        Pairs of each task whose attention is stored.
    cards : int
        Heads of each task with a card: the strongest by the first method.
    """

    name: ClassVar[str] = "explorer"
    title: ClassVar[str] = "What are these heads?"
    about: ClassVar[str] = (
        "explorer.html, beside this report, shows every head: its scores with their intervals, where it looks, what it writes, its roles, "
        "and the circuits that it is part of."
    )
    place: ClassVar[int] = 95
    version: ClassVar[int] = 3

    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    measure: tuple[str, ...] = ("attention", "roles", "cards")
    shown: Count = 2
    cards: Count = 2

    def cells(self, study: StudySpec) -> list[AnalysisCell]:
        """One cell for the whole page; what it measures is kept head by head and task by task."""
        from circuitlab.explorer.measurements import measured_parts  # noqa: PLC0415

        measured_parts(self.measure)
        cells = select_cells(study, self.tasks, self.methods)
        return [AnalysisCell(self, "", tuple(cells), 400.0 * len(cells))]

    def run(self, context: AnalysisContext) -> dict[str, Any]:
        """Measure and store, and return the names of what a page reads."""
        from circuitlab.explorer.measurements import Measure  # noqa: PLC0415
        from circuitlab.explorer.stored import page_records  # noqa: PLC0415

        scores = [run.scores for run in context.runs]
        prompts = {run.scores.provenance.task.digest: run.cell.task.id for run in context.runs}
        refused = Measure(context.model, context.store, self.shown, self.cards)(scores, prompts, self.measure)
        return {"records": page_records(context.store, scores), "refused": refused}

    def draw(self, results: Sequence[AnalysisResult]) -> list[StudyFigure]:
        """Nothing: the page is a file of its own."""
        del results
        return []
