"""Transfer and double dissociation: run every task's circuit on every other task, and ablate the heads of one task only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec

from circuitlab.studies.analyses.base import compared_cells, unsure
from circuitlab.studies.types import Analysis, AnalysisCell, AnalysisContext, AnalysisResult, StudyFigure, Table

if TYPE_CHECKING:
    from circuitlab.studies.types import StudySpec

__all__ = ["Transfer"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Number = Annotated[int, msgspec.Meta(ge=0)]


class Transfer(Analysis, frozen=True, forbid_unknown_fields=True):
    """Run circuits of heads on each other's tasks, with every other head ablated.

    Parameters
    ----------
    tasks : tuple of str
        At least two tasks; all of the study by default.
    method : str, optional
        Method whose scores circuits are selected from; by default that of ``[compare]``, or the study's first.
    top_k : int, optional
        Number of heads in each circuit; by default as in ``[compare]``, or 20.
    n : int
        Number of pairs of each task that were not scored.
    ablation : str
        The value of a head outside a circuit.
    n_random : int
        Number of random circuits.
    """

    name: ClassVar[str] = "transfer"
    title: ClassVar[str] = "Do the circuits do each other's work?"
    about: ClassVar[str] = (
        "Names of heads may coincide while their work differs, and the other way round. So each task's circuit is run on every other task, "
        "on fresh prompts, with all other heads ablated; and the heads of one task alone are ablated to see which task suffers."
    )
    place: ClassVar[int] = 60
    choices: ClassVar[tuple[str, ...]] = ("tasks", "method")

    tasks: tuple[str, ...] = ()
    method: str | None = None
    top_k: Count | None = None
    n: Count = 16
    ablation: Literal["resample", "zero", "mean", "mean_by_mark", "mean_by_template"] = "resample"
    n_random: Number = 50

    def cells(self, study: StudySpec) -> list[AnalysisCell]:
        """One cell for all tasks, which share random circuits and the correction for multiple tests."""
        cells = compared_cells(study, self.tasks, self.method)
        runs = 5 * len(cells) + self.n_random
        return [AnalysisCell(self, study.method_key(cells[0].method), cells, float(len(cells) * runs * self.n))]

    def run(self, context: AnalysisContext) -> dict[str, Any]:
        """The transfer table with the dissociations, and the rule that selected circuits."""
        from circuitlab.circuits import TopK  # noqa: PLC0415
        from circuitlab.workflows.functional import FunctionalComparison  # noqa: PLC0415 - torch

        compared = context.study.compare
        rule = TopK(self.top_k or (compared.top_k if compared else 20), by=compared.by if compared else "absolute")  # type: ignore[arg-type]
        scores = {run.task_key: run.scores for run in context.runs}
        circuits = {name: rule(task_scores) for name, task_scores in scores.items()}
        compare = FunctionalComparison(pairs=self.n, ablation=self.ablation, n_random=self.n_random, seed=context.study.seed)
        return compare(context.model, scores, circuits, context.store).to_dict() | {"rule": next(iter(circuits.values())).rule}

    def draw(self, results: Sequence[AnalysisResult]) -> list[StudyFigure]:
        """The transfer matrix and the dissociation bars."""
        return [drawing for result in results for drawing in _drawings(result)]

    def table(self, results: Sequence[AnalysisResult]) -> Table:
        """One row per circuit and task."""
        headings = ("Circuit of", "Evaluated on", "Heads", "Faithfulness", "Loss against own circuit", "Shared heads alone", "p", "q")
        rows = []
        for result in results:
            titles = {run.task_key: run.title for run in result.runs}
            for cell in result.result["cells"]:
                measured = (unsure(cell[name]) for name in ("faithfulness", "loss", "core"))
                rows.append((titles[cell["circuit"]], titles[cell["task"]], cell["size"], *measured, cell["p"], cell["q"]))
        return Table(headings, tuple(rows))


def _drawings(analysis_result: AnalysisResult) -> list[StudyFigure]:
    from circuitlab import figures  # noqa: PLC0415 - plotly
    from circuitlab.comparison.dissociation import DissociationTable  # noqa: PLC0415
    from circuitlab.comparison.transfer import TransferTable  # noqa: PLC0415

    titles = {run.task_key: run.title for run in analysis_result.runs}
    table = TransferTable.from_dict(analysis_result.result)
    pairs = DissociationTable.from_dict(analysis_result.result["dissociation"])
    drawings = []
    if table.tasks:
        caption = (
            "Read a row to see where one task's circuit works: the neutral colour is what random circuits of the same size reach, and "
            "outlined cells are circuits on their own task."
        )
        drawings.append((f"transfer.{analysis_result.cell.key}", figures.transfer_matrix(table, titles=titles), caption))
    if pairs.rows:
        caption = "A double dissociation is a crossing: each task falls without its own heads, and not without the other's."
        rows = sorted(pairs.rows, key=lambda row: row.p)
        drawings.append(
            (
                f"dissociation.{analysis_result.cell.key}",
                figures.dissociation_bars(rows, titles=titles),
                caption + _left_out(analysis_result.result),
            )
        )
    return [
        StudyFigure(name, "transfer", figure, analysis_result.runs, caption, (analysis_result.record_id,))
        for name, figure, caption in drawings
    ]


def _left_out(result: Mapping[str, Any]) -> str:
    return "".join(f" {task} is left out: {reason}" for task, reason in result["left_out"].items())
