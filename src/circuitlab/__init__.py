"""circuitlab: find, check and compare circuits in decoder language models, with error bars.

>>> import circuitlab as cl
>>> model = cl.load_model("smollm2-135m")  # doctest: +SKIP
>>> scores = cl.score(model, "ioi")  # doctest: +SKIP
>>> cl.figures.head_heatmap(scores)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitlab import circuits, comparison, exports, figures, methods, metrics, texts
    from circuitlab.circuits import Circuit, TopEdges, TopK, top_heads
    from circuitlab.citations import cite
    from circuitlab.core import errors
    from circuitlab.core.nodes import Head
    from circuitlab.model import interventions, load_model
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.scores.edge_scores import EdgeScores
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.store import Cache
    from circuitlab.studies.study import Study
    from circuitlab.tasks import Task, load_task
    from circuitlab.workflows.bench import bench
    from circuitlab.workflows.circuit import evaluate, find_circuit
    from circuitlab.workflows.compare import compare, transfer
    from circuitlab.workflows.fitness import check_task
    from circuitlab.workflows.head_card import head_card
    from circuitlab.workflows.head_on_text import head_on_text
    from circuitlab.workflows.lens import logit_lens
    from circuitlab.workflows.roles import roles
    from circuitlab.workflows.score import score, score_edges
    from circuitlab.workflows.why import edge_loadings, why_attends, why_reads

__version__ = "0.1.0"

_HOMES = {
    "Cache": "circuitlab.store",
    "Circuit": "circuitlab.circuits",
    "ContrastBatch": "circuitlab.model.batch",
    "EdgeScores": "circuitlab.scores.edge_scores",
    "Head": "circuitlab.core.nodes",
    "HeadScores": "circuitlab.scores.head_scores",
    "Study": "circuitlab.studies.study",
    "Task": "circuitlab.tasks",
    "TopEdges": "circuitlab.circuits",
    "TopK": "circuitlab.circuits",
    "bench": "circuitlab.workflows.bench",
    "check_task": "circuitlab.workflows.fitness",
    "cite": "circuitlab.citations",
    "compare": "circuitlab.workflows.compare",
    "edge_loadings": "circuitlab.workflows.why",
    "evaluate": "circuitlab.workflows.circuit",
    "explore": "circuitlab.explorer.explore",
    "find_circuit": "circuitlab.workflows.circuit",
    "head_card": "circuitlab.workflows.head_card",
    "head_on_text": "circuitlab.workflows.head_on_text",
    "load_model": "circuitlab.model",
    "load_task": "circuitlab.tasks",
    "logit_lens": "circuitlab.workflows.lens",
    "roles": "circuitlab.workflows.roles",
    "score": "circuitlab.workflows.score",
    "score_edges": "circuitlab.workflows.score",
    "top_heads": "circuitlab.circuits",
    "transfer": "circuitlab.workflows.compare",
    "why_attends": "circuitlab.workflows.why",
    "why_reads": "circuitlab.workflows.why",
}
_MODULES = {
    "circuits": "circuitlab.circuits",
    "comparison": "circuitlab.comparison",
    "errors": "circuitlab.core.errors",
    "exports": "circuitlab.exports",
    "figures": "circuitlab.figures",
    "interventions": "circuitlab.model.interventions",
    "methods": "circuitlab.methods",
    "metrics": "circuitlab.metrics",
    "texts": "circuitlab.texts",
}

__all__ = [
    "Cache",
    "Circuit",
    "ContrastBatch",
    "EdgeScores",
    "Head",
    "HeadScores",
    "Study",
    "Task",
    "TopEdges",
    "TopK",
    "bench",
    "check_task",
    "circuits",
    "cite",
    "compare",
    "comparison",
    "edge_loadings",
    "errors",
    "evaluate",
    "explore",
    "exports",
    "figures",
    "find_circuit",
    "head_card",
    "head_on_text",
    "interventions",
    "load_model",
    "load_task",
    "logit_lens",
    "methods",
    "metrics",
    "roles",
    "score",
    "score_edges",
    "texts",
    "top_heads",
    "transfer",
    "why_attends",
    "why_reads",
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
