"""Sweeps on a streamed model: unedited runs in one reading of the model, all edited runs in the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from circuitlab.core.in_step import ByLayer
from circuitlab.execute.arrangement import InStep, Pairs
from circuitlab.execute.memory import most_positions
from circuitlab.execute.needs import blocks_of, is_streamed
from circuitlab.execute.sweeps import EngineName, ExactSweeps, Precision, Sweeps, sweeps_on

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.engine import Engine
    from circuitlab.model.engine.base_run import BaseRun
    from circuitlab.model.protocol import Model
    from circuitlab.model.sites import EditSet

__all__ = ["StreamedSweeps", "any_sweeps_on"]


def any_sweeps_on(
    model: Model,
    metric: Metric,
    engine: EngineName = "exact",
    precision: Precision = "full",
    fits: Callable[[list[Pairs]], bool] | None = None,
) -> Sweeps:
    """`sweeps_on` for models in memory, `StreamedSweeps` for streamed ones, whose chunks go in step if they fit in memory together."""
    if not is_streamed(model):
        return sweeps_on(model, metric, engine, precision)
    from circuitlab.model.engine import Difference, Engine  # noqa: PLC0415 - torch

    difference = Difference() if precision == "bf16_difference" else None
    most = most_positions(model.spec.d_model, blocks_of(model)[0].q.weight.element_size())
    unedited = Engine(model.by_layer, difference, most_positions=most)  # type: ignore[attr-defined]
    edited = unedited if difference is None else Engine(model.by_layer_in_bf16, difference, most_positions=most)  # type: ignore[attr-defined]
    return StreamedSweeps(model, metric, unedited, source=model.source, fits=fits, edited=edited)  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class StreamedSweeps(InStep, ExactSweeps):
    """The exact engine on a streamed model. Chunks of pairs, and the edited runs of each, pass every layer together.

    Parameters
    ----------
    edited : Engine
        For edited runs: with weights in bfloat16 where differences are multiplied so.
    """

    edited: Engine = field(kw_only=True)

    def in_full(self) -> StreamedSweeps:
        """The same, in full precision."""
        return replace(self, edited=replace(self.edited, decoder=self.model.by_layer, difference=None))  # type: ignore[attr-defined]

    def sweep_by_layer(self, base: BaseRun, edit_sets: Sequence[EditSet]) -> ByLayer[Tensor]:
        """The residual streams of edited runs, all in memory together."""
        return self.edited.sweep_by_layer(base, edit_sets)
