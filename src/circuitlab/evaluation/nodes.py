"""Circuits of nodes: the heads and MLPs of the universe that are outside the circuit are ablated, and everything else is recomputed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.in_step import ByLayer
from circuitlab.core.nodes import Embed, Head, Logits, Mlp, Node
from circuitlab.core.progress import step
from circuitlab.evaluation.runs import MaskedRuns, require_same_shape
from circuitlab.evaluation.values import Ablation, Means, describe_ablation, require_ablation
from circuitlab.execute.memory import most_positions, started_fits
from circuitlab.execute.needs import require_in_memory
from circuitlab.execute.reference import with_reference
from circuitlab.execute.routes import universe_of
from circuitlab.execute.streamed_sweeps import any_sweeps_on
from circuitlab.execute.sweeps import EngineName, Sweeps, batch_by_length, require_engine
from circuitlab.model.sites import Edit, EditSet, Site

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.circuits.circuit import Circuit
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["NodeCircuitRunner"]

_SITES = {"heads": Site.Z, "mlps": Site.MLP_OUT}
_PAIRS_PER_PASS = 16
_TOKENS_TOGETHER = 3072
"""Number of positions, over all circuits, that go through the model in one pass."""


@dataclass(frozen=True, eq=False)
class NodeCircuitRunner(MaskedRuns):
    """Runs circuits of query heads and MLPs on the clean prompts, with all other nodes of the universe ablated.

    A head is ablated at its output z, before the output projection, so that the projection's bias stays; an MLP is ablated at what it adds
    to the residual stream. Nodes are ablated at every position. The embedding is never ablated, and parts outside the universe are
    recomputed from their inputs.

    Parameters
    ----------
    model, batch, metric
        The model, the prompts, and the metric that reads the logits.
    parts : tuple of str
        The universe: ``("heads",)`` keeps every MLP, as Wang et al. do; ``("heads", "mlps")`` also ablates MLPs outside the circuit.
    ablation : {"resample", "zero", "mean", "mean_by_mark", "mean_by_template"}
        What replaces the value of an ablated node; see `circuitlab.evaluation.values.Means` for the means.
    keep_at : mapping of Head or Mlp to tuple of str
        Marks at which a node of a circuit keeps its own value; at all other positions it is ablated, as Wang et al. ablate every head
        outside the positions at which it acts. Nodes that are not listed are kept at every position, and so are all nodes of the full
        model.
    engine : {"exact", "hooks"}
        How forward passes are run; both agree up to rounding.

    Raises
    ------
    UnknownNameError
        If there is no such ablation, engine, part or mark.
    BadParameterError
        If ``parts`` is not a universe, or ``keep_at`` lists nodes outside it.

    Notes
    -----
    Cost: one run per circuit and pair; with resampling, only from the first position at which the two prompts differ.

    References
    ----------
    Wang et al. (2022), arXiv:2211.00593.
    """

    model: Model
    batch: ContrastBatch
    metric: Metric
    parts: tuple[str, ...] = ("heads",)
    ablation: Ablation = "resample"
    keep_at: Mapping[Head | Mlp, tuple[str, ...]] = field(default_factory=dict)
    engine: EngineName = "exact"

    def __post_init__(self) -> None:
        require_ablation(self.ablation)
        require_engine(self.engine)
        for part in self.parts:
            if part not in _SITES:
                raise UnknownNameError("part", part, _SITES)
        if not self.parts or len(set(self.parts)) < len(self.parts):
            what = f"parts={self.parts} is not a universe of nodes."
            raise BadParameterError(what, "Use ('heads',), ('mlps',) or ('heads', 'mlps').")
        if foreign := sorted(str(node) for node in self.keep_at if node not in self.elements):
            what = f"keep_at names {', '.join(foreign[:5])}, outside the universe of {' and '.join(self.parts)}."
            raise BadParameterError(what, "Name heads and MLPs of the universe.")
        for mark in {mark for marks in self.keep_at.values() for mark in marks}:
            self.batch.mark(mark)

    @cached_property
    def elements(self) -> tuple[Head | Mlp, ...]:
        """The nodes of the universe: all heads in forward order, then all MLPs."""
        universe = universe_of(self.model)
        nodes: dict[str, list[Head | Mlp]] = {"heads": [*universe.heads()], "mlps": [*universe.mlps()]}
        return tuple(node for part in _SITES if part in self.parts for node in nodes[part])

    @cached_property
    def strata(self) -> np.ndarray:
        """0 for a head, 1 for an MLP."""
        return np.array([isinstance(node, Mlp) for node in self.elements], dtype=int)

    @property
    def conventions(self) -> dict[str, str]:
        """How circuits are run, in words."""
        places = f"every position, {len(self.keep_at)} nodes are kept at their marks only" if self.keep_at else "every position"
        kept = {"heads": "every MLP and the embedding", "mlps": "every head and the embedding"}
        return {
            "level": "nodes",
            "universe": " and ".join(self.parts),
            "kept": kept[self.parts[0]] if len(self.parts) == 1 else "the embedding",
            "ablated_at": "z of a head (the output projection's bias stays), the output of an MLP; " + places,
            "ablation": self.ablation,
            "ablated_value": describe_ablation(self.ablation, self.batch),
            "pruning": "none",
        }

    def mask_of(self, circuit: Circuit) -> np.ndarray:
        """The circuit as a boolean mask, (element,); ``embed`` and ``logits`` belong to every circuit and are ignored.

        Raises
        ------
        BadParameterError
            If a node of the circuit is outside the universe.
        IncompatibleError
            If the circuit belongs to a model of another shape.
        """
        require_same_shape(circuit, self.model)
        indices: dict[Node, int] = {node: index for index, node in enumerate(self.elements)}
        nodes = {node for node in circuit.nodes if not isinstance(node, Embed | Logits)}
        if foreign := sorted(str(node) for node in nodes if node not in indices):
            what = f"{', '.join(foreign[:5])} lie outside the universe of {' and '.join(self.parts)} of {self.model.spec.name}."
            raise BadParameterError(what, "Evaluate circuits of heads (a9.h6) and MLPs (m3), and name their kinds in parts.")
        mask = np.zeros(len(self.elements), dtype=bool)
        mask[[indices[node] for node in nodes]] = True
        return mask

    @cached_property
    def _sites(self) -> list[Site]:
        return [_SITES[part] for part in _SITES if part in self.parts]

    @cached_property
    def _means(self) -> Means:
        return Means.of(self.model, self.batch, self._sites, self.ablation)

    def run(self, masks: np.ndarray) -> np.ndarray:
        """Metric of each circuit on each pair, (circuit, pair).

        Raises
        ------
        StreamedModelError
            If nodes are ablated by means, which are taken over activations of the whole batch, and the model is streamed.
        """
        if self.ablation not in {"resample", "zero"}:
            require_in_memory(self.model, f"Circuits with ablation={self.ablation!r}")
        batch = with_reference(self.model, self.metric, self.batch)
        sweeps = any_sweeps_on(self.model, self.metric, self.engine, fits=lambda wave: len(wave) == 1)
        metric = np.empty((len(masks), batch.n_pairs))
        done = 0

        def finished(count: int) -> None:
            nonlocal done
            done += count
            step(done, metric.size)

        def measured(pairs: list[int]) -> ByLayer[np.ndarray]:
            return self._measured(sweeps, batch, pairs, masks, finished)

        chunks = batch_by_length(batch, _PAIRS_PER_PASS, fits=started_fits(self.model, len(self._sites), "A circuit"))
        for pairs, values in sweeps.each(measured, chunks, "An evaluation"):
            metric[:, pairs] = values
        return metric

    def _measured(
        self, sweeps: Sweeps, batch: ContrastBatch, pairs: list[int], masks: np.ndarray, finished: Callable[[int], None]
    ) -> ByLayer[np.ndarray]:
        """Metric of each circuit on some pairs, (circuit, pair); ``finished`` is told of every circuit and pair."""
        chunk = batch.select(pairs)
        clean, corrupt = yield from sweeps.start_by_layer(chunk, self._sites)
        values = self._ablated_values(pairs, chunk, {site: corrupt.site(site) for site in self._sites})
        start = int(chunk.first_difference().min()) if self.ablation == "resample" and not self.keep_at else 0
        outside_marks = self._edits_outside_marks(chunk, values)
        metric = np.tile(clean.metric, (len(masks), 1))

        def run(group: Sequence[int]) -> ByLayer[None]:
            edited = [i for i in group if not masks[i].all()]
            if edited:
                edit_sets = [EditSet(self._edits(masks[i], values, outside_marks), start) for i in edited]
                metric[edited] = yield from clean.sweep_by_layer(edit_sets)
            finished(len(group) * len(pairs))

        each = len(pairs) * max(1, chunk.clean.shape[1] - start)
        groups = list(_groups(len(masks), max(1, _TOKENS_TOGETHER // each)))
        width, itemsize = self.model.spec.d_model, values[self._sites[0]].element_size()
        at_once = max(1, most_positions(width, itemsize) // (each * len(groups[0])) if groups else 1)
        for wave in _groups(len(groups), at_once):  # on a streamed model, as many groups in one reading as fit in memory
            yield from sweeps.together(run(groups[i]) for i in wave)
        return metric

    def _ablated_values(self, pairs: list[int], chunk: ContrastBatch, corrupt: dict[Site, Tensor]) -> dict[Site, Tensor]:
        """The values that replace those of ablated nodes, (pair, layer, pos, ...), by site."""
        if self.ablation == "resample":
            return corrupt
        if self.ablation == "zero":
            return {site: torch.zeros_like(value) for site, value in corrupt.items()}
        length = chunk.clean.shape[1]
        return {site: self._means.at(site, pairs, length).transpose(1, 2).to(value) for site, value in corrupt.items()}

    def _edits_outside_marks(self, chunk: ContrastBatch, values: dict[Site, Tensor]) -> dict[int, list[Edit]]:
        """For each element in ``keep_at``, edits that ablate it outside its marks; each edit has one position per pair."""
        edits: dict[int, list[Edit]] = {}
        for index, node in enumerate(self.elements):
            if node not in self.keep_at:
                continue
            at_marks = torch.zeros_like(chunk.mask)
            for mark in self.keep_at[node]:
                at_marks[torch.arange(chunk.n_pairs), chunk.mark(mark)] = True
            outside = [torch.where(~row[: end + 1])[0] for row, end in zip(at_marks, chunk.end.tolist(), strict=True)]
            if any(not len(positions) for positions in outside):
                what = f"keep_at keeps {node} at every position of a prompt."
                raise BadParameterError(what, "Leave it out of keep_at.")
            head, layers = (node.head, values[Site.Z]) if isinstance(node, Head) else (None, values[Site.MLP_OUT])
            value = layers[:, node.layer] if head is None else layers[:, node.layer, :, head]
            site, rows = (Site.MLP_OUT if head is None else Site.Z), torch.arange(chunk.n_pairs)
            edits[index] = []
            for i in range(max(map(len, outside))):
                # Pairs with fewer positions repeat one of them.
                at = torch.stack([positions[i % len(positions)] for positions in outside])
                edits[index].append(Edit(site, node.layer, value[rows, at], head=head, positions=at))
        return edits

    def _edits(self, mask: np.ndarray, values: dict[Site, Tensor], outside_marks: dict[int, list[Edit]]) -> tuple[Edit, ...]:
        """The edits of one circuit: one for each ablated MLP or head (or layer, if all its heads are ablated), and those outside marks."""
        layers, heads = self.model.spec.n_layers, self.model.spec.n_heads
        edits = [edit for index, node_edits in outside_marks.items() if mask[index] for edit in node_edits]
        if Site.Z in values:
            outside = ~mask[: layers * heads].reshape(layers, heads)
            z = values[Site.Z]
            for layer in np.flatnonzero(outside.any(1)).tolist():
                if outside[layer].all():
                    edits.append(Edit(Site.Z, layer, z[:, layer]))
                else:
                    ablated = np.flatnonzero(outside[layer]).tolist()
                    edits += [Edit(Site.Z, layer, z[:, layer, :, head], head=head) for head in ablated]
        if Site.MLP_OUT in values:
            ablated = np.flatnonzero(~mask[-layers:]).tolist()
            edits += [Edit(Site.MLP_OUT, layer, values[Site.MLP_OUT][:, layer]) for layer in ablated]
        return tuple(edits)


def _groups(n: int, size: int) -> Iterator[Sequence[int]]:
    for first in range(0, n, size):
        yield list(range(first, min(first + size, n)))
