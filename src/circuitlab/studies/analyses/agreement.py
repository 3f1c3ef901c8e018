"""Method agreement: whether the methods of a study select the same heads for a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from circuitlab.core.errors import BadParameterError
from circuitlab.studies.analyses.base import number_or_nan, select_cells, unsure
from circuitlab.studies.types import Analysis, AnalysisCell, AnalysisContext, AnalysisResult, StudyFigure, Table

if TYPE_CHECKING:
    from circuitlab.comparison import OverlapTable
    from circuitlab.studies.types import StudySpec

__all__ = ["Agreement", "read_table"]

Count = Annotated[int, msgspec.Meta(ge=1)]


class Agreement(Analysis, frozen=True, forbid_unknown_fields=True):
    """Overlap of the heads that methods select on one task. No model is run.

    Parameters
    ----------
    tasks, methods : tuple of str
        Tasks and methods whose scores are read; all of the study by default. At least two methods are needed.
    top_k : int
        Number of heads that each method selects.
    """

    name: ClassVar[str] = "agreement"
    title: ClassVar[str] = "Do the methods agree?"
    about: ClassVar[str] = (
        "Each method has its own idea of what a head does. Heads that only one of them names are a statement about that method; heads that "
        "all of them name are the safer part of a circuit."
    )
    place: ClassVar[int] = 75
    version: ClassVar[int] = 2

    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    top_k: Count = 20

    def cells(self, study: StudySpec) -> list[AnalysisCell]:
        """One cell for each task."""
        groups: dict[str, list[Any]] = {}
        for cell in select_cells(study, self.tasks, self.methods):
            groups.setdefault(study.task_key(cell.task), []).append(cell)
        if (fewest := min(map(len, groups.values()))) < 2:  # noqa: PLR2004 - a pair
            what = f"Agreement needs at least two methods; study {study.id!r} has {fewest} of those named."
            raise BadParameterError(what, "Add a method to the study.")
        return [AnalysisCell(self, key, tuple(cells), 1.0) for key, cells in groups.items()]

    def run(self, context: AnalysisContext) -> dict[str, Any]:
        """The overlap table of the methods."""
        from circuitlab.circuits import TopK  # noqa: PLC0415
        from circuitlab.comparison import compare_methods  # noqa: PLC0415

        scores = {run.method_key: run.scores for run in context.runs if "heads" in run.scores.parts and run.scores.marks is None}
        k = min(self.top_k, next(iter(scores.values())).values("heads")[0].size)
        return compare_methods(scores, TopK(k)).to_dict()

    def draw(self, results: Sequence[AnalysisResult]) -> list[StudyFigure]:
        """One matrix per task."""
        from circuitlab.figures import method_agreement  # noqa: PLC0415 - plotly
        from circuitlab.figures.overlap import overlap_scale  # noqa: PLC0415

        caption = (
            "Below the diagonal the overlap of the picked heads, above it how far that exceeds chance; stars are corrected over the pairs "
            "of methods of one task."
        )
        tables = [read_table(result.result) for result in results]
        scale = overlap_scale(tables) if tables else None
        drawings = []
        for result, table in zip(results, tables, strict=True):
            figure = method_agreement(table, title=f"{result.runs[0].title}: do the methods agree?", scale=scale)
            drawings.append(StudyFigure(f"agreement.{result.cell.key}", "agreement", figure, result.runs, caption, (result.record_id,)))
        return drawings

    def table(self, results: Sequence[AnalysisResult]) -> Table:
        """One row per task and pair of methods."""
        headings = ("Task", "Method", "Other method", "Jaccard", "By chance", "q", "Shared heads")
        rows = [
            (result.runs[0].title, row["task_a"], row["task_b"], unsure(row["jaccard"]), row["null_mean"], row["q"], _shared(row))
            for result in results
            for row in result.result["pairs"]
        ]
        return Table(headings, tuple(rows))


def _shared(row: Mapping[str, Any]) -> str:
    return ", ".join(row["shared"]) or "none"


def _corrected(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: number_or_nan(value) for name, value in row["corrected"].items()}


def read_table(data: Mapping[str, Any]) -> OverlapTable:
    """Read the overlap table that `OverlapTable.to_dict` wrote."""
    from circuitlab.circuits import Circuit  # noqa: PLC0415
    from circuitlab.comparison import OverlapTable, PairRow  # noqa: PLC0415
    from circuitlab.comparison.stored import with_nan  # noqa: PLC0415

    plain = with_nan(dict(data))
    return OverlapTable(
        tasks=tuple(plain["circuits"]),
        rows=tuple(msgspec.convert(row | {"corrected": _corrected(row)}, PairRow) for row in plain["pairs"]),
        circuits={name: Circuit.from_dict(circuit) for name, circuit in plain["circuits"].items()},
        stability=plain["stability"],
        rule=plain["rule"],
        method=plain["method"],
        model=plain["model"],
        notes=tuple(plain["notes"]),
        over=plain.get("over", "method"),
    )
