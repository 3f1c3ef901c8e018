"""Edge attribution patching with integrated gradients: EAP with gradients averaged along a path from corrupt to clean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.execute.needs import prepared

if TYPE_CHECKING:
    from circuitlab.execute.cost import RunSize
    from circuitlab.execute.edge_runs import WindowedRunner
    from circuitlab.execute.edges import EdgeChunk, NodeChange
    from circuitlab.execute.gradients import GradientRun
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder import Trace
    from circuitlab.model.protocol import Model
    from circuitlab.scores.edge_layout import EdgeLayout
    from circuitlab.scores.edge_scores import EdgeScores
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["EdgeAttributionPatchingIG"]


@dataclass(frozen=True)
class EdgeAttributionPatchingIG:
    """EAP with the gradient averaged along a straight path from the corrupt to the clean run (Hanna et al. 2024).

    The score of an edge u -> v is ``(write_clean(u) - write_corrupt(u)) . mean over steps of gradient``, with the gradient at v's input
    as in EAP. The gradient at a single run misses effects that are saturated there; the average does not. Positive means that the edge
    helps the answer.

    Parameters
    ----------
    steps : int
        Number of points on the path, S; 5 is usual.
    variant : {"inputs", "activations"}
        ``"inputs"`` interpolates the embeddings of all positions together from corrupt to clean and differentiates each of these S runs.
        ``"activations"`` interpolates, in an otherwise clean run, the outputs of one layer at a time (the embedding; all heads of a layer;
        an MLP), and uses each of those runs for the edges from the interpolated nodes.
    points : {"midpoint", "left"}
        Points of the path: (k + 1/2) / S, or the published k / S, for k = 0 .. S-1. The midpoint is the default: at the same cost its
        error falls with 1/S^2 instead of 1/S, and exchanging clean and corrupt only changes the sign. ``"left"`` includes the corrupt
        run itself and reproduces the authors' ``EAP-IG-inputs``.
    pairs_per_pass : int
        Most pairs in one pass. It affects cost, not results.

    Notes
    -----
    For large S, by the completeness of integrated gradients, the embedding's edges sum to ``metric(clean) - metric(corrupt)`` for
    ``"inputs"``; for ``"activations"`` the edges from the interpolated nodes sum to the exact effect of patching those nodes together,
    ``metric(clean) - metric(nodes from the corrupt run)``.

    Cost per pair: S + 2 forward and S backward passes for ``"inputs"``; for ``"activations"`` with L layers (2 L + 1) S forward and
    backward passes, each from the interpolated layer on, so about L S whole ones.

    For ``"activations"`` the authors' code averages gradients over the runs of all nodes for every edge; here an edge uses only the runs
    in which its own sender is interpolated, because only those integrate its effect. In models with a norm after attention (Gemma 2 and 3)
    a head's write passes through that norm's Jacobian at each point. ``total`` is the clean-corrupt gap.

    References
    ----------
    Hanna, Pezzelle and Belinkov (2024), Have Faith in Faithfulness, arXiv:2403.17806. Sundararajan, Taly and Yan (2017),
    arXiv:1703.01365.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> scores = cl.score(planted.model, planted.batch(4), EdgeAttributionPatchingIG())
    >>> [str(entry.node) for entry in scores.top(2)], sorted(map(str, planted.nodes))
    (['a1.h1', 'a1.h2'], ['a1.h1', 'a1.h2'])
    """

    name: ClassVar[str] = "eap_ig"
    estimand: ClassVar[str] = "effect of an edge between the corrupt and the clean run, gradients averaged on the way"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    cost: ClassVar[str] = "steps + 2 forward and steps backward passes per pair (activations: layers x steps of both)"
    cite: ClassVar[tuple[str, ...]] = ("hanna2024", "syed2023")

    steps: int = 5
    variant: Literal["inputs", "activations"] = "inputs"
    points: Literal["midpoint", "left"] = "midpoint"
    pairs_per_pass: int = field(default=8, metadata={"identity": False})

    def __post_init__(self) -> None:
        if self.variant not in {"inputs", "activations"}:
            raise UnknownNameError("variant", self.variant, ["inputs", "activations"])
        if self.points not in {"midpoint", "left"}:
            raise UnknownNameError("points", self.points, ["midpoint", "left"])
        for name, value in (("steps", self.steps), ("pairs_per_pass", self.pairs_per_pass)):
            if value < 1:
                raise BadParameterError(f"{name}={value} is less than 1.", "Use at least 1.")

    @property
    def contrastive(self) -> bool:
        """Always true: equal prompts have no difference to swap."""
        return True

    def passes(self, size: RunSize) -> float:
        """Forward passes: both ends of the path, and every step forward and backward (for activations from each layer on)."""
        steps = self.steps if self.variant == "inputs" else self.steps * (size.n_layers + 0.5)
        return size.traced(2 + steps, steps)

    @prepared
    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """Sum of every sender's outgoing edges: heads (pair, layer, head), mlps (pair, layer), embed (pair), in metric units."""
        return self.edges(model, batch, metric).to_head_scores()

    @prepared
    def edges(self, model: Model, batch: ContrastBatch, metric: Metric) -> EdgeScores:
        """Score every edge on every pair, (pair, sender, receiver), in metric units."""
        from circuitlab.execute.edges import score_edges  # noqa: PLC0415 - torch

        return score_edges(self, model, batch, metric, self.pairs_per_pass, self._chunk)

    def _alphas(self) -> list[float]:
        shift = 0.5 if self.points == "midpoint" else 0.0
        return [(k + shift) / self.steps for k in range(self.steps)]

    def _chunk(self, runs: WindowedRunner, layout: EdgeLayout) -> EdgeChunk:
        from circuitlab.execute.edges import EdgeChunk, change_between, edge_products, sender_writes  # noqa: PLC0415

        clean, corrupt = runs.plain(runs.batch.clean), runs.plain(runs.batch.corrupt)
        change = change_between(clean.trace, corrupt.trace)
        blocks = runs.decoder.blocks
        post_norm = any(block.post_attn is not None for block in blocks)
        writes = sender_writes(blocks, layout, change, clean.trace)
        edges, live = writes.new_zeros(len(clean.value), *layout.shape), False
        moved = self._inputs if self.variant == "inputs" else self._activations
        for rows, run in moved(runs, layout, clean.trace, change):
            own_writes = sender_writes(blocks, layout, change, run.trace, rows) if post_norm else writes[rows]
            products, alive = edge_products(blocks, layout, run, own_writes, rows)
            edges[:, rows] += products / self.steps
            live |= alive
        return EdgeChunk(edges, clean.value, corrupt.value, live)

    def _inputs(self, runs: WindowedRunner, layout: EdgeLayout, clean: Trace, change: NodeChange) -> Iterator[tuple[slice, GradientRun]]:
        """Runs with interpolated embeddings, each for all senders."""
        for alpha in self._alphas():
            yield slice(0, layout.shape[0]), runs.from_embed(clean.embed - (1 - alpha) * change.embed)

    def _activations(
        self,
        runs: WindowedRunner,
        layout: EdgeLayout,
        clean: Trace,
        change: NodeChange,
    ) -> Iterator[tuple[slice, GradientRun]]:
        """Runs with the interpolated output of the embedding, one layer's heads or one MLP, each for these senders."""
        for alpha in self._alphas():
            back = 1 - alpha
            yield slice(0, 1), runs.from_embed(clean.embed - back * change.embed)
            for layer, values in enumerate(clean.layers):
                yield layout.heads(layer), runs.from_heads(clean, layer, values.z - back * change.z[layer])
                column = layout.mlp(layer)
                yield slice(column, column + 1), runs.from_mlp(clean, layer, values.mlp_out - back * change.mlp[layer])
