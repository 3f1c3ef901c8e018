"""Sweeps on a streamed model: unedited runs in one reading of the model, all edited runs in the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from circuitlab.core.in_step import ByLayer, drained, in_step
from circuitlab.execute.needs import is_streamed
from circuitlab.execute.sweeps import EngineName, ExactSweeps, Precision, Sweeps, sweeps_on

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.engine import Engine
    from circuitlab.model.engine.base_run import BaseRun
    from circuitlab.model.protocol import Model
    from circuitlab.model.sites import EditSet
    from circuitlab.model.streaming.source import LayerSource

__all__ = ["StreamedSweeps", "any_sweeps_on"]

_Result = TypeVar("_Result")


def any_sweeps_on(model: Model, metric: Metric, engine: EngineName = "exact", precision: Precision = "full") -> Sweeps:
    """`sweeps_on` for models in memory, `StreamedSweeps` for streamed ones; parameters as there."""
    if not is_streamed(model):
        return sweeps_on(model, metric, engine, precision)
    from circuitlab.model.engine import Difference, Engine  # noqa: PLC0415 - torch

    difference = Difference() if precision == "bf16_difference" else None
    unedited = Engine(model.by_layer, difference)  # type: ignore[attr-defined]
    edited = unedited if difference is None else Engine(model.by_layer_in_bf16, difference)  # type: ignore[attr-defined]
    return StreamedSweeps(model, metric, unedited, edited, model.source)  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class StreamedSweeps(ExactSweeps):
    """The exact engine on a streamed model. Chunks of pairs, and the edited runs of each, pass every layer together.

    Parameters
    ----------
    edited : Engine
        For edited runs: with weights in bfloat16 where differences are multiplied so.
    source : LayerSource
        Where layers are read.
    """

    edited: Engine
    source: LayerSource

    def sweep_by_layer(self, base: BaseRun, edit_sets: Sequence[EditSet]) -> ByLayer[Tensor]:
        """The residual streams of edited runs, all in memory together."""
        return self.edited.sweep_by_layer(base, edit_sets)

    def together(self, works: Iterable[ByLayer[_Result]]) -> ByLayer[list[_Result]]:
        """Works on the same chunk of pairs, in step."""
        return in_step(list(works))

    def each(self, works: Iterable[ByLayer[_Result]]) -> Iterator[_Result]:
        """The results of works on different chunks of pairs, which go in step."""
        try:
            yield from drained(in_step(list(works)))
        finally:
            self.source.settle()
