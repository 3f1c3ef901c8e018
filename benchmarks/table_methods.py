"""Rewrite the README's table of methods from benchmarks/results/methods.jsonl: `.venv/bin/python benchmarks/table_methods.py`.

The table goes between the two marks below; put them where it should stand before the first run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["END", "START", "between", "table"]

ROOT = Path(__file__).parents[1]
START, END = "<!-- methods: made by benchmarks/table_methods.py -->", "<!-- methods end -->"
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


def between(text: str) -> str:
    """What a page holds between the two marks."""
    return text.split(START)[1].split(END, maxsplit=1)[0].strip()


def main() -> None:
    """Rewrite the README."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if START not in text or END not in text:
        raise SystemExit(f"README.md has no place for the table of methods. Put these two lines where it should stand:\n{START}\n{END}")
    lines = [json.loads(line) for line in (ROOT / "benchmarks/results/methods.jsonl").read_text(encoding="utf-8").splitlines()]
    before, after = text.split(START)[0], text.split(END)[1]
    readme.write_text(f"{before}{START}\n{table(lines)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
