"""Which edges a model has, and the index of each in a dense (sender, receiver) array."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Edge, Embed, Head, KVHead, Logits, Mlp, Node, Port, parse_edge

if TYPE_CHECKING:
    from circuitlab.core.provenance import ModelSpec

__all__ = ["EdgeLayout"]


@dataclass(frozen=True)
class EdgeLayout:
    """The senders and receivers of a model, in the order of the axes of `EdgeScores`.

    Senders are the embedding and, layer by layer, every query head and the MLP. Receivers are, layer by layer, the query input
    (``a1.h0<q>``) of every query head, the key input (``a1.kv0<k>``) of every shared key/value head, the value input of each,
    and the MLP; then the logits.

    Parameters
    ----------
    n_layers, n_heads, n_kv_heads : int
        Layers, query heads per layer and key/value heads per layer. Query heads and shared key/value heads are separate nodes.
    parallel : bool
        Whether a layer's MLP reads the same residual stream as its attention, so that it does not see the heads of its own layer.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    parallel: bool = False

    @classmethod
    def of(cls, spec: ModelSpec) -> EdgeLayout:
        """The layout of a model."""
        return cls(spec.n_layers, spec.n_heads, spec.n_kv_heads, spec.parallel)

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        """Nodes along the sender axis."""
        nodes: list[Node] = [Embed()]
        for layer in range(self.n_layers):
            nodes += [Head(layer, head) for head in range(self.n_heads)]
            nodes.append(Mlp(layer))
        return tuple(nodes)

    @cached_property
    def receivers(self) -> tuple[tuple[Node, Port | None], ...]:
        """Nodes and ports along the receiver axis."""
        inputs: list[tuple[Node, Port | None]] = []
        for layer in range(self.n_layers):
            inputs += [(Head(layer, head), "q") for head in range(self.n_heads)]
            inputs += [(KVHead(layer, head), "k") for head in range(self.n_kv_heads)]
            inputs += [(KVHead(layer, head), "v") for head in range(self.n_kv_heads)]
            inputs.append((Mlp(layer), None))
        return (*inputs, (Logits(), None))

    @cached_property
    def sender_names(self) -> tuple[str, ...]:
        """Names along the sender axis."""
        return tuple(map(str, self.senders))

    @cached_property
    def receiver_names(self) -> tuple[str, ...]:
        """Names along the receiver axis, with the port: ``a1.h0<q>``."""
        return tuple(f"{node}<{port}>" if port else str(node) for node, port in self.receivers)

    @cached_property
    def mask(self) -> np.ndarray:
        """Whether an edge exists, boolean, shape (sender, receiver): true if the sender is computed before the receiver reads."""
        layers = range(self.n_layers)
        sent_at = [-1, *(4 * n + stage for n in layers for stage in (*(1,) * self.n_heads, 3))]
        ports = self.n_heads + 2 * self.n_kv_heads
        read_at = [4 * n + stage for n in layers for stage in (*(0,) * ports, 0 if self.parallel else 2)]
        return np.array(sent_at)[:, None] < np.array([*read_at, 4 * self.n_layers])[None]

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Number of senders and of receivers."""
        return len(self.senders), len(self.receivers)

    @property
    def n_edges(self) -> int:
        """Number of edges that exist."""
        return int(self.mask.sum())

    @cached_property
    def edge_indices(self) -> tuple[np.ndarray, np.ndarray]:
        """Sender and receiver index of every edge that exists, two arrays (edge,): receiver by receiver, senders in forward order.

        They index a dense array: ``dense[layout.edge_indices]`` has one value per edge.
        """
        receivers, senders = np.nonzero(self.mask.T)
        return senders, receivers

    def heads(self, layer: int) -> slice:
        """Indices of a layer's heads along the sender axis."""
        start = 1 + layer * (self.n_heads + 1)
        return slice(start, start + self.n_heads)

    def mlp(self, layer: int) -> int:
        """Index of a layer's MLP along the sender axis."""
        return self.heads(layer).stop

    def inputs(self, layer: int) -> slice:
        """Indices of a layer's inputs along the receiver axis: queries, keys, values, MLP."""
        width = self.n_heads + 2 * self.n_kv_heads + 1
        return slice(layer * width, (layer + 1) * width)

    def edge(self, sender: int, receiver: int) -> Edge:
        """The edge from a sender index to a receiver index.

        Raises
        ------
        BadParameterError
            If there is no such edge.
        """
        (node, port), source = self.receivers[receiver], self.senders[sender]
        if not self.mask[sender, receiver]:
            what = f"{source} sends nothing to {self.receiver_names[receiver]}: it is computed later, or in parallel."
            raise BadParameterError(what, "Choose a sender that comes before the receiver (EdgeLayout.mask).")
        return Edge(source, node, port)

    def edges(self) -> Iterator[Edge]:
        """Every edge that exists, in the order of `edge_indices`."""
        return (self.edge(int(sender), int(receiver)) for sender, receiver in zip(*self.edge_indices, strict=True))

    def index(self, edge: Edge | str) -> tuple[int, int]:
        """Sender and receiver index of an edge, given as an `Edge` or by name: ``"a0.h1->a1.kv0<k>"``.

        Raises
        ------
        UnknownNameError
            If the model has no such sender or receiver; the nearest name is suggested.
        BadParameterError
            If the text is not the name of an edge, or the receiver does not read the sender (a parallel MLP, and a head of its layer).
        """
        parsed = parse_edge(edge) if isinstance(edge, str) else edge
        source, target = str(parsed.sender), f"{parsed.receiver}<{parsed.port}>" if parsed.port else str(parsed.receiver)
        if source not in self._sender_index:
            raise UnknownNameError("sender", source, self.sender_names)
        if target not in self._receiver_index:
            raise UnknownNameError("receiver", target, self.receiver_names)
        indices = self._sender_index[source], self._receiver_index[target]
        self.edge(*indices)  # raises if they do not form an edge
        return indices

    @cached_property
    def _sender_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.sender_names)}

    @cached_property
    def _receiver_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.receiver_names)}
