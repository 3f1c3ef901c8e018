"""What ``circuitlab compare --transfer`` prints: the faithfulness of circuits on each other's tasks, and dissociations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitlab.cli.output import interval_text, print_table, print_text

if TYPE_CHECKING:
    from circuitlab.workflows.functional import FunctionalResult

__all__ = ["print_transfer"]


def print_transfer(result: FunctionalResult) -> None:
    """Write the transfer matrix and the dissociations as text."""
    table = result.transfer
    print_text("\nFaithfulness of each circuit (row) on each task (column), other heads ablated; * better than random circuits, q < 0.05")
    rows = []
    for circuit in table.tasks:
        cells = [table.cell(circuit, task) for task in table.tasks]
        rows.append([circuit, *(f"{c.faithfulness['mean']:+.2f}{'*' if c.q is not None and c.q < 0.05 else ''}" for c in cells)])  # noqa: PLR2004
    rows.append([f"random (n={cells[0].random['n']:.0f})", *(f"{table.cell(task, task).random['mean']:+.2f}" for task in table.tasks)])
    shared = len(table.shared_heads)
    rows.append([f"shared by all ({shared})", *(f"{float(table.shared[task].mean):+.2f}" for task in table.tasks)])
    print_table(["circuit", *table.tasks], rows)
    print_text("\nAblating heads of one task alone: effect on that task minus effect of the other task's own heads (share of the gap)")
    dissociations = [
        [f"{row.task_a} ~ {row.task_b}", interval_text(row.contrast_a), interval_text(row.contrast_b), f"{row.q:.3g}", row.verdict]
        for row in result.dissociation.rows
    ]
    print_table(["tasks", "on the first", "on the second", "q", "dissociation"], dissociations)
    for task, ends in table.to_dict(pairs=False)["ends"].items():
        if not ends["gap"]["low"] * ends["gap"]["high"] > 0:
            print_text(
                f"Warning: between full model and all heads ablated, {task} changes by {interval_text(ends['gap'])}: shares mean little."
            )
    for task, reason in table.left_out.items():
        print_text(f"{task} is left out: {reason}")
