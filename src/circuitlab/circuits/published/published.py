"""Reading the published circuits, whose files are beside this module."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from circuitlab.circuits.circuit import Circuit
from circuitlab.core.errors import UnknownNameError
from circuitlab.core.nodes import Node, Universe, parse_edge, parse_node

__all__ = ["PublishedCircuit", "list_published", "published_circuit"]

_FOLDER = Path(__file__).parent


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of one file."""

    title: str
    task: str
    model: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    cite: tuple[str, ...]
    source: str
    uncertain: str = ""
    classes: dict[str, tuple[str, ...]]
    positions: dict[str, str] = {}
    edges: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedCircuit:
    """A circuit as a paper or its code reports it.

    Parameters
    ----------
    name : str
        Name for `published_circuit`.
    title : str
        Description in one line.
    task, model : str
        What the model was asked to do, and which model it was.
    circuit : Circuit
        The nodes of all classes together, and the edges if the source lists them, with keys and values at key/value heads.
    classes : mapping of str to tuple of Node
        Nodes by role, in the order of the source; one class ``"unlabelled"`` if the source names no roles.
    positions : mapping of str to str
        Token position at which a class acts, if the source gives it: ``END``, ``S2``, ``S1+1``.
    cite : tuple of str
        Keys of `circuitlab.citations`.
    source : str
        Where exactly the list is published.
    uncertain : str
        What is uncertain about the list; empty if the paper or its code gives it without contradiction.

    Examples
    --------
    >>> ioi: PublishedCircuit = published_circuit("ioi_gpt2_small")
    >>> ioi.of_class("name mover")
    Circuit of 3 nodes, published: ioi_gpt2_small, class name mover: a9.h6, a9.h9, a10.h0
    """

    name: str
    title: str
    task: str
    model: str
    circuit: Circuit
    classes: Mapping[str, tuple[Node, ...]]
    positions: Mapping[str, str]
    cite: tuple[str, ...]
    source: str
    uncertain: str

    def of_class(self, name: str) -> Circuit:
        """The circuit of one class alone.

        Raises
        ------
        UnknownNameError
            If it has no class of this name; the nearest is suggested.
        """
        if name not in self.classes:
            raise UnknownNameError("class", name, self.classes)
        return Circuit(frozenset(self.classes[name]), self.circuit.universe, rule=f"published: {self.name}, class {name}")


def list_published() -> list[str]:
    """Names of all published circuits, sorted.

    Examples
    --------
    >>> "ioi_gpt2_small" in list_published()
    True
    """
    return sorted(file.stem for file in _FOLDER.glob("*.toml"))


def published_circuit(name: str) -> PublishedCircuit:
    """A published circuit by name, for example ``"ioi_gpt2_small"``.

    Raises
    ------
    UnknownNameError
        If there is no circuit of this name; the nearest is suggested.

    Examples
    --------
    >>> ioi = published_circuit("ioi_gpt2_small")
    >>> len(ioi.circuit), [str(head) for head in ioi.classes["name mover"]]
    (26, ['a9.h9', 'a10.h0', 'a9.h6'])
    """
    if name not in list_published():
        raise UnknownNameError("published circuit", name, list_published())
    data = msgspec.convert(tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8")), _File)
    classes = {label: tuple(map(parse_node, nodes)) for label, nodes in data.classes.items()}
    circuit = Circuit(
        frozenset(node for nodes in classes.values() for node in nodes),
        Universe(data.n_layers, data.n_heads, data.n_kv_heads),
        edges=frozenset(map(parse_edge, data.edges)) or None,
        rule=f"published: {name}",
    )
    return PublishedCircuit(
        name=name,
        title=data.title,
        task=data.task,
        model=data.model,
        circuit=circuit,
        classes=classes,
        positions=data.positions,
        cite=data.cite,
        source=data.source,
        uncertain=data.uncertain,
    )
