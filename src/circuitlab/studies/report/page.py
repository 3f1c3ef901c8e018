"""The report: a single HTML file with all results of a study. It fetches nothing, so it works without a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from circuitlab.citations import CITATIONS
from circuitlab.figures.page import inline_script, plot_script, plotly_js
from circuitlab.studies.drawings import compare_method, top_k
from circuitlab.studies.manifest import citation_keys
from circuitlab.studies.report.analyses import analysis_contexts
from circuitlab.studies.report.findings import find, overlap_sentences
from circuitlab.studies.report.render import render
from circuitlab.studies.report.rows import (
    OVERLAP_HEADINGS,
    check_table,
    example_prompt,
    fitness_rows,
    overlap_rows,
    run_rows,
    top_rows,
)
from circuitlab.studies.report.style import STYLE
from circuitlab.studies.results import StudyRuns
from circuitlab.studies.types import ScoredCell, StudyFigure

__all__ = ["report_page"]


@dataclass(frozen=True)
class _Section:
    """A section of the report; ``place`` is its position in the order, as in `Analysis.place`."""

    place: int
    id: str
    title: str
    body: Markup


def report_page(runs: StudyRuns, drawings: list[StudyFigure]) -> str:
    """The whole report page.

    Parameters
    ----------
    runs : StudyRuns
        A study with all its runs.
    drawings : list of StudyFigure
        Its figures, from `circuitlab.studies.drawings.draw_all`.

    Returns
    -------
    str
        HTML that begins with the findings, with plotly.js inlined once. A content security policy in the page forbids every request. All
        text of tasks, prompts and runs is escaped.
    """
    context = {
        "title": runs.study.title,
        "lead": _lead(runs),
        "style": Markup(STYLE),  # noqa: S704 - ours
        "findings": render("findings.html", find(runs)),
        "sections": sorted(_sections(runs, drawings), key=lambda section: section.place),
        "tasks": runs.tasks(),
        "library": Markup(inline_script(plotly_js())),  # noqa: S704 - escaped for scripts
        "script": Markup(plot_script()),  # noqa: S704 - escaped for scripts
    }
    return str(render("page.html", context))


def _sections(runs: StudyRuns, drawings: list[StudyFigure]) -> list[_Section]:
    units = " or ".join(dict.fromkeys(run.scores.provenance.units for run in runs.runs))
    tasks = Markup().join(render("task.html", _task(group, drawings)) for group in runs.tasks().values())
    sections = [_Section(100, "methods", "Methods and citations", render("methods.html", _methods(runs)))]
    if runs.runs:  # a study of experiments alone has none
        sections += [
            _Section(0, "read", "How to read this", render("how_to_read.html", {"units": units})),
            _Section(80, "tasks", "Task by task", tasks),
            _Section(101, "checks", "Self-checks", render("checks.html", check_table(runs))),
            _Section(102, "runs", "Runs", render("runs.html", _runs(runs))),
        ]
    if rows := fitness_rows(runs):
        body = render("fitness.html", {"rows": rows, "weak": _weak(runs), "drawings": _of_kind(drawings, "fitness")})
        sections.append(_Section(10, "fitness", "Can the model do the tasks?", body))
    if methods := _overlaps(runs, drawings):
        body = render("overlap.html", {"k": top_k(runs), "methods": methods})
        sections.append(_Section(50, "overlap", "Are they the same heads?", body))
    for kind, about in analysis_contexts(runs, drawings):
        sections.append(_Section(kind.place, kind.name, kind.title, render("analysis.html", about)))
    return sections


def _lead(runs: StudyRuns) -> str:
    """The sentence below the title: model, tasks, pairs and methods; of a study without tasks, the model."""
    if not runs.runs:
        return f"Published experiments, run on {runs.study.model}."
    spec = runs.runs[0].scores.provenance.model
    sizes = sorted({run.scores.n_pairs for run in runs.runs})
    pairs = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    methods = ", ".join(dict.fromkeys(run.scores.provenance.method.replace("_", " ") for run in runs.runs))
    sharing = f" sharing {spec.n_kv_heads} key/value heads" if spec.n_kv_heads != spec.n_heads else ""
    return (
        f"{spec.name} ({spec.family}: {spec.n_layers} layers of {spec.n_heads} heads{sharing}) on {len(runs.tasks())} tasks, {pairs} "
        f"prompt pairs each, scored by {methods}."
    )


def _of_kind(drawings: list[StudyFigure], kind: str) -> list[StudyFigure]:
    return [drawing for drawing in drawings if drawing.kind == kind]


def _weak(runs: StudyRuns) -> list[str]:
    """Titles of the tasks that the model cannot do."""
    flags = {group[0].title: group[0].scores.provenance.fitness for group in runs.tasks().values()}
    return [title for title, flag in flags.items() if flag is not None and not flag.ready]


def _overlaps(runs: StudyRuns, drawings: list[StudyFigure]) -> list[dict[str, Any]]:
    overlaps = []
    for drawing in _of_kind(drawings, "overlap"):
        key = drawing.runs[0].method_key
        if compare_method(runs, key) is not None:
            sets = [other for other in _of_kind(drawings, "upset") if other.runs == drawing.runs]
            about = {"matrix": drawing, "sets": sets, "notes": overlap_sentences(runs, key)}
            overlaps.append(about | {"headings": OVERLAP_HEADINGS, "rows": overlap_rows(runs, key)})
    return overlaps


def _task(group: list[ScoredCell], drawings: list[StudyFigure]) -> dict[str, Any]:
    first = group[0]
    task = first.scores.provenance.task
    dropped = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(task.dropped.items()) if count)
    return {
        "first": first,
        "flag": first.scores.provenance.fitness,
        "where": task,
        "dropped": dropped,
        "example": example_prompt(first),
        "runs": [_run(run, drawings) for run in group],
        "methods": [drawing for drawing in _of_kind(drawings, "methods") if drawing.runs[0] in group],
    }


def _run(run: ScoredCell, drawings: list[StudyFigure]) -> dict[str, Any]:
    provenance = run.scores.provenance
    return {
        "id": run.run_id,
        "method": provenance.method.replace("_", " ").capitalize(),
        "total": float(run.scores.dataset["total"].values.mean()),
        "units": provenance.units,
        "drawings": [drawing for drawing in drawings if drawing.runs == (run,) and drawing.kind in {"heatmap", "top_heads"}],
        "rows": top_rows(run.scores),
    }


def _methods(runs: StudyRuns) -> dict[str, Any]:
    citations = []
    for key in citation_keys(runs):
        title, authors, year, venue = CITATIONS.get(key, ("", "", "", ""))
        citations.append({"key": key, "title": title, "people": "; ".join(authors.split(" and ")), "year": year, "venue": venue})
    return {"methods": [group[0].scores.provenance for group in runs.methods().values()], "citations": citations}


def _runs(runs: StudyRuns) -> dict[str, Any]:
    return {"spec": runs.runs[0].scores.provenance.model, "rows": run_rows(runs.runs)}
