"""Circuits of edges: along circuit edges a receiver reads what the sender writes in this run, along all others its ablated write."""

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
"""Number of values that the writes of all senders may have, over all circuits that are run together."""


@dataclass(frozen=True, eq=False)
class EdgeCircuitRunner(MaskedRuns):
    """Runs circuits of typed edges on the clean prompts, with all other edges ablated.

    Every receiver reads its own residual stream: the sum of what each sender writes in this run if the edge is in the circuit, of the
    sender's ablated write if it is not, and of all biases once. Receivers are the q of each query head, the k and v of each shared
    key/value head, each MLP and the logits, so that grouped-query models are exact and shared heads are not copied. The embedding is a
    sender like all others: in the empty circuit, nothing of the clean prompt is read.

    Parameters
    ----------
    model, batch, metric
        The model, the prompts, and the metric that reads the logits.
    ablation : {"resample", "zero", "mean", "mean_by_mark", "mean_by_template"}
        What an ablated edge carries: the sender's write in the corrupt run, nothing, or the write of its mean output.
    keep_at : mapping of Edge to tuple of str
        Marks at which an edge of a circuit is kept; at all other positions it is ablated. The position of an edge is where its receiver
        reads: that of the query for q, of the key for k and v, of the MLP, and END for the logits. The sender wrote at the same position,
        since only attention moves information between positions, and attention belongs to a head and not to an edge. Edges that are not
        listed are kept at every position, and so are all edges of the full model.
    pairs_per_pass : int
        Number of pairs that are run together. Changes the cost, not the results.

    Raises
    ------
    BadParameterError
        If ``keep_at`` has keys that are not edges, or ``pairs_per_pass`` is less than 1.
    UnknownNameError
        If there is no such ablation, mark or edge.
    ModelError
        If the model cannot be decomposed, or has both a bias and a norm after attention, so that the bias has no separate share.

    Notes
    -----
    If there is a norm between attention and the residual stream (Gemma 2 and 3), a head's write is its part of the attention output at the
    scale that this norm has in the same run, so that the parts sum to the output.

    The cost per circuit and pair is about twice that of a plain run, from the first position that the ablation changes.

    References
    ----------
    Hanna, Pezzelle and Belinkov (2024), Have Faith in Faithfulness, arXiv:2403.17806. Mueller et al. (2025), arXiv:2504.13151.
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
        """The edges of the model."""
        return EdgeLayout.of(self.model.spec)

    @cached_property
    def elements(self) -> tuple[Edge, ...]:
        """All edges of the model, in the order of ``layout.edge_indices``."""
        return tuple(self.layout.edges())

    @cached_property
    def strata(self) -> np.ndarray:
        """0 for every edge: all edges are of one kind."""
        return np.zeros(len(self.elements), dtype=int)

    @property
    def conventions(self) -> dict[str, str]:
        """How circuits are run, in words."""
        limited = len(self.keep_at)
        places = f"every position, {limited} edges are kept at their marks only (where the receiver reads)" if limited else "every position"
        return {
            "level": "edges",
            "universe": "edges: embed, heads and MLPs to each q, each shared k and v, MLPs and logits",
            "kept": "biases, counted once",
            "ablated_at": f"what a receiver's input reads of a sender; {places}",
            "ablation": self.ablation,
            "ablated_value": describe_ablation(self.ablation, self.batch),
            "head_share": "at the post-norm's scale in the same run" if self.model.spec.post_norm else "output projection of its z",
            "pruning": "none (with resampling, edges that lead nowhere or come from nowhere change nothing)",
        }

    def mask_of(self, circuit: Circuit) -> np.ndarray:
        """The circuit's edges as a boolean mask, (element,).

        An edge into the keys or values of a query head (``a1.h0<k>``) is taken as one into its key/value head if the model has one
        key/value head for each query head.

        Raises
        ------
        BadParameterError
            If the circuit has nodes alone.
        UnknownNameError
            If the model lacks one of its edges; the nearest name is suggested.
        IncompatibleError
            If the circuit belongs to a model of another shape.
        """
        require_same_shape(circuit, self.model)
        if circuit.edges is None:
            what = "This circuit has nodes and no edges."
            raise BadParameterError(what, "Evaluate it at node level, or give its edges.")
        return self._dense(circuit.edges)[self.layout.edge_indices]

    def _dense(self, edges: Iterable[Edge]) -> np.ndarray:
        """Edges as a boolean mask, (sender, receiver)."""
        dense = np.zeros(self.layout.shape, dtype=bool)
        for edge in edges:
            dense[self.layout.index(self._with_kv_head(edge))] = True
        return dense

    @cached_property
    def _limits(self) -> dict[tuple[str, ...], np.ndarray]:
        """The edges that are kept only at some marks, as masks (sender, receiver), by these marks."""
        by_marks: dict[tuple[str, ...], list[Edge]] = {}
        for edge, marks in self.keep_at.items():
            by_marks.setdefault(tuple(sorted(set(marks))), []).append(edge)
        return {marks: self._dense(edges) for marks, edges in by_marks.items()}

    def _with_kv_head(self, edge: Edge) -> Edge:
        ungrouped = self.model.spec.n_heads == self.model.spec.n_kv_heads
        if ungrouped and isinstance(edge.receiver, Head) and edge.port in {"k", "v"}:
            return Edge(edge.sender, KVHead(edge.receiver.layer, edge.receiver.head), edge.port)
        return edge

    @cached_property
    def _means(self) -> Means:
        return Means.of(self.model, self.batch, [Site.Z, Site.MLP_OUT], self.ablation, embed=True)

    @torch.no_grad()
    def run(self, masks: np.ndarray) -> np.ndarray:
        """Metric of each circuit on each pair, (circuit, pair); the full model is run as it is."""
        dense = np.zeros((len(masks), *self.layout.shape), dtype=bool)
        dense[:, *self.layout.edge_indices] = masks
        batch = with_reference(self.model, self.metric, self.batch)
        values = np.empty((len(masks), batch.n_pairs))
        is_full = masks.all(1)
        full, ablated, done = np.flatnonzero(is_full), np.flatnonzero(~is_full), 0
        for pairs in batch_by_length(batch, self.pairs_per_pass):
            chunk = batch.select(pairs)
            runs = self._start(chunk)
            clean = runs.plain(chunk.clean)
            values[np.ix_(full, np.array(pairs))] = self._read(chunk, _at_end(clean.trace.final, runs))
            writes = self._ablated_writes(runs, pairs)
            circuits_per_pass = max(1, _LARGEST // (self.layout.shape[0] * clean.embed.numel()))
            for first in range(0, len(ablated), circuits_per_pass):
                group = ablated[first : first + circuits_per_pass]
                circuits = self._parts(runs, torch.from_numpy(dense[group]).to(clean.embed))
                values[np.ix_(group, np.array(pairs))] = self._read(chunk, forward(runs, self.layout, writes, clean.embed, circuits))
                done += len(group) * len(pairs)
                step(done, max(1, len(ablated)) * batch.n_pairs)
        return values

    def _parts(self, runs: WindowedRunner, circuits: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Circuits, (circuit, sender, receiver), split into edges that are kept everywhere and edges kept at some positions only."""
        limited: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        for marks, mask in self._limits.items():
            kept_at = torch.zeros_like(runs.batch.clean)
            for mark in marks:
                kept_at[torch.arange(len(kept_at)), runs.batch.mark(mark)] = 1
            edges = torch.from_numpy(mask).to(circuits)
            limited.append((circuits * edges, kept_at[:, runs.start :].to(circuits)))
            circuits = circuits * (1 - edges)
        return [(circuits, None), *limited]

    def _start(self, chunk: ContrastBatch) -> WindowedRunner:
        """A runner on the positions that can change: from the first difference on with resampling, otherwise all."""
        decoder = self.model.decoder.refusing(STREAM, NO_SUM)
        return WindowedRunner.of(self.model, self.metric, chunk, decoder, start=None if self.ablation == "resample" else 0)

    def _ablated_writes(self, runs: WindowedRunner, pairs: list[int]) -> AblatedWrites:
        """What every sender writes along ablated edges."""
        corrupt = runs.plain(runs.batch.corrupt).trace
        embed, z, mlp = corrupt.embed, [layer.z for layer in corrupt.layers], [layer.mlp_out for layer in corrupt.layers]
        if self.ablation == "zero":
            embed, z, mlp = torch.zeros_like(embed), [torch.zeros_like(value) for value in z], [torch.zeros_like(value) for value in mlp]
        elif self.ablation != "resample":
            length = runs.batch.clean.shape[1]
            means = {name: self._means.at(name, pairs, length).to(embed) for name in ("embed", Site.Z, Site.MLP_OUT)}
            embed, z, mlp = means["embed"], list(means[Site.Z].unbind(2)), list(means[Site.MLP_OUT].unbind(2))
        return AblatedWrites.of(runs.decoder.blocks, embed, z, mlp)

    def _read(self, chunk: ContrastBatch, final: torch.Tensor) -> np.ndarray:
        """The metric of residual streams, (..., pair, d_model), that leave the last layer."""
        ids, batch = (None, chunk) if self.metric.whole_vocabulary else chunk.over_tokens()
        return np.asarray(self.metric(self.model.unembed(final, ids).double(), batch).cpu())


def _at_end(stream: torch.Tensor, runs: WindowedRunner) -> torch.Tensor:
    return stream[torch.arange(len(stream)), (runs.batch.end - runs.start).to(stream.device)]
