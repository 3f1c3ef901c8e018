"""Stability: how many prompts it takes until the list of the strongest heads stops changing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from circuitlab.citations import STATISTICS
from circuitlab.studies.analyses.base import number_or_nan, select_cells, unsure
from circuitlab.studies.types import Analysis, AnalysisCell, AnalysisContext, AnalysisResult, StudyFigure, Table

if TYPE_CHECKING:
    from circuitlab.studies.types import StudySpec

__all__ = ["Stability"]

Count = Annotated[int, msgspec.Meta(ge=1)]


class Stability(Analysis, frozen=True, forbid_unknown_fields=True):
    """Agreement of lists of heads from disjoint sets of prompts, over the number of prompts. No model is run.

    Parameters
    ----------
    tasks, methods : tuple of str
        Tasks and methods whose scores are read; all of the study by default.
    top_k : int
        Length of the lists.
    draws : int
        Number of random draws for each number of pairs.
    """

    name: ClassVar[str] = "stability"
    title: ClassVar[str] = "Would other prompts give the same heads?"
    about: ClassVar[str] = (
        "The strongest heads are picked twice, from two sets of prompts without a common one. Where the two lists agree poorly, no overlap "
        "with another task can be large, and more prompts are needed."
    )
    place: ClassVar[int] = 70
    cite: ClassVar[tuple[str, ...]] = STATISTICS["stability"]

    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    top_k: Count = 20
    draws: Count = 200

    def cells(self, study: StudySpec) -> list[AnalysisCell]:
        """One cell for each task and method."""
        return [AnalysisCell(self, study.slug(cell), (cell,), 1.0) for cell in select_cells(study, self.tasks, self.methods)]

    def run(self, context: AnalysisContext) -> dict[str, Any]:
        """The curve over sample sizes, the overlap of bootstrap lists, and how often each head is in a list."""
        from circuitlab.comparison import bootstrap_stability, prompt_families, sample_size_curve  # noqa: PLC0415

        scores, seed = context.runs[0].scores, context.study.seed
        k = min(self.top_k, scores.values("heads")[0].size)
        curve = sample_size_curve(scores, k, n=self.draws, seed=seed)
        again = bootstrap_stability(scores, k, seed=seed)
        families = prompt_families(scores, k=k, seed=seed)
        return {
            "k": k,
            "chance": curve.chance,
            "curve": [
                dict(zip(("pairs", "mean", "low", "high"), (int(size), *map(float, row)), strict=True))
                for size, *row in zip(curve.sizes, curve.mean, curve.low, curve.high, strict=True)
            ],
            "enough": curve.pairs_needed(),
            "bootstrap": again.jaccard.as_dict(),
            "inclusion": again.inclusion,
            "families": {"p": families.p, "overlap": families.overlap, "by_chance": families.overlap_by_chance},
            "warning": families.warning,
        }

    def draw(self, results: Sequence[AnalysisResult]) -> list[StudyFigure]:
        """One figure per method, with a curve for each task."""
        groups: dict[str, list[AnalysisResult]] = {}
        for result in results:
            groups.setdefault(result.runs[0].method_key, []).append(result)
        return [_drawing(key, group) for key, group in groups.items()]

    def table(self, results: Sequence[AnalysisResult]) -> Table:
        """One row per task and method."""
        headings = (
            "Task",
            "Method",
            "Pairs",
            "Overlap of two halves",
            "Overlap with resampled prompts",
            "Pairs until 0.8",
            "Mixed mechanisms",
        )
        rows = []
        for cell_result in results:
            (run,), result = cell_result.runs, cell_result.result
            halves = unsure(result["curve"][-1])
            method, warning = run.scores.provenance.method.replace("_", " "), result["warning"] or "none seen"
            rows.append((run.title, method, run.scores.n_pairs, halves, unsure(result["bootstrap"]), result["enough"], warning))
        return Table(headings, tuple(rows))


def _drawing(key: str, results: Sequence[AnalysisResult]) -> StudyFigure:
    import numpy as np  # noqa: PLC0415

    from circuitlab.comparison import StabilityCurve  # noqa: PLC0415
    from circuitlab.figures import stability_curves  # noqa: PLC0415 - plotly
    from circuitlab.figures.frame import method_title  # noqa: PLC0415

    curves = {}
    for each in results:
        rows, result = each.result["curve"], each.result
        mean, low, high = (np.array([number_or_nan(row[name]) for row in rows]) for name in ("mean", "low", "high"))
        sizes = np.array([row["pairs"] for row in rows])
        curves[each.runs[0].title] = StabilityCurve(sizes, mean, low, high, number_or_nan(result["chance"]), result["k"])
    runs = tuple(run for each in results for run in each.runs)
    provenance = runs[0].scores.provenance
    figure = stability_curves(curves, title=f"How many prompts until the heads stop changing? By {method_title(provenance)}")
    warnings = "".join(f" {each.runs[0].title}: {each.result['warning']}" for each in results if each.result["warning"])
    caption = "Higher is steadier; the dotted line is what two unrelated lists with as many heads in each layer would share." + warnings
    return StudyFigure(f"stability.{key}", "stability", figure, runs, caption, tuple(each.record_id for each in results))
