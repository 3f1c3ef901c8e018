"""How ``circuitlab circuit`` prints an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitlab.cli.output import print_table, print_text

if TYPE_CHECKING:
    from circuitlab.workflows.circuit import CircuitEvaluation

__all__ = ["NOT_EVALUATED", "print_evaluation"]

NOT_EVALUATED = dict.fromkeys(("faithfulness", "completeness", "minimality", "cpr", "cmd", "conventions", "random"))
"""The measures in the JSON document of a circuit that was not evaluated: all null."""


def print_evaluation(evaluation: CircuitEvaluation) -> None:
    """Write the measures as a table, and how they were made."""
    print_table(["measure", "value"], [list(row) for row in evaluation.rows()])
    conventions = evaluation.measures["conventions"]
    print_text(f"\nAblated: {conventions['universe']} outside the circuit, {conventions['ablated_value']}. Kept: {conventions['kept']}.")
    print_text(f"Prompts: {conventions['prompts']}. Every convention: --json.")
