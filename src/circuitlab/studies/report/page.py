"""The report: one HTML file with everything a study found. Nothing is fetched, so it works from a disk with no network."""

from __future__ import annotations

from collections.abc import Iterable

from circuitlab.figures.page import inline_script, plot_script, plotly_js
from circuitlab.studies.report.analyses import analysis_sections
from circuitlab.studies.report.findings import findings
from circuitlab.studies.report.parts import (
    anchor,
    escape,
    example_block,
    figure_block,
    fitness_rows,
    number,
    overlap_rows,
    run_rows,
    table,
    told_figure,
    top_rows,
)
from circuitlab.studies.report.style import STYLE
from circuitlab.studies.report.text import checks_section, how_to_read, methods_section, null_text, overlap_notes, summary
from circuitlab.studies.results import StudyRuns
from circuitlab.studies.types import ScoredCell, StudyFigure

__all__ = ["report_page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"

_OVERLAP = 50
"""Place of the overlap among the sections; analyses name theirs."""


def report_page(runs: StudyRuns, drawings: list[StudyFigure]) -> str:
    """The whole page.

    Parameters
    ----------
    runs : StudyRuns
        A study with all its runs.
    drawings : list of StudyFigure
        Its figures, from `circuitlab.studies.drawings.draw_all`.

    Returns
    -------
    str
        HTML with plotly.js inlined once. A content policy in the page forbids every request. All text of tasks, prompts and runs
        is escaped.
    """
    placed = [
        (-1, "findings", "What was found", findings(runs)),
        (0, "read", "How to read this", how_to_read(runs)),
        (10, "fitness", "Can the model do the tasks?", _fitness(runs, drawings)),
        (_OVERLAP, "overlap", "Are they the same heads?", _overlap(runs, drawings)),
        (80, "tasks", "Task by task", "".join(_task(group, drawings) for group in runs.tasks().values())),
        (100, "methods", "Methods and citations", methods_section(runs)),
        (101, "checks", "Self-checks", checks_section(runs)),
        (102, "runs", "Runs", _runs(runs)),
        *analysis_sections(runs, drawings),
    ]
    sections = [section[1:] for section in sorted(placed, key=lambda section: section[0])]
    sections = [section for section in sections if section[2]]
    body = "\n".join(f'<section id="{key}"><h2>{escape(title)}</h2>\n{content}</section>' for key, title, content in sections)
    title = escape(runs.study.title)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n'
        f'<body>\n<div class="page">\n<header><h1>{title}</h1>\n{summary(runs)}</header>\n<div class="columns">\n'
        f"{_contents(sections, runs)}\n<main>\n{body}\n</main>\n</div>\n</div>\n"
        f"{inline_script(plotly_js())}\n{plot_script()}\n</body>\n</html>\n"
    )


def _contents(sections: list[tuple[str, str, str]], runs: StudyRuns) -> str:
    tasks = "".join(f'<li><a href="#task-{anchor(key)}">{escape(group[0].title)}</a></li>' for key, group in runs.tasks().items())
    items = "".join(
        f'<li><a href="#{key}">{escape(title)}</a>{f"<ol>{tasks}</ol>" if key == "tasks" else ""}</li>' for key, title, _ in sections
    )
    return f'<nav aria-label="Contents"><strong>Contents</strong><ol>{items}</ol></nav>'


def _fitness(runs: StudyRuns, drawings: list[StudyFigure]) -> str:
    rows = fitness_rows(runs)
    if not rows:
        return ""
    weak = [group[0] for group in runs.tasks().values() if (flag := group[0].scores.provenance.fitness) is not None and not flag.ready]
    if weak:
        names = ", ".join(f"<b>{escape(run.title)}</b>" for run in weak)
        said = "is a task" if len(weak) == 1 else "are tasks"
        warning = (
            f'<p class="note">{names} {said} this model does not do reliably. A model near chance has no circuit for the task: heads '
            "and overlaps shown for it below are no circuit for the ability, only for what the prompts differ in, and carry a banner.</p>"
        )
    else:
        warning = "<p>The model does every task of this study well above chance.</p>"
    explained = (
        "<p>Before any head is blamed or praised: accuracy is the share of prompts on which the answer beats every rival answer, with "
        "its 95 % Wilson interval. The gap is how much the metric drops from the clean to the corrupt prompt. A task is ready when its "
        "accuracy interval lies above chance, its accuracy reaches the gate, and its gap is surely above zero.</p>"
    )
    headings = ["Task", "Accuracy", "Chance", "Gate", "Gap", "Verdict"]
    return warning + explained + _figures(drawings, "fitness") + table(headings, rows)


def _overlap(runs: StudyRuns, drawings: list[StudyFigure]) -> str:
    shown = [drawing for drawing in drawings if drawing.kind == "overlap"]
    parts = []
    for drawing in shown:
        key = drawing.runs[0].method_key
        headings = ["Task", "Task", "Jaccard", "By chance", "q", "Containment", "Rank-biased overlap", "Spearman", "Shared heads"]
        numbers = table(headings, overlap_rows(runs, key))
        sets = "".join(told_figure(other) for other in drawings if other.kind == "upset" and other.runs == drawing.runs)
        parts.append(figure_block(drawing) + overlap_notes(runs, key) + sets)
        parts.append(f"<details><summary>All pairs as a table</summary>{numbers}</details>")
    return null_text(runs) + "".join(parts) if parts else ""


def _task(group: list[ScoredCell], drawings: list[StudyFigure]) -> str:
    first = group[0]
    where, flag = first.scores.provenance, first.scores.provenance.fitness
    badge = ""
    if flag is not None:
        badge = ' <span class="badge good">ready</span>' if flag.ready else ' <span class="badge warn">near chance</span>'
    parts = [f'<section id="task-{anchor(first.task_key)}"><h3>{escape(first.title)}{badge}</h3>']
    if flag is not None and not flag.ready:
        parts.append(f'<p class="note">{escape(flag.reason)}</p>')
    parts.append(f"<p>{escape(first.task.about)}</p>")
    dropped = ", ".join(f"{count} {escape(reason.replace('_', ' '))}" for reason, count in sorted(where.task.dropped.items()) if count)
    parts.append(
        f'<p class="soft">{first.scores.n_pairs} prompt pairs, corruption <code>{escape(where.task.variant)}</code>'
        f"{f'; rows turned away: {dropped}' if dropped else ''}. Prompts digest <code>{escape(where.task.digest[:16])}</code>.</p>"
    )
    parts.append(example_block(first))
    for run in group:
        own = [drawing for drawing in drawings if drawing.runs == (run,)]
        scores = run.scores
        numbers = table(["Node", "Mean", "95 % interval"], top_rows(scores)) if scores.marks is None else ""
        details = f"<details><summary>Top heads as a table</summary>{numbers}</details>" if numbers else ""
        total = number(float(scores.dataset["total"].values.mean()))
        parts.append(
            f"<h4>{escape(scores.provenance.method.replace('_', ' ').capitalize())}</h4>"
            f'<p class="soft">Run <code>{run.run_id}</code>. What the scores are a share of: {total} {escape(scores.provenance.units)} '
            f'on average.</p><div class="figures">{"".join(map(figure_block, own))}</div>{details}'
        )
    parts += [figure_block(drawing) for drawing in drawings if drawing.kind == "methods" and drawing.runs[0] in group]
    return "".join(parts) + "</section>"


def _runs(runs: StudyRuns) -> str:
    headings = ["Run", "Task", "Method", "Pairs", "Prompts digest", "Made", "Seconds"]
    spec = runs.runs[0].scores.provenance.model
    about = (
        f"<p>Every number above can be traced: the run id names a file in the store, and is the hash of method, parameters, weights, "
        f"prompts and metric. Weights of {escape(spec.name)}: <code>{escape(spec.weights)}</code>, {escape(spec.dtype)}, "
        f"processing {escape(spec.processing)}.</p>"
    )
    return about + table(headings, run_rows(runs.runs))


def _figures(drawings: Iterable[StudyFigure], kind: str) -> str:
    return "".join(figure_block(drawing) for drawing in drawings if drawing.kind == kind)
