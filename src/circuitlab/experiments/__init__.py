"""Replications of published experiments on any model, one folder each."""

from circuitlab.experiments.registry import experiment_classes, get_experiment
from circuitlab.experiments.types import Claim, Drawing, Experiment, ExperimentContext, Gate

__all__ = ["Claim", "Drawing", "Experiment", "ExperimentContext", "Gate", "experiment_classes", "get_experiment"]
