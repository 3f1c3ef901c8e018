"""The report's sections of analyses, and their numbers as CSV."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from circuitlab.core.plain_text import for_spreadsheet
from circuitlab.studies.report.render import NARROW
from circuitlab.studies.report.rows import value_cell
from circuitlab.studies.results import StudyRuns
from circuitlab.studies.types import Analysis, AnalysisResult, StudyFigure, Table

__all__ = ["analysis_contexts", "analysis_tables"]


def analysis_contexts(runs: StudyRuns, drawings: Sequence[StudyFigure]) -> list[tuple[Analysis, dict[str, Any]]]:
    """The context of the template for each kind of analysis, with the names of cells that have not been run."""
    contexts = []
    for name, group in _by_name(runs).items():
        kind = group[0][0]
        results = [result for _, group_results in group for result in group_results]
        numbers = kind.table(results) if results else None
        figures_of_kind = (drawing for drawing in drawings if drawing.kind == name)
        context = {
            "name": name,
            "about": kind.about,
            "file": runs.file,
            "waiting": [planned.label for planned in runs.missing if planned.analysis.name == name],
            "narrow_and_wide": [
                list(some) for _, some in itertools.groupby(figures_of_kind, lambda drawing: drawing.figure.layout.width <= NARROW)
            ],
            "numbers": numbers,
            "rows": [[value_cell(value) for value in row] for row in numbers.rows] if numbers else [],
            "found": results,
        }
        contexts.append((kind, context))
    return contexts


def analysis_tables(runs: StudyRuns) -> dict[str, str]:
    """CSV text by file name, one file per kind of analysis; an interval takes three columns."""
    files = {}
    for name, group in _by_name(runs).items():
        results = [result for _, group_results in group for result in group_results]
        if results and (numbers := group[0][0].table(results)) is not None and numbers.rows:
            files[f"{name}.csv"] = _csv(numbers)
    return files


def _by_name(runs: StudyRuns) -> dict[str, list[tuple[Analysis, tuple[AnalysisResult, ...]]]]:
    groups: dict[str, list[tuple[Analysis, tuple[AnalysisResult, ...]]]] = {}
    for analysis, results in runs.results:
        groups.setdefault(analysis.name, []).append((analysis, results))
    return groups


def _csv(numbers: Table) -> str:
    wide = [i for i in range(len(numbers.headings)) if any(isinstance(row[i], Mapping) for row in numbers.rows)]
    names = [_column(heading) for heading in numbers.headings]
    header = [part for i, name in enumerate(names) for part in ([name, f"{name}_low", f"{name}_high"] if i in wide else [name])]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in numbers.rows:
        writer.writerow([part for i, value in enumerate(row) for part in (_limits(value) if i in wide else [_plain(value)])])
    return text.getvalue()


def _column(heading: str) -> str:
    return heading.lower().replace(" ", "_")


def _limits(value: Mapping[str, float] | None) -> list[str]:
    return ["", "", ""] if value is None else [_plain(value[name]) for name in ("mean", "low", "high")]


def _plain(value: Any) -> str:
    if value is None or value != value:  # noqa: PLR0124 - the usual test for NaN
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(for_spreadsheet(value))
