"""The exact engine: many edit sets on one base run, recomputing only what they can change."""

from circuitlab.model.engine.arithmetic import Difference
from circuitlab.model.engine.base_run import CommonPrefix
from circuitlab.model.engine.engine import Engine

__all__ = ["CommonPrefix", "Difference", "Engine"]
