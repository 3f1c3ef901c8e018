"""What ``circuitlab circuit --backups`` adds: heads that stand in for heads of the circuit."""

from __future__ import annotations

from typing import Any

from circuitlab.cli.output import interval_text, print_table, print_text

__all__ = ["print_backups"]


def print_backups(found: dict[str, Any]) -> None:
    """Write the groups as text."""
    print_text(f"\nBackups of {', '.join(found['seeds'])}, {found['tested']} pairs of heads knocked out together:")
    if not found["groups"]:
        print_text("no two heads of which either is enough.")
        return
    rows = [[" or ".join(group["heads"]), interval_text(group["effect"]), interval_text(group["excess"])] for group in found["groups"]]
    print_table(["either of", "lost without all", "beyond the single losses"], rows)
