"""Rewrite the README's table of studies from benchmarks/results/studies.jsonl: `.venv/bin/python benchmarks/table_studies.py`."""

from __future__ import annotations

from typing import Any

from bench_study import kept
from marked_table import MarkedTable

__all__ = ["PLACE", "table"]

PLACE = MarkedTable("studies", "table_studies.py")
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


def main() -> None:
    """Rewrite the README."""
    PLACE.write(table(kept()))


if __name__ == "__main__":
    main()
