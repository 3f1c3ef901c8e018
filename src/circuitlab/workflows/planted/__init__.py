"""The scoreboard: grades of every method on every planted model."""

from circuitlab.workflows.planted.floors import FLOORS, MEASURES, Standing, standings
from circuitlab.workflows.planted.grading import PLANTED_METHODS, PlantedResult, grade, scoreboard
from circuitlab.workflows.planted.reasons import REASONS, why_invisible
from circuitlab.workflows.planted.statistics import auroc, average_precision, precision_at_k, sign_accuracy

__all__ = [
    "FLOORS",
    "MEASURES",
    "PLANTED_METHODS",
    "REASONS",
    "PlantedResult",
    "Standing",
    "auroc",
    "average_precision",
    "grade",
    "precision_at_k",
    "scoreboard",
    "sign_accuracy",
    "standings",
    "why_invisible",
]
