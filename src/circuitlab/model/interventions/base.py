"""What an intervention is: where it acts, the tap that makes it, and what it adds to a model's identity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.model.interventions.positions import Positions, PositionSpec
from circuitlab.model.interventions.spots import NodeSpec, Spot, read_nodes, read_site, spots_of
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from circuitlab.core.nodes import Node
    from circuitlab.model.places import Places, Tap
    from circuitlab.model.runner import ReadableModel

__all__ = ["Intervention", "Make", "NodeEdit", "node_tap"]

Make = Callable[[int, "Tensor"], "Tensor"]
"""(number of the node, its value (*lead, prompt, pos, width)) -> the new value, or the very tensor where nothing changes."""


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
        """Raise unless a model has all that is edited; `Model.edited` asks before anything is run."""

    def resolved(self, model: ReadableModel) -> Intervention:  # noqa: ARG002 - most need nothing of the model
        """The same intervention with all that it needs of a model computed."""
        return self

    @abstractmethod
    def tap(self, places: Places) -> Tap:
        """The tap that makes it on the prompts and positions of a run.

        Raises
        ------
        EditDidNotFireError
            If a position lies outside a prompt.
        BadParameterError, UnknownNameError
            If it cannot be made on these prompts.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that its effect depends on, for JSON; tensors by hash, as they are now."""

    @abstractmethod
    def describe(self) -> str:
        """What it does, in few words."""


@dataclass(frozen=True, eq=False)
class NodeEdit(Intervention):
    """What interventions on the values of nodes share.

    Parameters
    ----------
    nodes : str, Node, or several
        Heads (their z unless ``site`` says ``"q"``), key/value heads (``site="k"`` or ``"v"``), attention layers, MLPs, points of the
        residual stream.
    site : Site or str, optional
        Which value of the nodes, where they have several.
    positions : str, int, or several
        Where; see `Positions`.
    """

    nodes: NodeSpec
    site: Site | str | None = field(default=None, kw_only=True)
    positions: PositionSpec = field(default="all", kw_only=True)

    def __post_init__(self) -> None:
        self._set("nodes", read_nodes(self.nodes))
        self._set("site", read_site(self.site))
        self._set("positions", Positions.of(self.positions).names)
        self.spots  # noqa: B018 - nodes without such a value are refused now

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @cached_property
    def spots(self) -> tuple[Spot, ...]:
        """Where each node's value is."""
        nodes: tuple[Node, ...] = self.nodes  # type: ignore[assignment]
        return spots_of(nodes, read_site(self.site))

    @property
    def where(self) -> Positions:
        """The positions."""
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
        """Raise unless the value that is held for a node fits it."""

    def tap(self, places: Places) -> Tap:
        """The tap that makes it on the prompts and positions of a run."""
        return node_tap(self.spots, self._chosen(places), self._make(places))

    def _chosen(self, places: Places) -> Bool[Tensor, "prompt pos"] | None:
        return self.where.chosen(places)

    @abstractmethod
    def _make(self, places: Places) -> Make:
        """The change of each node's value, on the prompts and positions of a run."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """What the identity holds beside nodes and positions."""

    def identity(self) -> dict[str, Any]:
        """Kind, nodes, sites, positions and settings."""
        nodes = [[str(spot.node), spot.site.value] for spot in self.spots]
        return {"kind": self.kind, "nodes": nodes, "positions": list(self.where.names), **self._settings()}

    def _named(self, what: str) -> str:
        names = ",".join(str(spot.node) + ("" if self.site is None else f".{spot.site.value}") for spot in self.spots)
        return f"{what} {names}{self.where.describe()}"


def node_tap(spots: Sequence[Spot], chosen: Bool[Tensor, "prompt pos"] | None, make: Make) -> Tap:
    """A tap that gives the values of nodes to ``make`` and writes back what it returns, at the chosen positions."""
    grouped: dict[tuple[Site, int], list[tuple[int, Spot]]] = {}
    for index, spot in enumerate(spots):
        grouped.setdefault(spot.target, []).append((index, spot))
    nowhere = chosen is not None and not bool(chosen.any())

    def tap(site: Site, layer: int, value: Tensor) -> Tensor:
        mine = grouped.get((site, layer))
        return value if nowhere or mine is None else _written(value, mine, chosen, make)

    return tap


def _written(value: Tensor, mine: Sequence[tuple[int, Spot]], chosen: Bool[Tensor, "prompt pos"] | None, make: Make) -> Tensor:
    here = None if chosen is None else chosen.to(value.device)[..., None]
    out = value
    for index, spot in mine:
        old = value if spot.head is None else value[..., spot.head, :]
        new = make(index, old)
        if new is old:
            continue
        new = _fitting(new, old, spot)
        new = new if here is None else torch.where(here, new, old)
        if spot.head is None:
            return new.contiguous()
        out = value.clone() if out is value else out
        out[..., spot.head, :] = new
    return out


def _fitting(new: Tensor, old: Tensor, spot: Spot) -> Tensor:
    """The new value in the shape, dtype and place of the old one."""
    wide = new.ndim > 0 and new.shape[-1] != old.shape[-1]
    if wide:
        what = f"{spot.node} has values of width {old.shape[-1]} at {spot.site.value!r}, and was given width {new.shape[-1]}."
        raise BadParameterError(what, "Give vectors of the node's own width.")
    return new.to(old).expand(old.shape)
