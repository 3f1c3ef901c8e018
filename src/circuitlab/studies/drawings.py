"""The figures of a study."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from circuitlab import figures
from circuitlab.circuits import TopK
from circuitlab.comparison import OverlapTable, compare_tasks
from circuitlab.core.provenance import FitnessFlag
from circuitlab.figures.frame import method_title, symmetric_limit
from circuitlab.figures.overlap import overlap_scale
from circuitlab.studies.results import StudyRuns
from circuitlab.studies.types import ScoredCell, StudyFigure

__all__ = ["compare_method", "draw_all", "fitness_flags", "top_k"]


_FEW, _TOP = 2, 20
"""Number of tasks whose overlap needs no figure of sets, and default number of heads in a list."""


def draw_all(runs: StudyRuns) -> list[StudyFigure]:
    """Every figure of a study, in the order of the report.

    First come fitness and the overlap matrix of each method that scored heads on two or more tasks (the method of ``[compare]`` first).
    Then, for each task, come a heatmap and the top heads of every method, and a comparison of the first two methods. Figures of analyses
    come last.
    """
    drawings: list[StudyFigure] = []
    if flags := fitness_flags(runs):
        shown = figures.fitness_table(flags, units=_units(runs), subtitle=runs.runs[0].scores.provenance.model.name)
        drawings.append(StudyFigure("task_fitness", "fitness", shown, runs.runs))
    main = runs.study.compare.method if runs.study.compare else ""
    tables = {key: table for key in runs.methods() if (table := compare_method(runs, key)) is not None}
    scale = overlap_scale(tables.values()) if tables else None
    for key, group in sorted(runs.methods().items(), key=lambda item: item[1][0].cell.method.name != main):
        if (table := tables.get(key)) is not None:
            titles = {run.task_key: run.title for run in group}
            shown = figures.overlap_matrix(table, titles=titles, title=f"Are they the same heads? {_by(group)}", scale=scale)
            drawings.append(StudyFigure(f"overlap.{key}", "overlap", shown, tuple(group)))
            if len(table.circuits) > _FEW:
                shown = figures.upset(
                    table.circuits, titles=titles, title=f"Which heads serve which tasks? {_by(group)}", subtitle=table.rule
                )
                caption = "Each column counts the heads that exactly the marked tasks have in common; the tick is what chance would give."
                drawings.append(StudyFigure(f"upset.{key}", "upset", shown, tuple(group), caption))
    limits = _colour_limits(runs)
    for group in runs.tasks().values():
        for run in group:
            drawings += _of_run(run, limits[_scale_of(run)])
        drawings += _methods_of(group, top_k(runs))
    return drawings + [drawing for analysis, found in runs.results if found for drawing in analysis.draw(found)]


@functools.lru_cache(maxsize=16)
def compare_method(runs: StudyRuns, method_key: str) -> OverlapTable | None:
    """Overlap of the tasks by one method; None with fewer than two tasks, without heads, or if scores are by position."""
    group = [run for run in runs.methods()[method_key] if "heads" in run.scores.parts and run.scores.marks is None]
    if len(group) < 2:  # noqa: PLR2004 - a pair
        return None
    compared = runs.study.compare
    size = group[0].scores.values("heads")[0].size
    rule = TopK(min(top_k(runs), size), by=compared.by if compared else "absolute")  # type: ignore[arg-type]
    return compare_tasks({run.task_key: run.scores for run in group}, rule)


def fitness_flags(runs: StudyRuns) -> dict[str, FitnessFlag]:
    """Verdict by task title; tasks whose runs have none are left out."""
    first = [group[0] for group in runs.tasks().values()]
    return {run.title: run.scores.provenance.fitness for run in first if run.scores.provenance.fitness is not None}


def _by(group: list[ScoredCell]) -> str:
    return f"By {method_title(group[0].scores.provenance)}"


def _units(runs: StudyRuns) -> str:
    return " or ".join(dict.fromkeys(run.scores.provenance.units for run in runs.runs))


def top_k(runs: StudyRuns) -> int:
    """Number of heads in a list that is compared with another."""
    return runs.study.compare.top_k if runs.study.compare else _TOP


def _scale_of(run: ScoredCell) -> tuple[str, str]:
    """Key of the colour scale: maps of the same method and unit are read side by side, and share a scale."""
    return run.method_key, run.scores.provenance.units


def _main_part(run: ScoredCell) -> str:
    return "heads" if "heads" in run.scores.parts else run.scores.parts[0]


def _colour_limits(runs: StudyRuns) -> dict[tuple[str, str], float]:
    """Limit of the colour scale of every group of maps."""
    means: dict[tuple[str, str], list[np.ndarray]] = {}
    for run in runs.runs:
        means.setdefault(_scale_of(run), []).append(run.scores.mean(_main_part(run)))
    return {scale: symmetric_limit(maps) for scale, maps in means.items()}


def _of_run(run: ScoredCell, limit: float) -> Iterator[StudyFigure]:
    scores, heading = run.scores, f"{run.title}: {method_title(run.scores.provenance)}"
    part = _main_part(run)
    if scores.marks is not None:
        yield StudyFigure(f"{run.slug}.heatmap", "heatmap", figures.mark_heatmap(scores, part, limit=limit, title=heading), (run,))
        for mark in scores.marks:
            shown = figures.top_heads(scores, 15, part, mark, title=f"{heading}, top at {mark}")
            yield StudyFigure(f"{run.slug}.top_heads.{mark}", "top_heads", shown, (run,))
        return
    if part == "heads":
        yield StudyFigure(f"{run.slug}.heatmap", "heatmap", figures.head_heatmap(scores, limit=limit, title=heading), (run,))
    yield StudyFigure(f"{run.slug}.top_heads", "top_heads", figures.top_heads(scores, 15, part, title=f"{heading}, top 15"), (run,))


def _methods_of(group: list[ScoredCell], k: int) -> Iterator[StudyFigure]:
    usable = [run for run in group if "heads" in run.scores.parts and run.scores.marks is None]
    if len(usable) > 1:
        title = f"{usable[0].title}: two methods, the same heads?"
        shown = figures.scatter_methods(usable[0].scores, usable[1].scores, k=k, title=title)
        yield StudyFigure(f"{usable[0].task_key}.methods", "methods", shown, tuple(usable[:2]))
