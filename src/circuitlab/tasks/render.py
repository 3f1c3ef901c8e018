"""Prompt pairs as text, with their marks shown."""

from __future__ import annotations

from circuitlab.tasks.spec import Example

__all__ = ["example_text", "marked"]


def marked(text: str, spans: dict[str, tuple[int, int]]) -> str:
    """A prompt with every marked slot shown as ``[words]MARK``; ``spans`` are half-open character spans by mark."""
    rendered, last = "", 0
    for name, (start, stop) in sorted(spans.items(), key=lambda item: item[1]):
        rendered += f"{text[last:start]}[{text[start:stop]}]{name}"
        last = stop
    return rendered + text[last:]


def example_text(example: Example) -> str:
    """One pair as a few lines: clean and corrupt prompt, answers and foils; quotes show leading spaces."""
    lines = [
        f"clean    {marked(example.clean, example.clean_marks)!r}",
        f"corrupt  {marked(example.corrupt, example.corrupt_marks)!r}",
        f"answer   {', '.join(map(repr, example.answers))}    foil  {', '.join(map(repr, example.foils))}",
    ]
    if example.distractors:
        shown = ", ".join(map(repr, example.distractors[:8])) + (", ..." if len(example.distractors) > 8 else "")  # noqa: PLR2004
        lines.append(f"also     {shown}")
    return "\n".join(lines)
