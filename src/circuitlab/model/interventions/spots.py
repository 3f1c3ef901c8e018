"""The values of a forward pass that node names stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast, get_args

from circuitlab.core.errors import BadParameterError, ModelError, UnknownNameError
from circuitlab.core.nodes import Attn, Embed, Head, KVHead, Logits, Mlp, Node, Resid, parse_node
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from circuitlab.model.runner import ReadableModel

__all__ = ["NodeSpec", "Spot", "read_nodes", "read_site", "spots_of"]

NodeSpec: TypeAlias = str | Node | Sequence[str | Node]
"""One node or several, as names (``"a20.h0"``) or as objects of `circuitlab.core.nodes`."""


@dataclass(frozen=True)
class Spot:
    """The value of one node: a site and layer, and the head where it has one."""

    node: Node
    site: Site
    layer: int
    head: int | None

    @property
    def target(self) -> tuple[Site, int]:
        """The site and layer at which a tap sees it."""
        return self.site, self.layer

    def check(self, model: ReadableModel) -> None:
        """Raise unless a model has this value.

        Raises
        ------
        ModelError
            If the model does not have the site; the message says why.
        BadParameterError
            If it has no such layer or head.
        """
        spec = model.spec
        if self.site not in model.sites:
            why = model.lacks.get(self.site, "it was not found")
            what = f"{self.node} cannot be edited: {spec.name} ({spec.family}) has no site {self.site.value!r}: {why}."
            raise ModelError(what, f"It has {sorted(site.value for site in model.sites)}.")
        if not 0 <= self.layer < spec.n_layers:
            what = f"{self.node} is in layer {self.layer}; {spec.name} has layers 0 to {spec.n_layers - 1}."
            raise BadParameterError(what, "Count layers from 0.")
        shared = isinstance(self.node, KVHead)
        heads = spec.n_kv_heads if shared else spec.n_heads
        if self.head is not None and not 0 <= self.head < heads:
            kind = "key/value" if shared else "query"
            what = f"{self.node} does not exist: {spec.name} has {heads} {kind} heads in a layer."
            raise BadParameterError(
                what, "Count heads from 0; a9.h6 is a query head, a9.kv2 a key/value head shared by several query heads."
            )


def read_nodes(value: NodeSpec) -> tuple[Node, ...]:
    """One node or several, as objects.

    Raises
    ------
    BadParameterError
        If there are none, one is not a node, or one occurs twice.
    """
    single = isinstance(value, (str, *get_args(Node))) or not isinstance(value, Iterable)
    items = cast("list[str | Node]", [value] if single else list(cast("Sequence[str | Node]", value)))
    if bad := [item for item in items if not isinstance(item, (str, *get_args(Node)))]:
        raise BadParameterError(f"{bad[0]!r} is not a node.", "Name nodes as a9.h6, a9.kv2, a9, m3 or r9.pre.")
    nodes = tuple(parse_node(item) if isinstance(item, str) else item for item in items)
    if not nodes:
        raise BadParameterError("An intervention was given no node.", "Name at least one, for example a9.h6.")
    if repeated := sorted({str(item) for item in nodes if nodes.count(item) > 1}):
        what = f"Nodes {repeated} are named twice in one intervention."
        raise BadParameterError(what, "Name each node once; to edit a node several times, use several interventions in order.")
    return nodes


def read_site(value: Site | str | None) -> Site | None:
    """A site by its name."""
    if value is None or isinstance(value, Site):
        return value
    names = [site.value for site in Site]
    if value not in names:
        raise UnknownNameError("site", str(value), names)
    return Site(value)


def spots_of(nodes: Sequence[Node], site: Site | None) -> tuple[Spot, ...]:
    """The values of nodes at ``site``, or at their default site (z for heads).

    Raises
    ------
    BadParameterError
        If a node has no value, or none at that site.
    """
    return tuple(_spot(node, site) for node in nodes)


def _spot(node: Node, site: Site | None) -> Spot:
    if isinstance(node, Logits):
        raise BadParameterError("The logits are not inside a layer.", "Edit the stream that leaves the last layer (for example r11.post).")
    if site is Site.PATTERN:
        raise BadParameterError(f"The attention pattern of {node} is not a vector.", "Use EditPattern.")
    layer = 0 if isinstance(node, Embed) else node.layer
    allowed = _sites(node)
    if site is not None and site not in allowed:
        raise BadParameterError(f"{node} has no value at {site.value!r}.", _advice(node, allowed))
    if site is None and isinstance(node, KVHead):
        raise BadParameterError(f"{node} has a key and a value, and no site was given.", "Give site='k' or site='v'.")
    return Spot(node, site or allowed[0], layer, node.head if isinstance(node, Head | KVHead) else None)


def _sites(node: Node) -> tuple[Site, ...]:
    if isinstance(node, Head):
        return Site.Z, Site.Q
    if isinstance(node, KVHead):
        return Site.K, Site.V
    if isinstance(node, Resid):
        return (Site(f"resid_{node.point}"),)
    return ({Attn: Site.ATTN_OUT, Mlp: Site.MLP_OUT, Embed: Site.RESID_PRE}[type(node)],)


def _advice(node: Node, allowed: Sequence[Site]) -> str:
    names = " or ".join(repr(site.value) for site in allowed)
    if isinstance(node, Head):
        return f"A query head has {names}; keys and values belong to key/value heads, such as a{node.layer}.kv0."
    if isinstance(node, KVHead):
        return f"A key/value head has {names}; queries and outputs belong to query heads, such as a{node.layer}.h0."
    return f"It has {names}."
