"""Circuits of edges: an input reads what a sender writes in this run along circuit edges, and its ablated write along all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Edge, Head, KVHead
from circuitlab.core.progress import step
from circuitlab.evaluation.edge_forward import AblatedWrites, forward
from circuitlab.evaluation.runs import MaskedRuns, require_same_shape
from circuitlab.evaluation.values import Ablation, Means, describe_ablation, require_ablation
from circuitlab.execute.edge_runs import WindowedRunner
from circuitlab.execute.reference import with_reference
from circuitlab.execute.sweeps import batch_by_length
from circuitlab.model.decoder.taps import NO_SUM, STREAM
from circuitlab.model.sites import Site
from circuitlab.scores.edge_layout import EdgeLayout

if TYPE_CHECKING:
    from circuitlab.circuits.circuit import Circuit
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["EdgeCircuitRunner"]

_LARGEST = 1 << 25
"""Numbers that the writes of all senders of the circuits that are run together may hold."""


@dataclass(frozen=True, eq=False)
class EdgeCircuitRunner(MaskedRuns):
    """Runs circuits of typed edges on the clean prompts, all other edges ablated.

    Every receiver reads the residual stream of its own: the sum of what each sender writes in this run where the edge is in the circuit,
    of the sender's ablated write where it is not, and of all biases once. Receivers are each query head's q, each shared key/value
    head's k and v, each MLP and the logits, so that grouped-query models are exact and nothing is ungrouped. The embedding is a sender
    like any other: in the empty circuit nothing of the clean prompt is read.

    Parameters
    ----------
    model, batch, metric
        What is run and read.
    ablation : {"resample", "zero", "mean", "mean_by_mark", "mean_by_template"}
        What an ablated edge carries: the sender's write in the corrupt run, nothing, or the write of its mean output.
    keep_at : mapping of Edge to tuple of str
        Marks at which an edge of a circuit is kept; at all other positions it is ablated. An edge's position is where its receiver reads:
        the query's for q, the key's for k and v, its own for an MLP, END for the logits. It is also where its sender wrote, since nothing
        but attention moves information between positions, and attention belongs to a head, not to an edge. Edges that are not named
        are kept at every position, and so is every edge of the full model.
    pairs_per_pass : int
        Pairs that are run together. Changes cost, not results.

    Notes
    -----
    Where a norm stands between attention and the residual stream (Gemma 2 and 3) a head's write is its part of the attention output, at
    the scale that this norm has in the same run: the parts sum to the output.

    About twice the cost of a plain run per circuit and pair, from the first position on that the ablation changes.

    References
    ----------
    Hanna, Pezzelle and Belinkov (2024), Have Faith in Faithfulness, arXiv:2403.17806. Mueller et al. (2025), arXiv:2504.13151.

    Raises
    ------
    ModelError
        If the model cannot be taken apart, or has both a bias and a norm after attention: the bias has then no share of its own.
    """

    model: Model
    batch: ContrastBatch
    metric: Metric
    ablation: Ablation = "resample"
    keep_at: Mapping[Edge, tuple[str, ...]] = field(default_factory=dict)
    pairs_per_pass: int = 8

    def __post_init__(self) -> None:
        require_ablation(self.ablation)
        if foreign := sorted(str(edge) for edge in self.keep_at if not isinstance(edge, Edge)):
            what = f"keep_at names {', '.join(foreign[:5])}, and this is a circuit of edges."
            raise BadParameterError(what, "Name edges, such as parse_edge('a0.h1->a1.kv0<k>').")
        for mark in {mark for marks in self._limits for mark in marks}:
            self.batch.mark(mark)
        if self.pairs_per_pass < 1:
            raise BadParameterError(f"pairs_per_pass={self.pairs_per_pass} runs nothing.", "Use at least 1.")

    @cached_property
    def layout(self) -> EdgeLayout:
        """Which edges exist."""
        return EdgeLayout.of(self.model.spec)

    @cached_property
    def elements(self) -> tuple[Edge, ...]:
        """Every edge of the model."""
        return tuple(self.layout.edges())

    @cached_property
    def strata(self) -> np.ndarray:
        """All edges are of one kind."""
        return np.zeros(len(self.elements), dtype=int)

    @property
    def conventions(self) -> dict[str, str]:
        """How circuits are run, in words."""
        posts, some = self.model.spec.post_norm, len(self.keep_at)
        places = f"every position, {some} edges are kept at their marks only (where the receiver reads)" if some else "every position"
        return {
            "level": "edges",
            "universe": "edges: embed, heads and MLPs to each q, each shared k and v, MLPs and logits",
            "kept": "biases, counted once",
            "ablated_at": f"what a receiver's input reads of a sender; {places}",
            "ablation": self.ablation,
            "ablated_value": describe_ablation(self.ablation, self.batch),
            "head_share": "at the post-norm's scale in the same run" if posts else "output projection of its z",
            "pruning": "none (with resampling, edges that lead nowhere or come from nowhere change nothing)",
        }

    def mask_of(self, circuit: Circuit) -> np.ndarray:
        """The circuit's edges as a mask, (element,).

        Keys and values of a query head (``a1.h0<k>``) are read as those of its key/value head where each query head has its own.

        Raises
        ------
        BadParameterError, UnknownNameError
            If the circuit has no edges, or one that the model does not have.
        IncompatibleError
            If it belongs to a model of another shape.
        """
        require_same_shape(circuit, self.model)
        if circuit.edges is None:
            what = "This circuit has nodes and no edges."
            raise BadParameterError(what, "Evaluate it at node level, or give its edges.")
        return self._dense(circuit.edges)[self.layout.edge_indices]

    def _dense(self, edges: Iterable[Edge]) -> np.ndarray:
        """Edges as a mask, (sender, receiver)."""
        dense = np.zeros(self.layout.shape, dtype=bool)
        for edge in edges:
            dense[self.layout.index(self._shared(edge))] = True
        return dense

    @cached_property
    def _limits(self) -> dict[tuple[str, ...], np.ndarray]:
        """Edges that are kept only at some marks, (sender, receiver), by these marks."""
        alike: dict[tuple[str, ...], list[Edge]] = {}
        for edge, marks in self.keep_at.items():
            alike.setdefault(tuple(sorted(set(marks))), []).append(edge)
        return {marks: self._dense(edges) for marks, edges in alike.items()}

    def _shared(self, edge: Edge) -> Edge:
        own = self.model.spec.n_heads == self.model.spec.n_kv_heads
        if own and isinstance(edge.receiver, Head) and edge.port in {"k", "v"}:
            return Edge(edge.sender, KVHead(edge.receiver.layer, edge.receiver.head), edge.port)
        return edge

    @cached_property
    def _means(self) -> Means:
        return Means.of(self.model, self.batch, [Site.Z, Site.MLP_OUT], self.ablation, embed=True)

    @torch.no_grad()
    def run(self, masks: np.ndarray) -> np.ndarray:
        """Metric of each circuit, (circuit, pair); the full model is run as it is."""
        dense = np.zeros((len(masks), *self.layout.shape), dtype=bool)
        dense[:, *self.layout.edge_indices] = masks
        batch = with_reference(self.model, self.metric, self.batch)
        out = np.empty((len(masks), batch.n_pairs))
        full = masks.all(1)
        whole, edited, done = np.flatnonzero(full), np.flatnonzero(~full), 0
        for pairs in batch_by_length(batch, self.pairs_per_pass):
            few = batch.select(pairs)
            runs = self._start(few)
            clean = runs.plain(few.clean)
            out[np.ix_(whole, np.array(pairs))] = self._read(few, _at_end(clean.trace.final, runs))
            writes = self._ablated(runs, pairs)
            together = max(1, _LARGEST // (self.layout.shape[0] * clean.embed.numel()))
            for first in range(0, len(edited), together):
                some = edited[first : first + together]
                asked = self._parts(runs, torch.from_numpy(dense[some]).to(clean.embed))
                out[np.ix_(some, np.array(pairs))] = self._read(few, forward(runs, self.layout, writes, clean.embed, asked))
                done += len(some) * len(pairs)
                step(done, max(1, len(edited)) * batch.n_pairs)
        return out

    def _parts(self, runs: WindowedRunner, asked: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Circuits, (circuit, sender, receiver), as edges that are kept everywhere and edges that are kept at some positions only."""
        found: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        for marks, edges in self._limits.items():
            kept = torch.zeros_like(runs.batch.clean)
            for mark in marks:
                kept[torch.arange(len(kept)), runs.batch.mark(mark)] = 1
            some = torch.from_numpy(edges).to(asked)
            found.append((asked * some, kept[:, runs.start :].to(asked)))
            asked = asked * (1 - some)
        return [(asked, None), *found]

    def _start(self, few: ContrastBatch) -> WindowedRunner:
        """The positions that can change: from the first difference on with resampling, all otherwise."""
        decoder = self.model.decoder.refusing(STREAM, NO_SUM)
        return WindowedRunner.of(self.model, self.metric, few, decoder, start=None if self.ablation == "resample" else 0)

    def _ablated(self, runs: WindowedRunner, pairs: list[int]) -> AblatedWrites:
        """What every sender writes along ablated edges."""
        corrupt = runs.plain(runs.batch.corrupt).trace
        embed, z, mlp = corrupt.embed, [layer.z for layer in corrupt.layers], [layer.mlp_out for layer in corrupt.layers]
        if self.ablation == "zero":
            embed, z, mlp = torch.zeros_like(embed), [torch.zeros_like(one) for one in z], [torch.zeros_like(one) for one in mlp]
        elif self.ablation != "resample":
            length = runs.batch.clean.shape[1]
            means = {name: self._means.at(name, pairs, length).to(embed) for name in ("embed", Site.Z, Site.MLP_OUT)}
            embed, z, mlp = means["embed"], list(means[Site.Z].unbind(2)), list(means[Site.MLP_OUT].unbind(2))
        return AblatedWrites.of(runs.decoder.blocks, embed, z, mlp)

    def _read(self, few: ContrastBatch, final: torch.Tensor) -> np.ndarray:
        """The metric of residual streams (..., pair, d_model) that left the last layer."""
        ids, placed = (None, few) if self.metric.whole_vocabulary else few.over_tokens()
        return np.asarray(self.metric(self.model.unembed(final, ids).double(), placed).cpu())


def _at_end(whole: torch.Tensor, runs: WindowedRunner) -> torch.Tensor:
    return whole[torch.arange(len(whole)), (runs.batch.end - runs.start).to(whole.device)]
