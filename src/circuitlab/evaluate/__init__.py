"""Circuit evaluation: run a circuit with everything else ablated, and measure how faithful, complete and minimal it is."""

from circuitlab.evaluate.edges import EdgeRunsOfCircuits
from circuitlab.evaluate.evaluate import Evaluate
from circuitlab.evaluate.evaluation import Evaluation
from circuitlab.evaluate.nodes import NodeRuns
from circuitlab.evaluate.stored import StoredEvaluate
from circuitlab.evaluate.values import Ablation

__all__ = ["Ablation", "EdgeRunsOfCircuits", "Evaluate", "Evaluation", "NodeRuns", "StoredEvaluate"]
