"""What methods that intervene share: chunks of like pairs, unedited runs, and the metric of many edited runs."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np

from circuitlab.errors import ModelError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Intervention, Model, Site

__all__ = ["EngineName", "Precision", "Started", "Sweeps", "like_pairs", "metric_of_sweep", "pairs_together", "require_engine", "sweeps_on"]

EngineName: TypeAlias = Literal["exact", "hooks"]
Precision: TypeAlias = Literal["full", "bf16_difference"]

_TOKENS_TOGETHER = 4096
"""Positions of all edited runs that go up together: enough for large matrix products in the lower layers too."""


@dataclass(frozen=True, eq=False)
class Started:
    """An unedited run: its metric (pair,), the sites that were asked for, (pair, layer, ...), and what an engine goes on from."""

    metric: np.ndarray
    sites: dict[Site, Tensor]
    base: Any


class Sweeps(Protocol):
    """Runs prompts unedited, and then many edited runs from there."""

    def start(self, batch: ContrastBatch, tokens: Tensor, sites: Collection[Site] = ()) -> Started:
        """Run prompts unedited."""
        ...

    def sweep(self, batch: ContrastBatch, started: Started, interventions: Sequence[Intervention]) -> np.ndarray:
        """The metric of every edited run, (intervention, pair)."""
        ...


@dataclass(frozen=True, eq=False)
class _Exact:
    """Computes what an intervention can reach."""

    model: Model
    metric: Metric
    engine: Any

    def start(self, batch: ContrastBatch, tokens: Tensor, sites: Collection[Site] = ()) -> Started:
        base = self.engine.base_run(tokens, batch.end, sites)
        return Started(self._metric(batch, base.final), {site: base.site(site) for site in sites}, base)

    def sweep(self, batch: ContrastBatch, started: Started, interventions: Sequence[Intervention]) -> np.ndarray:
        return self._metric(batch, self.engine.sweep(started.base, interventions))

    def _metric(self, batch: ContrastBatch, final: Tensor) -> np.ndarray:
        ids, placed = (None, batch) if self.metric.whole_vocabulary else batch.over_tokens()
        return np.asarray(self.metric(self.model.unembed(final, ids).double(), placed).cpu())


@dataclass(frozen=True, eq=False)
class _Hooks:
    """The slow reference: reruns the whole model for every edited run."""

    model: Model
    metric: Metric

    def start(self, batch: ContrastBatch, tokens: Tensor, sites: Collection[Site] = ()) -> Started:
        logits = self.model.logits(tokens, batch.end).double()
        read = self.model.capture(tokens, list(sites)) if sites else {}
        return Started(np.asarray(self.metric(logits, batch).cpu()), read, tokens)

    def sweep(self, batch: ContrastBatch, started: Started, interventions: Sequence[Intervention]) -> np.ndarray:
        from circuitlab.model.engine.by_hooks import sweep_by_hooks  # noqa: PLC0415 - torch

        logits = sweep_by_hooks(self.model, started.base, batch.end, interventions)
        return np.asarray(self.metric(logits.double(), batch).cpu())


def require_engine(name: str) -> None:
    """Raise `UnknownNameError` unless an engine has this name."""
    if name not in {"exact", "hooks"}:
        raise UnknownNameError("engine", name, ["exact", "hooks"])


def sweeps_on(model: Model, metric: Metric, engine: EngineName = "exact", precision: Precision = "full") -> Sweeps:
    """The engine of this name, or hooks (with a warning that says why) where a model cannot be taken apart.

    Parameters
    ----------
    model, metric
        What is run and read.
    engine : {"exact", "hooks"}
        ``"exact"`` computes what an intervention can reach; ``"hooks"`` reruns the model. They agree up to rounding.
    precision : {"full", "bf16_difference"}
        Of the exact engine: the model's dtype, or differences from the base run multiplied in bfloat16.
    """
    from circuitlab.model.engine import Difference, Engine  # noqa: PLC0415 - torch

    require_engine(engine)
    if engine == "hooks":
        return _Hooks(model, metric)
    try:
        decoder = model.decoder
    except ModelError as error:
        warnings.warn(f"Falling back to hooks, which are much slower: {error}", stacklevel=2)
        return _Hooks(model, metric)
    return _Exact(model, metric, Engine(decoder, Difference() if precision == "bf16_difference" else None))


def like_pairs(batch: ContrastBatch, size: int, todo: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Pairs (those of ``todo``, or all) in chunks of at most ``size``, those of like length and like first difference together.

    The rows of a chunk share a window, so unlike pairs would make each other's window longer.
    """
    order = np.lexsort((batch.first_difference().cpu().numpy(), batch.end.cpu().numpy()))
    order = order if todo is None else order[np.isin(order, todo)]
    for start in range(0, len(order), size):
        yield [int(i) for i in order[start : start + size]]


def pairs_together(batch: ContrastBatch, interventions: int) -> int:
    """How many pairs go up together: with few interventions more, so that matrix products stay large; with many one at a time."""
    changed = float((batch.end + 1 - batch.first_difference()).clamp(min=1).float().mean())
    return max(1, min(batch.n_pairs, round(_TOKENS_TOGETHER / (max(1, interventions) * changed))))


def metric_of_sweep(
    model: Model,
    metric: Metric,
    batch: ContrastBatch,
    tokens: Tensor,
    interventions: Sequence[Intervention],
    engine: EngineName = "exact",
) -> np.ndarray:
    """The metric of every edited run of some prompts, (intervention, pair)."""
    sweeps = sweeps_on(model, metric, engine)
    return sweeps.sweep(batch, sweeps.start(batch, tokens), interventions)
