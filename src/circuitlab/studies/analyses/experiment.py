"""Published experiments as part of a study: verdicts on what was published, with their figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from circuitlab.studies.types import Analysis, AnalysisCell, AnalysisContext, AnalysisResult, StudyFigure, Table

if TYPE_CHECKING:
    from circuitlab.experiments.run import ExperimentRecord
    from circuitlab.studies.types import StudySpec

__all__ = ["PublishedExperiment"]

_COST = 2000.0
"""Cost of the cell relative to others of a study, for the progress bar only."""


class PublishedExperiment(Analysis, frozen=True, forbid_unknown_fields=True):
    """One experiment of `circuitlab.experiments`.

    Parameters
    ----------
    id : str
        Its name, see ``circuitlab experiment list``.
    settings : dict
        Settings other than its own.
    """

    name: ClassVar[str] = "experiment"
    title: ClassVar[str] = "What was published, and what does this model show?"
    about: ClassVar[str] = "Each claim has a rule, written before any model was measured, by which it counts as replicated."
    place: ClassVar[int] = 80

    id: str
    settings: dict[str, Any] = msgspec.field(default_factory=dict)

    def citations(self) -> tuple[str, ...]:
        """Citation keys of the experiment's papers."""
        keys: tuple[str, ...] = self._experiment().cite
        return keys

    def cells(self, study: StudySpec) -> list[AnalysisCell]:
        """One cell; its steps are stored one by one."""
        del study
        self._experiment()  # unknown names and settings are found before anything is run
        return [AnalysisCell(self, self.id, (), _COST)]

    def run(self, context: AnalysisContext) -> dict[str, Any]:
        """Run the experiment; see `circuitlab.experiments.run.run_experiment`."""
        from circuitlab.experiments.run import run_experiment  # noqa: PLC0415 - torch

        return run_experiment(context.model, self._experiment(), seed=context.study.seed, store=context.store).to_dict()

    def draw(self, results: Sequence[AnalysisResult]) -> list[StudyFigure]:
        """The figures of the experiment."""
        drawings = []
        for analysis_result in results:
            record = _record(analysis_result)
            drawings += [
                StudyFigure(
                    f"experiment.{record.experiment}.{drawing.name}",
                    "experiment",
                    drawing.figure,
                    (),
                    drawing.caption,
                    (analysis_result.record_id,),
                )
                for drawing in record.drawings()
            ]
        return drawings

    def table(self, results: Sequence[AnalysisResult]) -> Table | None:
        """One row for each claim."""
        rows = [
            (record.as_experiment().title, claim.claim, claim.published, claim.here or record.gate.reason, claim.verdict)
            for record in map(_record, results)
            for claim in record.claims
        ]
        return Table(("Experiment", "Published", "There", "Here", "Verdict"), tuple(rows)) if rows else None

    def identity(self) -> dict[str, Any]:
        """The experiment's name, version and settings."""
        return self._experiment().identity()

    def _experiment(self) -> Any:
        from circuitlab.experiments import get_experiment  # noqa: PLC0415 - loads every experiment's package

        return get_experiment(self.id, self.settings)


def _record(analysis_result: AnalysisResult) -> ExperimentRecord:
    from circuitlab.experiments.run import ExperimentRecord  # noqa: PLC0415

    return msgspec.convert(analysis_result.result, ExperimentRecord)
