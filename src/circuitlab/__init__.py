"""circuitlab: find, check and compare circuits in decoder language models, with error bars.

>>> import circuitlab as cl
>>> model = cl.load_model("smollm2-135m")  # doctest: +SKIP
>>> scores = cl.score_task(model, "ioi", "activation_patching").scores  # doctest: +SKIP
>>> cl.figures.head_heatmap(scores)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitlab import circuits, compare, figures, methods, metrics
    from circuitlab.circuits import Circuit, TopK, top_heads
    from circuitlab.citations import cite
    from circuitlab.core import errors
    from circuitlab.core.nodes import Head
    from circuitlab.model import interventions, load_model
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.store import RunStore
    from circuitlab.studies.study import Study
    from circuitlab.tasks import load_task
    from circuitlab.workflows.fitness import check_task
    from circuitlab.workflows.score import score_task

__version__ = "0.1.0"

_HOMES = {
    "Circuit": "circuitlab.circuits",
    "ContrastBatch": "circuitlab.model.batch",
    "Head": "circuitlab.core.nodes",
    "HeadScores": "circuitlab.scores.head_scores",
    "RunStore": "circuitlab.store",
    "Study": "circuitlab.studies.study",
    "TopK": "circuitlab.circuits",
    "check_task": "circuitlab.workflows.fitness",
    "cite": "circuitlab.citations",
    "load_model": "circuitlab.model",
    "load_task": "circuitlab.tasks",
    "score_task": "circuitlab.workflows.score",
    "top_heads": "circuitlab.circuits",
}
_MODULES = {
    "circuits": "circuitlab.circuits",
    "compare": "circuitlab.compare",
    "errors": "circuitlab.core.errors",
    "figures": "circuitlab.figures",
    "interventions": "circuitlab.model.interventions",
    "methods": "circuitlab.methods",
    "metrics": "circuitlab.metrics",
}

__all__ = [
    "Circuit",
    "ContrastBatch",
    "Head",
    "HeadScores",
    "RunStore",
    "Study",
    "TopK",
    "check_task",
    "circuits",
    "cite",
    "compare",
    "errors",
    "figures",
    "interventions",
    "load_model",
    "load_task",
    "methods",
    "metrics",
    "score_task",
    "top_heads",
]


def __getattr__(name: str) -> Any:
    # Names are found when they are first used, so that importing circuitlab costs nothing.
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    what = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(what)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
