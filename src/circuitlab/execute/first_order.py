"""First-order effects: a gradient's estimate of the effect of giving a node the value that it has in the other run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.in_step import ByLayer
from circuitlab.core.progress import step
from circuitlab.execute.arrangement import Pairs, arrangement_on
from circuitlab.execute.chunks import Chunks, Held, window_and_length
from circuitlab.execute.contract import provenance_of
from circuitlab.execute.gradients import GradientRun, gradient_run
from circuitlab.execute.memory import PassSizes, fits_in
from circuitlab.execute.needs import is_streamed
from circuitlab.execute.nodes_in_trace import NodeSelection, Point, per_position, value_at
from circuitlab.execute.reference import with_reference
from circuitlab.execute.streamed_gradients import GradientMethod, streamed_scores
from circuitlab.execute.sweeps import batch_by_length
from circuitlab.scores.head_scores import HeadScores

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder import Decoder, Trace
    from circuitlab.model.protocol import Model

__all__ = [
    "EffectEstimator",
    "Effects",
    "GradientMethod",
    "GradientRunPair",
    "check_direction",
    "first_order",
    "gradient_chunks",
    "plain_effects",
]


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
        The nodes and positions that are scored.
    sign : int
        1 if the source is the clean run, else -1.
    start : int
        First position of the traces; nothing differs before it.
    """

    edited: GradientRun
    source: Trace
    batch: ContrastBatch
    chosen: NodeSelection
    sign: int
    start: int = 0

    def difference(self, point: Point) -> Tensor:
        """Clean minus corrupt value, in either direction."""
        return self.sign * (value_at(self.source, point) - value_at(self.edited.trace, point).detach())

    def effect(self, point: Point, gradient: Tensor) -> Float[Tensor, "pair ..."]:
        """``(clean - corrupt) . gradient`` of each node of a point, (pair[, mark][, head])."""
        return self.chosen.on_window(per_position(point, self.difference(point), gradient), self.start, self.batch)


Effects = Callable[[GradientRunPair, Sequence[Point]], Mapping[Point, "Tensor"]]
"""From two runs and some points to their effects, each of shape (pair[, mark][, head])."""


def check_direction(direction: str, pairs_per_pass: int) -> None:
    """Raise unless the direction is known and a pass holds at least one pair."""
    if direction not in {"denoising", "noising"}:
        raise UnknownNameError("direction", direction, ["denoising", "noising"])
    if pairs_per_pass < 1:
        what = f"pairs_per_pass={pairs_per_pass} is less than 1."
        raise BadParameterError(what, "Use 1 or more.")


def plain_effects(contrast: GradientRunPair, points: Sequence[Point]) -> dict[Point, Tensor]:
    """Effects from the gradient of the run itself: one backward pass for all nodes."""
    at = [value_at(contrast.edited.trace, point) for point in points]
    gradients = contrast.edited.gradients(at)
    return {point: contrast.effect(point, gradient) for point, gradient in zip(points, gradients, strict=True)}


@dataclass(frozen=True, eq=False)
class EffectEstimator:
    """How effects are estimated.

    Parameters
    ----------
    effects : callable
        From the two runs and some points to the effects of the points.
    decoder : Decoder, optional
        A functional forward with another backward pass, used for both runs.
    whole : bool
        Whether whole prompts are traced. Otherwise traces begin where clean and corrupt first differ, which takes less time and memory.
    drops : bool
        On a streamed model, whether gradients are means over dropped layers; ``effects`` says it for a model in memory.
    """

    effects: Effects = plain_effects
    decoder: Decoder | None = None
    whole: bool = False
    drops: bool = False


def first_order(
    method: GradientMethod, model: Model, batch: ContrastBatch, metric: Metric, estimator: EffectEstimator | None = None
) -> HeadScores:
    """Score a batch: for each group of pairs one run with a graph, one without, and the effects of all points.

    A pass holds as many pairs as ``pairs_per_pass`` and the memory of a pass (`memory_budget`) allow.

    Parameters
    ----------
    method : GradientMethod
        Its fields choose nodes, positions and direction, and identify the scores.
    model : Model
        The model.
    batch : ContrastBatch
        The pairs.
    metric : Metric
        The metric that is differentiated.
    estimator : EffectEstimator, optional
        How effects are estimated; by default from the gradient of the run itself.
    """
    method.chosen.require(model)
    marks = method.chosen.marks(batch)
    reference_batch = with_reference(model, metric, batch)
    arrays_of_groups: list[dict[str, np.ndarray]] = []
    order: list[int] = []
    chosen = estimator or EffectEstimator()

    def scored(pairs: Pairs) -> ByLayer[dict[str, np.ndarray]]:
        part = reference_batch.select(pairs)
        if is_streamed(model):
            return streamed_scores(method, model, part, metric, drops=chosen.drops)
        return _at_once(method, model, part, metric, chosen)

    groups = gradient_chunks(method, model, reference_batch, whole=chosen.whole)
    for pairs, arrays_of_group in arrangement_on(model, groups.fits).each(scored, groups.pairs, method.name):
        arrays_of_groups.append(arrays_of_group)
        order += pairs
        step(len(order), batch.n_pairs)
    back = np.argsort(order)
    arrays = {name: np.concatenate([group[name] for group in arrays_of_groups])[back] for name in arrays_of_groups[0]}
    return HeadScores.build(arrays, provenance_of(method, model, batch, metric), marks)


def _at_once(
    method: GradientMethod, model: Model, batch: ContrastBatch, metric: Metric, estimator: EffectEstimator
) -> ByLayer[dict[str, np.ndarray]]:
    """The arrays of a few pairs. The memory of both runs is freed on return, before the next pass begins."""
    yield from ()  # one graph through all layers
    contrast, values = _contrast(method, model, batch, metric, estimator)
    return values | method.chosen.stacked(estimator.effects(contrast, method.chosen.points(model.spec.n_layers)))


def gradient_chunks(method: GradientMethod, model: Model, batch: ContrastBatch, *, whole: bool = False) -> Chunks:
    """Pairs that share a pass, and their memory; methods that trace whole prompts also take gradients at patterns."""
    held = Held(PassSizes.of(model), is_streamed(model))
    fields = sorted({point.field for point in method.chosen.points(model.spec.n_layers)} | ({"pattern"} if whole else set()))

    def both(pairs: int, window: int, length: int) -> tuple[int, int]:
        return held.gradients(pairs, length if whole else window, length, fields)

    fits = fits_in(lambda window, length: sum(both(1, window, length)), method.name)
    return Chunks(
        list(batch_by_length(batch, method.pairs_per_pass, alike=False, fits=fits)),
        lambda pairs: both(len(pairs), *window_and_length(batch, pairs))[0],
        lambda pairs: both(len(pairs), *window_and_length(batch, pairs))[1],
    )


def _contrast(
    method: GradientMethod, model: Model, batch: ContrastBatch, metric: Metric, estimator: EffectEstimator
) -> tuple[GradientRunPair, dict[str, np.ndarray]]:
    """The two runs of a few pairs, and the metric of both and their difference, each (pair,)."""
    from circuitlab.execute.edge_runs import WindowedRunner  # noqa: PLC0415 - torch

    denoising = method.direction == "denoising"
    edited, source = (batch.corrupt, batch.clean) if denoising else (batch.clean, batch.corrupt)
    sign, start = (1 if denoising else -1), 0
    if estimator.whole:
        other = gradient_run(model, metric, batch, source, estimator.decoder, track=False)
        run = gradient_run(model, metric, batch, edited, estimator.decoder)
    else:
        runs = WindowedRunner.of(model, metric, batch, estimator.decoder)
        start, other = runs.start, runs.plain(source)
        run = runs.from_embed(runs.embed(edited), flat=metric.name if metric.needs_reference and not denoising else "", tokens=edited)
    values = [either.value.detach().double().cpu().numpy() for either in (run, other)]
    corrupt, clean = values if denoising else values[::-1]
    contrast = GradientRunPair(run, other.trace, batch, method.chosen, sign, start)
    return contrast, {"total": clean - corrupt, "clean": clean, "corrupt": corrupt}
