"""Circuit: a set of nodes (and edges) of one model, with the rule that selected them and the runs it was selected from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.core.html import html_table
from circuitlab.core.nodes import Edge, Node, Universe, parse_edge, parse_node

__all__ = ["Circuit"]

_SHOWN, _LISTED = 12, 30  # number of nodes in the text repr, and in the table of a notebook
_ALGEBRA: dict[str, Callable[[frozenset[Any], frozenset[Any]], frozenset[Any]]] = {
    "|": frozenset.union,
    "&": frozenset.intersection,
    "-": frozenset.difference,
    "^": frozenset.symmetric_difference,
}


@dataclass(frozen=True, repr=False)
class Circuit:
    """The nodes, and optionally the edges, that carry a behaviour.

    Parameters
    ----------
    nodes : iterable of Node or str
        Nodes, or their names.
    universe : Universe or None
        Shape of the model that the nodes belong to; circuits of different universes cannot be combined. None until the circuit is used with
        a model or combined with another circuit.
    edges : iterable of Edge or str, optional
        Edges, or their names; None for a circuit of nodes alone.
    rule : str
        How the circuit was selected, in words.
    sources : tuple of str
        Ids of the runs that it was selected from.
    ready : bool
        False if the model could not do the task; the circuit then says nothing about the ability.

    Raises
    ------
    BadParameterError
        If a node or an end of an edge is outside the universe, or a text is not the name of a node or an edge.

    Examples
    --------
    >>> Circuit(["a9.h6", "L9H9"])
    Circuit of 2 nodes, given: a9.h6, a9.h9
    """

    nodes: frozenset[Node]
    universe: Universe | None = None
    edges: frozenset[Edge] | None = None
    rule: str = "given"
    sources: tuple[str, ...] = ()
    ready: bool = True

    def __post_init__(self) -> None:
        nodes: Iterable[Node | str] = [self.nodes] if isinstance(self.nodes, str) else self.nodes
        object.__setattr__(self, "nodes", frozenset(parse_node(node) if isinstance(node, str) else node for node in nodes))
        if self.edges is not None:
            object.__setattr__(self, "edges", frozenset(parse_edge(edge) if isinstance(edge, str) else edge for edge in self.edges))
        if self.universe is None:
            return
        ends = {end for edge in self.edges or () for end in (edge.sender, edge.receiver)}
        if outside := sorted(str(node) for node in {*self.nodes, *ends} if node not in self.universe):
            what = f"{', '.join(outside[:5])} lie outside {self.universe}."
            raise BadParameterError(what, "Count layers and heads from 0.")

    def __repr__(self) -> str:
        names = [str(node) for node in self]
        shown = ", ".join(names[:_SHOWN]) + (f", ... {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        edges = "" if self.edges is None else f", {len(self.edges)} edges"
        warning = "" if self.ready else "; NOT READY: it is not shown that the model can do the task"
        return f"Circuit of {len(names)} nodes{edges}, {self.rule}{warning}: {shown or 'empty'}"

    def _repr_html_(self) -> str:
        rows = [[str(node)] for node in self] if self.edges is None else [[str(edge)] for edge in sorted(self.edges)]
        kind = "nodes" if self.edges is None else "edges"
        more = [f"and {len(rows) - _LISTED} more"] if len(rows) > _LISTED else []
        warning = "" if self.ready else "It is not shown that the model can do the task, so this may be no circuit for the ability."
        return html_table(f"Circuit of {len(rows)} {kind}, {self.rule}", [kind], rows[:_LISTED], notes=more, warning=warning)

    @property
    def shape(self) -> Universe:
        """The universe, where one is needed.

        Raises
        ------
        BadParameterError
            If the circuit has no universe yet.
        """
        if self.universe is None:
            what = f"It is not known which model this circuit belongs to: {self!r}."
            raise BadParameterError(what, "Give the model's shape: circuit.within(scores.universe), or Circuit(nodes, universe).")
        return self.universe

    def within(self, universe: Universe) -> Circuit:
        """The same circuit, as one of a model of this shape.

        Raises
        ------
        IncompatibleError
            If the circuit belongs to a model of another shape.
        BadParameterError
            If the model lacks one of its nodes.
        """
        if self.universe is None:
            return replace(self, universe=universe)
        if self.universe != universe:
            what = f"A circuit of {self.universe} is not one of {universe}."
            raise IncompatibleError(what, "Use the model that the circuit was found in.")
        return self

    def __iter__(self) -> Iterator[Node]:
        return iter(sorted(self.nodes))

    def __len__(self) -> int:
        return len(self.nodes)

    def __contains__(self, node: Node | str) -> bool:
        return (parse_node(node) if isinstance(node, str) else node) in self.nodes

    def __or__(self, other: Circuit) -> Circuit:
        return self._combine(other, "|")

    def __and__(self, other: Circuit) -> Circuit:
        return self._combine(other, "&")

    def __sub__(self, other: Circuit) -> Circuit:
        return self._combine(other, "-")

    def __xor__(self, other: Circuit) -> Circuit:
        return self._combine(other, "^")

    def _combine(self, other: Circuit, sign: str) -> Circuit:
        """Set algebra on the nodes, and on the edges if both circuits have edges."""
        universe = self.universe or other.universe
        self.require_same_universe(other)
        function = _ALGEBRA[sign]
        edges = None if self.edges is None or other.edges is None else function(self.edges, other.edges)
        sources = tuple(dict.fromkeys((*self.sources, *other.sources)))
        rule = f"({self.rule}) {sign} ({other.rule})"
        return Circuit(function(self.nodes, other.nodes), universe, edges, rule, sources, self.ready and other.ready)

    def require_same_universe(self, other: Circuit) -> None:
        """Raise `IncompatibleError` if the two circuits belong to models of different shapes."""
        if None not in (self.universe, other.universe) and self.universe != other.universe:
            what = f"Circuits of {self.universe} and {other.universe} cannot be combined."
            raise IncompatibleError(what, "Compare circuits of one model.")

    def to_dict(self) -> dict[str, Any]:
        """Plain data: ``{"nodes", "edges", "rule", "sources", "ready", "universe"}``; `from_dict` reads it."""
        shape = self.universe
        size = None if shape is None else {"n_layers": shape.n_layers, "n_heads": shape.n_heads, "n_kv_heads": shape.n_kv_heads}
        edges = None if self.edges is None else [str(edge) for edge in sorted(self.edges)]
        return {
            "nodes": [str(node) for node in self],
            "edges": edges,
            "rule": self.rule,
            "sources": list(self.sources),
            "ready": self.ready,
            "universe": size,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Circuit:
        """Make a circuit from the data that `to_dict` wrote.

        Raises
        ------
        BadParameterError
            If the nodes or the universe are missing, a name is unknown, or a node is outside the universe.
        """
        missing = {"nodes", "universe"} - set(data)
        if missing:
            what = f"A circuit lacks {', '.join(sorted(missing))}."
            raise BadParameterError(what, "Give the data that to_dict wrote.")
        edges = data.get("edges")
        return cls(
            nodes=frozenset(map(parse_node, data["nodes"])),
            universe=None if data["universe"] is None else Universe(**data["universe"]),
            edges=None if edges is None else frozenset(map(parse_edge, edges)),
            rule=data.get("rule", "given"),
            sources=tuple(data.get("sources", ())),
            ready=bool(data.get("ready", True)),
        )
