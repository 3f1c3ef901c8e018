"""Edge attribution patching: the first-order effect of every edge, from two forward passes and one backward pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.execute.needs import prepared

if TYPE_CHECKING:
    from circuitlab.execute.cost import RunSize
    from circuitlab.execute.edge_runs import WindowedRunner
    from circuitlab.execute.edges import EdgeChunk
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.edge_layout import EdgeLayout
    from circuitlab.scores.edge_scores import EdgeScores
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["EdgeAttributionPatching"]


@dataclass(frozen=True)
class EdgeAttributionPatching:
    """First-order effect of every edge (Syed et al. 2023): the change of a sender's write times the gradient at a receiver's input.

    The score of an edge u -> v is ``(write_clean(u) - write_corrupt(u)) . gradient``, summed over positions. The gradient is that of the
    metric with respect to the residual stream as read by v's input only: through the projection of one query head (``<q>``) or of one
    shared key/value head (``<k>``, ``<v>``), through an MLP, or at the logits. Grouped-query attention is exact: the gradient of a shared
    head includes all of its query heads. Positive means that the edge helps the answer.

    Parameters
    ----------
    direction : {"noising", "denoising"}
        The run that is differentiated. ``"noising"`` (default) is the method as published: the gradient at the clean run, a linear
        estimate of ``metric(clean) - metric(edge from the corrupt run)``. ``"denoising"`` takes the gradient at the corrupt run, an
        estimate of ``metric(edge from the clean run) - metric(corrupt)``.
    pairs_per_pass : int
        Most pairs in one pass. It affects cost, not results.

    Notes
    -----
    Two forward passes and one backward pass per pair for all edges; positions before the first difference of a pair are run once.

    The estimate is linear. It is wrong where the model is nonlinear between the two runs, most of all where a softmax is saturated (the
    gradient is then close to 0), or where a sender changes a large part of the residual stream that nothing reads: to first order that
    changes the scale of later norms.

    A call returns the sum of every sender's outgoing edges, which is the first-order effect of the node (attribution patching); `edges`
    returns the edges. In models with a norm after attention (Gemma 2 and 3) a head's write is its part passed through that norm's
    Jacobian at the run that is differentiated. ``total`` is the clean-corrupt gap.

    Raises
    ------
    BadParameterError
        If the metric has zero gradient at that run on all pairs, as KL divergence has at the clean run.

    References
    ----------
    Syed, Rager and Conmy (2023), Attribution Patching Outperforms Automated Circuit Discovery, arXiv:2310.10348.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> scores = cl.score(planted.model, planted.batch(4), EdgeAttributionPatching())
    >>> [str(entry.node) for entry in scores.top(2)], sorted(map(str, planted.nodes))
    (['a1.h1', 'a1.h2'], ['a1.h1', 'a1.h2'])
    """

    name: ClassVar[str] = "eap"
    estimand: ClassVar[str] = "first-order effect of swapping what a receiver reads from a sender between the clean and the corrupt run"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    cost: ClassVar[str] = "2 forward and 1 backward pass per pair"
    cite: ClassVar[tuple[str, ...]] = ("syed2023",)

    direction: Literal["noising", "denoising"] = "noising"
    pairs_per_pass: int = field(default=8, metadata={"identity": False})

    def __post_init__(self) -> None:
        if self.direction not in {"denoising", "noising"}:
            raise UnknownNameError("direction", self.direction, ["denoising", "noising"])
        if self.pairs_per_pass < 1:
            raise BadParameterError(f"pairs_per_pass={self.pairs_per_pass} is less than 1.", "Use at least 1.")

    @property
    def contrastive(self) -> bool:
        """Always true: equal prompts have no difference to swap."""
        return True

    def passes(self, size: RunSize) -> float:
        """Forward passes: two, and one backward."""
        return size.traced(2, 1)

    @prepared
    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """Sum of every sender's outgoing edges: heads (pair, layer, head), mlps (pair, layer), embed (pair), in metric units."""
        return self.edges(model, batch, metric).to_head_scores()

    @prepared
    def edges(self, model: Model, batch: ContrastBatch, metric: Metric) -> EdgeScores:
        """Score every edge on every pair, (pair, sender, receiver), in metric units."""
        from circuitlab.execute.edges import score_edges  # noqa: PLC0415 - torch

        return score_edges(self, model, batch, metric, self.pairs_per_pass, self._chunk)

    def _chunk(self, runs: WindowedRunner, layout: EdgeLayout) -> EdgeChunk:
        from circuitlab.execute.edges import EdgeChunk, change_between, edge_products, sender_writes  # noqa: PLC0415

        batch, noising = runs.batch, self.direction == "noising"
        here, there = (batch.clean, batch.corrupt) if noising else (batch.corrupt, batch.clean)
        flat = runs.metric.name if noising and runs.metric.needs_reference else ""
        run, other = runs.from_embed(runs.embed(here), flat, here), runs.plain(there)
        clean, corrupt = (run, other) if noising else (other, run)
        change = change_between(clean.trace, corrupt.trace)
        blocks = runs.decoder.blocks
        edges, live = edge_products(blocks, layout, run, sender_writes(blocks, layout, change, run.trace))
        return EdgeChunk(edges, clean.value, corrupt.value, live)
