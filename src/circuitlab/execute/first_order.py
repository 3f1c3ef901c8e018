"""First-order effects: what a gradient says about giving a node the value it has in the other run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.progress import step
from circuitlab.execute.contract import Method, provenance_of
from circuitlab.execute.gradients import GradientRun, gradient_run
from circuitlab.execute.memory import Fits, PassSizes, fits_in
from circuitlab.execute.nodes_in_trace import NodeSelection, Point, per_position, value_at
from circuitlab.execute.reference import with_reference
from circuitlab.execute.sweeps import batch_by_length
from circuitlab.scores.head_scores import HeadScores

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder import Decoder, Trace
    from circuitlab.model.protocol import Model

__all__ = ["EffectEstimator", "Effects", "GradientMethod", "GradientRunPair", "check_direction", "first_order", "plain_effects"]


class GradientMethod(Method, Protocol):
    """A method that differentiates one run and takes values from the other."""

    @property
    def direction(self) -> str:
        """``"denoising"`` differentiates the corrupt run, ``"noising"`` the clean run."""
        ...

    @property
    def pairs_per_pass(self) -> int:
        """Pairs that one graph holds."""
        ...

    @property
    def chosen(self) -> NodeSelection:
        """What is scored."""
        ...


@dataclass(frozen=True, eq=False)
class GradientRunPair:
    """The two runs of a few pairs.

    Parameters
    ----------
    edited : GradientRun
        The run that is differentiated.
    source : Trace
        Values of the other run, without a graph.
    batch : ContrastBatch
        The pairs.
    chosen : NodeSelection
        What is scored.
    sign : int
        1 where the source is the clean run, else -1.
    start : int
        Position at which the traces begin; nothing differs before it.
    """

    edited: GradientRun
    source: Trace
    batch: ContrastBatch
    chosen: NodeSelection
    sign: int
    start: int = 0

    def difference(self, point: Point) -> Tensor:
        """Clean minus corrupt value, whichever of them is differentiated."""
        return self.sign * (value_at(self.source, point) - value_at(self.edited.trace, point).detach())

    def effect(self, point: Point, gradient: Tensor) -> Float[Tensor, "pair ..."]:
        """``(clean - corrupt) . gradient`` of each node of a point, (pair[, mark][, head])."""
        import torch  # noqa: PLC0415

        found = per_position(point, self.difference(point), gradient)
        return self.chosen.placed(torch.cat([found.new_zeros(len(found), self.start, *found.shape[2:]), found], dim=1), self.batch)


Effects = Callable[[GradientRunPair, Sequence[Point]], Mapping[Point, "Tensor"]]
"""Effects of points, each (pair[, mark][, head])."""


def check_direction(direction: str, pairs_per_pass: int) -> None:
    """Raise unless the direction is known and a pass holds at least one pair."""
    if direction not in {"denoising", "noising"}:
        raise UnknownNameError("direction", direction, ["denoising", "noising"])
    if pairs_per_pass < 1:
        what = f"pairs_per_pass={pairs_per_pass} leaves nothing to run."
        raise BadParameterError(what, "Use 1 or more.")


def plain_effects(contrast: GradientRunPair, points: Sequence[Point]) -> dict[Point, Tensor]:
    """Effects from the gradient of the run itself: one backward pass for all nodes."""
    at = [value_at(contrast.edited.trace, point) for point in points]
    gradients = contrast.edited.gradients(at)
    return {point: contrast.effect(point, gradient) for point, gradient in zip(points, gradients, strict=True)}


@dataclass(frozen=True, eq=False)
class EffectEstimator:
    """How effects are found.

    Parameters
    ----------
    effects : callable
        Effects of points from the two runs.
    decoder : Decoder, optional
        A forward with another backward pass, used for both runs.
    whole : bool
        Trace whole prompts. Otherwise the traces begin where clean and corrupt first differ, which costs less time and memory.
    """

    effects: Effects = plain_effects
    decoder: Decoder | None = None
    whole: bool = False


def first_order(
    method: GradientMethod, model: Model, batch: ContrastBatch, metric: Metric, way: EffectEstimator | None = None
) -> HeadScores:
    """Score a batch: for every few pairs one run with a graph, one without, and the effects of all points.

    So many pairs go together as ``pairs_per_pass`` and the memory of a pass (`memory_budget`) allow.

    Parameters
    ----------
    method : GradientMethod
        Its fields choose nodes, positions and direction, and identify the scores.
    way : EffectEstimator, optional
        How effects are found; by the gradient of the run itself otherwise.
    """
    method.chosen.require(model)
    marks = method.chosen.marks(batch)
    held = with_reference(model, metric, batch)
    points = method.chosen.points(model.spec.n_layers)
    found: list[dict[str, np.ndarray]] = []
    order: list[int] = []
    chosen_way = way or EffectEstimator()
    for pairs in batch_by_length(held, method.pairs_per_pass, alike=False, fits=_fits(method, model, points, whole=chosen_way.whole)):
        found.append(_scored(method, model, held.select(pairs), metric, chosen_way))
        order += pairs
        step(len(order), batch.n_pairs)
    back = np.argsort(order)
    arrays = {name: np.concatenate([one[name] for one in found])[back] for name in found[0]}
    return HeadScores.build(arrays, provenance_of(method, model, batch, metric), marks)


def _scored(method: GradientMethod, model: Model, batch: ContrastBatch, metric: Metric, way: EffectEstimator) -> dict[str, np.ndarray]:
    """The arrays of a few pairs. Both runs are let go on return, before the next pass begins."""
    contrast, values = _contrast(method, model, batch, metric, way)
    return values | method.chosen.stacked(way.effects(contrast, method.chosen.points(model.spec.n_layers)))


def _fits(method: GradientMethod, model: Model, points: Sequence[Point], *, whole: bool) -> Fits:
    """How many pairs fit the memory of one pass; traces of whole prompts are those whose gradient is taken at patterns."""
    sizes = PassSizes.of(model)
    fields = {point.field for point in points} | ({"pattern"} if whole else set())

    def pair_bytes(window: int, length: int) -> int:
        return sizes.differentiated(fields, length if whole else window, length)

    return fits_in(pair_bytes, method.name)


def _contrast(
    method: GradientMethod, model: Model, batch: ContrastBatch, metric: Metric, way: EffectEstimator
) -> tuple[GradientRunPair, dict[str, np.ndarray]]:
    """The two runs of a few pairs, and the metric of both and their difference, each (pair,)."""
    from circuitlab.execute.edge_runs import WindowedRunner  # noqa: PLC0415 - torch

    denoising = method.direction == "denoising"
    edited, source = (batch.corrupt, batch.clean) if denoising else (batch.clean, batch.corrupt)
    sign, start = (1 if denoising else -1), 0
    if way.whole:
        other = gradient_run(model, metric, batch, source, way.decoder, track=False)
        run = gradient_run(model, metric, batch, edited, way.decoder)
    else:
        runs = WindowedRunner.of(model, metric, batch, way.decoder)
        start, other = runs.start, runs.plain(source)
        run = runs.from_embed(runs.embed(edited), flat=metric.name if metric.needs_reference and not denoising else "", tokens=edited)
    values = [one.value.detach().double().cpu().numpy() for one in (run, other)]
    corrupt, clean = values if denoising else values[::-1]
    contrast = GradientRunPair(run, other.trace, batch, method.chosen, sign, start)
    return contrast, {"total": clean - corrupt, "clean": clean, "corrupt": corrupt}
