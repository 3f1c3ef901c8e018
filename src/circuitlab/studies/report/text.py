"""The words of the report."""

from __future__ import annotations

from typing import Any

from circuitlab.citations import CITATIONS
from circuitlab.studies.drawings import compare_method
from circuitlab.studies.manifest import citation_keys
from circuitlab.studies.report.parts import escape, number, table
from circuitlab.studies.results import StudyRuns
from circuitlab.workflows.score import run_checks

__all__ = ["checks_section", "how_to_read", "methods_section", "null_text", "overlap_notes", "summary"]

_CLEAR = 0.05
_CHECKS = {
    "finite": "Share of values that are finite",
    "residual": "Sum of parts minus total, share of total",
    "task_ready": "Accuracy of the model on the task",
}


def summary(runs: StudyRuns) -> str:
    """What was studied, in two lines under the title."""
    spec = runs.runs[0].scores.provenance.model
    sizes = sorted({run.scores.n_pairs for run in runs.runs})
    pairs = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    methods = ", ".join(dict.fromkeys(run.scores.provenance.method.replace("_", " ") for run in runs.runs))
    sharing = f" sharing {spec.n_kv_heads} key/value heads" if spec.n_kv_heads != spec.n_heads else ""
    return (
        f'<p class="lead">{escape(spec.name)} ({escape(spec.family)}: {spec.n_layers} layers of {spec.n_heads} heads{sharing}) on '
        f"{len(runs.tasks())} tasks, {pairs} prompt pairs each, scored by {escape(methods)}.</p>"
    )


def how_to_read(runs: StudyRuns) -> str:
    """Signs, units, intervals and dots."""
    units = escape(" or ".join(dict.fromkeys(run.scores.provenance.units for run in runs.runs)))
    return (
        "<p>Every task comes as pairs of prompts: a clean one, and a corrupt one that differs only where it matters. A score says what "
        f"one part of the model does to the answer, in {units}. <b>Blue and positive helps the answer; orange and negative hinders "
        "it.</b> The number is the mean over pairs, and every interval is a 95 % interval over pairs.</p>"
        "<p>On the maps, layers go down and heads go across; a white dot marks a head whose mean differs from zero after correcting for "
        "how many heads there are (5 % false discovery rate). Cells without a dot may be noise. A head is named "
        "<code>a9.h6</code>: layer 9, head 6, counted from 0. MLPs stand at the side with their values written in, because they are "
        "often stronger than the colour range of the heads.</p>"
        "<p>The text and tables of this page need no JavaScript; the plots do. They show values when you point at them.</p>"
    )


def null_text(runs: StudyRuns) -> str:
    """The null in two sentences, and how to read the matrix."""
    chosen = runs.study.compare
    k = chosen.top_k if chosen else 20
    return (
        f"<p>Each task's circuit is its {k} strongest heads; the Jaccard index is the share of heads in either circuit that are in both. "
        "Chance is not zero: <b>the null keeps how many heads each circuit has in every layer and draws which ones at random</b>, "
        "since circuits tend to sit in the same layers whatever the task. "
        "<b>An overlap counts only as far as it exceeds what those draws give</b>, and its p-value is corrected over all pairs of tasks "
        "(q).</p><p>Below the diagonal: the observed index with its 95 % interval. Above: how much it exceeds chance; * q &lt; 0.05, "
        "** q &lt; 0.01, *** q &lt; 0.001, ns otherwise. On the diagonal, in italics: the index between two random halves of a task's own "
        "prompts. Halves hold half the pairs and are noisier than the circuits compared, so an overlap may well exceed it.</p>"
    )


def overlap_notes(runs: StudyRuns, method_key: str) -> str:
    """How many pairs of tasks overlap more than chance, and which most."""
    found = compare_method(runs, method_key)
    if found is None:
        return ""
    titles = {run.task_key: run.title for run in runs.methods()[method_key]}
    sound = [row for row in found.rows if row.ready]
    clear = [row for row in sound if row.q < _CLEAR and row.jaccard["mean"] > row.null_mean]
    if not sound:
        return "<p>No pair is left of tasks that the model can both do.</p>"
    said = f"<p>{len(clear)} of the {len(sound)} pairs of tasks that the model can do overlap more than chance (q &lt; 0.05)"
    if clear:
        best = max(clear, key=lambda row: row.jaccard["mean"] - row.null_mean)
        said += (
            f"; most of all {escape(titles[best.task_a])} and {escape(titles[best.task_b])}, with {best.jaccard['mean']:.2f} where "
            f"chance gives {best.null_mean:.2f}"
        )
    left_out = len(found.rows) - len(sound)
    return said + "." + (f" {left_out} pairs with a task near chance are not counted." if left_out else "") + "</p>"


def methods_section(runs: StudyRuns) -> str:
    """What each method estimates, its parameters, and whom to cite."""
    items = []
    for group in runs.methods().values():
        where = group[0].scores.provenance
        params = ", ".join(f"{name} = {value}" for name, value in sorted(where.params.items())) or "none"
        items.append(
            f"<h4>{escape(where.method.replace('_', ' ').capitalize())}</h4><p>{escape(where.estimand[:1].upper() + where.estimand[1:])}. "
            f"Metric: <code>{escape(where.metric)}</code> in {escape(where.units)}. "
            f'<span class="soft">Parameters: {escape(params)}.</span></p>'
        )
    entries = "".join(f"<li>{_citation(key)}</li>" for key in citation_keys(runs))
    return "".join(items) + f"<h4>Cite</h4><p>This study stands on the work below.</p><ul>{entries}</ul>"


def _citation(key: str) -> str:
    if key not in CITATIONS:
        return f"<code>{escape(key)}</code>"
    title, authors, year, venue = CITATIONS[key]
    people = "; ".join(authors.split(" and "))
    return f"{escape(people)} ({escape(year)}). <i>{escape(title)}</i>. {escape(venue)}. <code>{escape(key)}</code>"


def checks_section(runs: StudyRuns) -> str:
    """What every run checked about itself, one row per run."""
    found = {run.run_id: run_checks(run.scores) for run in runs.runs}
    names = list(dict.fromkeys(name for checks in found.values() for name in checks))
    rows = []
    for run in runs.runs:
        cells = [_check_cell(found[run.run_id].get(name)) for name in names]
        rows.append([escape(run.title), escape(run.scores.provenance.method.replace("_", " ")), *cells])
    bad = sum(not check["ok"] for checks in found.values() for check in checks.values())
    caption = "All checks hold." if not bad else f"{bad} checks do not hold; they are marked."
    return f"<p>{caption}</p>" + table(["Task", "Method", *(_CHECKS.get(name, name) for name in names)], rows)


def _check_cell(check: dict[str, Any] | None) -> str:
    if check is None:
        return '<span class="soft">does not apply</span>'
    badge = '<span class="badge good">ok</span>' if check["ok"] else '<span class="badge warn">not ok</span>'
    return f"{number(float(check['value']))} {badge}"
