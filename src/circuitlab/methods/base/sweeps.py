"""What methods that intervene share: chunks of like pairs, the metric of edited runs, and which engine makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from circuitlab.errors import UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Intervention, Model

__all__ = ["EngineName", "like_pairs", "metric_of", "metric_of_sweep", "require_engine"]

EngineName: TypeAlias = Literal["exact", "hooks"]


def require_engine(name: str) -> None:
    """Raise `UnknownNameError` unless an engine has this name."""
    if name not in {"exact", "hooks"}:
        raise UnknownNameError("engine", name, ["exact", "hooks"])


def like_pairs(batch: ContrastBatch, size: int) -> Iterator[list[int]]:
    """Pairs in chunks of at most ``size``, those of like length and like first difference together: a chunk's rows share a window."""
    order = np.lexsort((batch.first_difference().cpu().numpy(), batch.end.cpu().numpy()))
    for start in range(0, len(order), size):
        yield [int(i) for i in order[start : start + size]]


def metric_of(model: Model, metric: Metric, batch: ContrastBatch, tokens: Tensor) -> np.ndarray:
    """The metric of unedited runs, (pair,)."""
    return np.asarray(metric(model.logits(tokens, batch.end).double(), batch).cpu())


def metric_of_sweep(
    model: Model,
    metric: Metric,
    batch: ContrastBatch,
    tokens: Tensor,
    interventions: Sequence[Intervention],
    engine: EngineName = "exact",
) -> np.ndarray:
    """The metric of every edited run, (intervention, pair).

    The engine named ``"exact"`` computes what an intervention can reach; ``"hooks"`` is the slow reference that reruns the model.
    """
    from circuitlab.model.engine.by_hooks import sweep_by_hooks  # noqa: PLC0415 - torch

    if engine == "hooks":
        return np.asarray(metric(sweep_by_hooks(model, tokens, batch.end, interventions).double(), batch).cpu())
    ids, placed = (None, batch) if metric.whole_vocabulary else batch.over_tokens()
    return np.asarray(metric(model.sweep(tokens, batch.end, interventions, ids).double(), placed).cpu())
