"""AtP*: attribution patching that does not linearise the softmax, and that reveals direct and indirect effects that cancel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from circuitlab.core.errors import UnknownNameError
from circuitlab.execute.contract import fields_as_tuples
from circuitlab.execute.first_order import EffectEstimator, GradientRunPair, check_direction, first_order, gradient_chunks
from circuitlab.execute.needs import decoder_of, prepared
from circuitlab.execute.nodes_in_trace import NodeSelection, Point, value_at
from circuitlab.execute.qk_fix import attention_of, fixed_effect
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.execute.chunks import Chunks
    from circuitlab.execute.cost import RunSize
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder import Decoder
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["AttributionPatchingStar"]

_PARTS = ("heads", "attns", "mlps")
_SITES = ("z", "q", "k", "v")
_REDUCE = ("signed", "absolute", "none")


@dataclass(frozen=True)
class AttributionPatchingStar:
    """Attribution patching with the QK fix and GradDrop (Kramar et al. 2024).

    *QK fix* (sites q and k): attention is recomputed with the query or key of the other run, and only what follows is linearised:
    ``(new pattern - pattern) . gradient at the pattern``. A saturated softmax has almost zero slope, so that plain attribution patching
    misses heads that attend elsewhere once their query changes. *GradDrop*: for each layer in turn, the gradient that flows back through
    what this layer adds to the residual stream is dropped. If a node's direct effect is cancelled by one later layer, it appears when
    that layer is dropped.

    Parameters
    ----------
    direction : {"denoising", "noising"}
        Whether the gradient is taken at the corrupt run (denoising) or at the clean run (noising).
    parts : tuple of str
        Any of heads, attns, mlps.
    site : {"z", "q", "k", "v"}
        The value of a head. ``"z"`` (default) is the head's output, which `ActivationPatching` patches by default; it comes after the
        softmax and needs no QK fix. The paper treats queries, keys and values as separate nodes, whose scores are read side by side and
        not added up: choose q, k or v for those. Queries and keys get the QK fix. Keys and values belong to shared key/value heads (part
        ``kv_heads``), whose change acts through all of their query heads.
    positions : tuple of str
        ``("all",)``, ``("each",)`` or marks of the task. With ``("all",)`` all queries (or keys) of a head change together; otherwise
        those of one position.
    reduce : {"signed", "absolute", "none"}
        How the scores of the L dropped layers are combined. ``"signed"`` (default) is their mean, so that positive means *helps the
        answer*, as in every other method. ``"absolute"`` is the paper's mean of absolute values for each pair: better for finding all
        important nodes, but without a sign. ``"none"`` is only the QK fix, without GradDrop.
    pairs_per_pass : int
        Most pairs in one graph. It affects memory and time, not results.

    Notes
    -----
    The mean over dropped layers excludes the node's own layer and divides by L - 1, because dropping it leaves nothing. Dropping a layer
    before a node does not change its score. The signed mean weights every path by the share of dropped layers that do not interrupt it:
    a path through k later layers has weight (L - 1 - k) / (L - 1), and the direct path has weight 1.

    Cost: 2 forward passes. ``"signed"`` takes 2 backward passes for any number of layers, because a mean of gradients is one backward
    pass from all layers together; ``"absolute"`` takes L partial ones. When layer l is dropped, the gradient at its output passes to its
    input unchanged, so that the backward pass begins there.

    Raises
    ------
    BadParameterError
        If the metric has no gradient at the run that is differentiated (``kl`` with ``direction="noising"``).
    ModelError
        If the model has no functional forward, or its attention has sinks and the site is q or k.

    References
    ----------
    Kramar et al. (2024), AtP*: An efficient and scalable method for localizing LLM behaviour to components, arXiv:2403.00745.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> scores = cl.score(planted.model, planted.batch(4), AttributionPatchingStar())
    >>> [str(entry.node) for entry in scores.top(2)], sorted(map(str, planted.nodes))
    (['a1.h1', 'a1.h2'], ['a1.h1', 'a1.h2'])
    """

    name: ClassVar[str] = "atp_star"
    estimand: ClassVar[str] = "first-order total effect of a node, attention recomputed, mean over gradients with one later layer dropped"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    cost: ClassVar[str] = "2 forward and 2 backward passes per pair; with reduce='absolute' one partial backward pass per layer"
    cite: ClassVar[tuple[str, ...]] = ("kramar2024",)

    direction: Literal["denoising", "noising"] = "denoising"
    parts: tuple[str, ...] = ("heads", "mlps")
    site: Literal["z", "q", "k", "v"] = "z"
    positions: tuple[str, ...] = ("all",)
    reduce: Literal["signed", "absolute", "none"] = "signed"
    pairs_per_pass: int = field(default=16, metadata={"identity": False})

    def __post_init__(self) -> None:
        fields_as_tuples(self)
        check_direction(self.direction, self.pairs_per_pass)
        self.chosen.check(_PARTS, _SITES)
        if self.reduce not in _REDUCE:
            raise UnknownNameError("reduce", self.reduce, _REDUCE)

    @property
    def contrastive(self) -> bool:
        """Always true: equal prompts have no difference."""
        return True

    @property
    def more_needs(self) -> tuple[str, ...]:
        """What these parameters need of a model in addition to `needs`: the QK fix has no formula for a softmax with a sink."""
        return ("no_sinks",) if self.site in {"q", "k"} else ()

    @property
    def streamed_fault(self) -> str:
        """Why it cannot run on a streamed model; empty if it can."""
        if self.site in {"q", "k"}:
            return "the QK fix recomputes the attention of whole prompts; site='z' and 'v' need no fix"
        return "reduce='absolute' takes a pass down for every layer; reduce='signed' takes one" if self.reduce == "absolute" else ""

    @property
    def chosen(self) -> NodeSelection:
        """Nodes and positions that are scored."""
        return NodeSelection(self.parts, self.site, self.positions)

    def passes(self, size: RunSize) -> float:
        """Forward passes: two, and the backward passes of `reduce`, where a partial one counts half."""
        return size.traced(2, {"none": 1.0, "signed": 2.0, "absolute": 1.0 + size.n_layers / 2}[self.reduce])

    @prepared
    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """Score every node; parts have shape (pair[, mark], layer[, head]) in metric units."""
        decoder = decoder_of(model)
        if self.site in {"q", "k"}:
            decoder = decoder.refusing({Site.PATTERN}, "and the QK fix recomputes attention from queries and keys only")
        if self.reduce != "none":
            stream = {Site.RESID_PRE, Site.RESID_MID, Site.RESID_POST}
            decoder = decoder.refusing(stream, "and GradDrop assumes that a dropped layer passes its input on unchanged")

        def effects(contrast: GradientRunPair, points: Sequence[Point]) -> dict[Point, Tensor]:
            return self._effects(contrast, points, decoder)

        estimator = EffectEstimator(effects, decoder, whole=self.site in {"q", "k"}, drops=self.reduce == "signed")
        return first_order(self, model, batch, metric, estimator)

    def chunks(self, model: Model, batch: ContrastBatch) -> Chunks:
        """Pairs that share a pass, and their memory."""
        return gradient_chunks(self, model, batch, whole=self.site in {"q", "k"})

    def _effects(self, contrast: GradientRunPair, points: Sequence[Point], decoder: Decoder) -> dict[Point, Tensor]:
        n_layers = len(contrast.edited.trace.layers)
        if self.reduce == "none" or n_layers == 1:
            plain = contrast.edited.gradients(_levers(contrast, points))
            return {point: _effect(contrast, point, gradient, decoder) for point, gradient in zip(points, plain, strict=True)}
        if self.reduce == "signed":
            mean = _mean_dropped(contrast, points)
            return {point: _effect(contrast, point, gradient, decoder) for point, gradient in zip(points, mean, strict=True)}
        sums: dict[Point, Tensor] = {}
        for gradients, weight in _dropped(contrast, points):
            for point, gradient in gradients.items():
                factor = weight if weight is not None else point.layer
                size = _effect(contrast, point, gradient, decoder).abs() * factor
                sums[point] = sums[point] + size if point in sums else size
        return {point: total / (n_layers - 1) for point, total in sums.items()}


def _levers(contrast: GradientRunPair, points: Sequence[Point]) -> list[Tensor]:
    """The value at which each point's gradient is taken: the pattern for queries and keys, otherwise the node itself."""
    trace = contrast.edited.trace
    return [trace.layers[point.layer].pattern if point.field in {"q", "k"} else value_at(trace, point) for point in points]


def _effect(contrast: GradientRunPair, point: Point, gradient: Tensor, decoder: Decoder) -> Tensor:
    if point.field not in {"q", "k"}:
        return contrast.effect(point, gradient)
    return fixed_effect(contrast, point, gradient, attention_of(decoder, point.layer, gradient.shape[-1]))


def _plain(contrast: GradientRunPair, points: Sequence[Point]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients at the points, the streams leaving layers 0 to L - 1, and the gradients at those. The graph is kept."""
    trace = contrast.edited.trace
    streams = [*(layer.resid_pre for layer in trace.layers[1:]), trace.final]
    gradients = contrast.edited.gradients([*_levers(contrast, points), *streams], keep=True)
    return gradients[: len(points)], streams, gradients[len(points) :]


def _mean_dropped(contrast: GradientRunPair, points: Sequence[Point]) -> list[Tensor]:
    """Mean gradient over all dropped layers except each point's own, in one pass from the inputs of all layers but the first."""
    import torch  # noqa: PLC0415

    plain, streams, leaving = _plain(contrast, points)
    at = _levers(contrast, points)
    below = torch.autograd.grad(streams[:-1], at, grad_outputs=leaving[1:], allow_unused=True)
    n_others = len(streams) - 1
    sums = [
        gradient * point.layer if more is None else gradient * point.layer + more
        for point, gradient, more in zip(points, plain, below, strict=True)
    ]
    return [total / n_others for total in sums]


def _dropped(contrast: GradientRunPair, points: Sequence[Point]) -> Iterator[tuple[dict[Point, Tensor], int | None]]:
    """Gradients with each layer dropped in turn, at the points below it, each with weight 1.

    The plain gradients come first, with weight None: they count once for every layer below a point, because dropping those does not
    change the point's score.
    """
    import torch  # noqa: PLC0415

    plain, streams, leaving = _plain(contrast, points)
    yield dict(zip(points, plain, strict=True)), None
    for layer in range(1, len(streams)):
        below = [point for point in points if point.layer < layer]
        at = _levers(contrast, below)
        gradients = torch.autograd.grad(streams[layer - 1], at, grad_outputs=leaving[layer], retain_graph=True)
        yield dict(zip(below, gradients, strict=True)), 1
