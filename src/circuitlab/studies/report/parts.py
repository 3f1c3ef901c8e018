"""Pieces of the report: escaped text, tables, and the example prompt."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from circuitlab.figures.page import plot_block
from circuitlab.scores.head_scores import HeadScores
from circuitlab.studies.drawings import compare_method
from circuitlab.studies.results import StudyRuns
from circuitlab.studies.types import ScoredCell, StudyFigure
from circuitlab.tasks import sample_pairs

__all__ = [
    "anchor",
    "escape",
    "example_block",
    "figure_block",
    "fitness_rows",
    "interval",
    "number",
    "overlap_rows",
    "run_rows",
    "table",
    "told_figure",
    "top_rows",
]


def escape(text: object) -> str:
    """Text that stays text in HTML."""
    return html.escape(str(text), quote=True)


def anchor(name: str) -> str:
    """A name that can be an element id and a link target."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


def number(value: float) -> str:
    """Three significant digits, with a real minus sign; "n/a" for NaN."""
    return "n/a" if math.isnan(value) else f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def interval(found: Mapping[str, float], digits: int = 2) -> str:
    """``0.91 [0.82, 0.95]``."""
    mean, low, high = (f"{found[name]:.{digits}f}".replace("-", "\N{MINUS SIGN}") for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; headings are escaped here, cells must be HTML already."""
    head = "".join(f"<th>{escape(name)}</th>" for name in headings)
    lines = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table></div>'


def _cell(content: str) -> str:
    text = re.sub(r"<[^>]*>", "", content)
    kind = "wide" if len(text) > 40 else "number" if re.match(r"[\d\N{MINUS SIGN}+<]", text) else ""  # noqa: PLR2004 - a sentence
    return f'<td class="{kind}">{content}</td>' if kind else f"<td>{content}</td>"


def figure_block(drawing: StudyFigure) -> str:
    """A figure with its title and subtitle as a caption."""
    meta = drawing.figure.layout.meta
    block = plot_block(drawing.figure, anchor(drawing.name), titled=False)
    return f"<figure><figcaption><b>{escape(meta['title'])}</b>{escape(meta['subtitle'])}</figcaption>\n{block}\n</figure>\n"


def told_figure(drawing: StudyFigure) -> str:
    """A figure with its sentence below."""
    return figure_block(drawing) + (f'<p class="caption">{escape(drawing.caption)}</p>' if drawing.caption else "")


def fitness_rows(runs: StudyRuns) -> list[list[str]]:
    """One row per task with a verdict."""
    rows = []
    for group in runs.tasks().values():
        flag = group[0].scores.provenance.fitness
        if flag is None:
            continue
        badge = '<span class="badge good">ready</span>' if flag.ready else '<span class="badge warn">near chance</span>'
        numbers = [interval(flag.accuracy), f"{flag.chance:.2f}", f"{flag.gate:.2f}", interval(flag.gap)]
        rows.append([f"<b>{escape(group[0].title)}</b>", *numbers, badge])
    return rows


def overlap_rows(runs: StudyRuns, method_key: str) -> list[list[str]]:
    """One row per pair of tasks under one method, most above chance first."""
    found = compare_method(runs, method_key)
    titles = {run.task_key: run.title for run in runs.methods()[method_key]}
    rows = sorted(found.rows if found else (), key=lambda row: row.null_mean - row.jaccard["mean"])
    return [
        [
            escape(titles[row.task_a]),
            escape(titles[row.task_b]),
            interval(row.jaccard),
            f"{row.null_mean:.3f}",
            "&lt; 0.001" if row.q < 0.001 else f"{row.q:.3f}",  # noqa: PLR2004 - as many digits as are shown
            f"{row.containment:.2f}",
            f"{row.rbo:.2f}",
            interval(row.spearman),
            escape(", ".join(row.shared)) or "none",
        ]
        for row in rows
    ]


def top_rows(scores: HeadScores) -> list[list[str]]:
    """The fifteen strongest nodes."""
    part = "heads" if "heads" in scores.parts else scores.parts[0]
    rows = sorted(scores.top(15, part), key=lambda entry: -entry.mean)
    return [[f"<code>{row.node}</code>", number(row.mean), f"{number(row.low)} to {number(row.high)}"] for row in rows]


def run_rows(runs: Iterable[ScoredCell]) -> list[list[str]]:
    """Where each run's numbers come from."""
    rows = []
    for run in runs:
        where = run.scores.provenance
        made = where.environment
        task, method = escape(run.title), escape(where.method.replace("_", " "))
        when, seconds = (escape(made.created), f"{made.seconds:.0f}") if made else ("not recorded", "not recorded")
        digest = f"<code>{escape(where.task.digest[:16])}</code>"
        rows.append([f"<code>{run.run_id}</code>", task, method, str(run.scores.n_pairs), digest, when, seconds])
    return rows


def example_block(run: ScoredCell) -> str:
    """The first pair of the task's stream, with the positions that have names."""
    where = run.scores.provenance.task
    pair = next(iter(sample_pairs(run.task, variant=run.cell.task.variant, seed=where.seed)), None)
    if pair is None:
        return ""
    rows = {
        "clean": _marked(pair.clean, pair.clean_marks),
        "corrupt": _marked(pair.corrupt, pair.corrupt_marks),
        "answer": _quoted(pair.answers),
        "foil": _quoted(pair.foils),
    }
    items = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows.items())
    note = f'<p class="soft" style="margin:.6rem 0 0">First pair of the stream for seed {where.seed}; named positions are marked.</p>'
    return f'<div class="example"><dl>{items}</dl>{note}</div>'


def _marked(text: str, marks: Mapping[str, tuple[int, int]]) -> str:
    """Escaped text with each marked span highlighted and named; a span inside an earlier one is not drawn twice."""
    out, at = [], 0
    for name, (start, stop) in sorted(marks.items(), key=lambda item: item[1]):
        if start < at:
            continue
        out += [escape(text[at:start]), f"<mark>{escape(text[start:stop])}</mark><sup>{escape(name)}</sup>"]
        at = stop
    return "".join(out) + escape(text[at:])


def _quoted(words: Sequence[str]) -> str:
    shown = ", ".join(f"<code>{escape(repr(word))}</code>" for word in words[:12])
    return shown + (f" and {len(words) - 12} more" if len(words) > 12 else "")  # noqa: PLR2004 - a line's worth
