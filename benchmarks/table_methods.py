"""Rewrite the README's table of methods from benchmarks/results/methods.jsonl: `.venv/bin/python benchmarks/table_methods.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from marked_table import MarkedTable

__all__ = ["PLACE", "table"]

ROOT = Path(__file__).parents[1]
PLACE = MarkedTable("methods", "table_methods.py")
_STAGES = ("model_seconds", "training_seconds", "encoding_seconds", "scoring_seconds")


def table(lines: list[dict[str, Any]]) -> str:
    """The table in Markdown, and under it how the seconds of methods that train something split."""
    names = ("method", "seconds", "peak memory", "rank correlation with exact patching", "planted AUROC (where it can see)")
    rows = ["| " + " | ".join(names) + " |", "|---|---|---|---|---|"]
    timed = [line for line in lines if line["pairs"]]  # not of weights alone, and not a grade alone
    for line in timed:
        seen = _or_dash(line["planted_visible"], "{:.2f}")
        cells = [
            f"`{line['method']}`",
            f"{line['seconds']:.1f}",
            f"{line['peak_mb'] / 1024:.1f} GB",
            _or_dash(line["rank_correlation"], "{:.3f}") + (f" ({line['direction']})" if line["rank_correlation"] is not None else ""),
            f"{line['planted']:.2f} ({seen} on {line['planted_seen']} of {line['planted_models']})",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    for line in timed:
        if "training_seconds" in line:
            split = ", ".join(f"{key.removesuffix('_seconds')} {line[key]:.1f} s" for key in _STAGES if key in line)
            rows += ["", f"`{line['method']}` by stage: {split}."]
    return "\n".join(rows)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def main() -> None:
    """Rewrite the README."""
    lines = (ROOT / "benchmarks/results/methods.jsonl").read_text(encoding="utf-8").splitlines()
    PLACE.write(table([json.loads(line) for line in lines]))


if __name__ == "__main__":
    main()
