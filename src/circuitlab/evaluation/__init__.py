"""Circuit evaluation: run a circuit with everything else ablated, and measure how faithful, complete and minimal it is."""

from circuitlab.evaluation.edges import EdgeCircuitRunner
from circuitlab.evaluation.evaluate import Evaluate
from circuitlab.evaluation.evaluation import Evaluation
from circuitlab.evaluation.nodes import NodeCircuitRunner
from circuitlab.evaluation.values import Ablation

__all__ = ["Ablation", "EdgeCircuitRunner", "Evaluate", "Evaluation", "NodeCircuitRunner"]
