"""Replications of published experiments on any model, one folder each."""

from circuitlab.experiments.registry import experiment_classes, get_experiment
from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture

__all__ = ["Claim", "Experiment", "ExperimentContext", "Gate", "Picture", "experiment_classes", "get_experiment"]
