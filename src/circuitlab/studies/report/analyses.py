"""The report's sections of analyses: a heading, what is asked, each figure with a sentence, and the numbers."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from circuitlab.studies.report.parts import escape, interval, number, table, told_figure
from circuitlab.studies.results import StudyRuns
from circuitlab.studies.types import Analysis, AnalysisResult, StudyFigure, Table

__all__ = ["analysis_sections", "analysis_tables"]

_TINY = 0.001
_NARROW = 720
"""Figures up to this width, in pixels, share a row where the page has room."""


def analysis_sections(runs: StudyRuns, drawings: Sequence[StudyFigure]) -> list[tuple[int, str, str, str]]:
    """One section per kind of analysis: place, id, title and HTML; cells that have not been run are named."""
    sections = []
    for name, group in _by_name(runs).items():
        kind = group[0][0]
        found = [one for _, some in group for one in some]
        waiting = [planned.label for planned in runs.missing if planned.analysis.name == name]
        parts = [f"<p>{escape(kind.about)}</p>"]
        if waiting:
            command = escape(f"circuitlab study run {runs.file}")
            parts.append(f'<p class="note">Not run yet: {escape(", ".join(waiting))}. Run <code>{command}</code>.</p>')
        own = (drawing for drawing in drawings if drawing.kind == name)
        for narrow, some in itertools.groupby(own, lambda drawing: drawing.figure.layout.width <= _NARROW):
            shown = [f"<div>{told_figure(drawing)}</div>" for drawing in some]
            parts.append(f'<div class="figures">{"".join(shown)}</div>' if narrow else "".join(shown))
        if found and (numbers := kind.table(found)) is not None:
            rows = [[_cell(value) for value in row] for row in numbers.rows]
            parts.append(f"<details><summary>All numbers as a table</summary>{table(numbers.headings, rows)}</details>")
        if found:
            made = "; ".join(f"{escape(one.cell.key or name)} <code>{one.record_id}</code>" for one in found)
            parts.append(f'<p class="soft">Records: {made}.</p>')
        sections.append((kind.place, name, kind.title, "".join(parts)))
    return sections


def analysis_tables(runs: StudyRuns) -> dict[str, str]:
    """CSV text by file name, one file per kind of analysis; an interval takes three columns."""
    files = {}
    for name, group in _by_name(runs).items():
        found = [one for _, some in group for one in some]
        if found and (numbers := group[0][0].table(found)) is not None and numbers.rows:
            files[f"{name}.csv"] = _csv(numbers)
    return files


def _by_name(runs: StudyRuns) -> dict[str, list[tuple[Analysis, tuple[AnalysisResult, ...]]]]:
    groups: dict[str, list[tuple[Analysis, tuple[AnalysisResult, ...]]]] = {}
    for analysis, found in runs.results:
        groups.setdefault(analysis.name, []).append((analysis, found))
    return groups


def _cell(value: Any) -> str:
    """A value of a table as HTML: intervals, p-values and numbers in short, text as it is."""
    if value is None:
        return '<span class="soft">none</span>'
    if isinstance(value, Mapping):
        return interval(value)
    if isinstance(value, float):
        return "&lt; 0.001" if 0 <= value < _TINY else number(value)
    return escape(value)


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
    return f"{value:.6g}" if isinstance(value, float) else str(value)
