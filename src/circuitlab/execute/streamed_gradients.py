"""First-order effects on a streamed model: up through the layers with both runs, and down again with gradients inside one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from circuitlab.core.in_step import ByLayer
from circuitlab.execute.contract import Method
from circuitlab.execute.gradients import GradientRun, refuse_zero_gradient
from circuitlab.execute.nodes_in_trace import NodeSelection, Point, per_position

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder import Cache, Decoder
    from circuitlab.model.decoder.layer import LayerTrace
    from circuitlab.model.protocol import Model

__all__ = ["GradientMethod", "streamed_scores"]


class GradientMethod(Method, Protocol):
    """A method that differentiates one run and takes values from the other."""

    @property
    def direction(self) -> str:
        """``"denoising"`` differentiates at the corrupt run, ``"noising"`` at the clean run."""
        ...

    @property
    def pairs_per_pass(self) -> int:
        """Most pairs in one autograd graph."""
        ...

    @property
    def chosen(self) -> NodeSelection:
        """The nodes and positions that are scored."""
        ...


@dataclass(eq=False)
class _Runs:
    """Both runs of some pairs on the positions from their first difference on, on their way through the layers.

    Parameters
    ----------
    decoder : Decoder
        The model.
    start : int
        First position of the window.
    prefix, here, there : Tensor, shape (pair, pos, d_model)
        The streams entering the next layer: before the window, and on it of the run that is differentiated and of the other.
    past : Cache
        Keys and values of the positions before the window.
    entering : list of Tensor
        The stream that entered each layer, of the run that is differentiated.
    sources : dict of Point to Tensor
        The other run's values.
    """

    decoder: Decoder
    start: int
    prefix: Tensor
    here: Tensor
    there: Tensor
    past: Cache
    entering: list[Tensor] = field(default_factory=list)
    sources: dict[Point, Tensor] = field(default_factory=dict)

    def up(self, layer: int, points: Sequence[Point]) -> None:
        """Take all streams through a layer, without a graph."""
        import torch  # noqa: PLC0415

        last, window = len(self.decoder.blocks) - 1, self.here.shape[1]
        with torch.no_grad():
            if self.start:
                before = self.decoder.at_layer(layer, self.start, self.past)
                if layer == last:
                    before.keys_only(self.prefix)
                else:
                    self.prefix = before(self.prefix).resid_post
            other = self.decoder.at_layer(layer, window, self.past.copy())(self.there)
            self.sources.update({point: getattr(other, point.field) for point in points})
            self.there = other.resid_post
            self.entering.append(self.here)
            self.here = self.decoder.at_layer(layer, window, self.past.copy())(self.here).resid_post

    def down(self, layer: int, points: Sequence[Point], above: Tensor) -> tuple[Tensor, dict[Point, tuple[Tensor, Tensor]]]:
        """Take a gradient through a layer: the gradient that leaves it below, and (value, gradient) at its points."""
        leaf, run, at = self._differentiable(layer, points)
        below, *gradients = _gradients([run.resid_post], [above], [leaf, *at])
        self.past.held.pop(layer, None)
        return below, {point: (x.detach(), gradient) for point, x, gradient in zip(points, at, gradients, strict=True)}

    def down_with_drops(
        self, layer: int, points: Sequence[Point], above: tuple[Tensor, Tensor | None]
    ) -> tuple[tuple[Tensor, Tensor], dict[Point, tuple[Tensor, Tensor, Tensor | None]]]:
        """`down` for a gradient and the sum of gradients with one higher layer dropped (None above the last layer).

        To the sum that leaves below, this layer's own drop is added: the gradient from above, which passes it unchanged. Points get
        (value, gradient, sum or None).
        """
        leaf, run, at = self._differentiable(layer, points)
        plain, dropped = above
        below, *gradients = _gradients([run.resid_post], [plain], [leaf, *at], keep=True)
        total, sums = plain, []
        if dropped is not None:
            # The stream that enters is an output, too, so that autograd adds its gradients in the order in which it does in one graph.
            total, *sums = _gradients([run.resid_post, leaf], [dropped, plain], [leaf, *at])
        self.past.held.pop(layer, None)
        values = zip(points, at, gradients, sums or [None] * len(at), strict=True)
        return (below, total), {point: (x.detach(), gradient, more) for point, x, gradient, more in values}

    def _differentiable(self, layer: int, points: Sequence[Point]) -> tuple[Tensor, LayerTrace, list[Tensor]]:
        """The stream that enters a layer, the layer's values in a graph from there, and those at its points."""
        import torch  # noqa: PLC0415

        with torch.enable_grad():
            leaf = self.entering.pop().detach().requires_grad_(True)
            run = self.decoder.at_layer(layer, leaf.shape[1], self.past.copy())(leaf)
        return leaf, run, [getattr(run, point.field) for point in points]


@dataclass(eq=False)
class _Down:
    """Gradients on their way down: plain ones, or means over the layers of a model of ``depth`` layers of which one is dropped.

    Parameters
    ----------
    runs : _Runs
        Both runs at the top.
    depth : int
        Number of layers that are dropped in turn; 1 drops none.
    above : Tensor
        The gradient at the stream that leaves the next layer down.
    dropped : Tensor or None
        The sum of gradients there with one higher layer dropped; None above the last layer.
    """

    runs: _Runs
    depth: int
    above: Tensor
    dropped: Tensor | None = None

    def __call__(self, layer: int, points: Sequence[Point]) -> dict[Point, tuple[Tensor, Tensor]]:
        """Pass a layer: (value, gradient) at its points."""
        if self.depth == 1:
            self.above, at = self.runs.down(layer, points, self.above)
            return at
        (self.above, self.dropped), both = self.runs.down_with_drops(layer, points, (self.above, self.dropped))
        means = {}
        for point, (value, gradient, more) in both.items():  # a dropped layer below a point leaves its gradient as it is
            total = gradient * layer if more is None else gradient * layer + more
            means[point] = (value, total / (self.depth - 1))
        return means


def _gradients(outputs: list[Tensor], seeds: list[Tensor], at: list[Tensor], *, keep: bool = False) -> list[Tensor]:
    """Gradients at some values of a graph, zeros where the outputs do not depend on them."""
    import torch  # noqa: PLC0415

    raw = torch.autograd.grad(outputs, at, seeds, retain_graph=keep, allow_unused=True)
    return [torch.zeros_like(x) if gradient is None else gradient for gradient, x in zip(raw, at, strict=True)]


def streamed_scores(
    method: GradientMethod, model: Model, batch: ContrastBatch, metric: Metric, *, drops: bool = False
) -> ByLayer[dict[str, np.ndarray]]:
    """The arrays of some pairs, as `first_order` needs them: once up through the layers, and once down.

    The numbers are those of one autograd graph through all layers: a gradient that enters a layer from above is all that the graph above
    it gives. With ``drops`` they are means over gradients with one later layer dropped (`AttributionPatchingStar`).
    """
    denoising = method.direction == "denoising"
    tokens, others = (batch.corrupt, batch.clean) if denoising else (batch.clean, batch.corrupt)
    runs = _begun(model, batch, tokens, others)
    depth, chosen = model.spec.n_layers, method.chosen
    points = chosen.points(depth)
    by_layer = [[point for point in points if point.layer == layer] for layer in range(depth)]
    for layer in range(depth):
        yield layer
        runs.up(layer, by_layer[layer])
    flat = metric.name if metric.needs_reference and not denoising else ""
    values, above = _metric_of(model, metric, batch, runs, flat)
    sign, effects, moved = 1 if denoising else -1, {}, False
    down = _Down(runs, depth if drops else 1, above)
    for layer in reversed(range(depth)):
        yield layer
        for point, (value, gradient) in down(layer, by_layer[layer]).items():
            moved = moved or bool(gradient.any())
            difference = sign * (runs.sources.pop(point) - value)
            effects[point] = chosen.on_window(per_position(point, difference, gradient), runs.start, batch)
    if not moved:
        refuse_zero_gradient()
    corrupt, clean = values if denoising else values[::-1]
    return {"total": clean - corrupt, "clean": clean, "corrupt": corrupt} | chosen.stacked({point: effects[point] for point in points})


def _begun(model: Model, batch: ContrastBatch, tokens: Tensor, others: Tensor) -> _Runs:
    """Both runs before the first layer."""
    import torch  # noqa: PLC0415

    from circuitlab.model.decoder import Cache  # noqa: PLC0415 - torch

    decoder = model.by_layer  # type: ignore[attr-defined]
    start = int(torch.minimum(batch.first_difference(), batch.end).min())
    decoder.geometry(batch.clean.shape[1])  # a longer prompt than any before is checked before any layer is passed
    prefix, here, there = decoder.embed(batch.clean)[:, :start], decoder.embed(tokens)[:, start:], decoder.embed(others)[:, start:]
    return _Runs(decoder, start, prefix, here, there, Cache())


def _metric_of(model: Model, metric: Metric, batch: ContrastBatch, runs: _Runs, flat: str) -> tuple[tuple[np.ndarray, np.ndarray], Tensor]:
    """The metric of the run that is differentiated and of the other, (pair,), and its gradient at the stream leaving the last layer."""
    import torch  # noqa: PLC0415

    ids, token_batch = (None, batch) if metric.whole_vocabulary else batch.over_tokens()
    rows, at = torch.arange(batch.n_pairs), batch.end - runs.start
    with torch.no_grad():
        other = metric(model.unembed(runs.there[rows, at], ids), token_batch)
    with torch.enable_grad():
        leaf = runs.here.detach().requires_grad_(True)
        value = metric(model.unembed(leaf[rows, at], ids), token_batch)
    # The metric alone: what the layers below make of it is not known yet, so that a gradient of zero is refused at the end.
    (above,) = GradientRun(leaf, None, value, flat).gradients([leaf], allow_zero=True)  # type: ignore[arg-type]
    return (value.detach().double().numpy(), other.double().numpy()), above
