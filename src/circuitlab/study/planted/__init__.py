"""The scoreboard: every method on every planted model."""

from circuitlab.study.planted.grading import PLANTED_METHODS, PlantedResult, grade, scoreboard
from circuitlab.study.planted.reasons import REASONS, why_invisible
from circuitlab.study.planted.statistics import auroc, average_precision, precision_at_k, sign_accuracy

__all__ = [
    "PLANTED_METHODS",
    "REASONS",
    "PlantedResult",
    "auroc",
    "average_precision",
    "grade",
    "precision_at_k",
    "scoreboard",
    "sign_accuracy",
    "why_invisible",
]
