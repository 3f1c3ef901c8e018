"""Circuits of nodes: every head and MLP of the universe outside the circuit gets another value, everything else is recomputed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Embed, Head, Logits, Mlp, Node
from circuitlab.core.progress import step
from circuitlab.evaluation.runs import MaskedRuns, require_same_shape
from circuitlab.evaluation.values import Ablation, Means, describe_ablation, require_ablation
from circuitlab.execute.memory import started_fits
from circuitlab.execute.reference import with_reference
from circuitlab.execute.routes import universe_of
from circuitlab.execute.sweeps import EngineName, batch_by_length, require_engine, sweeps_on
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
"""Positions of all circuits that go through the model together."""


@dataclass(frozen=True, eq=False)
class NodeCircuitRunner(MaskedRuns):
    """Runs circuits of query heads and MLPs on the clean prompts, all other nodes of the universe ablated.

    A head is ablated at its output z, before the output projection, so that the projection's bias stays; an MLP at what it adds to the
    residual stream. Ablation is at every position. The embedding is never ablated, and parts outside the universe are computed as usual
    from what reaches them.

    Parameters
    ----------
    model, batch, metric
        What is run and read.
    parts : tuple of str
        The universe: ``("heads",)`` keeps every MLP, as Wang et al. do; ``("heads", "mlps")`` ablates MLPs outside the circuit too.
    ablation : {"resample", "zero", "mean", "mean_by_mark", "mean_by_template"}
        What an ablated node is given; see `circuitlab.evaluation.values.Means` for the two means.
    keep_at : mapping of Head or Mlp to tuple of str
        Marks at which a node of a circuit keeps its own value; at all other positions it is ablated (Wang et al. keep every head only where
        it acts). Nodes that are not named are kept at every position, and so is every node of the full model.
    engine : {"exact", "hooks"}
        They agree up to rounding.

    Notes
    -----
    One run per circuit and pair; with resampling, only from the first position on at which the two prompts differ.

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
            what = f"parts={self.parts} is no universe of nodes."
            raise BadParameterError(what, "Use ('heads',), ('mlps',) or ('heads', 'mlps').")
        if foreign := sorted(str(node) for node in self.keep_at if node not in self.elements):
            what = f"keep_at names {', '.join(foreign[:5])}, outside the universe of {' and '.join(self.parts)}."
            raise BadParameterError(what, "Name heads and MLPs of the universe.")
        for mark in {mark for marks in self.keep_at.values() for mark in marks}:
            self.batch.mark(mark)

    @cached_property
    def elements(self) -> tuple[Head | Mlp, ...]:
        """Nodes of the universe: all heads in forward order, then all MLPs."""
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
        """The circuit as a mask, (element,); ``embed`` and ``logits`` belong to every circuit.

        Raises
        ------
        BadParameterError
            If it holds a node outside the universe.
        IncompatibleError
            If it belongs to a model of another shape.
        """
        require_same_shape(circuit, self.model)
        place: dict[Node, int] = {node: index for index, node in enumerate(self.elements)}
        nodes = {node for node in circuit.nodes if not isinstance(node, Embed | Logits)}
        if foreign := sorted(str(node) for node in nodes if node not in place):
            what = f"{', '.join(foreign[:5])} lie outside the universe of {' and '.join(self.parts)} of {self.model.spec.name}."
            raise BadParameterError(what, "Evaluate circuits of heads (a9.h6) and MLPs (m3), and name the parts they hold.")
        mask = np.zeros(len(self.elements), dtype=bool)
        mask[[place[node] for node in nodes]] = True
        return mask

    @cached_property
    def _sites(self) -> list[Site]:
        return [_SITES[part] for part in _SITES if part in self.parts]

    @cached_property
    def _means(self) -> Means:
        return Means.of(self.model, self.batch, self._sites, self.ablation)

    def run(self, masks: np.ndarray) -> np.ndarray:
        """Metric of each circuit, (circuit, pair)."""
        batch = with_reference(self.model, self.metric, self.batch)
        sweeps = sweeps_on(self.model, self.metric, self.engine)
        out = np.empty((len(masks), batch.n_pairs))
        done = 0
        for pairs in batch_by_length(batch, _PAIRS_PER_PASS, fits=started_fits(self.model, len(self._sites), "A circuit")):
            few = batch.select(pairs)
            clean, corrupt = sweeps.start(few, self._sites)
            values = self._values(pairs, few, {site: corrupt.site(site) for site in self._sites})
            start = int(few.first_difference().min()) if self.ablation == "resample" and not self.keep_at else 0
            limited = self._limited(few, values)
            window = max(1, few.clean.shape[1] - start)
            for some in _groups(len(masks), max(1, _TOKENS_TOGETHER // (len(pairs) * window))):
                edited = [i for i in some if not masks[i].all()]
                out[np.ix_(some, pairs)] = clean.metric
                if edited:
                    out[np.ix_(edited, pairs)] = clean.sweep([EditSet(self._edits(masks[i], values, limited), start) for i in edited])
                done += len(some) * len(pairs)
                step(done, out.size)
        return out

    def _values(self, pairs: list[int], few: ContrastBatch, corrupt: dict[Site, Tensor]) -> dict[Site, Tensor]:
        """What ablated nodes get, (pair, layer, pos, ...), by site."""
        if self.ablation == "resample":
            return corrupt
        if self.ablation == "zero":
            return {site: torch.zeros_like(value) for site, value in corrupt.items()}
        length = few.clean.shape[1]
        return {site: self._means.at(site, pairs, length).transpose(1, 2).to(value) for site, value in corrupt.items()}

    def _limited(self, few: ContrastBatch, values: dict[Site, Tensor]) -> dict[int, list[Edit]]:
        """Edits that ablate a kept node outside its marks, one for each position of a row that is to be ablated, by element."""
        found: dict[int, list[Edit]] = {}
        for index, node in enumerate(self.elements):
            if node not in self.keep_at:
                continue
            own = torch.zeros_like(few.mask)
            for mark in self.keep_at[node]:
                own[torch.arange(few.n_pairs), few.mark(mark)] = True
            outside = [torch.where(~row[: end + 1])[0] for row, end in zip(own, few.end.tolist(), strict=True)]
            if any(not len(places) for places in outside):
                what = f"keep_at keeps {node} at every position of a prompt."
                raise BadParameterError(what, "Leave it out of keep_at.")
            head, whole = (node.head, values[Site.Z]) if isinstance(node, Head) else (None, values[Site.MLP_OUT])
            value = whole[:, node.layer] if head is None else whole[:, node.layer, :, head]
            site, rows = (Site.MLP_OUT if head is None else Site.Z), torch.arange(few.n_pairs)
            found[index] = []
            for turn in range(max(map(len, outside))):
                # Rows with fewer places write one of them again.
                places = torch.stack([some[turn % len(some)] for some in outside])
                found[index].append(Edit(site, node.layer, value[rows, places], head=head, positions=places))
        return found

    def _edits(self, mask: np.ndarray, values: dict[Site, Tensor], limited: dict[int, list[Edit]]) -> tuple[Edit, ...]:
        """One edit for a layer whose heads are all ablated, one for each ablated head or MLP otherwise; and those of limited nodes."""
        layers, heads = self.model.spec.n_layers, self.model.spec.n_heads
        edits = [edit for index, some in limited.items() if mask[index] for edit in some]
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
