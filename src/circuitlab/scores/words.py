"""What scores and circuits say about themselves in a console or a notebook cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitlab.scores.head_scores import HeadScores, NodeScore

__all__ = ["describe_scores"]

_TOP = 5


def describe_scores(scores: HeadScores) -> str:
    """Where scores come from, what they mean, their parts and strongest nodes, on a few lines."""
    about = scores.provenance
    lines = [
        f"HeadScores: {about.method} on {about.task.id} ({about.task.variant}), {about.model.name}, {scores.n_pairs} pairs",
        f"  {about.estimand}; in {about.units}; positive helps the answer",
        "  parts: " + ", ".join(f"{part} {scores.values(part, mark=_first(scores)).shape}" for part in scores.parts),
    ]
    if scores.marks:
        lines.append(f"  marks: {', '.join(scores.marks)} (choose one with mark=...)")
    part = scores.parts[0]
    best = scores.top(_TOP, part, mark=_first(scores))
    lines.append(f"  strongest {part}{f' at {_first(scores)}' if scores.marks else ''}: " + ", ".join(map(_entry, best)))
    flag = about.fitness
    if flag is not None and not flag.ready:
        lines.append(f"  NOT READY: {flag.reason}")
    return "\n".join(lines)


def _first(scores: HeadScores) -> str | None:
    return scores.marks[0] if scores.marks else None


def _entry(entry: NodeScore) -> str:
    return f"{entry.node} {entry.mean:+.3g} [{entry.low:+.3g}, {entry.high:+.3g}]"
