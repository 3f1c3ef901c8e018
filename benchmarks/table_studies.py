"""Rewrite the README's table of studies from benchmarks/results/studies.jsonl: `.venv/bin/python benchmarks/table_studies.py`.

The table goes between the two marks below; put them where it should stand before the first run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench_study import kept

__all__ = ["END", "START", "between", "table"]

ROOT = Path(__file__).parents[1]
START, END = "<!-- studies: made by benchmarks/table_studies.py -->", "<!-- studies end -->"
_GROUPS = {"explorer: ": "explorer", "build: ": "figures and pages"}
_DEAREST = 3


def table(lines: list[dict[str, Any]]) -> str:
    """The table in Markdown: minutes by the clock, processor minutes, and the dearest methods and parts with their shares."""
    rows = ["| study | minutes | processor minutes | threads | most of it |", "|---|---|---|---|---|"]
    for line in lines:
        groups: dict[str, float] = {}
        for name, (cpu, _) in line["parts"].items():
            groups[group_of(name)] = groups.get(group_of(name), 0.0) + cpu
        dearest = sorted(groups.items(), key=lambda item: -item[1])[:_DEAREST]
        shares = ", ".join(f"{name} {cpu / line['cpu_seconds']:.0%}" for name, cpu in dearest)
        minutes, cpu_minutes = line["seconds"] / 60, line["cpu_seconds"] / 60
        rows.append(f"| `figures/{line['study']}.toml` | {minutes:.1f} | {cpu_minutes:.1f} | {line['threads']} | {shares} |")
    return "\n".join(rows)


def group_of(name: str) -> str:
    """What a part counts towards: its method over all tasks, the explorer, the build, or itself."""
    for prefix, group in _GROUPS.items():
        if name.startswith(prefix):
            return group
    return f"`{name.rpartition(' x ')[2]}`" if " x " in name else name


def between(text: str) -> str:
    """What a page holds between the two marks."""
    return text.split(START)[1].split(END, maxsplit=1)[0].strip()


def main() -> None:
    """Rewrite the README."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if START not in text or END not in text:
        raise SystemExit(f"README.md has no place for the table of studies. Put these two lines where it should stand:\n{START}\n{END}")
    before, after = text.split(START)[0], text.split(END)[1]
    readme.write_text(f"{before}{START}\n{table(kept())}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
