"""What ``circuitlab circuit --backups`` prints: heads that take over when heads of the circuit are ablated."""

from __future__ import annotations

from typing import Any

from circuitlab.cli.output import interval_text, print_table, print_text

__all__ = ["print_backups"]


def print_backups(backups: dict[str, Any]) -> None:
    """Write the backup groups as a table."""
    print_text(f"\nBackups of {', '.join(backups['seeds'])}, {backups['tested']} pairs of heads knocked out together:")
    if not backups["groups"]:
        print_text("none: no head takes over for another.")
        return
    rows = [[" or ".join(group["heads"]), interval_text(group["effect"]), interval_text(group["excess"])] for group in backups["groups"]]
    print_table(["heads", "lost without all of them", "beyond the sum of single losses"], rows)
