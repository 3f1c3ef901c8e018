"""Rows of the report's tables, and the example prompt. Cells are text, escaped by the templates, or `Markup`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from circuitlab.scores.head_scores import HeadScores
from circuitlab.studies.drawings import compare_method
from circuitlab.studies.report.render import badge, code, interval, number, soft
from circuitlab.studies.results import StudyRuns
from circuitlab.studies.types import ScoredCell
from circuitlab.tasks import sample_pairs
from circuitlab.workflows.score import run_checks

__all__ = ["OVERLAP_HEADINGS", "check_table", "example_prompt", "fitness_rows", "overlap_rows", "run_rows", "top_rows", "value_cell"]

OVERLAP_HEADINGS = ("Task", "Task", "Jaccard", "By chance", "q", "Containment", "Rank-biased overlap", "Shared heads")
_TINY = 0.001
_WORDS = 12
"""Most answers that are shown."""
_CHECKS = {
    "finite": "Share of values that are finite",
    "residual": "Sum of parts minus total, share of total",
    "task_ready": "Accuracy of the model on the task",
}


def fitness_rows(runs: StudyRuns) -> list[list[str]]:
    """One row per task with a verdict."""
    rows = []
    for group in runs.tasks().values():
        flag = group[0].scores.provenance.fitness
        if flag is not None:
            numbers = [interval(flag.accuracy), f"{flag.chance:.2f}", f"{flag.gate:.2f}", interval(flag.gap)]
            rows.append([Markup("<b>{}</b>").format(group[0].title), *numbers, badge(flag.ready, "ready", "not ready")])
    return rows


def overlap_rows(runs: StudyRuns, method_key: str) -> list[list[str]]:
    """One row per pair of tasks, sorted by overlap beyond chance, the largest first."""
    table = compare_method(runs, method_key)
    titles = {run.task_key: run.title for run in runs.methods()[method_key]}
    rows = sorted(table.rows if table else (), key=lambda row: row.null_mean - row.jaccard["mean"])
    return [
        [
            titles[row.task_a],
            titles[row.task_b],
            interval(row.jaccard),
            f"{row.null_mean:.3f}",
            "< 0.001" if row.q < _TINY else f"{row.q:.3f}",
            f"{row.containment:.2f}",
            f"{row.rbo:.2f}",
            ", ".join(row.shared) or "none",
        ]
        for row in rows
    ]


def top_rows(scores: HeadScores) -> list[list[str]]:
    """The fifteen strongest nodes; no rows for scores by position, whose figures show every value."""
    if scores.marks is not None:
        return []
    part = "heads" if "heads" in scores.parts else scores.parts[0]
    rows = sorted(scores.top(15, part), key=lambda entry: -entry.mean)
    return [[code(row.node), number(row.mean), f"{number(row.low)} to {number(row.high)}"] for row in rows]


def run_rows(runs: Iterable[ScoredCell]) -> list[list[str]]:
    """The provenance of each run."""
    rows = []
    for run in runs:
        provenance = run.scores.provenance
        environment = provenance.environment
        when, seconds = (environment.created, f"{environment.seconds:.0f}") if environment else ("not recorded", "not recorded")
        about = [run.title, provenance.method.replace("_", " "), str(run.scores.n_pairs), code(provenance.task.digest[:16])]
        rows.append([code(run.run_id), *about, when, seconds])
    return rows


def check_table(runs: StudyRuns) -> dict[str, Any]:
    """Self-checks of every run: headings, one row per run, and the number of failed checks."""
    checks_of_runs = {run.run_id: run_checks(run.scores) for run in runs.runs}
    names = list(dict.fromkeys(name for checks in checks_of_runs.values() for name in checks))
    rows = [
        [run.title, run.scores.provenance.method.replace("_", " "), *(_check_cell(checks_of_runs[run.run_id].get(name)) for name in names)]
        for run in runs.runs
    ]
    bad = sum(not check["ok"] for checks in checks_of_runs.values() for check in checks.values())
    return {"headings": ["Task", "Method", *(_CHECKS.get(name, name) for name in names)], "rows": rows, "bad": bad}


def _check_cell(check: Mapping[str, Any] | None) -> Markup:
    if check is None:
        return soft("does not apply")
    return Markup("{} {}").format(number(float(check["value"])), badge(check["ok"], "ok", "not ok"))


def value_cell(value: Any) -> str:
    """A value of an analysis' table: intervals, p-values and numbers in short form, text unchanged."""
    if value is None:
        return soft("none")
    if isinstance(value, Mapping):
        return interval(value)
    if isinstance(value, float):
        return "< 0.001" if 0 <= value < _TINY else number(value)
    return str(value)


def example_prompt(run: ScoredCell) -> dict[str, str]:
    """The first pair of the task's stream with its marks; empty if the task has no pairs."""
    task = run.scores.provenance.task
    pair = next(iter(sample_pairs(run.task, variant=run.cell.task.variant, seed=task.seed)), None)
    if pair is None:
        return {}
    return {
        "clean": _marked(pair.clean, pair.clean_marks),
        "corrupt": _marked(pair.corrupt, pair.corrupt_marks),
        "answer": _quoted(pair.answers),
        "foil": _quoted(pair.foils),
    }


def _marked(text: str, marks: Mapping[str, tuple[int, int]]) -> Markup:
    """Text with each marked span highlighted and named; a span that begins inside an earlier one is skipped."""
    out, at = Markup(), 0
    for name, (start, stop) in sorted(marks.items(), key=lambda item: item[1]):
        if start >= at:
            out += text[at:start] + Markup("<mark>{}</mark><sup>{}</sup>").format(text[start:stop], name)
            at = stop
    return out + text[at:]


def _quoted(words: Sequence[str]) -> Markup:
    shown = Markup(", ").join(code(repr(word)) for word in words[:_WORDS])
    return shown + (f" and {len(words) - _WORDS} more" if len(words) > _WORDS else "")
