"""Ablation sensitivity: whether the verdict on a circuit depends on how everything outside it is ablated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec

from circuitlab.studies.analyses.base import compared_cells, unsure
from circuitlab.studies.types import Analysis, AnalysisCell, AnalysisContext, AnalysisResult, StudyFigure, Table

if TYPE_CHECKING:
    from circuitlab.studies.types import StudySpec

__all__ = ["Sensitivity"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Number = Annotated[int, msgspec.Meta(ge=0)]


class Sensitivity(Analysis, frozen=True, forbid_unknown_fields=True):
    """Run each task's circuit under several ablations.

    Parameters
    ----------
    tasks : tuple of str
        Tasks; all of the study by default.
    method : str, optional
        Method whose scores circuits are selected from; by default that of ``[compare]``, or the study's first.
    top_k : int, optional
        Number of heads in each circuit; by default as in ``[compare]``, or 20.
    n : int
        Number of pairs of each task that were not scored.
    ablations : tuple of str
        Ablations to compare. All except resampling run whole prompts and cost more.
    n_random : int
        Number of random circuits.
    """

    name: ClassVar[str] = "sensitivity"
    title: ClassVar[str] = "Do these verdicts depend on the ablation?"
    about: ClassVar[str] = (
        "A circuit is faithful only against what the rest of the model is given. The same circuit is run with the rest set to the corrupt "
        "prompt's values, to means, and to zero; a verdict that flips says more about the ablation than about the circuit."
    )
    place: ClassVar[int] = 65
    choices: ClassVar[tuple[str, ...]] = ("tasks", "method")

    tasks: tuple[str, ...] = ()
    method: str | None = None
    top_k: Count | None = None
    n: Count = 8
    ablations: tuple[Literal["resample", "zero", "mean", "mean_by_mark", "mean_by_template"], ...] = ("resample", "mean", "zero")
    n_random: Number = 20

    def cells(self, study: StudySpec) -> list[AnalysisCell]:
        """One cell for each task."""
        cells = compared_cells(study, self.tasks, self.method, least=1)
        cost = float(len(self.ablations) * (3 + self.n_random) * self.n)
        return [AnalysisCell(self, study.slug(cell), (cell,), cost) for cell in cells]

    def run(self, context: AnalysisContext) -> dict[str, Any]:
        """The card of one task."""
        from circuitlab.circuits import TopK  # noqa: PLC0415
        from circuitlab.workflows.functional import FunctionalComparison  # noqa: PLC0415 - torch

        (run,) = context.runs
        compared = context.study.compare
        rule = TopK(self.top_k or (compared.top_k if compared else 20), by=compared.by if compared else "absolute")  # type: ignore[arg-type]
        compare = FunctionalComparison(pairs=self.n, n_random=self.n_random, seed=context.study.seed)
        scores = {run.task_key: run.scores}
        return compare.sensitivity(context.model, scores, {run.task_key: rule(run.scores)}, context.store, self.ablations).to_dict()

    def draw(self, results: Sequence[AnalysisResult]) -> list[StudyFigure]:
        """One figure with a row for each task."""
        from circuitlab.comparison.sensitivity import SensitivityCard  # noqa: PLC0415
        from circuitlab.figures import sensitivity_dots  # noqa: PLC0415 - plotly

        cards = [SensitivityCard.from_dict(result.result) for result in results]
        if not cards:
            return []
        whole = SensitivityCard(
            ablations=cards[0].ablations,
            rows=tuple(row for card in cards for row in card.rows),
            verdicts={task: verdict for card in cards for task, verdict in card.verdicts.items()},
            values={},
            threshold=cards[0].threshold,
            conventions=cards[0].conventions,
        )
        runs = tuple(run for result in results for run in result.runs)
        figure = sensitivity_dots(whole, titles={run.task_key: run.title for run in runs})
        caption = "One row of dots per task: where they lie apart, the ablation decides how faithful the circuit looks."
        return [StudyFigure("sensitivity", "sensitivity", figure, runs, caption, tuple(result.record_id for result in results))]

    def table(self, results: Sequence[AnalysisResult]) -> Table:
        """One row per task and ablation."""
        headings = ("Task", "Ablation", "Heads", "Faithfulness", "p", "Recovery", "Verdict")
        rows = []
        for result in results:
            titles = {run.task_key: run.title for run in result.runs}
            for row in result.result["rows"]:
                share = unsure(row["faithfulness"]) if row["faithfulness"] else None
                verdict = result.result["verdicts"][row["task"]]
                rows.append((titles[row["task"]], row["ablation"], row["size"], share, row["p"], row["recovery"], verdict))
        return Table(headings, tuple(rows))
