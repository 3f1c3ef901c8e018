"""The base classes of interventions: where they act, the tap that applies them, and their part of a model's identity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.model.interventions.positions import Positions, PositionSpec
from circuitlab.model.interventions.spots import NodeSpec, Spot, read_nodes, read_site, spots_of
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from typing import Self

    from jaxtyping import Bool
    from torch import Tensor

    from circuitlab.core.nodes import Head, KVHead, Node
    from circuitlab.model.places import Places, Tap
    from circuitlab.model.runner import ReadableModel

__all__ = ["Intervention", "Make", "NodeEdit", "PatternEdit", "RowMake", "Visible", "node_tap"]

Make = Callable[[int, "Tensor"], "Tensor"]
"""From the index of a node and its value (*lead, prompt, pos, width) to the new value, or to the same tensor if nothing changes."""

RowMake = Callable[[int, int, "Tensor"], "Tensor"]
"""From the index of a named head, its layer and one query head's pattern (*lead, prompt, query, key) to its new pattern."""

Visible: TypeAlias = Callable[[int], Sequence["Tensor"]]
"""From a number of tokens to the keys that each query can attend to, in every layer, shape (query, key)."""


class Intervention(ABC):
    """A change of a model's forward pass. Subclass it, or use those of `circuitlab.interventions`.

    Examples
    --------
    >>> import circuitlab as cl
    >>> isinstance(cl.interventions.Knockout("a0.h1"), Intervention), cl.interventions.Knockout("a0.h1").describe()
    (True, 'knock out (zero) a0.h1')
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def targets(self) -> frozenset[tuple[Site, int]]:
        """Sites and layers whose values it changes."""

    @abstractmethod
    def check(self, model: ReadableModel) -> None:
        """Raise unless a model has everything that is edited; `Model.edited` calls this before anything is run."""

    def resolved(self, model: ReadableModel) -> Intervention:  # noqa: ARG002 - most need nothing of the model
        """The same intervention, with the values that depend on the model computed."""
        return self

    @abstractmethod
    def tap(self, places: Places) -> Tap:
        """The tap that applies it to the prompts and positions of a run.

        Raises
        ------
        EditDidNotFireError
            If a position lies outside a prompt.
        BadParameterError, UnknownNameError
            If it cannot be applied to these prompts.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that its effect depends on, for JSON; tensors by the hash of their current values."""

    @abstractmethod
    def describe(self) -> str:
        """A short description."""


@dataclass(frozen=True, eq=False)
class NodeEdit(Intervention):
    """Base class of interventions on the values of nodes.

    Parameters
    ----------
    nodes : str, Node, or several
        Heads (z, or queries with ``site="q"``), key/value heads (``site="k"`` or ``"v"``), attention layers, MLPs, or points of the
        residual stream.
    site : Site or str, optional
        Which value of the nodes, if they have several.
    positions : str, int, or several
        Positions that are edited; see `Positions`.
    """

    nodes: NodeSpec
    site: Site | str | None = field(default=None, kw_only=True)
    positions: PositionSpec = field(default="all", kw_only=True)

    def __post_init__(self) -> None:
        self._set("nodes", read_nodes(self.nodes))
        self._set("site", read_site(self.site))
        self._set("positions", Positions.of(self.positions).names)
        self.spots  # noqa: B018 - raises now for nodes without such a value

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @cached_property
    def spots(self) -> tuple[Spot, ...]:
        """Where each node's value is."""
        nodes: tuple[Node, ...] = self.nodes  # type: ignore[assignment]
        return spots_of(nodes, read_site(self.site))

    @property
    def where(self) -> Positions:
        """The positions that are edited."""
        return Positions.of(self.positions)

    @property
    def targets(self) -> frozenset[tuple[Site, int]]:
        """Sites and layers whose values it changes."""
        return frozenset(spot.target for spot in self.spots)

    def check(self, model: ReadableModel) -> None:
        """Raise unless the model has every node, and values of its width."""
        for index, spot in enumerate(self.spots):
            spot.check(model)
            self._check_width(index, spot, model.width(spot.site))

    def _check_width(self, index: int, spot: Spot, width: int) -> None:
        """Raise unless the intervention's value for a node has the node's width."""

    def tap(self, places: Places) -> Tap:
        """The tap that applies it to the prompts and positions of a run."""
        return node_tap(self.spots, self._chosen(places), self._make(places))

    def _chosen(self, places: Places) -> Bool[Tensor, "prompt pos"] | None:
        return self.where.chosen(places)

    @abstractmethod
    def _make(self, places: Places) -> Make:
        """The function from each node's value to its new value, on the prompts and positions of a run."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Entries of the identity besides kind, nodes and positions."""

    def identity(self) -> dict[str, Any]:
        """Kind, nodes, sites, positions and settings."""
        nodes = [[str(spot.node), spot.site.value] for spot in self.spots]
        return {"kind": self.kind, "nodes": nodes, "positions": list(self.where.names), **self._settings()}

    def _named(self, what: str) -> str:
        names = ",".join(str(spot.node) + ("" if self.site is None else f".{spot.site.value}") for spot in self.spots)
        return f"{what} {names}{self.where.describe()}"


@dataclass(frozen=True, eq=False)
class PatternEdit(Intervention):
    """Base class of interventions on attention patterns.

    Parameters
    ----------
    heads : str, Node, or several
        Query heads, or key/value heads, all of whose query heads are edited.
    positions : str, int, or several
        Queries whose rows are edited; see `Positions`.
    visible : callable, optional
        The keys that each query of a model can attend to; set by `resolved`.
    """

    heads: NodeSpec
    positions: PositionSpec = field(default="all", kw_only=True)
    visible: Visible | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        nodes = read_nodes(self.heads)
        self._set("heads", nodes)
        self._set("positions", Positions.of(self.positions).names)
        for node in nodes:
            self._refuse(node)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @abstractmethod
    def _refuse(self, node: Node) -> None:
        """Raise if a node does not have what is edited."""

    @cached_property
    def spots(self) -> tuple[Spot, ...]:
        """Where each head's patterns are; the number is that of the head as it was named."""
        nodes: tuple[Head | KVHead, ...] = self.heads  # type: ignore[assignment]
        return tuple(Spot(node, Site.PATTERN, node.layer, node.head) for node in nodes)

    @property
    def targets(self) -> frozenset[tuple[Site, int]]:
        """Sites and layers whose values it changes."""
        return frozenset(spot.target for spot in self.spots)

    @property
    def _needs_mask(self) -> tuple[str, str] | None:
        """What needs the model's mask, and what to use on a model without one; None if nothing does."""
        return None

    def check(self, model: ReadableModel) -> None:
        """Raise unless the model has every head, editable patterns, and, where it is needed, a known mask."""
        for spot in self.spots:
            spot.check(model)
        if self._needs_mask is None:
            return
        try:
            model.decoder  # noqa: B018 - built and checked on first use
        except ModelError as error:
            needs, instead = self._needs_mask
            why = error.what.rstrip(".")
            what = f"{needs} needs the model's mask from the functional forward, which cannot be built: {why}."
            raise ModelError(what, instead) from error

    def resolved(self, model: ReadableModel) -> Self:
        """The same edit bound to a model's mask, where it is needed."""
        if self._needs_mask is None:
            return self
        self.check(model)
        return replace(self, visible=lambda length: [where.visible for where in model.decoder.geometry(length)])

    def tap(self, places: Places) -> Tap:
        """The tap that applies it to the prompts and positions of a run."""
        chosen = Positions.of(self.positions).chosen(places)
        nowhere = chosen is not None and not bool(chosen.any())
        make = None if nowhere else self._make_rows(places, chosen)
        grouped: dict[int, list[tuple[int, Spot]]] = {}
        for index, spot in enumerate(self.spots):
            grouped.setdefault(spot.layer, []).append((index, spot))

        def tap(site: Site, layer: int, value: Tensor) -> Tensor:
            if site is not Site.PATTERN or layer not in grouped or make is None:
                return value
            mask = None if chosen is None else chosen.to(value.device)[..., None]
            out = value.clone()
            for index, spot in grouped[layer]:
                for head in self._query_heads(spot):
                    old = value[..., head, :, :]
                    new = make(index, layer, old).to(old)
                    out[..., head, :, :] = new if mask is None else torch.where(mask, new, old)
            return out

        return tap

    def _query_heads(self, spot: Spot) -> Sequence[int]:
        """The query heads whose patterns are edited for one named head."""
        return [] if spot.head is None else [spot.head]

    @abstractmethod
    def _make_rows(self, places: Places, chosen: Bool[Tensor, "prompt pos"] | None) -> RowMake | None:
        """The function from one head's pattern to its new one, on the prompts and positions of a run; None if nothing changes."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Entries of the identity besides kind, nodes and positions."""

    def identity(self) -> dict[str, Any]:
        """Kind, heads, queries and settings."""
        nodes = [[str(spot.node), spot.site.value] for spot in self.spots]
        return {"kind": self.kind, "nodes": nodes, "positions": list(Positions.of(self.positions).names), **self._settings()}

    def _named(self, what: str) -> str:
        return f"{what} {','.join(str(spot.node) for spot in self.spots)}{Positions.of(self.positions).describe()}"


def node_tap(spots: Sequence[Spot], chosen: Bool[Tensor, "prompt pos"] | None, make: Make) -> Tap:
    """A tap that passes the values of nodes to ``make`` and writes the results back at the chosen positions."""
    grouped: dict[tuple[Site, int], list[tuple[int, Spot]]] = {}
    for index, spot in enumerate(spots):
        grouped.setdefault(spot.target, []).append((index, spot))
    nowhere = chosen is not None and not bool(chosen.any())

    def tap(site: Site, layer: int, value: Tensor) -> Tensor:
        of_site = grouped.get((site, layer))
        return value if nowhere or of_site is None else _written(value, of_site, chosen, make)

    return tap


def _written(value: Tensor, of_site: Sequence[tuple[int, Spot]], chosen: Bool[Tensor, "prompt pos"] | None, make: Make) -> Tensor:
    mask = None if chosen is None else chosen.to(value.device)[..., None]
    out = value
    for index, spot in of_site:
        old = value if spot.head is None else value[..., spot.head, :]
        new = make(index, old)
        if new is old:
            continue
        new = _fitting(new, old, spot)
        new = new if mask is None else torch.where(mask, new, old)
        if spot.head is None:
            return new.contiguous()
        out = value.clone() if out is value else out
        out[..., spot.head, :] = new
    return out


def _fitting(new: Tensor, old: Tensor, spot: Spot) -> Tensor:
    """The new value in the shape, dtype and device of the old one."""
    wide = new.ndim > 0 and new.shape[-1] != old.shape[-1]
    if wide:
        what = f"{spot.node} has values of width {old.shape[-1]} at {spot.site.value!r}, and was given width {new.shape[-1]}."
        raise BadParameterError(what, "Give vectors of the node's width.")
    return new.to(old).expand(old.shape)
