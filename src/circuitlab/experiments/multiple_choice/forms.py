"""How the questions are written, and the labels of their options."""

from __future__ import annotations

__all__ = ["AS_CHOSEN", "FORMS", "LABELS"]

FORMS = ("label_first", "label_last")
"""``(A) coin ... Answer: (`` as in the paper; ``- coin (A) ... Answer: coin (``, where a label can be copied from behind the same word."""

AS_CHOSEN = "A to D"
LABELS = {AS_CHOSEN: "ABCD", "other letters in order": "KLMN", "random letters": "RHWC", "numbers": "1234"}
"""One character for each option, by the name of the set; heads are chosen with `AS_CHOSEN`."""
