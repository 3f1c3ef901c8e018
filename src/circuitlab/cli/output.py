"""Output of every command: one JSON document or text on standard output, everything else on standard error."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from circuitlab.core.plain_text import for_terminal

if TYPE_CHECKING:
    from pathlib import Path

    import plotly.graph_objects as go

__all__ = ["interval_text", "print_json", "print_table", "print_text", "save_figure"]


def print_json(value: Any) -> None:
    """Write one JSON document; NaN becomes null."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(_without_nan(value)), indent=2).decode() + "\n")


def print_text(text: str) -> None:
    """Write a line; control characters are escaped, which a terminal would act on."""
    sys.stdout.write(for_terminal(text) + "\n")


def print_table(headings: list[str], rows: list[list[str]]) -> None:
    """Write a table with aligned columns and no control characters."""
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    for row in [headings, *rows]:
        print_text("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def interval_text(interval: dict[str, float], digits: int = 2) -> str:
    """``0.91 [0.81, 0.96]``; without limits (NaN, or None in stored results) it says so, and a mean that is not known is ``nan``."""
    mean, low, high = (float("nan") if interval[part] is None else interval[part] for part in ("mean", "low", "high"))
    return f"{mean:.{digits}f} " + ("(no interval)" if math.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]")


def _without_nan(value: Any) -> Any:
    plain = msgspec.to_builtins(value)
    if isinstance(plain, dict):
        return {key: _without_nan(entry) for key, entry in plain.items()}
    if isinstance(plain, list | tuple):
        return [_without_nan(entry) for entry in plain]
    return None if isinstance(plain, float) and plain != plain else plain  # noqa: PLR0124 - the usual test for NaN


def save_figure(figure: go.Figure, path: Path) -> None:
    """Write a figure as one page that needs no network, or as plotly's JSON.

    Raises
    ------
    BadParameterError
        If the suffix is neither .html nor .json.
    StoreError
        If it cannot be written.
    """
    from circuitlab.core.errors import BadParameterError  # noqa: PLC0415
    from circuitlab.core.files import replace_file  # noqa: PLC0415
    from circuitlab.figures.page import figure_json, figure_page  # noqa: PLC0415 - plotly

    if path.suffix not in {".html", ".json"}:
        raise BadParameterError(f"{path} is neither a .html nor a .json file.", "Use one of these suffixes.")
    text = figure_json(figure) if path.suffix == ".json" else figure_page(figure, path.stem, alone=True)
    replace_file(path, lambda target: target.write_text(text, encoding="utf-8"))
